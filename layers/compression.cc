#include "layers/compression.h"

#include <fmt/format.h>
#include <libdeflate.h>
#include <zstd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

namespace lamina::layers {
namespace {

constexpr int kDefaultGzipLevel = 5;
constexpr int kDefaultZstdLevel = 3;
constexpr size_t kMemberSize = 1 << 20;  // of a gzip member, uncompressed
constexpr int kZstdJobSize = 4 << 20;    // part of the output format: jobs end where this says

// One gzip member on its way. A member is compressed by a thread of the pool or, when none has begun, by
// the writer itself: so the writer never waits for a task that may not start.
struct Member {
  enum class State { kFilling, kQueued, kRunning, kDone };
  std::unique_ptr<unsigned char[]> in{new unsigned char[kMemberSize]};
  size_t in_size = 0;
  std::unique_ptr<unsigned char[]> out;
  size_t out_size = 0;
  State state = State::kFilling;
};

struct DeflateFree {
  void operator()(libdeflate_compressor* c) const { libdeflate_free_compressor(c); }
};
using Deflater = std::unique_ptr<libdeflate_compressor, DeflateFree>;

// Shared with tasks of the pool, which may run after the sink has gone.
struct GzipJobs {
  explicit GzipJobs(int l) : level(l) {}

  // Takes the member if nobody has. False when somebody has.
  bool try_run(Member& member) {
    Deflater deflater;
    {
      const std::lock_guard lock(mutex);
      if (member.state != Member::State::kQueued) return false;
      member.state = Member::State::kRunning;
      if (!idle.empty()) {
        deflater = std::move(idle.back());
        idle.pop_back();
      }
    }
    if (!deflater) deflater.reset(libdeflate_alloc_compressor(level));
    if (deflater) {
      const size_t bound = libdeflate_gzip_compress_bound(deflater.get(), kMemberSize);
      if (!member.out) member.out.reset(new unsigned char[bound]);
      member.out_size =
          libdeflate_gzip_compress(deflater.get(), member.in.get(), member.in_size, member.out.get(), bound);
    } else {
      member.out_size = 0;
    }
    const std::lock_guard lock(mutex);
    if (deflater) idle.push_back(std::move(deflater));
    member.state = Member::State::kDone;
    done.notify_all();
    return true;
  }

  void wait(Member& member) {
    if (try_run(member)) return;
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return member.state == Member::State::kDone; });
  }

  const int level;
  std::mutex mutex;
  std::condition_variable done;
  std::vector<Deflater> idle;
};

// RFC 1952, 2.2: a gzip file is a series of members.
class GzipSink : public CompressingSink {
 public:
  GzipSink(ByteSink& out, int level, ThreadPool& pool)
      : out_(out), pool_(pool), jobs_(std::make_shared<GzipJobs>(level)), ring_(pool.size() + 2) {}

  Result<void> write(std::span<const std::byte> data) override {
    while (!data.empty()) {
      ASSIGN_OR_RETURN(Member* const member, current());
      const size_t count = std::min(data.size(), kMemberSize - member->in_size);
      std::memcpy(member->in.get() + member->in_size, data.data(), count);
      member->in_size += count;
      data = data.subspan(count);
      if (member->in_size == kMemberSize) submit();
    }
    return {};
  }

  Result<void> finish() override {
    // Of nothing at all there is one empty member: a file of no bytes is no gzip.
    const bool partial = next_ - oldest_ < ring_.size() && slot(next_) && slot(next_)->in_size != 0;
    if (next_ == 0 && !partial) slot(0) = std::make_shared<Member>();
    if (next_ == 0 || partial) submit();
    while (oldest_ != next_) RETURN_IF_ERROR(write_oldest());
    return {};
  }

 private:
  std::shared_ptr<Member>& slot(size_t number) { return ring_[number % ring_.size()]; }

  // The member being filled. Its slot is free once the member that was in it is written.
  Result<Member*> current() {
    if (next_ - oldest_ == ring_.size()) RETURN_IF_ERROR(write_oldest());
    std::shared_ptr<Member>& member = slot(next_);
    if (!member) member = std::make_shared<Member>();
    return member.get();
  }

  void submit() {
    const std::shared_ptr<Member> member = slot(next_++);
    {
      const std::lock_guard lock(jobs_->mutex);
      member->state = Member::State::kQueued;
    }
    pool_.post([jobs = jobs_, member] { jobs->try_run(*member); });
  }

  Result<void> write_oldest() {
    std::shared_ptr<Member>& member = slot(oldest_++);
    jobs_->wait(*member);
    if (member->out_size == 0) return Error(ErrorKind::kSystem, "no memory to compress with");
    RETURN_IF_ERROR(out_.write(std::as_bytes(std::span(member->out.get(), member->out_size))));
    // A task that is still queued for this member must not find it in its next life.
    if (member.use_count() > 1) {
      member.reset();
    } else {
      member->in_size = 0;
      const std::lock_guard lock(jobs_->mutex);
      member->state = Member::State::kFilling;
    }
    return {};
  }

  ByteSink& out_;
  ThreadPool& pool_;
  std::shared_ptr<GzipJobs> jobs_;
  std::vector<std::shared_ptr<Member>> ring_;
  size_t next_ = 0, oldest_ = 0;  // numbers of members: to be submitted, to be written
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

Result<void> check(const CompressionOptions& options) {
  if (!options.level) return {};
  if (options.type == oci::Compression::kNone) {
    return Error(ErrorKind::kInvalidInput, "a compression level makes no sense for uncompressed layers");
  }
  const int largest = options.type == oci::Compression::kGzip ? 9 : 22;
  if (*options.level >= 0 && *options.level <= largest) return {};
  return Error(ErrorKind::kInvalidInput, fmt::format("the {} compression level {} is not between 0 and {}",
                                                     oci::to_string(options.type), *options.level, largest));
}

Result<std::unique_ptr<CompressingSink>> compress_to(ByteSink& out, const CompressionOptions& options,
                                                     ThreadPool& pool) {
  RETURN_IF_ERROR(check(options));
  switch (options.type) {
    case oci::Compression::kGzip:
      return std::unique_ptr<CompressingSink>(
          std::make_unique<GzipSink>(out, options.level.value_or(kDefaultGzipLevel), pool));
    case oci::Compression::kZstd:
      return ZstdSink::open(out, options.level.value_or(kDefaultZstdLevel), pool.size());
    case oci::Compression::kNone: break;
  }
  return std::unique_ptr<CompressingSink>(std::make_unique<PassingSink>(out));
}

}  // namespace lamina::layers
