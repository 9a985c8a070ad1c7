// zstd:chunked (containers/storage pkg/chunked): a tar.zst with an index of its files behind its end.
//
//   zstd frames       the members of the layer: a frame for each chunk of a file, frames of up to 1 MiB for what is between
//   skippable frame   the table of contents, JSON, one zstd frame
//   skippable frame   the tar's headers as tar-split keeps them (vbatts/tar-split), so that a reader who has the files can
//                     write the tar again and compare its DiffId: lines of JSON, one zstd frame
//   skippable frame   64 bytes, numbers of 64 bits, little endian: offset, compressed and uncompressed length of the table
//                     of contents, its type 1, the same three of the tar-split, "GNUlInUx"
//
// Offsets are those of the zstd frame inside of the skippable one. Readers find the parts by the annotations of the layer's
// descriptor and check them: the table of contents by the digest in the annotation, the tar-split by the digest in the
// table of contents.
//
// Format version 1; a change of any byte needs a new version (kIndexFormat in store_blob.cc).
#include <fmt/format.h>
#include <isa-l/crc64.h>
#include <zstd.h>

#include <utility>

#include "base/text.h"
#include "base/time.h"
#include "layers/internal/chunked_writer.h"
#include "layers/internal/indexed_blob.h"

namespace lamina::layers {
namespace {

void append_little_endian(std::string& out, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

// Text that is kept compressed, as one frame.
class CompressedText {
 public:
  explicit CompressedText(int level) : context_(ZSTD_createCCtx()), buffer_(ZSTD_CStreamOutSize(), '\0') {
    ok_ = context_ && !ZSTD_isError(ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level));
  }

  void add(std::string_view text) {
    plain_size_ += text.size();
    step(text, ZSTD_e_continue);
  }
  Result<void> finish() {
    step({}, ZSTD_e_end);
    if (!ok_) return Error(ErrorKind::kSystem, "no memory to compress with");
    return {};
  }
  const std::string& bytes() const { return out_; }
  uint64_t plain_size() const { return plain_size_; }

 private:
  struct Free {
    void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
  };

  void step(std::string_view text, ZSTD_EndDirective directive) {
    ZSTD_inBuffer in{text.data(), text.size(), 0};
    for (size_t left = 1; ok_ && (directive == ZSTD_e_end ? left != 0 : in.pos < in.size);) {
      ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
      left = ZSTD_compressStream2(context_.get(), &out, &in, directive);
      ok_ = !ZSTD_isError(left);
      out_.append(buffer_.data(), out.pos);
    }
  }

  std::unique_ptr<ZSTD_CCtx, Free> context_;
  std::string buffer_, out_;
  uint64_t plain_size_ = 0;
  bool ok_ = false;
};

// Go's crc64.ISO, by which tar-split knows contents.
class Crc64Sink : public ByteSink {
 public:
  Result<void> write(std::span<const std::byte> data) override {
    value_ = crc64_iso_refl(value_, reinterpret_cast<const unsigned char*>(data.data()), data.size());
    return {};
  }
  std::string big_endian() const {
    std::string bytes;
    for (int shift = 56; shift >= 0; shift -= 8) bytes += static_cast<char>(value_ >> shift);
    return bytes;
  }

 private:
  uint64_t value_ = 0;
};

// tar/storage/entry.go of tar-split.
class TarSplit {
 public:
  explicit TarSplit(int level) : text_(level) {}

  void add_segment(std::string_view raw) { add({{"type", 2}, {"payload", encode_base64(raw)}}); }
  void add_file(const std::string& name, uint64_t size, const std::string& crc) {
    json::Json entry = {{"type", 1}, {"name", name}, {"payload", nullptr}};
    if (size != 0) {
      entry["size"] = size;
      entry["payload"] = encode_base64(crc);
    }
    add(std::move(entry));
  }
  CompressedText& text() { return text_; }

 private:
  void add(json::Json entry) {
    entry["position"] = position_++;
    text_.add(json::dump(entry) + "\n");
  }
  CompressedText text_;
  uint64_t position_ = 0;
};

class ZstdChunkedWriter {
 public:
  ZstdChunkedWriter(ByteSource& tar, int level, ByteSink& out, ThreadPool& pool)
      : members_(tar), out_(out), uncompressed_(-1), toc_(level), tar_split_(level), writer_(out, {zstd_codec(level), true}, pool, [this](const IndexedMember& m) { return describe(m); }) {
    toc_.add("{\"version\":1,\"entries\":[");  // in the order in which some readers need it
  }

  // False when the tar has no place in the table of contents. It is written whole in any case.
  Result<bool> add_members() {
    while (true) {
      ASSIGN_OR_RETURN(const TarMembers::Step step, members_.next());
      TarMember& member = members_.member();
      if (step == TarMembers::Step::kEnd) {
        tar_split_.add_segment(member.raw);
        RETURN_IF_ERROR(add_bytes(as_bytes(member.raw)));
        return indexed_;
      }
      if (step == TarMembers::Step::kOpaque) {
        RETURN_IF_ERROR(add_bytes(as_bytes(member.raw)));
        RETURN_IF_ERROR(add_rest());
        return false;
      }
      indexed_ = indexed_ && names_.add(member);
      const std::string name = member.name;
      const uint64_t size = member.size;
      if (indexed_) tar_split_.add_segment(member.raw);
      Crc64Sink crc;
      RETURN_IF_ERROR(writer_.add(members_, &uncompressed_, &crc));
      if (indexed_) tar_split_.add_file(name, size, crc.big_endian());
    }
  }

  Result<IndexedBlob> finish(bool with_index) {
    RETURN_IF_ERROR(writer_.finish());
    IndexedBlob made;
    ASSIGN_OR_RETURN(made.tar, uncompressed_.finish());
    if (!with_index) return made;
    CompressedText& tar_split = tar_split_.text();
    RETURN_IF_ERROR(tar_split.finish());
    toc_.add(fmt::format("],\"tarSplitDigest\":\"{}\"}}", digest_text(sha256(tar_split.bytes()))));
    RETURN_IF_ERROR(toc_.finish());
    if (toc_.bytes().size() > UINT32_MAX || tar_split.bytes().size() > UINT32_MAX) return made;  // as a frame's size goes
    constexpr uint64_t kFrameHeader = 8;
    const uint64_t toc_at = writer_.bytes_written() + kFrameHeader;
    const uint64_t split_at = toc_at + toc_.bytes().size() + kFrameHeader;
    RETURN_IF_ERROR(write_skippable(toc_.bytes()));
    RETURN_IF_ERROR(write_skippable(tar_split.bytes()));
    std::string footer;
    for (const uint64_t number : {toc_at, uint64_t{toc_.bytes().size()}, toc_.plain_size(), uint64_t{kTocType}, split_at, uint64_t{tar_split.bytes().size()}, tar_split.plain_size()}) {
      append_little_endian(footer, number, 8);
    }
    RETURN_IF_ERROR(write_skippable(footer + "GNUlInUx"));
    made.annotations[annotation::kChunkedChecksum] = digest_text(sha256(toc_.bytes()));
    made.annotations[annotation::kChunkedPosition] = fmt::format("{}:{}:{}:{}", toc_at, toc_.bytes().size(), toc_.plain_size(), kTocType);
    made.annotations[annotation::kChunkedTarSplit] = fmt::format("{}:{}:{}", split_at, tar_split.bytes().size(), tar_split.plain_size());
    return made;
  }

 private:
  static constexpr unsigned kTocType = 1;  // entries like those of stargz

  Result<void> add_bytes(std::span<const std::byte> bytes) {
    RETURN_IF_ERROR(uncompressed_.write(bytes));
    return writer_.add_bytes(bytes);
  }

  Result<void> add_rest() {
    while (true) {
      ASSIGN_OR_RETURN(const auto bytes, members_.rest());
      if (bytes.empty()) return {};
      RETURN_IF_ERROR(add_bytes(bytes));
    }
  }

  // RFC 8878, 3.1.2.
  Result<void> write_skippable(std::string_view content) {
    std::string header;
    append_little_endian(header, 0x184D2A50, 4);
    append_little_endian(header, content.size(), 4);
    RETURN_IF_ERROR(out_.write(as_bytes(header)));
    return out_.write(as_bytes(content));
  }

  // One entry, and one more for each chunk after the first. Readers compare what is said of the member with its header.
  Result<void> describe(const IndexedMember& indexed) {
    if (!indexed_) return {};
    const TarMember& member = indexed.member;
    const std::vector<Chunk>& chunks = indexed.chunks;
    json::Json entry = toc_entry(member);
    if (!member.link_name.empty()) entry["linkName"] = member.link_name;
    if (member.dev_major != 0) entry["devMajor"] = member.dev_major;
    if (member.dev_minor != 0) entry["devMinor"] = member.dev_minor;
    entry["modtime"] = format_rfc3339(member.mtime);
    if (member.atime) entry["accesstime"] = format_rfc3339(*member.atime);
    if (member.ctime) entry["changetime"] = format_rfc3339(*member.ctime);
    if (!chunks.empty()) {
      entry["digest"] = digest_text(indexed.digest);
      entry["offset"] = chunks.front().blob_offset;
      entry["endOffset"] = chunks.back().blob_offset + chunks.back().blob_size;
    }
    for (size_t i = 0; chunks.size() > 1 && i < chunks.size(); ++i) {
      if (i != 0) {
        add_entry(entry);
        entry = {{"name", member.name}, {"type", "chunk"}, {"chunkOffset", chunks[i].file_offset}, {"offset", chunks[i].blob_offset}};
      }
      entry["chunkSize"] = chunks[i].size;
      entry["chunkDigest"] = digest_text(chunks[i].digest);
    }
    add_entry(entry);
    return {};
  }

  void add_entry(const json::Json& entry) {
    toc_.add((std::exchange(any_entry_, true) ? "," : "") + json::dump(entry));
  }

  TarMembers members_;
  ByteSink& out_;
  HashingWriter uncompressed_;
  CompressedText toc_;
  TarSplit tar_split_;
  MemberNames names_;
  bool indexed_ = true;    // all members up to now have a place
  bool any_entry_ = false;
  ChunkedWriter writer_;
};

}  // namespace

Result<IndexedBlob> write_zstd_chunked(ByteSource& tar, int level, ByteSink& out, ThreadPool& pool) {
  ZstdChunkedWriter writer(tar, level, out, pool);
  ASSIGN_OR_RETURN(const bool indexed, writer.add_members());
  return writer.finish(indexed);
}

}  // namespace lamina::layers
