// remove_tree() of files.h: a walk without recursion, without symlinks and with few descriptors,
// because the trees are hostile: a RUN may leave a directory chain deeper than the stack and than
// RLIMIT_NOFILE.
#include <dirent.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "base/files.h"
#include "base/text.h"

namespace lamina {
namespace {

// How many levels keep their descriptor; those above are opened again through "..".
constexpr size_t kOpenLevels = 64;
// A directory that others fill while it is removed is read again this often.
constexpr int kMaxReads = 8;

constexpr int kOpenFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

struct Level {
  std::string name;  // in the directory above
  UniqueFd fd;       // closed on levels far above the deepest
  dev_t device = 0;
  ino_t inode = 0;
  std::vector<std::string> directories;  // still to be removed
  int reads = 0;
  bool failed = false;  // something in it stays, so it cannot be removed
};

class TreeRemover {
 public:
  // Removes the directory `path`, which is relative to `dir_fd`.
  Result<void> run(int dir_fd, const std::string& path) {
    root_fd_ = dir_fd;
    enter(path);
    while (!levels_.empty()) {
      Level& level = levels_.back();
      if (!level.directories.empty()) {
        const std::string name = std::move(level.directories.back());
        level.directories.pop_back();
        enter(name);
      } else {
        leave();
      }
    }
    if (error_) return *std::move(error_);
    return {};
  }

 private:
  // Descends into a directory and removes everything in it that is not a directory.
  void enter(const std::string& name) {
    const int above = levels_.empty() ? root_fd_ : levels_.back().fd.get();
    UniqueFd fd(open_level(above, name));
    if (!fd && errno == EACCES) {
      // glibc does this through an O_PATH descriptor, so a symlink swapped in is not followed.
      ::fchmodat(above, name.c_str(), 0700, AT_SYMLINK_NOFOLLOW);
      fd = UniqueFd(open_level(above, name));
    }
    if (!fd) {
      if (errno == ENOENT) return;
      // Somebody put something else there meanwhile.
      if ((errno == ENOTDIR || errno == ELOOP) && ::unlinkat(above, name.c_str(), 0) == 0) return;
      return fail(name, errno == EXDEV ? "is a mount point" : "openat: " + errno_text(errno),
                  errno);
    }
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) return fail(name, "fstat: " + errno_text(errno), errno);
    if ((st.st_mode & S_IRWXU) != S_IRWXU) ::fchmod(fd.get(), (st.st_mode & 07777) | S_IRWXU);
    levels_.push_back({name, std::move(fd), st.st_dev, st.st_ino, {}, 0, false});
    if (levels_.size() > kOpenLevels) levels_[levels_.size() - 1 - kOpenLevels].fd.reset();
    empty_files(levels_.back());
  }

  // Removes the deepest directory, whose contents are gone, and goes back up.
  void leave() {
    if (levels_.size() > 1 && !reopen_above()) return;
    const int above = levels_.size() > 1 ? levels_[levels_.size() - 2].fd.get() : root_fd_;
    Level& level = levels_.back();
    if (!level.failed && ::unlinkat(above, level.name.c_str(), AT_REMOVEDIR) != 0 &&
        errno != ENOENT) {
      if ((errno == ENOTEMPTY || errno == EEXIST) && level.reads < kMaxReads) {
        return empty_files(level);
      }
      fail({}, "unlinkat: " + errno_text(errno), errno);
    }
    const bool failed = levels_.back().failed;
    levels_.pop_back();
    if (!levels_.empty()) levels_.back().failed |= failed;
  }

  // The level above the deepest has a descriptor again, and it is the directory we came from. If
  // not, the tree was moved under us, and the walk ends.
  bool reopen_above() {
    Level& above = levels_[levels_.size() - 2];
    if (above.fd) return true;
    UniqueFd fd(::openat(levels_.back().fd.get(), "..", kOpenFlags));
    struct stat st {};
    if (!fd || ::fstat(fd.get(), &st) != 0) {
      fail({}, "openat \"..\": " + errno_text(errno), errno);
    } else if (st.st_dev != above.device || st.st_ino != above.inode) {
      fail({}, "was moved while it was being removed", 0);
    } else {
      above.fd = std::move(fd);
      return true;
    }
    levels_.clear();
    return false;
  }

  int open_level(int above, const std::string& name) const {
    if (levels_.empty()) return ::openat(above, name.c_str(), kOpenFlags);
    // A mount left in the tree belongs to somebody else: its files are not ours to remove.
    open_how how{};
    how.flags = kOpenFlags;
    how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS;
    const long fd = ::syscall(SYS_openat2, above, name.c_str(), &how, sizeof how);
    if (fd < 0 && errno == ENOSYS) return ::openat(above, name.c_str(), kOpenFlags);
    return static_cast<int>(fd);
  }

  void empty_files(Level& level) {
    ++level.reads;
    const int fd = ::openat(level.fd.get(), ".", kOpenFlags);
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(fd < 0 ? nullptr : ::fdopendir(fd),
                                                     ::closedir);
    if (!stream) {
      if (fd >= 0) ::close(fd);
      return fail({}, "openat: " + errno_text(errno), errno);
    }
    while (true) {
      errno = 0;
      const dirent* entry = ::readdir(stream.get());  // NOLINT(concurrency-mt-unsafe): own stream
      if (entry == nullptr) break;
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      if (entry->d_type == DT_DIR) {
        level.directories.push_back(name);
      } else if (::unlinkat(level.fd.get(), name.c_str(), 0) != 0) {
        if (errno == EISDIR) {
          level.directories.push_back(name);
        } else if (errno != ENOENT) {
          fail(name, "unlinkat: " + errno_text(errno), errno);
        }
      }
    }
    if (errno != 0) fail({}, "readdir: " + errno_text(errno), errno);
  }

  // Remembers the first problem and goes on: what can go, goes. `name` is in the deepest directory;
  // empty: that directory itself.
  void fail(std::string_view name, const std::string& why, int error_number) {
    if (!levels_.empty()) levels_.back().failed = true;
    if (error_) return;
    std::string path;
    for (const Level& level : levels_) path += (path.empty() ? "" : "/") + level.name;
    if (!name.empty()) path += (path.empty() ? "" : "/") + std::string(name);
    const ErrorKind kind = system_error(error_number, "").kind();
    error_ = Error(kind, fmt::format("cannot remove \"{}\": {}", printable(path), why))
                 .with_errno(error_number);
  }

  int root_fd_ = -1;
  std::vector<Level> levels_;
  std::optional<Error> error_;
};

}  // namespace

Result<void> remove_tree(int dir_fd, const std::string& path) {
  std::string name = path;
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  if (::unlinkat(dir_fd, name.c_str(), 0) == 0) return {};
  if (errno == ENOENT || errno == ENOTDIR) return {};
  if (errno != EISDIR) return system_error(errno, "unlinkat", name);
  return TreeRemover().run(dir_fd, name);
}

}  // namespace lamina
