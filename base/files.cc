#include "base/files.h"

#include <dirent.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "base/scope_exit.h"
#include "base/sha256.h"
#include "base/text.h"

namespace lamina {
namespace {

// A name that exists already: how often a new one is drawn.
constexpr int kNameAttempts = 16;

// openat2(2); -1 and errno like a system call.
int openat2(int dir_fd, const std::string& path, int flags, mode_t mode, uint64_t resolve) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
  // Any mode without O_CREAT or O_TMPFILE is EINVAL.
  if ((flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) != 0) how.mode = mode;
  how.resolve = resolve;
  // The kernel answers EAGAIN when a rename raced with ".."; it cannot last.
  constexpr int kMaxAttempts = 256;
  for (int attempt = 0;; ++attempt) {
    const long fd = ::syscall(SYS_openat2, dir_fd, path.c_str(), &how, sizeof how);
    if (fd >= 0) return static_cast<int>(fd);
    if ((errno != EAGAIN && errno != EINTR) || attempt == kMaxAttempts) return -1;
  }
}

Result<UniqueFd> open_resolved(int root_fd, const std::string& path, int flags, mode_t mode,
                               uint64_t resolve) {
  UniqueFd fd(openat2(root_fd, path.empty() ? "." : path, flags, mode, resolve));
  if (fd) return fd;
  const int error_number = errno;
  if (error_number == ENOSYS) {
    return Error(ErrorKind::kUnsupported, "openat2: " + errno_text(error_number))
        .with_errno(error_number)
        .with_note(
            "Linux 5.6 or newer is needed; in a container its seccomp profile must allow it");
  }
  return system_error(error_number, "openat2", path);
}

// Reads to the end of `fd`; errors name `path`.
Result<std::string> read_open_file(int fd, std::string_view path, uint64_t limit) {
  struct stat st {};
  const bool sized = ::fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
  const uint64_t hint = sized ? static_cast<uint64_t>(st.st_size) : 0;
  std::string text;
  size_t used = 0;
  // One byte more than expected, so that the end is seen without growing.
  size_t room = static_cast<size_t>(std::min(std::max<uint64_t>(hint, 4095), limit)) + 1;
  while (true) {
    text.resize(used + room);
    const ssize_t got = ::read(fd, text.data() + used, room);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(errno, "read", path);
    if (got == 0) break;
    used += static_cast<size_t>(got);
    if (used > limit) {
      const std::string what = path.empty() ? "the file" : fmt::format("\"{}\"", printable(path));
      return Error(ErrorKind::kCorrupt, fmt::format("{} is larger than {} bytes", what, limit));
    }
    room = std::max<size_t>(text.size() - used, std::min<size_t>(used + 1, 1 << 20));
  }
  text.resize(used);
  return text;
}

Result<void> write_new_file(UniqueFd fd, std::string_view data, Durability durability) {
  RETURN_IF_ERROR(write_all(fd.get(), data));
  if (durability == Durability::kFsync && ::fsync(fd.get()) != 0) {
    return system_error(errno, "fsync");
  }
  return fd.close();
}

// flock(2) without being stopped by signals; false when it would have to wait.
Result<bool> lock_file(int fd, const std::string& path, int operation) {
  while (::flock(fd, operation) != 0) {
    if (errno == EWOULDBLOCK) return false;
    if (errno != EINTR) return system_error(errno, "flock", path);
  }
  return true;
}

Result<UniqueFd> open_lock_file(int dir_fd, const std::string& path) {
  auto writable = open_at(dir_fd, path, O_RDWR | O_CREAT | O_NOCTTY, 0644);
  if (writable) return writable;
  const int error_number = writable.error().error_number();
  if (error_number != EACCES && error_number != EROFS) return writable;
  return open_at(dir_fd, path, O_RDONLY | O_NOCTTY);
}

// Nothing when `operation` holds LOCK_NB and another holds the lock.
Result<std::optional<UniqueFd>> take_lock(int dir_fd, const std::string& path, int operation) {
  while (true) {
    ASSIGN_OR_RETURN(UniqueFd fd, open_lock_file(dir_fd, path));
    ASSIGN_OR_RETURN(const bool locked, lock_file(fd.get(), path, operation));
    if (!locked) return std::optional<UniqueFd>();
    // Whoever held it may have removed the file: then the lock is on a file that nobody else finds.
    struct stat mine {
    }, current{};
    if (::fstat(fd.get(), &mine) != 0) return system_error(errno, "fstat", path);
    const bool found = ::fstatat(dir_fd, path.c_str(), &current, 0) == 0;
    if (found && mine.st_dev == current.st_dev && mine.st_ino == current.st_ino) {
      return std::optional<UniqueFd>(std::move(fd));
    }
    if (!found && errno != ENOENT) return system_error(errno, "fstatat", path);
  }
}

}  // namespace

Result<UniqueFd> open_at(int dir_fd, const std::string& path, int flags, mode_t mode) {
  while (true) {
    UniqueFd fd(::openat(dir_fd, path.c_str(), flags | O_CLOEXEC, mode));
    if (fd) return fd;
    if (errno != EINTR) return system_error(errno, "openat", path);
  }
}

Result<UniqueFd> open_directory(int dir_fd, const std::string& path) {
  return open_at(dir_fd, path, O_RDONLY | O_DIRECTORY);
}

Result<UniqueFd> open_in_root(int root_fd, const std::string& path, int flags, mode_t mode) {
  return open_resolved(root_fd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

Result<UniqueFd> open_beneath_nofollow(int root_fd, const std::string& path, int flags,
                                       mode_t mode) {
  return open_resolved(root_fd, path, flags, mode,
                       RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

Result<void> write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t put = ::write(fd, data.data(), data.size());
    if (put >= 0) {
      data.remove_prefix(static_cast<size_t>(put));
    } else if (errno != EINTR) {
      return system_error(errno, "write");
    }
  }
  return {};
}

Result<void> read_exactly_at(int fd, uint64_t offset, std::span<std::byte> buffer) {
  for (size_t done = 0; done < buffer.size();) {
    const ssize_t got = ::pread(fd, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(errno, "pread");
    if (got == 0) return Error(ErrorKind::kCorrupt, "a file is shorter than what was written to it");
    done += static_cast<size_t>(got);
  }
  return {};
}

Result<void> write_all_at(int fd, uint64_t offset, std::span<const std::byte> data) {
  for (size_t done = 0; done < data.size();) {
    const ssize_t put = ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return system_error(errno, "pwrite");
    done += static_cast<size_t>(put);
  }
  return {};
}

Result<std::string> read_file(int dir_fd, const std::string& path, uint64_t limit) {
  ASSIGN_OR_RETURN(const UniqueFd fd, open_at(dir_fd, path, O_RDONLY | O_NOCTTY | O_NONBLOCK));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return system_error(errno, "fstat", path);
  if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || S_ISBLK(st.st_mode)) {
    return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is not a regular file", printable(path)));
  }
  return read_open_file(fd.get(), path, limit);
}

Result<std::string> read_fd(int fd, uint64_t limit) { return read_open_file(fd, {}, limit); }

Result<std::optional<std::string>> read_file_if_exists(int dir_fd, const std::string& path,
                                                       uint64_t limit) {
  auto text = read_file(dir_fd, path, limit);
  if (text) return std::optional<std::string>(*std::move(text));
  if (text.error().error_number() == ENOENT) return std::optional<std::string>();
  return std::move(text).error();
}

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr), &std::free);
  return real ? std::string(real.get()) : std::string();
}

std::string parent_directory(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<void> write_output_file(const std::string& path, const std::function<Result<void>(int fd)>& write) {
  struct stat st {};
  const bool exists = ::stat(path.c_str(), &st) == 0;
  const auto write_into = [&](const std::string& name, int flags) -> Result<void> {
    ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, name, O_WRONLY | O_NOCTTY | flags, 0644));
    RETURN_IF_ERROR(write(fd.get()));
    return fd.close();
  };
  if (exists && !S_ISREG(st.st_mode)) return write_into(path, 0);
  std::string target = path;
  if (struct stat link {}; ::lstat(path.c_str(), &link) == 0 && S_ISLNK(link.st_mode)) {
    target = real_path(path);
    if (target.empty()) return write_into(path, O_CREAT | O_TRUNC);  // it leads to nothing yet
  }
  const std::string temporary = target + "." + temporary_name("part");
  ScopeExit remove_temporary([&] { ::unlink(temporary.c_str()); });
  RETURN_IF_ERROR(write_into(temporary, O_CREAT | O_EXCL));
  // What takes the place of a file belongs to whom that did, as far as we may say so.
  if (exists && ::chown(temporary.c_str(), st.st_uid, st.st_gid) != 0 && errno != EPERM) return system_error(errno, "chown", temporary);
  if (exists && ::chmod(temporary.c_str(), st.st_mode & 07777) != 0) return system_error(errno, "chmod", temporary);
  if (::rename(temporary.c_str(), target.c_str()) != 0) return system_error(errno, "rename", target);
  remove_temporary.dismiss();
  return {};
}

Result<void> write_file_atomically(int dir_fd, const std::string& path, std::string_view data,
                                   Durability durability, mode_t mode) {
  const std::string parent = parent_directory(path);
  std::string temporary;
  UniqueFd fd;
  for (int attempt = 0; !fd; ++attempt) {
    temporary = parent + "/" + temporary_name(".tmp");
    auto made = open_at(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL, mode);
    if (made) {
      fd = *std::move(made);
    } else if (made.error().error_number() != EEXIST || attempt == kNameAttempts) {
      return std::move(made).error();
    }
  }
  ScopeExit remove_temporary([&] { ::unlinkat(dir_fd, temporary.c_str(), 0); });
  RETURN_IF_ERROR_WITH(write_new_file(std::move(fd), data, durability),
                       fmt::format("writing \"{}\"", printable(path)));
  if (::renameat(dir_fd, temporary.c_str(), dir_fd, path.c_str()) != 0) {
    return system_error(errno, "renameat", path);
  }
  remove_temporary.dismiss();
  if (durability == Durability::kNone) return {};
  ASSIGN_OR_RETURN(const UniqueFd directory, open_directory(dir_fd, parent));
  if (::fsync(directory.get()) != 0) return system_error(errno, "fsync", parent);
  return {};
}

Result<void> make_directories(int dir_fd, const std::string& path, mode_t mode) {
  struct stat st {};
  const auto is_directory = [&] {
    return ::fstatat(dir_fd, path.c_str(), &st, 0) == 0 && S_ISDIR(st.st_mode);
  };
  if (is_directory()) return {};
  for (size_t end = 0; end != std::string::npos;) {
    const size_t begin = path.find_first_not_of('/', end);
    if (begin == std::string::npos) break;
    end = path.find('/', begin);
    const std::string prefix = path.substr(0, end);
    if (::mkdirat(dir_fd, prefix.c_str(), mode) != 0 && errno != EEXIST) {
      return system_error(errno, "mkdirat", prefix);
    }
  }
  if (!is_directory()) return system_error(path.empty() ? ENOENT : ENOTDIR, "mkdirat", path);
  return {};
}

Result<NameList> NameList::read(int dir_fd) {
  // A descriptor of its own: readdir(3) moves the offset, which duplicates share.
  ASSIGN_OR_RETURN(UniqueFd own, open_directory(dir_fd, "."));
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(own.get()), ::closedir);
  if (!stream) return system_error(errno, "fdopendir");
  own.release();
  NameList names;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());  // NOLINT(concurrency-mt-unsafe): own stream
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (names.text_.size() > UINT32_MAX) return Error(ErrorKind::kUnsupported, "a directory has more than 4 GiB of names");
    names.offsets_.push_back(static_cast<uint32_t>(names.text_.size()));
    names.text_.append(name).push_back('\0');
  }
  if (errno != 0) return system_error(errno, "readdir");
  const char* const text = names.text_.c_str();
  std::sort(names.offsets_.begin(), names.offsets_.end(), [text](uint32_t a, uint32_t b) { return std::strcmp(text + a, text + b) < 0; });
  return names;
}

Result<std::vector<std::string>> list_directory(int dir_fd) {
  ASSIGN_OR_RETURN(const NameList list, NameList::read(dir_fd));
  std::vector<std::string> names;
  names.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) names.emplace_back(list[i]);
  return names;
}

std::string temporary_name(std::string_view prefix) {
  std::array<unsigned char, 8> random{};
  while (::getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
  }
  return fmt::format("{}.{}", prefix, to_hex(random));
}

Result<TempDir> TempDir::create(const std::string& parent, std::string_view prefix) {
  for (int attempt = 0;; ++attempt) {
    std::string path = parent + "/" + temporary_name(prefix);
    if (::mkdirat(AT_FDCWD, path.c_str(), 0700) == 0) return TempDir(std::move(path));
    if (errno != EEXIST || attempt == kNameAttempts) return system_error(errno, "mkdirat", path);
  }
}

TempDir::TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}

TempDir& TempDir::operator=(TempDir&& other) noexcept {
  std::swap(path_, other.path_);  // the other's destructor removes what was here
  return *this;
}

TempDir::~TempDir() {
  if (!path_.empty()) {
    ignore_error(remove_tree(AT_FDCWD, path_), "a destructor has nobody to tell");
  }
}

std::string TempDir::release() { return std::exchange(path_, {}); }

Result<FileLock> FileLock::acquire(int dir_fd, const std::string& path, Mode mode) {
  const int operation = mode == Mode::kShared ? LOCK_SH : LOCK_EX;
  ASSIGN_OR_RETURN(auto fd, take_lock(dir_fd, path, operation));
  return FileLock(*std::move(fd));  // without LOCK_NB there is always one
}

Result<std::optional<FileLock>> FileLock::try_acquire(int dir_fd, const std::string& path,
                                                      Mode mode) {
  const int operation = (mode == Mode::kShared ? LOCK_SH : LOCK_EX) | LOCK_NB;
  ASSIGN_OR_RETURN(auto fd, take_lock(dir_fd, path, operation));
  if (!fd) return std::optional<FileLock>();
  return std::optional<FileLock>(FileLock(*std::move(fd)));
}

}  // namespace lamina
