#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "builder/copy.h"
#include "builder/internal/paths.h"

namespace lamina::builder {

namespace {

using internal::parent_of;
using internal::PathLess;
using layers::Entry;

std::string child_of(const std::string& directory, const std::string& name) {
  if (name.empty()) return directory;
  return directory.empty() ? name : directory + "/" + name;
}

// The layer under construction, seen together with what lies below it.
class Placer {
 public:
  Placer(const CopyStep& copy, const Placement& placement, const layers::RootfsView& below)
      : copy_(copy), placement_(placement), below_(below) {}

  Result<layers::EntryList> run(const Selection& selection) {
    // Every component of the destination is resolved in the root, the last one too.
    std::string destination = clean_path(copy_.destination).substr(1);
    if (!copy_.link) {
      ASSIGN_OR_RETURN(destination, below_.resolve(destination, true));
    }
    // Each would overwrite the one before.
    const auto plain = std::count_if(selection.sources.begin(), selection.sources.end(), [](const SelectedSource& s) { return !s.directory && !s.archive; });
    if (plain > 1 && !copy_.parents && copy_.destination.back() != '/' && !is_directory(destination)) {
      return Error(ErrorKind::kInvalidInput, fmt::format("{} has several sources, so its destination must be a directory and end with /", copy_.is_add ? "ADD" : "COPY"))
          .with_note(fmt::format("write {}/", copy_.destination));
    }
    for (const SelectedSource& source : selection.sources) RETURN_IF_ERROR(place(source, destination));
    link_hard_links();
    layers::EntryList entries;
    entries.reserve(entries_.size());
    for (auto& [path, entry] : entries_) entries.push_back(std::move(entry));
    return entries;
  }

  Result<layers::EntryList> run_directory(const std::string& path) {
    ASSIGN_OR_RETURN(const std::string resolved, below_.resolve(clean_path(path), true));
    ASSIGN_OR_RETURN(const auto existing, below_.lstat(resolved));
    if (existing && existing->type != EntryType::kDirectory) return not_a_directory(resolved);
    layers::EntryList entries;
    if (existing) return entries;
    RETURN_IF_ERROR(make_directory(resolved));
    for (auto& [name, entry] : entries_) entries.push_back(std::move(entry));
    return entries;
  }

 private:
  Result<void> place(const SelectedSource& source, const std::string& destination) {
    unpacking_ = false;
    if (source.archive) return place_tree(source, destination);
    std::string base = destination;
    if (copy_.parents) {
      RETURN_IF_ERROR(make_directory(destination));
      for (const SelectedFile& parent : source.parent_directories) {
        RETURN_IF_ERROR(put_directory(child_of(destination, parent.relative), parent, *source.tree, false));
      }
      base = child_of(destination, source.parents_prefix);
    }
    if (source.directory) return place_tree(source, base);
    const bool into_directory = copy_.parents || copy_.destination.back() == '/' || is_directory(destination);
    const std::string target = into_directory ? child_of(base, source.base_name) : destination;
    RETURN_IF_ERROR(make_directory(parent_of(target)));
    if (source.inline_content) return put_inline(target, source);
    return put_file(target, source.files.front(), source);
  }

  Result<void> place_tree(const SelectedSource& source, const std::string& destination) {
    const FileInfo& top = source.files.front().info;
    // The destination keeps its mode and owner and takes the source directory's time. --chmod is not for archives.
    unpacking_ = source.archive;
    RETURN_IF_ERROR(make_directory(destination));
    if (!destination.empty() && !source.archive) entries_.at(destination).mtime = top.mtime;
    for (const SelectedFile& file : source.files) {
      if (file.relative.empty()) continue;
      const std::string target = child_of(destination, file.relative);
      if (file.info.type == EntryType::kDirectory) {
        RETURN_IF_ERROR(put_directory(target, file, *source.tree, source.archive));
      } else {
        // An excluded directory may be missing from the list although something below it is not.
        RETURN_IF_ERROR(make_directory(parent_of(target)));
        RETURN_IF_ERROR(put_file(target, file, source));
      }
    }
    return {};
  }

  // What is at a path now: type only. A pending entry hides what is below it.
  std::optional<EntryType> type_at(const std::string& path) {
    if (path.empty()) return EntryType::kDirectory;
    if (const auto it = entries_.find(path); it != entries_.end()) return it->second.type;
    if (copy_.link || hidden(path)) return std::nullopt;
    const auto info = below_.lstat(path);
    if (!info || !*info) return std::nullopt;
    return (*info)->type;
  }

  // Whether a new entry stands in the place of one of the path's parents.
  bool hidden(const std::string& path) const {
    for (std::string at = parent_of(path); !at.empty(); at = parent_of(at)) {
      if (replaced_.contains(at)) return true;
    }
    return false;
  }

  bool is_directory(const std::string& path) { return type_at(path) == EntryType::kDirectory; }

  Error not_a_directory(const std::string& path) const {
    return Error(ErrorKind::kInvalidInput, fmt::format("cannot copy to non-directory: /{} is in the way", printable(path)));
  }

  // mkdir -p: existing directories keep their metadata and become part of the layer, as overlayfs would copy
  // them up; new ones are 0755 and root's, or as --chown and an octal --chmod say.
  Result<void> make_directory(const std::string& path) {
    if (path.empty()) return {};
    if (const auto it = entries_.find(path); it != entries_.end()) {
      if (it->second.type != EntryType::kDirectory) return not_a_directory(path);
      return {};
    }
    RETURN_IF_ERROR(make_directory(parent_of(path)));
    Entry entry;
    entry.path = path;
    entry.type = EntryType::kDirectory;
    std::optional<FileInfo> existing;
    if (!copy_.link && !hidden(path)) {
      ASSIGN_OR_RETURN(existing, below_.lstat(path));
    }
    if (existing && existing->type != EntryType::kDirectory) return not_a_directory(path);
    if (existing) {
      entry.mode = existing->mode;
      entry.uid = existing->uid;
      entry.gid = existing->gid;
      entry.mtime = existing->mtime;
      ASSIGN_OR_RETURN(entry.xattrs, below_.xattrs(path));
    } else {
      entry.mode = placement_.mode && placement_.mode->octal() && !unpacking_ ? *placement_.mode->octal() : 0755;
      if (placement_.owner) {
        entry.uid = placement_.owner->uid;
        entry.gid = placement_.owner->gid;
      }
      entry.mtime = placement_.created_time;
    }
    entries_[path] = std::move(entry);
    return {};
  }

  void set_metadata(Entry& entry, const SelectedFile& file, bool archive) {
    entry.mode = file.info.mode;
    entry.uid = file.info.uid;
    entry.gid = file.info.gid;
    entry.mtime = file.info.mtime;
    entry.xattrs = file.xattrs;
    if (placement_.owner) {
      entry.uid = placement_.owner->uid;
      entry.gid = placement_.owner->gid;
    }
    const bool directory = entry.type == EntryType::kDirectory;
    if (placement_.mode && !archive && entry.type != EntryType::kSymlink) {
      entry.mode = placement_.mode->apply(entry.mode, directory);
    }
  }

  // A directory below the destination takes the source's metadata, whether it is new or not.
  Result<void> put_directory(const std::string& path, const SelectedFile& file, const SourceTree&, bool archive) {
    if (path.empty()) return {};
    const auto type = type_at(path);
    if (type && *type != EntryType::kDirectory) {
      if (!archive) return not_a_directory(path);
      replace(path);
    }
    RETURN_IF_ERROR(make_directory(parent_of(path)));
    Entry entry;
    entry.path = path;
    entry.type = EntryType::kDirectory;
    set_metadata(entry, file, archive);
    entries_[path] = std::move(entry);
    return {};
  }

  Result<void> make_room(const std::string& path, bool archive) {
    if (!is_directory(path)) {
      if (entries_.contains(path)) replace(path);
      return {};
    }
    if (!archive) {
      return Error(ErrorKind::kInvalidInput, fmt::format("cannot replace the directory /{} with a file", printable(path)));
    }
    replace(path);
    return {};
  }

  // Forgets what was pending at and below a path; what lies below in the image is hidden by the new entry.
  void replace(const std::string& path) {
    const std::string prefix = path + "/";
    std::erase_if(entries_, [&](const auto& item) {
      return item.first == path || item.first.compare(0, prefix.size(), prefix) == 0;
    });
    std::erase_if(inodes_, [&](const auto& item) {
      return item.first == path || item.first.compare(0, prefix.size(), prefix) == 0;
    });
    replaced_.insert(path);
  }

  Result<void> put_file(const std::string& path, const SelectedFile& file, const SelectedSource& source) {
    RETURN_IF_ERROR(make_room(path, source.archive));
    Entry entry;
    entry.path = path;
    entry.type = file.info.type;
    set_metadata(entry, file, source.archive);
    entry.size = file.info.size;
    entry.link_target = file.link_target;
    entry.dev_major = file.info.dev_major;
    entry.dev_minor = file.info.dev_minor;
    if (entry.type == EntryType::kFile) {
      if (entry.size == 0) {
        entry.bytes = empty_;
      } else {
        entry.opener = source.opener ? source.opener : source.tree->opener();
        entry.source_path = file.path;
      }
      if (file.info.nlink > 1) {
        inodes_[path] = {file.info.device, file.info.inode};
        links_[inodes_[path]].push_back(path);
      }
    }
    entries_[path] = std::move(entry);
    return {};
  }

  Result<void> put_inline(const std::string& path, const SelectedSource& source) {
    RETURN_IF_ERROR(make_room(path, false));
    Entry entry;
    entry.path = path;
    entry.mode = placement_.mode ? placement_.mode->apply(0644, false) : 0644;
    if (placement_.owner) {
      entry.uid = placement_.owner->uid;
      entry.gid = placement_.owner->gid;
    }
    entry.mtime = placement_.created_time;
    entry.size = source.inline_content->size();
    entry.bytes = source.inline_content;
    entries_[path] = std::move(entry);
    return {};
  }

  // Hard links within the sources stay hard links: the first path in layer order is the file.
  void link_hard_links() {
    for (auto& [inode, paths] : links_) {
      std::sort(paths.begin(), paths.end(), PathLess());
      paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
      std::erase_if(paths, [&](const std::string& p) {
        const auto it = entries_.find(p);
        if (it == entries_.end() || it->second.type != EntryType::kFile) return true;
        const auto now = inodes_.find(p);  // another source may have put another file there
        return now == inodes_.end() || now->second != inode;
      });
      for (size_t i = 1; i < paths.size(); ++i) {
        Entry& entry = entries_.at(paths[i]);
        entry.type = EntryType::kHardlink;
        entry.link_target = paths[0];
        entry.size = 0;
        entry.opener.reset();
        entry.bytes.reset();
      }
    }
  }

  const CopyStep& copy_;
  const Placement& placement_;
  const layers::RootfsView& below_;
  std::map<std::string, Entry, PathLess> entries_;
  std::set<std::string> replaced_;
  bool unpacking_ = false;
  using Inode = std::pair<uint64_t, uint64_t>;             // device, number
  std::map<Inode, std::vector<std::string>> links_;        // every path at which a file with several names was put
  std::map<std::string, Inode> inodes_;                    // what stands at a path now
  std::shared_ptr<const std::string> empty_ = std::make_shared<const std::string>();
};

}  // namespace

Result<layers::EntryList> place_sources(const Selection& selection, const CopyStep& copy, const Placement& placement,
                                        const layers::RootfsView& below) {
  return Placer(copy, placement, below).run(selection);
}

Result<layers::EntryList> place_directory(const std::string& path, const Placement& placement, const layers::RootfsView& below) {
  const CopyStep no_copy;
  return Placer(no_copy, placement, below).run_directory(path);
}

}  // namespace lamina::builder
