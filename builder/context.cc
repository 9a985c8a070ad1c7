#include "builder/context.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/files.h"
#include "builder/internal/paths.h"
#include "builder/xattrs.h"

namespace lamina::builder {

namespace {

FileInfo info_of(const struct stat& st) {
  FileInfo info;
  switch (st.st_mode & S_IFMT) {
    case S_IFDIR: info.type = EntryType::kDirectory; break;
    case S_IFLNK: info.type = EntryType::kSymlink; break;
    case S_IFCHR: info.type = EntryType::kCharDevice; break;
    case S_IFBLK: info.type = EntryType::kBlockDevice; break;
    case S_IFIFO: info.type = EntryType::kFifo; break;
    default: info.type = EntryType::kFile; break;  // a socket becomes an empty file
  }
  info.mode = st.st_mode & 07777;
  info.mtime = {st.st_mtim.tv_sec, static_cast<uint32_t>(st.st_mtim.tv_nsec)};
  info.ctime = {st.st_ctim.tv_sec, static_cast<uint32_t>(st.st_ctim.tv_nsec)};
  info.size = S_ISREG(st.st_mode) ? static_cast<uint64_t>(st.st_size) : 0;
  info.dev_major = major(st.st_rdev);
  info.dev_minor = minor(st.st_rdev);
  info.device = st.st_dev;
  info.inode = st.st_ino;
  info.nlink = st.st_nlink;
  return info;
}

std::string dot_if_empty(const std::string& path) { return path.empty() ? "." : path; }

// Opens context files for the layer writers. Outlives the context.
class ContextOpener : public layers::FileOpener {
 public:
  explicit ContextOpener(UniqueFd root) : root_(std::move(root)) {}
  int root() const { return root_.get(); }
  Result<UniqueFd> open_file(const std::string& path) const override {
    // O_NONBLOCK: a file that was swapped for a fifo must not hang the build.
    return open_beneath_nofollow(root_.get(), dot_if_empty(path), O_RDONLY | O_NONBLOCK | O_NOCTTY);
  }

 private:
  UniqueFd root_;
};

class ContextTree : public SourceTree {
 public:
  ContextTree(std::shared_ptr<ContextOpener> opener, std::string name, parser::IgnoreList ignore,
              std::shared_ptr<DigestIndex> index)
      : opener_(std::move(opener)),
        name_(std::move(name)),
        ignore_(std::move(ignore)),
        index_(std::move(index)) {}

  std::string name() const override { return name_; }

  Result<std::optional<FileInfo>> lstat(const std::string& path) const override {
    ASSIGN_OR_RETURN(const std::optional<struct stat> st, stat_of(path));
    if (!st) return std::optional<FileInfo>();
    if (!path.empty() && hides(path, S_ISDIR(st->st_mode))) return std::optional<FileInfo>();
    return std::optional<FileInfo>(info_of(*st));
  }

  Result<std::string> resolve(const std::string& path, bool follow_last) const override {
    return resolve_in_tree(*this, path, follow_last);
  }

  Result<std::vector<DirectoryEntry>> list(const std::string& path) const override {
    std::vector<DirectoryEntry> entries;
    const auto add = [&](const char* name, const struct stat& st) -> Result<void> {
      entries.push_back({name, info_of(st).type});
      return {};
    };
    ASSIGN_OR_RETURN(const std::shared_ptr<const Scan> directory, open_scan(path));
    RETURN_IF_ERROR(directory->for_each_shown(0, directory->size(), add));
    return entries;
  }

  Result<std::shared_ptr<const DirectoryScan>> scan(const std::string& path) const override {
    ASSIGN_OR_RETURN(std::shared_ptr<const Scan> directory, open_scan(path));
    return std::shared_ptr<const DirectoryScan>(std::move(directory));
  }

  Result<std::string> read_link(const std::string& path) const override { return link_at(opener_->root(), path); }

  Result<std::map<std::string, std::string>> xattrs(const std::string& path) const override {
    return read_xattrs(opener_->root(), path);
  }

  Result<Sha256Bytes> file_digest(const std::string& path, const FileInfo& info, bool has_xattrs, ThreadPool* pool) const override {
    if (const auto known = known_digest(path, info)) return *known;
    DigestIndex::Found found;
    const int64_t read_at = realtime_ns();
    ASSIGN_OR_RETURN(const UniqueFd fd, opener_->open_file(path));
    // The stat that proves the digest is taken from the file that is read, before the first byte.
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) return system_error(errno, "fstat", path);
    if (!S_ISREG(st.st_mode)) return sha256({});
    const FileInfo opened = info_of(st);
    ASSIGN_OR_RETURN_WITH(found.digest, content_digest(fd.get(), opened.size, pool), "reading " + path);
    // What the caller knows of the attributes holds for the file as it was when it was looked at.
    found.no_xattrs = !has_xattrs && key_of(opened) == key_of(info);
    if (index_) index_->put(path, key_of(opened), found, read_at);
    return found.digest;
  }

  std::shared_ptr<const layers::FileOpener> opener() const override { return opener_; }

  std::optional<Sha256Bytes> known_digest(const std::string& path, const FileInfo& info) const override {
    DigestIndex::Found found;
    if (!index_ || info.type != EntryType::kFile || !index_->find(path, key_of(info), found)) return std::nullopt;
    return found.digest;
  }

  Result<bool> unchanged(const std::string& path, const FileInfo& selected, int fd) const override {
    struct stat st {};
    if (::fstat(fd, &st) != 0) return system_error(errno, "fstat", path);
    return key_of(info_of(st)) == key_of(selected);
  }

  void learn_digest(const std::string& path, const FileInfo& selected, bool has_xattrs, const Sha256Bytes& digest, int64_t read_at_ns) const override {
    if (index_) index_->put(path, key_of(selected), {digest, !has_xattrs}, read_at_ns);
  }

  std::string hidden_by(const std::string& path) const override {
    const parser::IgnoreRule* rule = path.empty() ? nullptr : ignore_.decide(path);
    if (rule == nullptr || rule->negated) return {};
    const auto st = stat_of(path);
    if (!st || !*st) return {};
    return ignore_.file() + ":" + std::to_string(rule->line) + ": " + rule->text;
  }

  const parser::IgnoreList* ignore_list() const override { return ignore_.empty() ? nullptr : &ignore_; }
  std::shared_ptr<const SourceTree> unfiltered() const override {
    return std::make_shared<ContextTree>(opener_, name_, parser::IgnoreList(), index_);
  }

 private:
  static DigestIndex::Stat key_of(const FileInfo& info) {
    return {info.device, info.inode, info.size, info.mtime.seconds, info.mtime.nanoseconds, info.ctime.seconds, info.ctime.nanoseconds};
  }

  static Result<std::string> link_at(int dir_fd, const std::string& path) {
    std::string target(4096, '\0');
    const ssize_t n = ::readlinkat(dir_fd, path.c_str(), target.data(), target.size());
    if (n < 0) return system_error(errno, "readlink", path);
    target.resize(static_cast<size_t>(n));
    return target;
  }

  // One call for each member, relative to the directory's descriptor; attributes are not asked for where the index
  // proves that there are none.
  class Scan : public DirectoryScan {
   public:
    Scan(const ContextTree& tree, std::string path, UniqueFd fd, NameList names)
        : tree_(tree), path_(std::move(path)), fd_(std::move(fd)), names_(std::move(names)), state_(tree.ignore_state(path_)) {}
    size_t size() const override { return names_.size(); }

    Result<std::vector<TreeEntry>> members(size_t begin, size_t end) const override {
      std::vector<TreeEntry> entries;
      entries.reserve(end - begin);
      std::optional<DigestIndex::Cursor> known;
      if (tree_.index_) known.emplace(*tree_.index_);
      const auto add = [&](const char* name, const struct stat& st) -> Result<void> {
        TreeEntry entry{name, info_of(st), {}, {}, {}};
        DigestIndex::Found found;
        if (known && S_ISREG(st.st_mode) && known->find(internal::child_of(path_, name), key_of(entry.info), found)) entry.digest = found.digest;
        if (S_ISLNK(st.st_mode)) {
          ASSIGN_OR_RETURN(entry.link_target, link_at(fd_.get(), entry.name));
        } else if (!found.no_xattrs) {
          ASSIGN_OR_RETURN(entry.xattrs, read_xattrs(fd_.get(), entry.name));
        }
        entries.push_back(std::move(entry));
        return {};
      };
      RETURN_IF_ERROR(for_each_shown(begin, end, add));
      return entries;
    }

    // Calls visit(name, stat) for what the ignore file leaves.
    template <typename Visit>
    Result<void> for_each_shown(size_t begin, size_t end, Visit visit) const {
      for (size_t i = begin; i < end; ++i) {
        struct stat st {};
        if (::fstatat(fd_.get(), names_[i], &st, AT_SYMLINK_NOFOLLOW) != 0) {
          if (errno == ENOENT) continue;  // removed since the listing
          return system_error(errno, "stat", internal::child_of(path_, names_[i]));
        }
        if (!tree_.ignore_.empty() && tree_.hides(internal::child_of(path_, names_[i]), S_ISDIR(st.st_mode), state_)) continue;
        RETURN_IF_ERROR(visit(names_[i], st));
      }
      return {};
    }

   private:
    const ContextTree& tree_;
    const std::string path_;
    const UniqueFd fd_;
    const NameList names_;
    const parser::IgnoreList::WalkState state_;
  };

  Result<std::shared_ptr<const Scan>> open_scan(const std::string& path) const {
    ASSIGN_OR_RETURN(UniqueFd fd, open_beneath_nofollow(opener_->root(), dot_if_empty(path), O_RDONLY | O_DIRECTORY));
    ASSIGN_OR_RETURN(NameList names, NameList::read(fd.get()));
    return std::shared_ptr<const Scan>(std::make_shared<Scan>(*this, path, std::move(fd), std::move(names)));
  }

  // The rules' verdicts on a directory, for what is in it: so that a child costs one match per rule.
  parser::IgnoreList::WalkState ignore_state(const std::string& directory) const {
    parser::IgnoreList::WalkState state = ignore_.walk_root();
    if (ignore_.empty()) return state;
    for (size_t end = 0; end < directory.size();) {
      end = std::min(directory.find('/', end + 1), directory.size());
      parser::IgnoreList::WalkState own;
      ignore_.decide_in_walk(std::string_view(directory).substr(0, end), state, own);
      state = std::move(own);
    }
    return state;
  }

  // A directory that only leads to re-included files is shown.
  bool hides(const std::string& path, bool directory, const parser::IgnoreList::WalkState& parent) const {
    if (ignore_.empty()) return false;
    parser::IgnoreList::WalkState own;
    const parser::IgnoreRule* rule = ignore_.decide_in_walk(path, parent, own);
    if (rule == nullptr || rule->negated) return false;
    return !directory || !ignore_.may_reinclude_below(path) || !has_visible_below(path);
  }
  bool hides(const std::string& path, bool directory) const {
    const size_t slash = path.rfind('/');
    return !ignore_.empty() && hides(path, directory, ignore_state(slash == std::string::npos ? "" : path.substr(0, slash)));
  }

  bool has_visible_below(const std::string& path) const {
    const auto entries = list(path);
    return entries && !entries->empty();
  }

  Result<std::optional<struct stat>> stat_of(const std::string& path) const {
    struct stat st {};
    if (path.empty()) {
      if (::fstat(opener_->root(), &st) != 0) return system_error(errno, "fstat", name_);
      return std::optional<struct stat>(st);
    }
    // The parent is opened without following links: a path of real directories only.
    const size_t slash = path.rfind('/');
    UniqueFd parent;
    int dir = opener_->root();
    if (slash != std::string::npos) {
      auto opened = open_beneath_nofollow(dir, path.substr(0, slash), O_PATH | O_DIRECTORY);
      if (!opened) {
        const int e = opened.error().error_number();
        if (e == ENOENT || e == ENOTDIR || e == ELOOP) return std::optional<struct stat>();
        return std::move(opened).error();
      }
      parent = std::move(*opened);
      dir = parent.get();
    }
    const std::string last = slash == std::string::npos ? path : path.substr(slash + 1);
    if (::fstatat(dir, last.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return std::optional<struct stat>();
      return system_error(errno, "stat", path);
    }
    return std::optional<struct stat>(st);
  }

  std::shared_ptr<ContextOpener> opener_;
  std::string name_;
  parser::IgnoreList ignore_;
  std::shared_ptr<DigestIndex> index_;
};

}  // namespace

Result<std::shared_ptr<const SourceTree>> open_context(const std::string& directory,
                                                       std::string name, parser::IgnoreList ignore,
                                                       std::shared_ptr<DigestIndex> index) {
  auto root = open_at(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY);
  if (!root) {
    Error error = std::move(root).error();
    if (error.error_number() == ENOTDIR) {
      return Error(ErrorKind::kInvalidInput, "the build context " + directory + " is not a directory")
          .with_note("give the directory that holds the files, and the Dockerfile with -f");
    }
    return std::move(error).with_context("opening the build context " + directory);
  }
  return std::shared_ptr<const SourceTree>(std::make_shared<ContextTree>(
      std::make_shared<ContextOpener>(std::move(*root)), std::move(name), std::move(ignore), std::move(index)));
}

}  // namespace lamina::builder
