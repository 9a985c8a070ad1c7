// decompress() of compression.h: gzip by ISA-L, zstd, or nothing.
#include <fmt/format.h>
#include <isa-l/igzip_lib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "layers/compression.h"

namespace lamina::layers {
namespace {

using namespace std::string_view_literals;

constexpr size_t kInputSize = 256 * 1024;

Error corrupt(std::string_view format, std::string_view why) {
  return Error(ErrorKind::kCorrupt, fmt::format("damaged {} stream: {}", format, why));
}

// Compressed bytes with a look at those to come.
class Input {
 public:
  explicit Input(std::unique_ptr<ByteSource> source) : source_(std::move(source)), buffer_(kInputSize) {}

  // Makes at least `count` bytes available if there are so many.
  Result<void> need(size_t count) {
    while (end_ - begin_ < count && !at_end_) {
      if (begin_ != 0) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
      }
      ASSIGN_OR_RETURN(const size_t got, source_->read(std::span(buffer_).subspan(end_)));
      if (got == 0) at_end_ = true;
      end_ += got;
    }
    return {};
  }

  std::span<std::byte> available() { return std::span(buffer_).subspan(begin_, end_ - begin_); }
  std::string_view text() {
    return {reinterpret_cast<const char*>(buffer_.data() + begin_), end_ - begin_};
  }
  void take(size_t count) { begin_ += count; }
  // Large blocks go around the buffer.
  Result<size_t> read(std::span<std::byte> out) {
    if (begin_ == end_) return source_->read(out);
    const size_t count = std::min(out.size(), end_ - begin_);
    std::memcpy(out.data(), buffer_.data() + begin_, count);
    take(count);
    return count;
  }

 private:
  std::unique_ptr<ByteSource> source_;
  std::vector<std::byte> buffer_;
  size_t begin_ = 0, end_ = 0;
  bool at_end_ = false;
};

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(Input input) : input_(std::move(input)) {}
  Result<size_t> read(std::span<std::byte> out) override { return input_.read(out); }

 private:
  Input input_;
};

// RFC 1952. Members follow each other; zeros may fill up the end (tapes and some writers do that), anything
// else there is an error, as it is for the readers of other programs.
class GzipSource : public ByteSource {
 public:
  explicit GzipSource(Input input) : input_(std::move(input)), state_(std::make_unique<inflate_state>()) {
    start_member();
  }

  Result<size_t> read(std::span<std::byte> out) override {
    if (out.empty()) return size_t{0};
    while (!finished_) {
      RETURN_IF_ERROR(input_.need(1));
      const std::span<std::byte> in = input_.available();
      state_->next_in = reinterpret_cast<uint8_t*>(in.data());
      state_->avail_in = static_cast<uint32_t>(in.size());
      state_->next_out = reinterpret_cast<uint8_t*>(out.data());
      state_->avail_out = static_cast<uint32_t>(std::min<size_t>(out.size(), 1U << 30));
      const uint32_t room = state_->avail_out;
      const int status = isal_inflate(state_.get());
      if (status < 0) return corrupt("gzip", describe(status));
      const size_t taken = in.size() - state_->avail_in, made = room - state_->avail_out;
      input_.take(taken);
      if (state_->block_state == ISAL_BLOCK_FINISH) {
        RETURN_IF_ERROR(next_member());
      } else if (taken == 0 && made == 0) {
        return corrupt("gzip", "it ends early");
      }
      if (made != 0) return made;
    }
    return size_t{0};
  }

 private:
  void start_member() {
    isal_inflate_init(state_.get());
    state_->crc_flag = ISAL_GZIP;  // header and checksum are isal_inflate's work
  }

  Result<void> next_member() {
    while (true) {
      RETURN_IF_ERROR(input_.need(2));
      const std::string_view rest = input_.text();
      if (rest.empty()) {
        finished_ = true;
        return {};
      }
      if (rest.starts_with("\x1f\x8b"sv)) {
        start_member();
        return {};
      }
      if (rest.front() != '\0') return corrupt("gzip", "there is something after its end");
      input_.take(std::min(rest.find_first_not_of('\0'), rest.size()));
    }
  }

  static std::string_view describe(int status) {
    switch (status) {
      case ISAL_INCORRECT_CHECKSUM: return "a checksum is wrong";
      case ISAL_INVALID_WRAPPER: return "a header is malformed";
      case ISAL_UNSUPPORTED_METHOD: return "its compression method is unknown";
      default: return "its content is malformed";
    }
  }

  Input input_;
  std::unique_ptr<inflate_state> state_;
  bool finished_ = false;
};

struct ZstdFree {
  void operator()(ZSTD_DCtx* c) const { ZSTD_freeDCtx(c); }
};

// RFC 8878. Frames follow each other, skippable ones among them. Windows over 128 MiB are refused by zstd.
class ZstdSource : public ByteSource {
 public:
  explicit ZstdSource(Input input) : input_(std::move(input)), context_(ZSTD_createDCtx()) {}

  Result<size_t> read(std::span<std::byte> buffer) override {
    if (!context_) return Error(ErrorKind::kSystem, "no memory to decompress with");
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    while (out.pos == 0 && out.size != 0) {
      RETURN_IF_ERROR(input_.need(1));
      const std::span<const std::byte> bytes = input_.available();
      if (bytes.empty() && between_frames_) return size_t{0};
      ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
      const size_t status = ZSTD_decompressStream(context_.get(), &out, &in);
      if (ZSTD_isError(status)) return corrupt("zstd", ZSTD_getErrorName(status));
      if (bytes.empty() && out.pos == 0) return corrupt("zstd", "it ends early");
      input_.take(in.pos);
      between_frames_ = status == 0;
    }
    return out.pos;
  }

 private:
  Input input_;
  std::unique_ptr<ZSTD_DCtx, ZstdFree> context_;
  bool between_frames_ = false;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> decompress(std::unique_ptr<ByteSource> compressed) {
  Input input(std::move(compressed));
  RETURN_IF_ERROR(input.need(6));
  const std::string_view head = input.text();
  if (head.starts_with("\x1f\x8b"sv)) return std::unique_ptr<ByteSource>(new GzipSource(std::move(input)));
  // Skippable frames have the magic numbers 0x184D2A50 to 0x184D2A5F.
  const bool skippable = head.size() >= 4 && (head[0] & 0xf0) == 0x50 && head.substr(1, 3) == "\x2a\x4d\x18"sv;
  if (skippable || head.starts_with("\x28\xb5\x2f\xfd"sv)) {
    return std::unique_ptr<ByteSource>(new ZstdSource(std::move(input)));
  }
  const std::string_view other = head.starts_with("BZh"sv)            ? "bzip2"sv
                                 : head.starts_with("\xfd" "7zXZ\0"sv) ? "xz"sv
                                                                      : ""sv;
  if (!other.empty()) {
    return Error(ErrorKind::kUnsupported, fmt::format("the layer is compressed with {}; layers of images are "
                                                      "plain, gzip or zstd",
                                                      other));
  }
  return std::unique_ptr<ByteSource>(new PlainSource(std::move(input)));
}

}  // namespace lamina::layers
