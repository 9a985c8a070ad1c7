#include "layers/internal/attributes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "base/files.h"
#include "base/text.h"
#include "layers/internal/xattrs.h"
#include "layers/snapshot.h"

namespace lamina::layers {
namespace {

bool has_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3]{};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  const uint32_t needed = 1U << CAP_SYS_ADMIN | 1U << CAP_MKNOD;
  return (data[0].effective & needed) == needed;
}

bool find_privileges() {
  if (::geteuid() != 0 || !has_capabilities()) return false;
  // user_namespaces(7): the initial one maps every id to itself.
  const auto map = read_file(AT_FDCWD, "/proc/self/uid_map", 4096);
  if (!map) return false;
  std::vector<std::string> fields;
  for (std::string& field : split(*map, ' ')) {
    if (!trim(field).empty()) fields.emplace_back(trim(field));
  }
  return fields == std::vector<std::string>{"0", "0", "4294967295"};
}

Error chown_error(int error_number, const Entry& entry) {
  const std::string path = entry.path.empty() ? "/" : printable(entry.path);
  if (error_number != EINVAL && error_number != EPERM) return system_error(error_number, "chown", path);
  return Error(ErrorKind::kDenied,
               fmt::format("cannot give \"{}\" to user {} and group {}: this user may not use these ids", path,
                           entry.uid, entry.gid))
      .with_errno(error_number)
      .with_note(
          "a range of subordinate ids is needed in /etc/subuid and /etc/subgid; an administrator adds one with: "
          "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER");
}

bool owner_differs(const Entry& entry) {
  return entry.uid != ::geteuid() || entry.gid != ::getegid();  // new files have these
}

std::array<timespec, 2> times_of(const Entry& entry) {
  const timespec time{entry.mtime.seconds, static_cast<long>(entry.mtime.nanoseconds)};
  return {time, time};
}

}  // namespace

bool has_full_privileges() {
  static const bool full = find_privileges();
  return full;
}

Result<void> mark_opaque(int dir_fd) {
  if (::fsetxattr(dir_fd, opaque_xattr(), "y", 1, 0) == 0) return {};
  const int error_number = errno;
  Error error = system_error(error_number, fmt::format("fsetxattr {}", opaque_xattr()));
  if (error_number != ENOTSUP) return error;
  return std::move(error).with_note("the file system of the store must support extended attributes");
}

Result<void> apply_attributes(int fd, const Entry& entry) {
  if (owner_differs(entry) && ::fchown(fd, entry.uid, entry.gid) != 0) return chown_error(errno, entry);
  if (::fchmod(fd, entry.mode & 07777) != 0) return system_error(errno, "fchmod", entry.path);
  for (const auto& [name, value] : entry.xattrs) {
    if (!is_layer_xattr(entry.type, name)) continue;
    if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) == 0) continue;
    // A capability that the kernel finds malformed grants nothing; other programs drop it too.
    if (errno == EINVAL && name == "security.capability") continue;
    return system_error(errno, "fsetxattr " + printable(name), entry.path);
  }
  if (::futimens(fd, times_of(entry).data()) != 0) return system_error(errno, "futimens", entry.path);
  return {};
}

Result<void> apply_attributes_at(int dir_fd, const std::string& name, const Entry& entry) {
  if (owner_differs(entry) && ::fchownat(dir_fd, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) {
    return chown_error(errno, entry);
  }
  // Right after it was made, in a directory that is nobody else's: it is no symlink.
  if (entry.type != EntryType::kSymlink && ::fchmodat(dir_fd, name.c_str(), entry.mode & 07777, 0) != 0) {
    return system_error(errno, "fchmodat", entry.path);
  }
  if (::utimensat(dir_fd, name.c_str(), times_of(entry).data(), AT_SYMLINK_NOFOLLOW) != 0) {
    return system_error(errno, "utimensat", entry.path);
  }
  return {};
}

std::optional<EntryType> type_of(const struct stat& st) {
  switch (st.st_mode & S_IFMT) {
    case S_IFREG: return EntryType::kFile;
    case S_IFDIR: return EntryType::kDirectory;
    case S_IFLNK: return EntryType::kSymlink;
    case S_IFCHR: return is_whiteout(st) ? EntryType::kWhiteout : EntryType::kCharDevice;
    case S_IFBLK: return EntryType::kBlockDevice;
    case S_IFIFO: return EntryType::kFifo;
    default: return std::nullopt;
  }
}

void set_metadata(Entry& entry, EntryType type, const struct stat& st) {
  entry.type = type;
  entry.mode = st.st_mode & 07777;
  entry.uid = st.st_uid;
  entry.gid = st.st_gid;
  entry.mtime = {st.st_mtim.tv_sec, static_cast<uint32_t>(st.st_mtim.tv_nsec)};
  entry.size = type == EntryType::kFile ? static_cast<uint64_t>(st.st_size) : 0;
  if (type == EntryType::kCharDevice || type == EntryType::kBlockDevice) {
    entry.dev_major = major(st.st_rdev);
    entry.dev_minor = minor(st.st_rdev);
  }
}

}  // namespace lamina::layers
