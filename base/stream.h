// Byte streams: how large data moves between rooms without being held in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace lamina {

// Yields bytes in order. Not thread-safe; may be handed from one thread to another.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Reads up to buffer.size() bytes; 0 means the end (and stays 0).
  virtual Result<size_t> read(std::span<std::byte> buffer) = 0;
};

// Takes bytes in order. Not thread-safe; may be handed from one thread to another.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  // Takes all of `data` or fails.
  virtual Result<void> write(std::span<const std::byte> data) = 0;
};

// Reads a descriptor it owns.
class FdSource : public ByteSource {
 public:
  explicit FdSource(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<size_t> read(std::span<std::byte> buffer) override;

 private:
  UniqueFd fd_;
};

// Writes to a descriptor it borrows.
class FdSink : public ByteSink {
 public:
  explicit FdSink(int fd) : fd_(fd) {}
  Result<void> write(std::span<const std::byte> data) override;

 private:
  int fd_;
};

// Reads a string it owns.
class StringSource : public ByteSource {
 public:
  explicit StringSource(std::string text) : text_(std::move(text)) {}
  Result<size_t> read(std::span<std::byte> buffer) override;

 private:
  std::string text_;
  size_t offset_ = 0;
};

// Calls a function for each block.
class FunctionSink : public ByteSink {
 public:
  explicit FunctionSink(std::function<Result<void>(std::span<const std::byte>)> f)
      : f_(std::move(f)) {}
  Result<void> write(std::span<const std::byte> data) override { return f_(data); }

 private:
  std::function<Result<void>(std::span<const std::byte>)> f_;
};

// Keeps what it is given.
class StringSink : public ByteSink {
 public:
  std::string text;
  Result<void> write(std::span<const std::byte> data) override {
    text.append(reinterpret_cast<const char*>(data.data()), data.size());
    return {};
  }
};

// Takes everything and keeps nothing: for streams that are read to check them.
class NullSink : public ByteSink {
 public:
  Result<void> write(std::span<const std::byte>) override { return {}; }
};

inline constexpr size_t kCopyBufferSize =
    256 * 1024;  // fastest block for read(2), docs/performance.md

// Copies until the end of `source`; returns the number of bytes.
Result<uint64_t> copy_stream(ByteSource& source, ByteSink& sink);

// Reads to the end; fails with kCorrupt when there are more than `limit` bytes.
Result<std::string> read_to_string(ByteSource& source, uint64_t limit);

inline std::span<const std::byte> as_bytes(std::string_view s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

}  // namespace lamina
