// eStargz (containerd/stargz-snapshotter docs/estargz.md): a tar.gz with an index of its files as its last member.
//
//   gzip members    the tar ".no.prefetch.landmark", then the members of the layer. One begins with each chunk of a
//                   file; it goes on to the next chunk, or for 1 MiB of headers.
//   gzip member     the tar member "stargz.index.json" and the two blocks of zeros that end the tar
//   51 bytes        an empty gzip member whose extra field says where the one before begins
//
// Format version 1; a change of any byte needs a new version (kIndexFormat in store_blob.cc).
#include <fmt/format.h>

#include <utility>

#include "base/time.h"
#include "layers/internal/chunked_writer.h"
#include "layers/internal/indexed_blob.h"
#include "layers/tar.h"

namespace lamina::layers {
namespace {

constexpr const char* kTocName = "stargz.index.json";
constexpr const char* kNoPrefetch = ".no.prefetch.landmark";
constexpr const char* kPrefetch = ".prefetch.landmark";
constexpr char kLandmark = 0x0f;  // the content of both

// A file that the format adds. Without a time or an owner: it must not depend on anything.
Entry own_file(const char* path, std::string content) {
  Entry entry;
  entry.path = path;
  entry.mode = 0444;
  entry.size = content.size();
  entry.bytes = std::make_shared<const std::string>(std::move(content));
  return entry;
}

// The bytes of a tar that begins with the landmark.
class WithLandmark : public ByteSource {
 public:
  static Result<std::unique_ptr<WithLandmark>> open(ByteSource& tar) {
    StringSink head;
    RETURN_IF_ERROR(TarWriter(head, std::nullopt).add(own_file(kNoPrefetch, std::string(1, kLandmark))));
    return std::unique_ptr<WithLandmark>(new WithLandmark(std::move(head.text), tar));
  }
  Result<size_t> read(std::span<std::byte> buffer) override {
    ASSIGN_OR_RETURN(const size_t got, head_.read(buffer));
    return got != 0 ? Result<size_t>(got) : tar_.read(buffer);
  }

 private:
  WithLandmark(std::string head, ByteSource& tar) : head_(std::move(head)), tar_(tar) {}
  StringSource head_;
  ByteSource& tar_;
};

class EstargzWriter {
 public:
  EstargzWriter(ByteSource& tar, int level, ByteSink& out, ThreadPool& pool)
      : members_(tar), codec_(gzip_codec(level)), out_(out), uncompressed_(-1), writer_(out, {codec_, false}, pool, [this](const IndexedMember& m) { return describe(m); }) {}

  // False when the tar has no place in this format.
  Result<bool> add_members() {
    while (true) {
      ASSIGN_OR_RETURN(const TarMembers::Step step, members_.next());
      if (step == TarMembers::Step::kOpaque) return false;
      if (step == TarMembers::Step::kEnd) {
        RETURN_IF_ERROR(add_padding());
        return had_landmark_ == had_toc_;
      }
      if (had_toc_) return false;  // it is not the last member: somebody's file
      const TarMember& member = members_.member();
      if (!names_.empty() && is_reserved(member.path)) {
        ASSIGN_OR_RETURN(const bool left_out, leave_out());
        if (!left_out) return false;
        continue;
      }
      if (!names_.add(member)) return false;
      RETURN_IF_ERROR(writer_.add(members_, &uncompressed_, nullptr));
    }
  }

  Result<IndexedBlob> finish() {
    RETURN_IF_ERROR(writer_.finish());
    toc_ += "]}";
    IndexedBlob made;
    made.annotations[annotation::kEstargzToc] = digest_text(sha256(toc_));
    StringSink sink;
    std::string& last = sink.text;
    last.reserve(toc_.size() + 4096);
    TarWriter tar(sink, std::nullopt);
    RETURN_IF_ERROR(tar.add(own_file(kTocName, std::exchange(toc_, {}))));
    RETURN_IF_ERROR(tar.finish());
    RETURN_IF_ERROR(uncompressed_.write(as_bytes(last)));
    Bytes compressed;
    if (!codec_->compress({reinterpret_cast<const unsigned char*>(last.data()), last.size()}, compressed)) return Error(ErrorKind::kSystem, "no memory to compress with");
    RETURN_IF_ERROR(out_.write(std::as_bytes(std::span(compressed))));
    RETURN_IF_ERROR(out_.write(as_bytes(footer(writer_.bytes_written()))));
    ASSIGN_OR_RETURN(made.tar, uncompressed_.finish());
    made.annotations[annotation::kEstargzSize] = std::to_string(made.tar.size);
    return made;
  }

 private:
  static bool is_reserved(std::string_view path) { return path == kTocName || path == kNoPrefetch || path == kPrefetch; }

  // A layer that is an estargz already has both files: they give way to the new ones. A layer that happens to have one of
  // their names keeps it.
  Result<bool> leave_out() {
    const TarMember& member = members_.member();
    const bool toc = member.path == kTocName;
    if (member.type != '0' || (toc ? !had_landmark_ : had_landmark_ || member.size != 1)) return false;
    (toc ? had_toc_ : had_landmark_) = true;
    RETURN_IF_ERROR(add_padding());
    RETURN_IF_ERROR(members_.leave_out());
    return true;
  }

  // Of the content before the current member.
  Result<void> add_padding() {
    const auto padding = as_bytes(members_.member().raw).first(members_.member().padding);
    RETURN_IF_ERROR(uncompressed_.write(padding));
    return writer_.add_bytes(padding);
  }

  // One entry, and one more for each chunk after the first.
  Result<void> describe(const IndexedMember& indexed) {
    const TarMember& member = indexed.member;
    json::Json entry = toc_entry(member);
    if (member.mtime != Timestamp{}) entry["modtime"] = format_rfc3339(member.mtime);
    if (member.type == '1' || member.type == '2') entry["linkName"] = member.link_name;
    if (member.type == '3' || member.type == '4') {
      entry["devMajor"] = member.dev_major;
      entry["devMinor"] = member.dev_minor;
    }
    if (member.type == '0') entry["digest"] = digest_text(indexed.chunks.empty() ? sha256("") : indexed.digest);
    for (size_t i = 0; i < indexed.chunks.size(); ++i) {
      const Chunk& chunk = indexed.chunks[i];
      if (i != 0) entry = {{"name", member.name}, {"type", "chunk"}, {"chunkOffset", chunk.file_offset}};
      entry["offset"] = chunk.blob_offset;
      entry["chunkDigest"] = digest_text(chunk.digest);
      if (i + 1 < indexed.chunks.size()) entry["chunkSize"] = chunk.size;  // none: to the end of the file
      if (i + 1 < indexed.chunks.size()) add_entry(entry);
    }
    add_entry(entry);
    return {};
  }

  void add_entry(const json::Json& entry) {
    toc_ += toc_.empty() ? "{\"version\":1,\"entries\":[" : ",";
    toc_ += json::dump(entry);
  }

  // The 51 bytes of the specification: the header with its extra field, an empty stored block, and checksums of nothing.
  static std::string footer(uint64_t toc_offset) {
    using namespace std::string_literals;
    return "\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0"s + fmt::format("{:016x}STARGZ", toc_offset) + "\x01\0\0\xff\xff\0\0\0\0\0\0\0\0"s;
  }

  TarMembers members_;
  std::shared_ptr<PieceCodec> codec_;
  ByteSink& out_;
  HashingWriter uncompressed_;
  std::string toc_;
  MemberNames names_;
  bool had_landmark_ = false, had_toc_ = false;
  ChunkedWriter writer_;
};

}  // namespace

Result<std::optional<IndexedBlob>> write_estargz(ByteSource& tar, int level, ByteSink& out, ThreadPool& pool) {
  ASSIGN_OR_RETURN(const auto source, WithLandmark::open(tar));
  EstargzWriter writer(*source, level, out, pool);
  ASSIGN_OR_RETURN(const bool described, writer.add_members());
  if (!described) return std::optional<IndexedBlob>();
  ASSIGN_OR_RETURN(IndexedBlob made, writer.finish());
  return std::optional<IndexedBlob>(std::move(made));
}

}  // namespace lamina::layers
