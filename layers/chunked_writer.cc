#include "layers/internal/chunked_writer.h"

#include <algorithm>
#include <utility>

#include "base/text.h"
#include "layers/internal/paths.h"
#include "oci/digest.h"

namespace lamina::layers {
namespace {

// Part of the formats: bytes that are no content never make a piece longer than this.
constexpr size_t kMaxOtherBytes = 1 << 20;
// Not part of them: how much one task compresses at least, and how many tasks hold memory.
constexpr size_t kBatchSize = 1 << 20;
constexpr size_t kMaxBatches = 18;

}  // namespace

ChunkedWriter::ChunkedWriter(ByteSink& out, Options options, ThreadPool& pool, std::function<Result<void>(const IndexedMember&)> described)
    : out_(out),
      chunks_alone_(options.chunks_alone),
      described_(std::move(described)),
      batches_(
          pool, std::min<size_t>(pool.size() + 2, kMaxBatches), [codec = options.codec](Batch& batch) { compress(*codec, batch); },
          [this](Batch& batch) { return take(batch); }) {}

void ChunkedWriter::compress(PieceCodec& codec, Batch& batch) {
  size_t at = 0;
  for (Piece& piece : batch.pieces) {
    const std::span<const unsigned char> in(batch.in.data() + at, piece.size);
    at += piece.size;
    const size_t before = batch.out.size();
    batch.failed = batch.failed || !codec.compress(in, batch.out);
    piece.compressed_size = batch.out.size() - before;
    if (piece.chunk_size == 0) continue;
    Sha256 hash;
    hash.update(std::as_bytes(in.first(piece.chunk_size)));
    piece.digest = hash.finish();
  }
}

// The batch whose last piece is open.
Result<ChunkedWriter::Batch*> ChunkedWriter::open_piece() {
  ASSIGN_OR_RETURN(Batch* batch, batches_.current());
  if (batch->open) return batch;
  batch->open = true;
  batch->pieces.emplace_back();
  return batch;
}

Result<void> ChunkedWriter::cut() {
  Batch* const batch = batches_.filling();
  if (batch == nullptr || !batch->open) return {};
  batch->open = false;
  if (batch->in.size() >= kBatchSize) batches_.submit();
  return {};
}

Result<void> ChunkedWriter::add_bytes(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ASSIGN_OR_RETURN(Batch* const batch, open_piece());
    Piece& piece = batch->pieces.back();
    const size_t room = kMaxOtherBytes - (piece.size - piece.chunk_size);
    const size_t count = std::min(bytes.size(), room);
    const auto* const data = reinterpret_cast<const unsigned char*>(bytes.data());
    batch->in.insert(batch->in.end(), data, data + count);
    piece.size += count;
    bytes = bytes.subspan(count);
    if (count == room) RETURN_IF_ERROR(cut());
  }
  return {};
}

Result<void> ChunkedWriter::add(TarMembers& members, ByteSink* raw, ByteSink* content) {
  TarMember& member = members.member();
  const std::span<const std::byte> header = as_bytes(member.raw);
  if (raw != nullptr) RETURN_IF_ERROR(raw->write(header));
  RETURN_IF_ERROR(add_bytes(header));
  IndexedMember indexed;
  indexed.member = std::move(member);
  indexed.member.raw = std::string();
  indexed.expected_chunks = static_cast<size_t>((indexed.member.size + kChunkSize - 1) / kChunkSize);
  if (indexed.expected_chunks == 0) {
    pending_.push_back(std::move(indexed));
    return describe_complete();
  }
  return add_content(members, indexed, raw, content);
}

Result<void> ChunkedWriter::add_content(TarMembers& members, IndexedMember& indexed, ByteSink* raw, ByteSink* content) {
  const bool several = indexed.expected_chunks > 1;
  const uint64_t size = indexed.member.size;
  pending_.push_back(std::move(indexed));  // its chunks may be written before the last one is read
  Sha256 hash;
  std::span<const std::byte> bytes;
  for (uint64_t at = 0; at < size;) {
    RETURN_IF_ERROR(cut());
    ASSIGN_OR_RETURN(Batch* const batch, open_piece());
    Piece& piece = batch->pieces.back();
    piece.file_offset = at;
    piece.size = piece.chunk_size = static_cast<size_t>(std::min(kChunkSize, size - at));
    at += piece.size;
    for (size_t left = piece.size; left != 0;) {
      if (bytes.empty()) {
        ASSIGN_OR_RETURN(bytes, members.content());
        if (raw != nullptr) RETURN_IF_ERROR(raw->write(bytes));
        if (content != nullptr) RETURN_IF_ERROR(content->write(bytes));
        if (several) hash.update(bytes);
      }
      const size_t count = std::min(left, bytes.size());
      const auto* const data = reinterpret_cast<const unsigned char*>(bytes.data());
      batch->in.insert(batch->in.end(), data, data + count);
      bytes = bytes.subspan(count);
      left -= count;
    }
    if (several && at == size) pending_.back().digest = hash.finish();
    if (chunks_alone_ || at != size) RETURN_IF_ERROR(cut());
  }
  return {};
}

// A batch in its turn.
Result<void> ChunkedWriter::take(Batch& batch) {
  if (batch.failed) return Error(ErrorKind::kSystem, "no memory to compress with");
  RETURN_IF_ERROR(out_.write(std::as_bytes(std::span(batch.out))));
  // The pieces' chunks belong to the first members that have not got all of theirs.
  auto owner = pending_.begin();
  for (const Piece& piece : batch.pieces) {
    if (piece.chunk_size != 0) {
      while (owner->chunks.size() == owner->expected_chunks) ++owner;
      owner->chunks.push_back({piece.file_offset, piece.chunk_size, written_, piece.compressed_size, piece.digest});
    }
    written_ += piece.compressed_size;
  }
  batch.open = false;
  batch.in.clear();
  batch.out.clear();
  batch.pieces.clear();
  return describe_complete();
}

// The index follows the tar's order.
Result<void> ChunkedWriter::describe_complete() {
  while (!pending_.empty() && pending_.front().chunks.size() == pending_.front().expected_chunks) {
    IndexedMember& first = pending_.front();
    if (first.chunks.size() == 1) first.digest = first.chunks.front().digest;
    RETURN_IF_ERROR(described_(first));
    pending_.pop_front();
  }
  return {};
}

Result<void> ChunkedWriter::finish() {
  RETURN_IF_ERROR(cut());
  const Batch* const batch = batches_.filling();
  if (batch != nullptr && !batch->pieces.empty()) batches_.submit();
  return batches_.take_all();
}

bool MemberNames::add(const TarMember& member) {
  if (member.type == '1') {
    const auto target = clean_member_path(member.link_name);
    if (!target || !names_.contains(*target)) return false;
  }
  return names_.insert(member.path).second;
}

std::string digest_text(const Sha256Bytes& digest) { return oci::Digest::from_bytes(digest).text(); }

const char* toc_type(const TarMember& member) {
  static constexpr const char* kTypes[] = {"reg", "hardlink", "symlink", "char", "block", "dir", "fifo"};
  return kTypes[member.type - '0'];
}

json::Json toc_entry(const TarMember& member) {
  json::Json entry = {{"name", member.name}, {"type", toc_type(member)}, {"mode", member.mode}, {"uid", member.uid}, {"gid", member.gid}};
  if (member.size != 0) entry["size"] = member.size;
  for (const auto& [name, value] : member.xattrs) entry["xattrs"][name] = encode_base64(value);
  return entry;
}

}  // namespace lamina::layers
