#include "layers/internal/new_inodes.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace lamina::layers {
namespace {

constexpr auto kSlow = std::chrono::microseconds(40);  // 10 to 20 are usual
constexpr size_t kTooSlow = 12;
// After so many a place was worth going to; so many that were not in a row say that the file system is just slow.
constexpr size_t kWorthIt = 200, kUseless = 8;

}  // namespace

void spread_subdirectories(const std::string& path) {
  const auto fd = open_directory(AT_FDCWD, path);
  unsigned int flags = 0;
  if (!fd || ::ioctl(fd->get(), FS_IOC_GETFLAGS, &flags) != 0 || (flags & FS_TOPDIR_FL) != 0) return;
  flags |= FS_TOPDIR_FL;
  ::ioctl(fd->get(), FS_IOC_SETFLAGS, &flags);
}

bool NewInodes::move(int dir_fd, const std::string& name) {
  if (::renameat2(fd_.get(), kFresh, dir_fd, name.c_str(), RENAME_NOREPLACE) == 0) return true;
  const int why = errno;
  if (::unlinkat(fd_.get(), kFresh, 0) != 0) ::unlinkat(fd_.get(), kFresh, AT_REMOVEDIR);
  errno = why;
  return false;
}

void NewInodes::took(std::chrono::steady_clock::duration time) {
  ++made_;
  if (time < kSlow) {
    slow_ -= slow_ == 0 ? 0 : 1;
    return;
  }
  if (room_.empty() || ++slow_ < kTooSlow) return;
  moves_ = made_ < kWorthIt ? moves_ + 1 : 0;
  slow_ = made_ = 0;
  const bool gone = moves_ < kUseless && go_elsewhere().has_value();
  if (gone) return;
  room_.clear();
  fd_.reset();
}

Result<void> NewInodes::go_elsewhere() {
  if (!spread_) {
    ASSIGN_OR_RETURN(spread_, TempDir::create(room_, "spread"));
    spread_subdirectories(spread_->path());
  }
  ASSIGN_OR_RETURN(TempDir next, TempDir::create(spread_->path(), "inodes"));
  ASSIGN_OR_RETURN(fd_, open_directory(AT_FDCWD, next.path()));
  // What would be inherited: a set-group-id bit and default ACLs.
  if (::fchmod(fd_.get(), 0700) != 0) return system_error(errno, "fchmod", next.path());
  ::fremovexattr(fd_.get(), "system.posix_acl_default");
  directory_ = std::move(next);
  return {};
}

}  // namespace lamina::layers
