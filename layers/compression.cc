#include "layers/compression.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/text.h"
#include "layers/internal/codec.h"
#include "layers/internal/ordered_work.h"

namespace lamina::layers {
namespace {

constexpr int kDefaultGzipLevel = 5;
constexpr int kDefaultZstdLevel = 3;
constexpr size_t kMemberSize = 1 << 20;  // of a gzip member, uncompressed
constexpr int kZstdJobSize = 4 << 20;    // part of the output format: jobs end where this says

// RFC 1952, 2.2: a gzip file is a series of members.
class GzipSink : public CompressingSink {
 public:
  GzipSink(ByteSink& out, int level, ThreadPool& pool)
      : members_(
            pool, pool.size() + 2,
            [codec = gzip_codec(level)](Member& member) {
              if (!codec->compress({member.in.get(), member.in_size}, member.out)) member.out.clear();
            },
            [&out](Member& member) -> Result<void> {
              if (member.out.empty()) return Error(ErrorKind::kSystem, "no memory to compress with");
              RETURN_IF_ERROR(out.write(std::as_bytes(std::span(member.out))));
              member.in_size = 0;
              member.out.clear();
              return {};
            }) {}

  Result<void> write(std::span<const std::byte> data) override {
    while (!data.empty()) {
      ASSIGN_OR_RETURN(Member* const member, members_.current());
      const size_t count = std::min(data.size(), kMemberSize - member->in_size);
      std::memcpy(member->in.get() + member->in_size, data.data(), count);
      member->in_size += count;
      data = data.subspan(count);
      if (member->in_size == kMemberSize) members_.submit();
    }
    return {};
  }

  Result<void> finish() override {
    const Member* const filling = members_.filling();
    const bool partial = filling != nullptr && filling->in_size != 0;
    // Of nothing at all there is one empty member: a file of no bytes is no gzip.
    if (partial || !members_.any_submitted()) {
      RETURN_IF_ERROR(members_.current());
      members_.submit();
    }
    return members_.take_all();
  }

 private:
  struct Member {
    std::unique_ptr<unsigned char[]> in{new unsigned char[kMemberSize]};  // not cleared
    size_t in_size = 0;
    Bytes out;
  };
  OrderedWork<Member> members_;
};

struct ZstdFree {
  void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
};

Error zstd_error(size_t code, const char* what) {
  return Error(ErrorKind::kSystem, fmt::format("zstd: {}: {}", what, ZSTD_getErrorName(code)));
}

// One frame. With at least one worker zstd cuts its input into jobs of a fixed size, and the number of
// workers does not change a byte (zstd.h, "ZSTD_c_nbWorkers"; without any the output would differ).
class ZstdSink : public CompressingSink {
 public:
  static Result<std::unique_ptr<CompressingSink>> open(ByteSink& out, int level, unsigned workers) {
    auto sink = std::unique_ptr<ZstdSink>(new ZstdSink(out));
    if (!sink->context_) return Error(ErrorKind::kSystem, "no memory to compress with");
    const std::pair<ZSTD_cParameter, int> parameters[] = {
        {ZSTD_c_compressionLevel, level},
        {ZSTD_c_checksumFlag, 0},  // the blob has a digest
        {ZSTD_c_contentSizeFlag, 0},
        {ZSTD_c_nbWorkers, static_cast<int>(std::clamp(workers, 1U, 16U))},
        {ZSTD_c_jobSize, kZstdJobSize},
    };
    for (const auto& [parameter, value] : parameters) {
      const size_t code = ZSTD_CCtx_setParameter(sink->context_.get(), parameter, value);
      if (ZSTD_isError(code)) return zstd_error(code, "setting up");
    }
    return std::unique_ptr<CompressingSink>(std::move(sink));
  }

  Result<void> write(std::span<const std::byte> data) override {
    ZSTD_inBuffer in{data.data(), data.size(), 0};
    while (in.pos < in.size) RETURN_IF_ERROR(step(in, ZSTD_e_continue));
    return {};
  }

  Result<void> finish() override {
    ZSTD_inBuffer in{nullptr, 0, 0};
    while (true) {
      ASSIGN_OR_RETURN(const size_t left, step(in, ZSTD_e_end));
      if (left == 0) return {};
    }
  }

 private:
  explicit ZstdSink(ByteSink& out) : out_(out), context_(ZSTD_createCCtx()), buffer_(ZSTD_CStreamOutSize()) {}

  // Bytes that zstd still has to give, as far as it knows.
  Result<size_t> step(ZSTD_inBuffer& in, ZSTD_EndDirective directive) {
    ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
    const size_t left = ZSTD_compressStream2(context_.get(), &out, &in, directive);
    if (ZSTD_isError(left)) return zstd_error(left, "compressing");
    if (out.pos != 0) RETURN_IF_ERROR(out_.write(std::span(buffer_).first(out.pos)));
    return left;
  }

  ByteSink& out_;
  std::unique_ptr<ZSTD_CCtx, ZstdFree> context_;
  std::vector<std::byte> buffer_;
};

class PassingSink : public CompressingSink {
 public:
  explicit PassingSink(ByteSink& out) : out_(out) {}
  Result<void> write(std::span<const std::byte> data) override { return out_.write(data); }
  Result<void> finish() override { return {}; }

 private:
  ByteSink& out_;
};

}  // namespace

namespace {

struct Named {
  const char* name;
  oci::Compression type;
  bool indexed;
};
constexpr Named kNamed[] = {{"gzip", oci::Compression::kGzip, false},
                            {"zstd", oci::Compression::kZstd, false},
                            {"estargz", oci::Compression::kGzip, true},
                            {"zstd:chunked", oci::Compression::kZstd, true},
                            {"uncompressed", oci::Compression::kNone, false}};

}  // namespace

std::string_view name_of(const CompressionOptions& options) {
  for (const Named& n : kNamed) {
    if (n.type == options.type && n.indexed == options.indexed) return n.name;
  }
  return "uncompressed";
}

std::vector<std::string> compression_names() {
  std::vector<std::string> names;
  for (const Named& n : kNamed) names.push_back(n.name);
  return names;
}

Result<void> set_compression(CompressionOptions& options, const std::string& name, std::string_view where) {
  for (const Named& n : kNamed) {
    if (name != n.name) continue;
    options.type = n.type;
    options.indexed = n.indexed;
    return {};
  }
  Error error(ErrorKind::kInvalidInput, fmt::format("unknown compression \"{}\" in {}", name, where));
  if (const auto near = nearest_name(name, compression_names())) return std::move(error).with_note("did you mean " + *near + "?");
  return std::move(error).with_note("known: " + join(compression_names(), ", "));
}

int effective_level(const CompressionOptions& options) {
  return options.level.value_or(options.type == oci::Compression::kZstd ? kDefaultZstdLevel : kDefaultGzipLevel);
}

Result<void> check(const CompressionOptions& options) {
  if (!options.level) return {};
  if (options.type == oci::Compression::kNone) {
    return Error(ErrorKind::kInvalidInput, "a compression level makes no sense for uncompressed layers");
  }
  const int largest = options.type == oci::Compression::kGzip ? 9 : 22;
  if (*options.level >= 0 && *options.level <= largest) return {};
  return Error(ErrorKind::kInvalidInput, fmt::format("the {} compression level {} is not between 0 and {}",
                                                     name_of(options), *options.level, largest));
}

Result<std::unique_ptr<CompressingSink>> compress_to(ByteSink& out, const CompressionOptions& options,
                                                     ThreadPool& pool) {
  RETURN_IF_ERROR(check(options));
  switch (options.type) {
    case oci::Compression::kGzip:
      return std::unique_ptr<CompressingSink>(
          std::make_unique<GzipSink>(out, effective_level(options), pool));
    case oci::Compression::kZstd:
      return ZstdSink::open(out, effective_level(options), pool.size());
    case oci::Compression::kNone: break;
  }
  return std::unique_ptr<CompressingSink>(std::make_unique<PassingSink>(out));
}

}  // namespace lamina::layers
