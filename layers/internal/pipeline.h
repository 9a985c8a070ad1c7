// Streams that use a second thread: bounded, with reused blocks.
#pragma once

#include <functional>
#include <memory>

#include "base/sha256.h"
#include "base/stream.h"
#include "oci/blob.h"

namespace lamina::layers {

// 4 blocks are in flight at most, so a stream holds 2 MiB whatever its length.
inline constexpr size_t kBlockSize = 512 * 1024;
inline constexpr size_t kBlockCount = 4;

// Reads `source` on a thread of its own, ahead of the reader. Destroying the result stops the thread
// when the read that it is in returns.
std::unique_ptr<ByteSource> read_ahead(std::unique_ptr<ByteSource> source);

// Runs `produce` on a thread of its own; what it writes is what the result yields, then its error if it
// failed. When the result is destroyed early the writes of `produce` fail with kCancelled.
std::unique_ptr<ByteSource> produced_by(std::function<Result<void>(ByteSink&)> produce);

struct StreamSummary {
  Sha256Bytes sha256{};
  uint64_t size = 0;
};

// Hashes a stream and, when `fd` is one, writes it there. Blocks are written by the caller and hashed by
// a second thread, which starts only when the stream is longer than a block.
class HashingWriter : public ByteSink {
 public:
  // Borrows both; -1 only hashes. `follower` (may be null) is told what is in the file, which then goes through the page
  // cache: it is read at once.
  explicit HashingWriter(int fd, oci::FileFollower* follower = nullptr);
  HashingWriter(const HashingWriter&) = delete;
  HashingWriter& operator=(const HashingWriter&) = delete;
  ~HashingWriter() override;
  Result<void> write(std::span<const std::byte> data) override;
  // Call once, after the last write.
  Result<StreamSummary> finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Hashes what is read through it, on a thread of its own. The summary is whole after the read that gave 0.
class HashingSource : public ByteSource {
 public:
  explicit HashingSource(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {}
  Result<size_t> read(std::span<std::byte> buffer) override;
  const StreamSummary& summary() const { return summary_; }
  bool at_end() const { return at_end_; }

 private:
  std::unique_ptr<ByteSource> source_;
  HashingWriter hash_{-1};
  StreamSummary summary_;
  bool at_end_ = false;
};

// Writes everything to two sinks.
class TeeSink : public ByteSink {
 public:
  TeeSink(ByteSink& first, ByteSink& second) : first_(first), second_(second) {}
  Result<void> write(std::span<const std::byte> data) override {
    RETURN_IF_ERROR(first_.write(data));
    return second_.write(data);
  }

 private:
  ByteSink& first_;
  ByteSink& second_;
};

}  // namespace lamina::layers
