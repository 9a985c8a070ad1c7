// Where the files of a COPY go. Each source gives what it wants at its paths, in the order of a layer; at every path
// the wishes of all sources are met in the order of the instruction, so that nothing but the path in hand is held.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <queue>

#include "base/text.h"
#include "builder/copy.h"
#include "builder/internal/paths.h"

namespace lamina::builder {

namespace {

using internal::child_of;
using internal::parent_of;
using layers::Entry;
using layers::path_less;

// What a source wants at a path.
struct Wish {
  enum class Kind {
    kPassage,    // a directory, whatever it looks like: mkdir -p
    kDirectory,  // with the metadata of `file`
    kFile,
    kInline,
  };
  std::string path;
  Kind kind = Kind::kPassage;
  SelectedFile file;
  size_t index = 0;  // of the file in its source's list
};

// Gives the wishes of one source, parents first.
class Feed {
 public:
  // `lead`: the directory that is made before the files come; `base`: where the source's root goes, or its only file.
  // `source` is null for a directory alone. `destination` lives as long as the feed.
  enum class Base { kRoot, kFile };
  Feed(const SelectedSource* source, std::string lead, std::string base, Base what, const std::string& destination)
      : source_(source), lead_(std::move(lead)), base_(std::move(base)), what_(what), destination_(destination) {}

  const SelectedSource* source() const { return source_; }
  const Wish& wish() const { return wish_; }

  // False at the end.
  Result<bool> advance() {
    if (lead_end_ < lead_.size()) return advance_lead();
    if (source_ == nullptr || done_) return false;
    if (source_->inline_content) {
      done_ = true;
      wish_ = Wish{base_, Wish::Kind::kInline, {}, 0};
      return true;
    }
    Wish file;
    if (waiting_) {
      file = std::move(*waiting_);
      waiting_.reset();
    } else {
      ASSIGN_OR_RETURN(const bool more, take_file(file));
      if (!more) return false;
    }
    // A directory that is not in the list, because it is excluded, although something below it is.
    std::string parent = parent_of(file.path);
    if (!is_at_or_above(parent, at_)) {
      wish_ = Wish{first_below(common_directory(parent, at_), parent), Wish::Kind::kPassage, {}, 0};
      at_ = wish_.path;
      waiting_ = std::make_unique<Wish>(std::move(file));
      return true;
    }
    at_ = file.kind == Wish::Kind::kDirectory ? file.path : std::move(parent);
    wish_ = std::move(file);
    return true;
  }

 private:
  static bool is_at_or_above(const std::string& directory, const std::string& at) {
    return directory.empty() || (at.starts_with(directory) && (at.size() == directory.size() || at[directory.size()] == '/'));
  }
  static std::string common_directory(const std::string& path, std::string at) {
    while (!is_at_or_above(at, path)) at = parent_of(at);
    return at;
  }
  // One component more of `path` than `directory` has.
  static std::string first_below(const std::string& directory, const std::string& path) {
    return path.substr(0, path.find('/', directory.empty() ? 0 : directory.size() + 1));
  }

  // What is on the way to the lead, and it, as passages or with the metadata of what --parents repeats.
  bool advance_lead() {
    lead_end_ = std::min(lead_.find('/', lead_end_ + 1), lead_.size());
    wish_ = Wish{lead_.substr(0, lead_end_), Wish::Kind::kPassage, {}, 0};
    at_ = wish_.path;
    if (source_ == nullptr) return true;
    const auto parent = std::find_if(source_->parent_directories.begin(), source_->parent_directories.end(),
                                     [&](const ParentDirectory& p) { return child_of(destination_, p.relative) == wish_.path; });
    if (parent == source_->parent_directories.end()) return true;
    wish_.kind = Wish::Kind::kDirectory;
    wish_.file = parent->file;
    return true;
  }

  Result<bool> take_file(Wish& wish) {
    if (!cursor_) cursor_.emplace(*source_->files);
    while (true) {
      ASSIGN_OR_RETURN(const bool more, cursor_->next(wish.file));
      if (!more) return false;
      if (source_->directory && wish.file.relative.empty()) continue;  // the destination itself
      wish.path = what_ == Base::kFile ? base_ : child_of(base_, wish.file.relative);
      wish.kind = wish.file.info.type == EntryType::kDirectory ? Wish::Kind::kDirectory : Wish::Kind::kFile;
      wish.index = cursor_->index();
      return true;
    }
  }

  const SelectedSource* source_;
  const std::string lead_, base_;
  const Base what_;
  const std::string& destination_;
  size_t lead_end_ = 0;  // how much of the lead was given
  std::optional<FileList::Cursor> cursor_;
  Wish wish_;
  std::unique_ptr<Wish> waiting_;  // for the passages to it
  std::string at_;                 // the directory that was wished for last
  bool done_ = false;
};

class PlacedEntries : public layers::EntrySource {
 public:
  PlacedEntries(const CopyStep& copy, const Placement& placement, const layers::RootfsView& below) : copy_(copy), placement_(placement), below_(below) {}

  // The destinations of all sources, which decide where each source's files go.
  Result<void> begin(const Selection& selection) {
    // Every component of the destination is resolved in the root, the last one too.
    destination_ = clean_path(copy_.destination).substr(1);
    if (!copy_.link) {
      ASSIGN_OR_RETURN(destination_, below_.resolve(destination_, true));
    }
    bool directory = copy_.destination.back() == '/' || destination_.empty();
    if (!directory && !copy_.link) {
      ASSIGN_OR_RETURN(const auto info, below_.lstat(destination_));
      directory = info && info->type == EntryType::kDirectory;
    }
    // Each would overwrite the one before.
    size_t plain = 0;
    for (const SelectedSource& source : selection.sources) {
      if (source.group) {
        plain += source.files->size();
      } else if (!source.directory && !source.archive) {
        ++plain;
      }
    }
    if (plain > 1 && !copy_.parents && !directory) {
      return Error(ErrorKind::kInvalidInput, fmt::format("{} has several sources, so its destination must be a directory and end with /", copy_.is_add ? "ADD" : "COPY"))
          .with_note(fmt::format("write {}/", copy_.destination));
    }
    feeds_.reserve(selection.sources.size());
    for (const SelectedSource& source : selection.sources) {
      if (source.files) content_bytes_ += source.files->content_bytes();
      RETURN_IF_ERROR(add(source, directory));
    }
    return start();
  }

  Result<void> begin_directory(const std::string& path) {
    feeds_.emplace_back(nullptr, path, "", Feed::Base::kRoot, destination_);
    return start();
  }

  uint64_t content_bytes() const override { return content_bytes_; }

  Result<std::optional<Entry>> next() override {
    while (!order_.empty()) {
      ASSIGN_OR_RETURN(std::optional<Entry> entry, take_path());
      if (entry) {
        keep_hard_link(*entry);
        return entry;
      }
    }
    return std::optional<Entry>();
  }

 private:
  // `directory`: whether the destination is one by now.
  Result<void> add(const SelectedSource& source, bool& directory) {
    const std::string base = copy_.parents && !source.archive ? child_of(destination_, source.parents_prefix) : destination_;
    if (source.directory) {
      feeds_.emplace_back(&source, base, base, Feed::Base::kRoot, destination_);
      directory = true;
      if (source.archive || base.empty()) return {};
      // The destination keeps its mode and owner and takes the source directory's time.
      ASSIGN_OR_RETURN(const SelectedFile top, source.files->front());
      times_[base] = top.info.mtime;
      return {};
    }
    const bool into_directory = copy_.parents || directory;
    if (source.group && into_directory) {
      feeds_.emplace_back(&source, base, base, Feed::Base::kRoot, destination_);
      return {};
    }
    const std::string target = into_directory ? child_of(base, source.base_name) : destination_;
    feeds_.emplace_back(&source, parent_of(target), target, Feed::Base::kFile, destination_);
    return {};
  }

  // --- the order of paths ---

  struct Later {
    const std::vector<Feed>& feeds;
    bool operator()(size_t a, size_t b) const {
      const std::string& first = feeds[a].wish().path;
      const std::string& second = feeds[b].wish().path;
      return first == second ? a > b : path_less(second, first);
    }
  };

  Result<void> start() {
    for (size_t i = 0; i < feeds_.size(); ++i) RETURN_IF_ERROR(advance(i));
    return {};
  }

  Result<void> advance(size_t feed) {
    ASSIGN_OR_RETURN(const bool more, feeds_[feed].advance());
    if (more) order_.push(feed);
    return {};
  }

  // What stands at the next path when all sources were there; nothing where it was taken away.
  Result<std::optional<Entry>> take_path() {
    const std::string path = feeds_[order_.top()].wish().path;
    enter(path);
    std::optional<Entry> entry;
    while (!order_.empty() && feeds_[order_.top()].wish().path == path) {
      const size_t feed = order_.top();
      order_.pop();
      // What an archive put in the place of a directory took away what was in it until then.
      if (!replaced_.empty() && feed < replaced_.back().feed && replaced_.back().path != path) {
        RETURN_IF_ERROR(advance(feed));
        continue;
      }
      RETURN_IF_ERROR(grant(feeds_[feed], feed, entry));
      RETURN_IF_ERROR(advance(feed));
    }
    if (!entry || entry->type != EntryType::kDirectory) return entry;
    directories_.push_back({path, exists_below_});
    if (const auto time = times_.find(path); time != times_.end()) entry->mtime = time->second;
    return entry;
  }

  // --- what lies below ---

  struct Directory {
    std::string path;
    bool below;  // there is such a directory below this layer, and it is seen
  };
  struct Replaced {
    std::string path;
    size_t feed;
  };

  void enter(const std::string& path) {
    while (!directories_.empty() && !internal::is_below(path, directories_.back().path)) directories_.pop_back();
    while (!replaced_.empty() && !internal::is_below(path, replaced_.back().path)) replaced_.pop_back();
    looked_ = false;
    exists_below_ = false;
    found_.reset();
  }

  // What lies below at the path in hand, unless something new hides it.
  Result<const std::optional<FileInfo>*> look_below(const std::string& path) {
    if (looked_) return &found_;
    looked_ = true;
    const bool parent = directories_.empty() ? parent_of(path).empty() : directories_.back().below;
    if (copy_.link || !parent) return &found_;
    ASSIGN_OR_RETURN(found_, below_.lstat(path));
    exists_below_ = found_ && found_->type == EntryType::kDirectory;
    return &found_;
  }

  Result<std::optional<EntryType>> type_at(const std::string& path, const std::optional<Entry>& entry) {
    if (entry) return std::optional(entry->type);
    ASSIGN_OR_RETURN(const std::optional<FileInfo>* below, look_below(path));
    return *below ? std::optional((*below)->type) : std::nullopt;
  }

  // From here on nothing below this path counts that was there before.
  void replace(const std::string& path, size_t feed) {
    if (!replaced_.empty() && replaced_.back().path == path) {
      replaced_.back().feed = feed;
    } else {
      replaced_.push_back({path, feed});
    }
    looked_ = true;
    exists_below_ = false;
    found_.reset();
  }

  // --- wishes ---

  Result<void> grant(const Feed& feed, size_t number, std::optional<Entry>& entry) {
    const Wish& wish = feed.wish();
    switch (wish.kind) {
      case Wish::Kind::kPassage: return grant_passage(feed, entry);
      case Wish::Kind::kDirectory: return grant_directory(feed, number, entry);
      case Wish::Kind::kFile:
      case Wish::Kind::kInline: return grant_file(feed, number, entry);
    }
    return {};
  }

  Error not_a_directory(const std::string& path) const {
    return Error(ErrorKind::kInvalidInput, fmt::format("cannot copy to non-directory: /{} is in the way", printable(path)));
  }

  // Existing directories keep their metadata and become part of the layer, as overlayfs would copy them up; new ones are
  // 0755 and root's, or as --chown and an octal --chmod say. --chmod is not for archives.
  Result<void> grant_passage(const Feed& feed, std::optional<Entry>& entry) {
    const Wish& wish = feed.wish();
    if (!entry) {
      ASSIGN_OR_RETURN(const std::optional<FileInfo>* below, look_below(wish.path));
      if (*below && (*below)->type != EntryType::kDirectory) return not_a_directory(wish.path);
      entry.emplace();
      entry->path = wish.path;
      entry->type = EntryType::kDirectory;
      if (*below) {
        entry->mode = (*below)->mode;
        entry->uid = (*below)->uid;
        entry->gid = (*below)->gid;
        entry->mtime = (*below)->mtime;
        ASSIGN_OR_RETURN(entry->xattrs, below_.xattrs(wish.path));
      } else {
        const bool archive = feed.source() != nullptr && feed.source()->archive;
        entry->mode = placement_.mode && placement_.mode->octal() && !archive ? *placement_.mode->octal() : 0755;
        set_owner(*entry);
        entry->mtime = placement_.created_time;
      }
    }
    if (entry->type != EntryType::kDirectory) return not_a_directory(wish.path);
    return {};
  }

  // A directory below the destination takes the source's metadata, whether it is new or not.
  Result<void> grant_directory(const Feed& feed, size_t number, std::optional<Entry>& entry) {
    const Wish& wish = feed.wish();
    ASSIGN_OR_RETURN(const auto type, type_at(wish.path, entry));
    if (type && *type != EntryType::kDirectory) {
      if (!feed.source()->archive) return not_a_directory(wish.path);
      replace(wish.path, number);
    }
    entry = made(wish, EntryType::kDirectory, feed.source()->archive);
    return {};
  }

  Result<void> grant_file(const Feed& feed, size_t number, std::optional<Entry>& entry) {
    const Wish& wish = feed.wish();
    const SelectedSource& source = *feed.source();
    ASSIGN_OR_RETURN(const auto type, type_at(wish.path, entry));
    if (type == EntryType::kDirectory) {
      if (!source.archive) return Error(ErrorKind::kInvalidInput, fmt::format("cannot replace the directory /{} with a file", printable(wish.path)));
      replace(wish.path, number);
    }
    if (wish.kind == Wish::Kind::kInline) {
      entry = inline_entry(wish, source);
      return {};
    }
    entry = made(wish, wish.file.info.type, source.archive);
    entry->size = wish.file.info.size;
    entry->link_target = wish.file.link_target;
    entry->dev_major = wish.file.info.dev_major;
    entry->dev_minor = wish.file.info.dev_minor;
    inode_.reset();
    if (entry->type != EntryType::kFile) return {};
    if (wish.file.info.nlink > 1) inode_ = {wish.file.info.device, wish.file.info.inode};
    if (entry->size == 0) {
      entry->bytes = empty_;
    } else {
      entry->opener = source.watch ? source.watch->opener_of(wish.file, wish.index) : source.tree->opener();
      entry->source_path = source.files->path_of(wish.file);
    }
    return {};
  }

  Entry inline_entry(const Wish& wish, const SelectedSource& source) {
    inode_.reset();
    Entry entry;
    entry.path = wish.path;
    entry.mode = placement_.mode ? placement_.mode->apply(0644, false) : 0644;
    set_owner(entry);
    entry.mtime = placement_.created_time;
    entry.size = source.inline_content->size();
    entry.bytes = source.inline_content;
    return entry;
  }

  Entry made(const Wish& wish, EntryType type, bool archive) const {
    Entry entry;
    entry.path = wish.path;
    entry.type = type;
    entry.mode = wish.file.info.mode;
    entry.uid = wish.file.info.uid;
    entry.gid = wish.file.info.gid;
    entry.mtime = wish.file.info.mtime;
    entry.xattrs = wish.file.xattrs;
    set_owner(entry);
    if (placement_.mode && !archive && type != EntryType::kSymlink) entry.mode = placement_.mode->apply(entry.mode, type == EntryType::kDirectory);
    return entry;
  }

  void set_owner(Entry& entry) const {
    if (!placement_.owner) return;
    entry.uid = placement_.owner->uid;
    entry.gid = placement_.owner->gid;
  }

  // Hard links within the sources stay hard links: the first path in layer order is the file.
  void keep_hard_link(Entry& entry) {
    if (entry.type != EntryType::kFile || !inode_) return;
    const auto [first, fresh] = links_.try_emplace(*inode_, entry.path);
    if (!fresh) entry.become_hard_link(first->second);
  }

  const CopyStep& copy_;
  const Placement& placement_;
  const layers::RootfsView& below_;
  std::string destination_;
  std::map<std::string, Timestamp> times_;  // of directories that take over a source directory's
  uint64_t content_bytes_ = 0;
  std::vector<Feed> feeds_;  // in the order of the instruction
  std::priority_queue<size_t, std::vector<size_t>, Later> order_{Later{feeds_}};
  std::vector<Directory> directories_;  // that hold the path in hand, outermost first
  std::vector<Replaced> replaced_;      // the same
  // Of the path in hand.
  bool looked_ = false, exists_below_ = false;
  std::optional<FileInfo> found_;
  using Inode = std::pair<uint64_t, uint64_t>;  // device, number
  std::optional<Inode> inode_;                  // of the file with several names that is there now
  std::map<Inode, std::string> links_;          // the first paths of such files
  const std::shared_ptr<const std::string> empty_ = std::make_shared<const std::string>();
};

}  // namespace

Result<std::unique_ptr<layers::EntrySource>> place_sources(const Selection& selection, const CopyStep& copy, const Placement& placement,
                                                           const layers::RootfsView& below) {
  auto placed = std::make_unique<PlacedEntries>(copy, placement, below);
  RETURN_IF_ERROR(placed->begin(selection));
  return std::unique_ptr<layers::EntrySource>(std::move(placed));
}

Result<layers::EntryList> place_directory(const std::string& path, const Placement& placement, const layers::RootfsView& below) {
  ASSIGN_OR_RETURN(const std::string resolved, below.resolve(clean_path(path), true));
  ASSIGN_OR_RETURN(const auto existing, below.lstat(resolved));
  layers::EntryList entries;
  if (existing && existing->type == EntryType::kDirectory) return entries;
  const CopyStep no_copy;
  PlacedEntries placed(no_copy, placement, below);
  RETURN_IF_ERROR(placed.begin_directory(resolved));
  while (true) {
    ASSIGN_OR_RETURN(std::optional<Entry> entry, placed.next());
    if (!entry) return entries;
    entries.push_back(*std::move(entry));
  }
}

}  // namespace lamina::builder
