// estargz and zstd:chunked: blobs with a table of contents, for readers that fetch single files.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/stream.h"
#include "base/thread_pool.h"
#include "layers/internal/pipeline.h"

namespace lamina::layers {

namespace annotation {
inline constexpr const char* kEstargzToc = "containerd.io/snapshot/stargz/toc.digest";
inline constexpr const char* kEstargzSize = "io.containers.estargz.uncompressed-size";
inline constexpr const char* kChunkedChecksum = "io.github.containers.zstd-chunked.manifest-checksum";
inline constexpr const char* kChunkedPosition = "io.github.containers.zstd-chunked.manifest-position";
inline constexpr const char* kChunkedTarSplit = "io.github.containers.zstd-chunked.tarsplit-position";
}  // namespace annotation
// Whether a layer's descriptor in a manifest says where the table of contents is.
bool is_index_annotation(std::string_view name);

struct IndexedBlob {
  std::map<std::string, std::string> annotations;  // of the layer's descriptor
  StreamSummary tar;                               // what the blob gives when it is decompressed
};

// Both read `tar` to its end, are functions of its bytes and the level alone, and hold in memory what they know of the
// files, about 500 bytes for each. A tar whose members cannot be described (names that are no UTF-8, sparse files, the same
// name twice, hard links to files of other layers, global pax headers) has no table of contents.

// estargz, format 1 (estargz.cc). Nothing when the tar has to be compressed without a table of contents, which may show
// late: what was written to `out` is then to be thrown away, and `tar` may not have been read to its end.
Result<std::optional<IndexedBlob>> write_estargz(ByteSource& tar, int level, ByteSink& out, ThreadPool& pool);
// zstd:chunked, format 1 (zstd_chunked.cc). Without annotations when it has no table of contents; it is an ordinary zstd
// layer in any case.
Result<IndexedBlob> write_zstd_chunked(ByteSource& tar, int level, ByteSink& out, ThreadPool& pool);

}  // namespace lamina::layers
