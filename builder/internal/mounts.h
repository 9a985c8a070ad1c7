// The mount calls that the sandbox's files share: fsopen(2), fsconfig(2), open_tree(2), move_mount(2).
#pragma once

#include <linux/mount.h>

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

// <sys/mount.h> clashes with <linux/mount.h> in glibc 2.36.
extern "C" {
int mount(const char*, const char*, const char*, unsigned long, const void*) noexcept;
int umount2(const char*, int) noexcept;
}

namespace lamina::builder::internal {

inline constexpr unsigned long kRdonly = 1, kNosuid = 2, kNodev = 4, kNoexec = 8, kRec = 16384, kPrivate = 1 << 18;
inline constexpr int kDetach = 2;

// Names a descriptor for calls that take paths.
inline std::string fd_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

// A file system being configured. Errors hold what the kernel says of it.
class FsContext {
 public:
  static Result<FsContext> open(const char* type);
  bool try_set(const char* key, const std::string& value);
  Result<void> set(const char* key, const std::string& value);
  Result<void> flag(const char* key);
  // A mount that is attached nowhere yet; `attributes` are MOUNT_ATTR_*.
  Result<UniqueFd> mount(unsigned attributes);

 private:
  explicit FsContext(UniqueFd fd) : fd_(std::move(fd)) {}
  Error failed(int error, const char* what);
  UniqueFd fd_;
};

// Attaches a mount (one that is attached elsewhere moves) at an O_PATH descriptor.
Result<void> attach(int mount_fd, int target_fd);
// A mount of its own, attached nowhere, of what `path` shows; "" for the descriptor itself.
Result<UniqueFd> clone_tree(int dir_fd, const std::string& path, bool recursive, bool read_only, bool no_devices = false);

}  // namespace lamina::builder::internal
