#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>

#include "base/text.h"
#include "base/trace.h"
#include "builder/copy.h"
#include "builder/internal/paths.h"
#include "builder/tree_walk.h"

namespace lamina::builder {

namespace {

using internal::child_of;
using internal::name_of;
using internal::parent_of;

Error fail_at(const Step& step, SourceRange range, ErrorKind kind, std::string message, std::vector<std::string> notes) {
  Diagnostic d;
  d.file = step.file;
  d.range = range;
  d.message = message;
  d.notes = std::move(notes);
  if (step.text) d.line_text = std::string(line_of(*step.text, range.line));
  return Error(kind, std::move(message)).with_diagnostic(std::move(d));
}

class Selector {
 public:
  // `pool` may be null.
  Selector(const CopyStep& copy, const Step& step, std::shared_ptr<const SourceTree> tree, ThreadPool* pool, const TemporaryFile& temporary_file)
      : copy_(copy), step_(step), tree_(std::move(tree)), pool_(pool), temporary_file_(temporary_file) {}

  Result<Selection> run() {
    ASSIGN_OR_RETURN(excludes_, parser::IgnoreList::from_patterns(copy_.excludes));
    for (size_t i = 0; i < copy_.sources.size(); ++i) {
      if (copy_.remotes.contains(i)) continue;  // the executor's
      const size_t before = selection_.sources.size();
      RETURN_IF_ERROR(select(copy_.sources[i]));
      for (size_t k = before; k < selection_.sources.size(); ++k) selection_.sources[k].order = i;
    }
    for (const auto& [name, content] : copy_.inline_files) {
      SelectedSource file;
      file.named = "<<" + name;
      file.base_name = name;
      file.order = copy_.sources.size();
      file.inline_content = std::make_shared<const std::string>(content);
      selection_.sources.push_back(std::move(file));
    }
    return std::move(selection_);
  }

 private:
  Result<void> select(const parser::Word& source) {
    // "/./" in a --parents source: what stands before it is not repeated below the destination.
    std::string text = source.text;
    std::string pivot;
    if (copy_.parents) {
      if (const size_t at = text.find("/./"); at != std::string::npos) {
        pivot = text.substr(0, at);
        text = text.substr(at + 3);
      }
    }
    // A leading "/" and any ".." stop at the root of the context or stage.
    const std::string root = clean_root(pivot);
    const std::string pattern = clean_root(text);
    if (!parser::has_wildcards(pattern)) return take(source, root, parser::unescape_glob(pattern), !copy_.if_exists);
    ASSIGN_OR_RETURN(const bool any, take_matches(source, root, path_components(pattern)));
    if (!any && !copy_.if_exists) {
      selection_.warnings.push_back(fmt::format("{}: no file matches {}, so nothing is copied for it", step_.title, source.text));
    }
    return {};
  }

  // Byte by byte in order, each once. Those of one directory are found so, and need not be held.
  Result<bool> take_matches(const parser::Word& source, const std::string& root, const std::vector<std::string>& parts) {
    const bool one_directory = !copy_.parents && std::none_of(parts.begin(), parts.end() - 1, parser::has_wildcards);
    bool any = false;
    std::vector<std::string> matches;
    open_group_ = nullptr;
    RETURN_IF_ERROR(expand(root, parts, 0, "", [&](const std::string& match) -> Result<void> {
      any = true;
      if (one_directory) return take_match(source, root, match);
      matches.push_back(match);
      return {};
    }));
    std::sort(matches.begin(), matches.end());
    matches.erase(std::unique(matches.begin(), matches.end()), matches.end());
    for (const std::string& match : matches) RETURN_IF_ERROR(take_match(source, root, match));
    return any;
  }

  // Files of a directory that come one after the other are one source. An archive, and what has its own parents, is one alone.
  Result<void> take_match(const parser::Word& source, const std::string& root, const std::string& match) {
    if (!copy_.is_add && !copy_.parents) {
      ASSIGN_OR_RETURN(const std::string directory, resolved_directory(parent_of(child_of(root, match))));
      const std::string path = child_of(directory, name_of(match));
      ASSIGN_OR_RETURN(const std::optional<FileInfo> info, tree_->lstat(path));
      if (info && info->type != EntryType::kDirectory && info->type != EntryType::kSymlink) return add_to_group(source, path, *info);
    }
    open_group_ = nullptr;
    return take(source, root, match, false);
  }

  // Most matches are in the directory of the one before; in another one begins another group, also where both are links to
  // the same.
  Result<std::string> resolved_directory(const std::string& directory) {
    if (!resolved_ || resolved_->first != directory) {
      open_group_ = nullptr;
      ASSIGN_OR_RETURN(std::string real, tree_->resolve(directory, true));
      resolved_.emplace(directory, std::move(real));
    }
    return resolved_->second;
  }

  Result<void> add_to_group(const parser::Word& source, const std::string& path, const FileInfo& info) {
    const std::string name(name_of(path));
    if (excludes_.ignored(name)) return {};
    if (open_group_ == nullptr) {
      SelectedSource group;
      group.named = source.text;
      group.tree = tree_;
      group.group = true;
      group.files = std::make_shared<FileList>(parent_of(path), temporary_file_);
      open_group_ = group.files.get();
      selection_.sources.push_back(std::move(group));
    }
    return add_file(path, name, info, *open_group_);
  }

  static std::string clean_root(const std::string& text) { return clean_path("/" + text).substr(1); }

  // Go's filepath.Match by components; "**" (only with --parents) stands for any number of directories.
  Result<void> expand(const std::string& root, const std::vector<std::string>& parts, size_t at, const std::string& here,
                      const std::function<Result<void>(const std::string& match)>& found) {
    if (at == parts.size()) return found(here);
    const std::string directory = here.empty() ? root : child_of(root, here);
    if (!parser::has_wildcards(parts[at])) {
      const std::string next = child_of(here, parser::unescape_glob(parts[at]));
      ASSIGN_OR_RETURN(const std::string resolved, tree_->resolve(child_of(root, next), true));
      ASSIGN_OR_RETURN(const auto info, tree_->lstat(resolved));
      if (!info || (at + 1 < parts.size() && info->type != EntryType::kDirectory)) return {};
      return expand(root, parts, at + 1, next, found);
    }
    ASSIGN_OR_RETURN(const std::string resolved, tree_->resolve(directory, true));
    ASSIGN_OR_RETURN(const auto info, tree_->lstat(resolved));
    if (!info || info->type != EntryType::kDirectory) return {};
    const bool any_depth = copy_.parents && parts[at] == "**";
    if (any_depth) RETURN_IF_ERROR(expand(root, parts, at + 1, here, found));
    ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, tree_->list(resolved));
    for (const DirectoryEntry& entry : entries) {
      const std::string next = child_of(here, entry.name);
      if (any_depth) {
        if (entry.type == EntryType::kDirectory) RETURN_IF_ERROR(expand(root, parts, at, next, found));
        continue;
      }
      ASSIGN_OR_RETURN(const bool match, parser::match_glob(parts[at], entry.name));
      if (match) RETURN_IF_ERROR(expand(root, parts, at + 1, next, found));
    }
    return {};
  }

  Result<void> take(const parser::Word& source, const std::string& root, const std::string& match, bool required) {
    const std::string named = child_of(root, match);
    // The source itself may be a symlink: it is followed, unless --parents repeats its path, where it is copied.
    auto resolved = tree_->resolve(named, !copy_.parents);
    if (!resolved) return fail_at(step_, source.range, resolved.error().kind(), resolved.error().message(), {});
    ASSIGN_OR_RETURN(const std::optional<FileInfo> info, tree_->lstat(*resolved));
    if (!info) {
      if (!required) return {};
      return missing(source, named, *resolved);
    }
    SelectedSource selected;
    selected.named = source.text;
    selected.tree = tree_;
    selected.base_name = std::string(name_of(match));
    selected.directory = info->type == EntryType::kDirectory;
    if (copy_.parents) RETURN_IF_ERROR(add_parents(root, match, selected));
    selected.files = std::make_shared<FileList>(*resolved, temporary_file_);
    if (selected.directory) {
      SelectedFile top{"", *info, {}, "", {}};
      ASSIGN_OR_RETURN(top.xattrs, tree_->xattrs(*resolved));
      RETURN_IF_ERROR(selected.files->append(top));
      // With --parents the patterns count from the pivot, else from the source.
      const std::string prefix = copy_.parents ? match : "";
      parser::IgnoreList::WalkState state = excludes_.walk_root();
      if (!prefix.empty() && !excludes_.empty()) {
        if (excludes_.ignored(match) && !excludes_.may_reinclude_below(match)) return {};
        state = walk_state_of(match);
      }
      RETURN_IF_ERROR(walk(*resolved, prefix, *selected.files, state));
      if (!prefix.empty() && excludes_.ignored(match) && selected.files->size() == 1) return {};
    } else {
      if (excludes_.ignored(copy_.parents ? match : selected.base_name)) return {};
      RETURN_IF_ERROR(add_file(*resolved, "", *info, *selected.files));
    }
    selection_.sources.push_back(std::move(selected));
    return {};
  }

  // The walk's state after a directory that was not walked to.
  parser::IgnoreList::WalkState walk_state_of(const std::string& path) const {
    parser::IgnoreList::WalkState state = excludes_.walk_root();
    std::string at;
    for (const std::string& part : path_components(path)) {
      at = child_of(at, part);
      parser::IgnoreList::WalkState own;
      excludes_.decide_in_walk(at, state, own);
      state = std::move(own);
    }
    return state;
  }

  Result<void> add_parents(const std::string& root, const std::string& match, SelectedSource& selected) {
    const std::vector<std::string> parts = path_components(match);
    std::string here;
    const size_t count = selected.directory ? parts.size() : parts.size() - (parts.empty() ? 0 : 1);
    for (size_t i = 0; i < count; ++i) {
      here = child_of(here, parts[i]);
      ASSIGN_OR_RETURN(const std::string resolved, tree_->resolve(child_of(root, here), true));
      ASSIGN_OR_RETURN(const auto info, tree_->lstat(resolved));
      if (info) selected.parent_directories.push_back({resolved, here, SelectedFile{"", *info, {}, "", {}}});
    }
    selected.parents_prefix = here;
    return {};
  }

  Result<void> walk(const std::string& top, const std::string& prefix, FileList& files, const parser::IgnoreList::WalkState& state) {
    const auto append = [&](const std::string& relative, TreeEntry& file) -> Result<void> {
      if (std::string_view(file.name).starts_with(".wh.")) return reserved_name(child_of(top, relative));
      return files.append({relative, file.info, file.digest, std::move(file.link_target), std::move(file.xattrs)});
    };
    return TreeWalk(*tree_, excludes_, prefix, pool_, append).run(top, state);
  }

  Error reserved_name(const std::string& path) const {
    return fail_at(step_, step_.instruction.range, ErrorKind::kInvalidInput,
                   fmt::format("{} cannot be copied: in an image, names that begin with .wh. mean removed files", path),
                   {"exclude it with .dockerignore or --exclude"});
  }

  Result<void> add_file(const std::string& path, std::string relative, const FileInfo& info, FileList& files) {
    if (name_of(path).starts_with(".wh.")) return reserved_name(path);
    SelectedFile file{std::move(relative), info, tree_->known_digest(path, info), "", {}};
    if (info.type == EntryType::kSymlink) {
      ASSIGN_OR_RETURN(file.link_target, tree_->read_link(path));
    } else {
      ASSIGN_OR_RETURN(file.xattrs, tree_->xattrs(path));
    }
    return files.append(file);
  }

  // The first link on the way that leads out of the tree, in words; "" when none does.
  std::string link_out_of_tree(const std::string& path) const {
    std::string at;
    size_t depth = 0;  // of what the link is in
    for (const std::string& part : path_components(path)) {
      at = child_of(at, part);
      const auto info = tree_->lstat(at);
      if (!info || !*info) return {};
      if ((*info)->type == EntryType::kSymlink) {
        const auto target = tree_->read_link(at);
        if (!target) return {};
        bool out = target->starts_with('/');
        for (const std::string& step : path_components(*target)) {
          out = out || (step == ".." && depth == 0);
          depth = step == ".." ? depth - (depth > 0 ? 1 : 0) : depth + 1;
        }
        return out ? fmt::format("{} is a link to {}, which leads out of the {}", at, printable(*target), tree_->name()) : std::string();
      }
      ++depth;
    }
    return {};
  }

  // Says why the user's file is not there: ignored, misspelt, leading elsewhere, or absent.
  Error missing(const parser::Word& source, const std::string& named, const std::string& resolved) {
    for (const std::string& path : {named, resolved}) {
      if (const std::string rule = tree_->hidden_by(path); !rule.empty()) {
        return fail_at(step_, source.range, ErrorKind::kNotFound,
                       fmt::format("{} exists, but an ignore rule removes it from the build context", source.text),
                       {"the rule is " + rule});
      }
    }
    if (const std::string link = link_out_of_tree(named); !link.empty()) return fail_at(step_, source.range, ErrorKind::kNotFound, fmt::format("{}: {}", source.text, link), {"copy what it leads to into the context, or name its place with --build-context"});
    std::vector<std::string> notes;
    const std::string directory = parent_of(resolved);
    if (const auto entries = tree_->list(directory)) {
      std::vector<std::string> names;
      for (const DirectoryEntry& e : *entries) names.push_back(e.name);
      if (const auto near = nearest_name(std::string(name_of(resolved)), names)) notes.push_back("did you mean " + child_of(directory, *near) + "?");
    }
    if (copy_.from.kind == SourceRef::Kind::kContext) {
      notes.push_back("paths are taken from the build context, not from the place of the Dockerfile");
    }
    return fail_at(step_, source.range, ErrorKind::kNotFound, fmt::format("{} was not found in the {}", source.text, tree_->name()), std::move(notes));
  }

  const CopyStep& copy_;
  const Step& step_;
  std::shared_ptr<const SourceTree> tree_;
  ThreadPool* const pool_;
  const TemporaryFile& temporary_file_;
  parser::IgnoreList excludes_;
  Selection selection_;
  FileList* open_group_ = nullptr;  // of the selection's last source
  std::optional<std::pair<std::string, std::string>> resolved_;  // a directory and where its links lead
};

char type_letter(EntryType type) {
  switch (type) {
    case EntryType::kFile: return 'f';
    case EntryType::kDirectory: return 'd';
    case EntryType::kSymlink: return 'l';
    case EntryType::kCharDevice: return 'c';
    case EntryType::kBlockDevice: return 'b';
    case EntryType::kFifo: return 'p';
    default: return '?';
  }
}

std::string content_value(const SelectedFile& file) {
  std::string value = fmt::format("{} {:o} {}:{}", type_letter(file.info.type), file.info.mode, file.info.uid, file.info.gid);
  if (file.info.type == EntryType::kFile) fmt::format_to(std::back_inserter(value), " {} {}", file.info.size, file.digest ? to_hex(*file.digest) : "");
  if (file.info.type == EntryType::kSymlink) value += " -> " + file.link_target;
  if (file.info.type == EntryType::kCharDevice || file.info.type == EntryType::kBlockDevice) {
    value += fmt::format(" {}:{}", file.info.dev_major, file.info.dev_minor);
  }
  for (const auto& [name, content] : file.xattrs) value += fmt::format(" {}={}", name, sha256_hex(content));
  return value;
}

// Hard links between selected files, which the layer keeps. How many links a file has elsewhere is no property of what
// is copied.
class LinksWithin {
 public:
  Result<void> note(const SelectedSource& source) {
    FileList::Cursor cursor(*source.files);
    SelectedFile file;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, cursor.next(file));
      if (!more) return {};
      if (file.info.type != EntryType::kFile || file.info.nlink < 2) continue;
      Links& links = by_inode_[{file.info.device, file.info.inode}];
      if (links.count++ == 0) links.first = source.files->path_of(file);
    }
  }
  // The first path of the file where it has several; else null.
  const std::string* of(const SelectedFile& file) const {
    if (file.info.type != EntryType::kFile || file.info.nlink < 2) return nullptr;
    const Links& links = by_inode_.at({file.info.device, file.info.inode});
    return links.count < 2 ? nullptr : &links.first;
  }

 private:
  struct Links {
    std::string first;
    size_t count = 0;
  };
  std::map<std::pair<uint64_t, uint64_t>, Links> by_inode_;  // device and number; of files with several names only
};

}  // namespace

Result<Selection> select_sources(const CopyStep& copy, const Step& step, std::shared_ptr<const SourceTree> tree, ThreadPool& pool,
                                 const TemporaryFile& temporary_file) {
  const TraceSpan span("copy", "select " + step.title);
  return Selector(copy, step, std::move(tree), &pool, temporary_file).run();
}

parser::Word literal_path(const std::string& path, SourceRange range) {
  std::string text;
  for (char c : path.empty() ? std::string("/") : path) {
    if (std::string_view("*?[\\").find(c) != std::string_view::npos) text += '\\';
    text += c;
  }
  return {std::move(text), range};
}

Result<void> add_selection_inputs(const Selection& selection, KeyInputs& inputs) {
  LinksWithin links;
  for (const SelectedSource& source : selection.sources) {
    if (source.files) RETURN_IF_ERROR(links.note(source));
  }
  for (const SelectedSource& source : selection.sources) {
    if (!source.group) inputs.add("source", source.base_name + (source.directory ? "/" : "") + (source.parents_prefix.empty() ? "" : " in " + source.parents_prefix));
    if (source.inline_content) {
      inputs.add("heredoc:" + source.base_name, "sha256:" + sha256_hex(*source.inline_content));
      continue;
    }
    const std::string prefix = source.tree->name() + ":/";
    FileList::Cursor cursor(*source.files);
    SelectedFile file;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, cursor.next(file));
      if (!more) break;
      // The destination's own directory keeps its metadata: the source root's does not matter.
      if (source.directory && file.relative.empty() && source.parents_prefix.empty()) continue;
      if (source.group) inputs.add("source", file.relative);
      std::string value = content_value(file);
      if (const std::string* first = links.of(file)) value += " linked with " + *first;
      inputs.add(prefix + source.files->path_of(file), std::move(value));
    }
    for (const ParentDirectory& parent : source.parent_directories) inputs.add(prefix + parent.path, content_value(parent.file));
  }
  return {};
}

Result<void> add_root_inputs(const Selection& selection, const std::string& prefix, KeyInputs& inputs) {
  for (const SelectedSource& source : selection.sources) {
    if (!source.directory) continue;
    ASSIGN_OR_RETURN(const SelectedFile root, source.files->front());
    inputs.add(prefix + "root", content_value(root));
  }
  return {};
}

Result<SelectedSource> select_whole_tree(std::shared_ptr<const SourceTree> tree, std::string named, const TemporaryFile& temporary_file,
                                         const std::vector<std::string>& excludes) {
  const Step step;
  CopyStep copy;
  copy.excludes = excludes;
  copy.sources.push_back({"/", {}});
  ASSIGN_OR_RETURN(Selection selection, Selector(copy, step, std::move(tree), nullptr, temporary_file).run());
  SelectedSource whole = std::move(selection.sources.front());
  whole.named = std::move(named);
  return whole;
}

}  // namespace lamina::builder
