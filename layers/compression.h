// Compressed forms of a layer.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/stream.h"
#include "base/thread_pool.h"
#include "oci/manifest.h"

namespace lamina::layers {

struct CompressionOptions {
  oci::Compression type = oci::Compression::kGzip;
  // With a table of contents, for readers that fetch single files: gzip is then estargz, zstd is zstd:chunked.
  bool indexed = false;
  std::optional<int> level;  // gzip 0–9, zstd 0–22; default: gzip 5 (libdeflate), zstd 3
  // Compress again even when a blob of another type or level exists already.
  bool force = false;
  bool operator==(const CompressionOptions&) const = default;
};
// Fails with kInvalidInput for a level out of range.
Result<void> check(const CompressionOptions& options);
// The level asked for, or the default.
int effective_level(const CompressionOptions& options);

// "gzip", "zstd", "estargz", "zstd:chunked", "uncompressed".
std::string_view name_of(const CompressionOptions& options);
// In that order.
std::vector<std::string> compression_names();
// Sets type and indexed; kInvalidInput with a suggestion. `where` is for the message: "--output".
Result<void> set_compression(CompressionOptions& options, const std::string& name, std::string_view where);

// A sink whose output depends on the input and the options alone, never on threads: gzip is written as
// 1 MiB members (RFC 1952 allows several), zstd as one frame with fixed job size.
class CompressingSink : public ByteSink {
 public:
  virtual Result<void> finish() = 0;  // flushes; call exactly once
};
// Borrows `out` and `pool` (for parallel blocks). `options.indexed` has no meaning here.
Result<std::unique_ptr<CompressingSink>> compress_to(ByteSink& out, const CompressionOptions& options,
                                                     ThreadPool& pool);

// Streams the decompressed bytes of `compressed`; the format is found by its magic, whatever the media
// type says (registries hold blobs with wrong types). Multi-member gzip is read to its end.
Result<std::unique_ptr<ByteSource>> decompress(std::unique_ptr<ByteSource> compressed);

}  // namespace lamina::layers
