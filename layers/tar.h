// Layer tars: one deterministic writer and one defensive reader.
// POSIX.1-2001 pax interchange format; OCI image-spec v1.1 layer.md.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/stream.h"
#include "base/thread_pool.h"
#include "layers/entry.h"

namespace lamina::layers {

// Writes entries as a tar whose bytes depend on the entries alone: ustar headers, pax records only where
// ustar cannot hold a value, numeric owners without names, mtime in whole seconds (rounded down), no
// atime or ctime, whiteouts as ".wh." files. Format version 1; a change of any byte needs a new version.
class TarWriter {
 public:
  // Borrows the sink. Times later than `clamp_mtime` (seconds) are written as that time.
  TarWriter(ByteSink& sink, std::optional<int64_t> clamp_mtime);

  // Entries must come in path_less order. For a kFile with size > 0 `content` must yield exactly
  // entry.size bytes (kCorrupt otherwise: the file changed while it was read).
  Result<void> add(const Entry& entry, ByteSource* content);
  // Opens the entry's own content (opener or bytes). While a long file is read, `pool` (may be null) examines it.
  Result<void> add(const Entry& entry, ThreadPool* pool = nullptr);
  // The content of a kFile is in memory.
  Result<void> add(const Entry& entry, std::string_view content);
  // Two zero blocks. Call exactly once.
  Result<void> finish();
  ~TarWriter();

 private:
  struct Buffer;
  Result<void> add_content(const Entry& entry, ByteSource& content);
  ByteSink& sink_;
  std::optional<int64_t> clamp_;
  std::unique_ptr<Buffer> buffer_;
};

// kCorrupt: a file that had `how` ("fewer", "more") bytes than its entry says.
Error content_changed(const Entry& entry, std::string_view how);

// Reads ustar, pax, GNU (long names, base-256 numbers, old and pax sparse files) tars as layers use them.
// Nothing in the input can make it allocate without bound: names and xattrs are limited to 1 MiB a header.
class TarReader {
 public:
  explicit TarReader(ByteSource& source);
  ~TarReader();
  // The next member, or nothing at the end. Paths are cleaned ("./a//b/" → "a/b"); a path with ".."
  // is kCorrupt. ".wh." names come as whiteout types. Unread content of the last member is skipped.
  Result<std::optional<Entry>> next();
  // The content of the member that next() gave last; valid until the next call of next().
  ByteSource& content();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lamina::layers
