#include "base/stream.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/files.h"

namespace lamina {

Result<size_t> FdSource::read(std::span<std::byte> buffer) {
  while (true) {
    const ssize_t got = ::read(fd_.get(), buffer.data(), buffer.size());
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) return system_error(errno, "read");
  }
}

Result<void> FdSink::write(std::span<const std::byte> data) {
  return write_all(fd_, {reinterpret_cast<const char*>(data.data()), data.size()});
}

Result<size_t> StringSource::read(std::span<std::byte> buffer) {
  const size_t count = std::min(buffer.size(), text_.size() - offset_);
  if (count != 0) std::memcpy(buffer.data(), text_.data() + offset_, count);
  offset_ += count;
  return count;
}

Result<uint64_t> copy_stream(ByteSource& source, ByteSink& sink) {
  // Not value-initialised: clearing the buffer would cost as much as copying it once.
  const std::unique_ptr<std::byte[]> buffer(new std::byte[kCopyBufferSize]);
  uint64_t total = 0;
  while (true) {
    ASSIGN_OR_RETURN(const size_t got, source.read({buffer.get(), kCopyBufferSize}));
    if (got == 0) return total;
    RETURN_IF_ERROR(sink.write({buffer.get(), got}));
    total += got;
  }
}

Result<std::string> read_to_string(ByteSource& source, uint64_t limit) {
  std::string text;
  FunctionSink sink([&](std::span<const std::byte> data) -> Result<void> {
    if (data.size() > limit - text.size()) {
      return Error(ErrorKind::kCorrupt, fmt::format("more than {} bytes", limit));
    }
    text.append(reinterpret_cast<const char*>(data.data()), data.size());
    return {};
  });
  RETURN_IF_ERROR(copy_stream(source, sink));
  return text;
}

}  // namespace lamina
