#include "oci/blob.h"

#include <fmt/format.h>

#include "base/stoppable.h"

namespace lamina::oci {

namespace {

class VerifyingSource : public ByteSource {
 public:
  VerifyingSource(std::unique_ptr<ByteSource> source, Descriptor expected)
      : source_(std::move(source)), expected_(std::move(expected)) {}

  Result<size_t> read(std::span<std::byte> buffer) override {
    if (done_) return size_t{0};
    ASSIGN_OR_RETURN(const size_t n, source_->read(buffer));
    if (n > 0) {
      hash_.update(std::span<const std::byte>(buffer.first(n)));
      seen_ += n;
      if (seen_ > expected_.size) return wrong_size("more than");
      return n;
    }
    if (seen_ != expected_.size) return wrong_size("only");
    const std::string hex = to_hex(hash_.finish());
    if (hex != expected_.digest.hex()) {
      return Error(ErrorKind::kCorrupt, fmt::format("blob {} is damaged: its bytes have the digest sha256:{}", expected_.digest.text(), hex));
    }
    done_ = true;
    return size_t{0};
  }

 private:
  Error wrong_size(std::string_view how) const {
    return Error(ErrorKind::kCorrupt, fmt::format("blob {} is damaged: {} {} of {} bytes", expected_.digest.text(), how,
                                                  how == "only" ? seen_ : expected_.size, expected_.size));
  }

  std::unique_ptr<ByteSource> source_;
  Descriptor expected_;
  Sha256 hash_;
  uint64_t seen_ = 0;
  bool done_ = false;
};

class StoppableBlobs : public BlobSource {
 public:
  StoppableBlobs(BlobSource& source, std::stop_token stop) : source_(source), stop_(std::move(stop)) {}
  Result<std::unique_ptr<ByteSource>> open_blob(const Descriptor& descriptor) override {
    RETURN_IF_ERROR(check_stop(stop_));
    ASSIGN_OR_RETURN(auto stream, source_.open_blob(descriptor));
    return std::unique_ptr<ByteSource>(std::make_unique<StoppableSource>(std::move(stream), stop_));
  }
  Result<std::unique_ptr<ByteSource>> open_blob_from(const Descriptor& descriptor, uint64_t offset) override {
    RETURN_IF_ERROR(check_stop(stop_));
    ASSIGN_OR_RETURN(auto stream, source_.open_blob_from(descriptor, offset));
    return std::unique_ptr<ByteSource>(std::make_unique<StoppableSource>(std::move(stream), stop_));
  }

 private:
  BlobSource& source_;
  std::stop_token stop_;
};

}  // namespace

std::unique_ptr<BlobSource> stoppable(BlobSource& source, std::stop_token stop) { return std::make_unique<StoppableBlobs>(source, std::move(stop)); }

Result<std::unique_ptr<ByteSource>> BlobSource::open_blob_from(const Descriptor& descriptor, uint64_t offset) {
  return Error(ErrorKind::kUnsupported, fmt::format("{} cannot be read from byte {} on", descriptor.digest.text(), offset));
}

std::unique_ptr<ByteSource> verify_stream(std::unique_ptr<ByteSource> source, const Descriptor& expected) {
  return std::make_unique<VerifyingSource>(std::move(source), expected);
}

Result<std::string> read_blob(BlobSource& source, const Descriptor& descriptor, uint64_t limit) {
  if (descriptor.size > limit) {
    return Error(ErrorKind::kCorrupt, fmt::format("{} of {} bytes is larger than allowed", descriptor.digest.text(), descriptor.size));
  }
  ASSIGN_OR_RETURN(const auto stream, source.open_blob(descriptor));
  return read_to_string(*stream, limit);
}

Result<void> put_blob(BlobSink& sink, const Descriptor& descriptor, std::string_view bytes) {
  if (sink.has_blob(descriptor)) return {};
  ASSIGN_OR_RETURN(const auto writer, sink.create_blob(descriptor));
  RETURN_IF_ERROR(writer->write(as_bytes(bytes)));
  return writer->commit();
}

Result<void> copy_blob(BlobSource& source, BlobSink& sink, const Descriptor& descriptor) {
  if (sink.has_blob(descriptor)) return {};
  ASSIGN_OR_RETURN(const auto stream, source.open_blob(descriptor));
  ASSIGN_OR_RETURN(const auto writer, sink.create_blob(descriptor));
  RETURN_IF_ERROR(copy_stream(*stream, *writer));
  return writer->commit();
}

}  // namespace lamina::oci
