// Compression of whole pieces, each of which can be decompressed alone.
#pragma once

#include <memory>
#include <span>
#include <vector>

namespace lamina::layers {

// Leaves new elements as they are: no time to clear what is overwritten, no memory for what is not reached.
template <typename T>
struct Uncleared : std::allocator<T> {
  template <typename U>
  struct rebind {
    using other = Uncleared<U>;
  };
  template <typename U>
  void construct(U* at) noexcept {
    ::new (static_cast<void*>(at)) U;
  }
  template <typename U, typename... Args>
  void construct(U* at, Args&&... args) {
    ::new (static_cast<void*>(at)) U(std::forward<Args>(args)...);
  }
};
using Bytes = std::vector<unsigned char, Uncleared<unsigned char>>;

// Keeps its working memory between calls. Any thread, several at once.
class PieceCodec {
 public:
  virtual ~PieceCodec() = default;
  // Appends the compressed form of `in` to `out`: a function of the bytes and the level alone. False when there is no
  // memory.
  virtual bool compress(std::span<const unsigned char> in, Bytes& out) = 0;
};

// One gzip member for each piece (RFC 1952), by libdeflate; 0 to 9.
std::shared_ptr<PieceCodec> gzip_codec(int level);
// One zstd frame for each piece (RFC 8878) that says its size and has no checksum; 0 to 22.
std::shared_ptr<PieceCodec> zstd_codec(int level);

}  // namespace lamina::layers
