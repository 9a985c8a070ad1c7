#include "layers/internal/file_copy.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/files.h"
#include "base/stoppable.h"
#include "base/text.h"
#include "layers/internal/holes.h"

namespace lamina::layers {
namespace {

// What the kernel copies at a time: a stop request is seen in between.
constexpr uint64_t kCopyAtOnce = 64 << 20;

Error changed(const Entry& entry) {
  return Error(ErrorKind::kCorrupt,
               fmt::format("\"{}\" changed while it was read: it has no longer {} bytes", printable(entry.path),
                           entry.size));
}

}  // namespace

Result<void> FileCopier::copy_own(const Entry& entry, int to) {
  if (entry.bytes) {
    if (entry.bytes->size() != entry.size) return changed(entry);
    return write_all(to, *entry.bytes);
  }
  if (entry.size == 0) return {};
  if (!entry.opener) {
    return Error(ErrorKind::kInternal, fmt::format("the entry \"{}\" has no content", printable(entry.path)));
  }
  ASSIGN_OR_RETURN(const UniqueFd from, entry.opener->open_file(entry.source_path));
  // Below this, one read and one write cost less than asking the file system about extents.
  if (entry.size < kCopyBufferSize) return copy_small(entry, from.get(), to);
  RETURN_IF_ERROR(copy_large(entry, from.get(), to));
  return entry.opener->confirm(entry.source_path, from.get(), std::nullopt);
}

Result<size_t> read_small(const Entry& entry, int fd, char* room) {
  const size_t most = static_cast<size_t>(entry.size) + 1;
  size_t have = 0;
  while (have < most) {
    const size_t want = most - have;
    const ssize_t got = ::read(fd, room + have, want);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(errno, "read", entry.path);
    have += static_cast<size_t>(got);
    if (static_cast<size_t>(got) < want) break;  // the end of a regular file
  }
  return have;
}

Result<void> FileCopier::copy_small(const Entry& entry, int from, int to) {
  ASSIGN_OR_RETURN(const size_t have, read_small(entry, from, reinterpret_cast<char*>(buffer_.get())));
  if (have != entry.size) return changed(entry);
  const std::string_view bytes(reinterpret_cast<const char*>(buffer_.get()), have);
  RETURN_IF_ERROR(entry.opener->confirm(entry.source_path, from, bytes));
  return write_all(to, bytes);
}

Result<void> FileCopier::copy_range(int from, int to, uint64_t begin, uint64_t end) {
  auto in = static_cast<off64_t>(begin), out = in;
  while (begin < end) {
    RETURN_IF_ERROR(check_stop(stop_));
    const ssize_t done = ::copy_file_range(from, &in, to, &out, std::min(end - begin, kCopyAtOnce), 0);
    if (done > 0) {
      begin += static_cast<uint64_t>(done);
      continue;
    }
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP && errno != EPERM) {
      return system_error(errno, "copy_file_range");
    }
    // Other file systems; and some say 0 for files that have no size (procfs).
    const size_t want = static_cast<size_t>(std::min<uint64_t>(kCopyBufferSize, end - begin));
    const ssize_t got = ::pread(from, buffer_.get(), want, static_cast<off_t>(begin));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(errno, "read");
    if (got == 0) return {};  // shorter than it was: the caller finds out
    if (::lseek(to, static_cast<off_t>(begin), SEEK_SET) < 0) return system_error(errno, "lseek");
    RETURN_IF_ERROR(write_all(to, {reinterpret_cast<const char*>(buffer_.get()), static_cast<size_t>(got)}));
    begin += static_cast<uint64_t>(got);
    in = out = static_cast<off64_t>(begin);
  }
  return {};
}

Result<void> FileCopier::copy_large(const Entry& entry, int from, int to) {
  struct stat st {};
  if (::fstat(from, &st) != 0) return system_error(errno, "fstat", entry.path);
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) != entry.size) return changed(entry);
  const uint64_t size = entry.size;
  const bool sparse = static_cast<uint64_t>(st.st_blocks) * 512 < size;
  if (!sparse) {
    RETURN_IF_ERROR(copy_range(from, to, 0, size));
  } else {
    for (uint64_t at = 0; at < size;) {
      const off_t data = ::lseek(from, static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;  // a hole up to the end
      const off_t hole = data < 0 ? data : ::lseek(from, data, SEEK_HOLE);
      // Without SEEK_DATA everything counts as data.
      const uint64_t begin = hole < 0 ? at : static_cast<uint64_t>(data);
      const uint64_t end = hole < 0 ? size : std::min(static_cast<uint64_t>(hole), size);
      RETURN_IF_ERROR(copy_range(from, to, begin, end));
      at = std::max(end, at + 1);
    }
    struct stat written {};
    if (::fstat(to, &written) != 0) return system_error(errno, "fstat", entry.path);
    if (static_cast<uint64_t>(written.st_size) < size && ::ftruncate(to, static_cast<off_t>(size)) != 0) {
      return system_error(errno, "ftruncate", entry.path);
    }
  }
  struct stat after {}, copy{};
  if (::fstat(from, &after) != 0 || ::fstat(to, &copy) != 0) return system_error(errno, "fstat", entry.path);
  if (after.st_size != st.st_size || static_cast<uint64_t>(copy.st_size) != size) return changed(entry);
  return {};
}

Result<void> FileCopier::copy_stream(ByteSource& content, int to) {
  auto* const holey = dynamic_cast<HoleySource*>(&content);
  bool ends_in_hole = false;
  while (true) {
    if (const uint64_t hole = holey == nullptr ? 0 : holey->skip_hole(); hole != 0) {
      if (hole > INT64_MAX || ::lseek(to, static_cast<off_t>(hole), SEEK_CUR) < 0) {
        return system_error(hole > INT64_MAX ? EFBIG : errno, "lseek");
      }
      ends_in_hole = true;
    }
    RETURN_IF_ERROR(check_stop(stop_));
    ASSIGN_OR_RETURN(const size_t got, content.read({buffer_.get(), kCopyBufferSize}));
    if (got == 0) break;
    ends_in_hole = false;
    RETURN_IF_ERROR(write_all(to, {reinterpret_cast<const char*>(buffer_.get()), got}));
  }
  if (!ends_in_hole) return {};
  const off_t end = ::lseek(to, 0, SEEK_CUR);
  if (end < 0 || ::ftruncate(to, end) != 0) return system_error(errno, "ftruncate");
  return {};
}

}  // namespace lamina::layers
