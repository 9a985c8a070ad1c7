// Layer blobs with a table of contents: a compressed tar in pieces that can be fetched and decompressed alone, and an
// index that says where each file's pieces are and what their digests are.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/json.h"
#include "base/sha256.h"
#include "base/stream.h"
#include "base/thread_pool.h"
#include "layers/internal/codec.h"
#include "layers/internal/ordered_work.h"
#include "layers/internal/tar_members.h"

namespace lamina::layers {

// A part of a file's content. Files are cut after each 4 MiB.
struct Chunk {
  uint64_t file_offset = 0, size = 0;     // in the file
  uint64_t blob_offset = 0, blob_size = 0;  // of its piece in the blob
  Sha256Bytes digest{};                   // of its bytes in the file
};
inline constexpr uint64_t kChunkSize = 4 << 20;

// What the index says of one member.
struct IndexedMember {
  TarMember member;           // without `raw`
  size_t expected_chunks = 0;
  std::vector<Chunk> chunks;  // none when the file is empty, or is no file
  Sha256Bytes digest{};       // of the content
};

// Writes a tar in pieces: a new piece begins with each chunk. What follows the last chunk of a file, its padding and the
// headers of the next members, is part of that chunk's piece or a piece of its own. Pieces are compressed on a
// pool; neither their bytes nor where they end depend on its threads. One thread.
class ChunkedWriter {
 public:
  struct Options {
    std::shared_ptr<PieceCodec> codec;
    bool chunks_alone = false;  // a chunk's piece holds nothing else
  };
  // Borrows `out` and `pool`. `described` gets each member in the order of the tar, once its chunks are written.
  ChunkedWriter(ByteSink& out, Options options, ThreadPool& pool, std::function<Result<void>(const IndexedMember&)> described);

  // Bytes of the tar that are no content.
  Result<void> add_bytes(std::span<const std::byte> bytes);
  // The current member of `members`, and its content. `raw` (may be null) is given all of these bytes, `content` those of
  // the content.
  Result<void> add(TarMembers& members, ByteSink* raw, ByteSink* content);
  // What comes next begins a piece.
  Result<void> cut();
  // Writes what is left. After this, bytes_written() is where `out` goes on.
  Result<void> finish();
  uint64_t bytes_written() const { return written_; }

 private:
  struct Piece {
    size_t size = 0;        // uncompressed
    size_t chunk_size = 0;  // of the chunk at its beginning, if there is one
    uint64_t file_offset = 0;
    size_t compressed_size = 0;
    Sha256Bytes digest{};
  };
  // Small pieces are compressed together by one task, one after the other.
  struct Batch {
    Bytes in, out;
    std::vector<Piece> pieces;
    bool open = false;  // the last piece takes more
    bool failed = false;
  };

  Result<Batch*> open_piece();
  Result<void> add_content(TarMembers& members, IndexedMember& indexed, ByteSink* raw, ByteSink* content);
  Result<void> take(Batch& batch);
  Result<void> describe_complete();
  static void compress(PieceCodec& codec, Batch& batch);

  ByteSink& out_;
  const bool chunks_alone_;
  std::function<Result<void>(const IndexedMember&)> described_;
  OrderedWork<Batch> batches_;
  std::deque<IndexedMember> pending_;
  uint64_t written_ = 0;
};

// The names in a tar so far.
class MemberNames {
 public:
  // False for a name that was there before, and for a hard link to what was not: readers of an index refuse both.
  bool add(const TarMember& member);
  bool empty() const { return names_.empty(); }

 private:
  std::unordered_set<std::string> names_;
};

// "sha256:…"
std::string digest_text(const Sha256Bytes& digest);
// Names the type of a member as the table of contents of stargz does: "reg", "hardlink", ….
const char* toc_type(const TarMember& member);
// What the entries of both formats have in common.
json::Json toc_entry(const TarMember& member);

}  // namespace lamina::layers
