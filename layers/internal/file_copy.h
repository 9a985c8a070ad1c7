// Writing the bytes of files into snapshots.
#pragma once

#include <memory>
#include <stop_token>

#include "base/stream.h"
#include "layers/entry.h"

namespace lamina::layers {

// Reads a file at once, into room for a byte more than entry.size: how many it had shows whether it is still so long.
Result<size_t> read_small(const Entry& entry, int fd, char* room);

// Holds the buffer; one thread.
class FileCopier {
 public:
  FileCopier() : buffer_(new std::byte[kCopyBufferSize]) {}
  // After a stop request what is being copied ends with kCancelled.
  void stop_on(std::stop_token stop) { stop_ = std::move(stop); }
  // The entry's own content, exactly entry.size bytes (kCorrupt otherwise: the file changed). Holes stay
  // holes; large files are copied by the kernel.
  Result<void> copy_own(const Entry& entry, int to);
  // All of `content`; holes stay holes when it knows them.
  Result<void> copy_stream(ByteSource& content, int to);

 private:
  Result<void> copy_small(const Entry& entry, int from, int to);
  Result<void> copy_range(int from, int to, uint64_t begin, uint64_t end);
  Result<void> copy_large(const Entry& entry, int from, int to);

  std::unique_ptr<std::byte[]> buffer_;
  std::stop_token stop_;
};

}  // namespace lamina::layers
