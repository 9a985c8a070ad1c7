// Files and directories by descriptor. Every path is relative to a directory descriptor; AT_FDCWD
// only for paths that the user typed or that this program made.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdint>

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace lamina {

// openat(2) with O_CLOEXEC; the error names `path`.
Result<UniqueFd> open_at(int dir_fd, const std::string& path, int flags, mode_t mode = 0);
// O_DIRECTORY | O_PATH is not used: the result can be read with list_directory.
Result<UniqueFd> open_directory(int dir_fd, const std::string& path);

// openat2(2) with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS: no component, "..", or symlink leaves
// `root_fd`. For hostile trees. `path` may be absolute (then it starts at the root);
// an empty one is the root itself.
Result<UniqueFd> open_in_root(int root_fd, const std::string& path, int flags, mode_t mode = 0);
// openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS.
Result<UniqueFd> open_beneath_nofollow(int root_fd, const std::string& path, int flags,
                                       mode_t mode = 0);

Result<void> write_all(int fd, std::string_view data);
// pread(2) until the buffer is full; kCorrupt where the file ends before.
Result<void> read_exactly_at(int fd, uint64_t offset, std::span<std::byte> buffer);
// pwrite(2), all of it.
Result<void> write_all_at(int fd, uint64_t offset, std::span<const std::byte> data);
// Fails with kCorrupt when the file is larger than `limit` bytes, and with kInvalidInput for what is neither a file nor
// a character device: nobody waits for the other end of a fifo.
Result<std::string> read_file(int dir_fd, const std::string& path, uint64_t limit = 1ull << 30);
Result<std::string> read_fd(int fd, uint64_t limit = 1ull << 30);
// Nothing when the file does not exist.
Result<std::optional<std::string>> read_file_if_exists(int dir_fd, const std::string& path,
                                                       uint64_t limit = 1ull << 30);

enum class Durability { kNone, kFsync };
// Temp file in the same directory, optional fsync, rename: readers see the old or the new content.
// The umask applies to `mode`.
Result<void> write_file_atomically(int dir_fd, const std::string& path, std::string_view data,
                                   Durability durability, mode_t mode = 0644);

// What a user names for output. A regular file, or nothing yet, is written beside and renamed, so that it is never seen
// half written; a symlink stays and its target is written. Anything else, such as a device or a fifo, is written into.
// `write` gets the descriptor.
Result<void> write_output_file(const std::string& path, const std::function<Result<void>(int fd)>& write);

// realpath(3), "" where it fails (errno says why).
std::string real_path(const std::string& path);
// Of a path as it is written: "." for a plain name, "/" for what is in the root.
std::string parent_directory(const std::string& path);

// mkdir -p with the given mode (less the umask) for what is made; existing directories are left as
// they are.
Result<void> make_directories(int dir_fd, const std::string& path, mode_t mode = 0755);

// Names in byte order, without "." and "..".
Result<std::vector<std::string>> list_directory(int dir_fd);

// The same for directories of any size: five bytes a name besides the name's own. kUnsupported above 4 GiB of names.
class NameList {
 public:
  static Result<NameList> read(int dir_fd);
  size_t size() const { return offsets_.size(); }
  const char* operator[](size_t i) const { return text_.c_str() + offsets_[i]; }

 private:
  std::string text_;  // each with its NUL
  std::vector<uint32_t> offsets_;
};

// Removes a file or a whole tree without following symlinks; a missing path is no error.
// Directories without write or search permission are made accessible first (when owned). What can
// be removed is removed even when something else cannot; the first problem is returned. A mount
// inside the tree is such a problem: its files are left alone.
Result<void> remove_tree(int dir_fd, const std::string& path);

// A random name such as "prefix.9f86d081884c7d65"; unique enough for O_EXCL to settle the rest.
std::string temporary_name(std::string_view prefix);

// A directory that is removed with everything in it when the object dies.
class TempDir {
 public:
  // Makes `<parent>/<prefix>.<random>` with mode 0700.
  static Result<TempDir> create(const std::string& parent, std::string_view prefix);
  TempDir(TempDir&&) noexcept;
  TempDir& operator=(TempDir&&) noexcept;
  ~TempDir();

  const std::string& path() const { return path_; }
  // The directory stays (for example after it was renamed away).
  std::string release();

 private:
  explicit TempDir(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// An advisory flock(2) on a file, which is made if missing; released when the object dies.
class FileLock {
 public:
  enum class Mode { kShared, kExclusive };
  static Result<FileLock> acquire(int dir_fd, const std::string& path, Mode mode);
  // Nothing when another process holds it.
  static Result<std::optional<FileLock>> try_acquire(int dir_fd, const std::string& path,
                                                     Mode mode);

 private:
  explicit FileLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace lamina
