#include "layers/internal/codec.h"

#include <libdeflate.h>
#include <zstd.h>

#include <mutex>

namespace lamina::layers {
namespace {

// Contexts that are not in use.
template <typename Context, typename Free>
class Idle {
 public:
  using Pointer = std::unique_ptr<Context, Free>;
  // One of them, or what `make` gives.
  template <typename Make>
  Pointer take(Make make) {
    {
      const std::lock_guard lock(mutex_);
      if (!contexts_.empty()) {
        Pointer context = std::move(contexts_.back());
        contexts_.pop_back();
        return context;
      }
    }
    return Pointer(make());
  }
  void give_back(Pointer context) {
    const std::lock_guard lock(mutex_);
    contexts_.push_back(std::move(context));
  }

 private:
  std::mutex mutex_;
  std::vector<Pointer> contexts_;
};

struct DeflateFree {
  void operator()(libdeflate_compressor* c) const { libdeflate_free_compressor(c); }
};

class GzipCodec : public PieceCodec {
 public:
  explicit GzipCodec(int level) : level_(level) {}

  bool compress(std::span<const unsigned char> in, Bytes& out) override {
    auto context = idle_.take([this] { return libdeflate_alloc_compressor(level_); });
    if (!context) return false;
    const size_t before = out.size();
    out.resize(before + libdeflate_gzip_compress_bound(context.get(), in.size()));
    const size_t size = libdeflate_gzip_compress(context.get(), in.data(), in.size(), out.data() + before, out.size() - before);
    out.resize(before + size);
    idle_.give_back(std::move(context));
    return size != 0;
  }

 private:
  const int level_;
  Idle<libdeflate_compressor, DeflateFree> idle_;
};

struct ZstdFree {
  void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
};

class ZstdCodec : public PieceCodec {
 public:
  explicit ZstdCodec(int level) : level_(level) {}

  bool compress(std::span<const unsigned char> in, Bytes& out) override {
    auto context = idle_.take(ZSTD_createCCtx);
    if (!context || ZSTD_isError(ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level_))) return false;
    const size_t before = out.size();
    out.resize(before + ZSTD_compressBound(in.size()));
    const size_t size = ZSTD_compress2(context.get(), out.data() + before, out.size() - before, in.data(), in.size());
    if (ZSTD_isError(size)) return false;
    out.resize(before + size);
    idle_.give_back(std::move(context));
    return true;
  }

 private:
  const int level_;
  Idle<ZSTD_CCtx, ZstdFree> idle_;
};

}  // namespace

std::shared_ptr<PieceCodec> gzip_codec(int level) { return std::make_shared<GzipCodec>(level); }
std::shared_ptr<PieceCodec> zstd_codec(int level) { return std::make_shared<ZstdCodec>(level); }

}  // namespace lamina::layers
