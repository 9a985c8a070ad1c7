// Bytes that are written once and read later, in memory while they are few, else in a temporary file: what grows with
// the number of files of a build is kept so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/stream.h"
#include "base/unique_fd.h"

namespace lamina {

// Makes an empty file without a name.
using TemporaryFile = std::function<Result<UniqueFd>()>;

// One thread at a time; readers may read on several threads when nothing is appended any more. Movable.
class Spool {
 public:
  // Holds at most this much in memory.
  static constexpr size_t kMemory = 1 << 20;

  // Everything stays in memory.
  Spool() = default;
  // `temporary_file` is called when more has come, at most once.
  explicit Spool(TemporaryFile temporary_file) : temporary_file_(std::move(temporary_file)) {}

  Result<void> append(std::string_view bytes);
  uint64_t size() const { return written_ + tail_.size(); }
  // Fills the buffer from `offset`; fewer bytes only at the end.
  Result<size_t> read_at(uint64_t offset, std::span<std::byte> buffer) const;
  // From the beginning to what is the end then. Borrows the spool, which must not be moved.
  std::unique_ptr<ByteSource> reader() const;

 private:
  TemporaryFile temporary_file_;
  UniqueFd file_;
  uint64_t written_ = 0;  // bytes in the file
  std::string tail_;      // what follows them
};

}  // namespace lamina
