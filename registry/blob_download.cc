#include <fmt/format.h>

#include <array>

#include "base/text.h"
#include "registry/internal/blob_transfer.h"

namespace lamina::registry::internal {

namespace {

// Breaks in a row without a byte of progress.
constexpr unsigned kMaxBreaks = 6;

std::string blob_words(const oci::Descriptor& blob, const oci::Reference& repository) {
  return fmt::format("the blob {} of {}", blob.digest.text(), repository.familiar_repository());
}

// "bytes 100-199/200": where what follows begins. RFC 9110, 14.4.
std::optional<uint64_t> range_start(const net::HttpResponse& response) {
  std::string_view text = response.headers.contains("content-range") ? std::string_view(response.headers.at("content-range")) : std::string_view();
  if (text.compare(0, 6, "bytes ") == 0) text.remove_prefix(6);
  return parse_uint(text.substr(0, text.find('-')));
}

class Download : public ByteSource {
 public:
  Download(Api& api, std::vector<Endpoint> endpoints, oci::Descriptor blob, uint64_t offset)
      : api_(api), endpoints_(std::move(endpoints)), blob_(std::move(blob)), offset_(offset) {}

  // From the endpoint in use, else from the next: a mirror need not have everything.
  Result<void> open() {
    for (;; ++at_) {
      auto opened = open_at(endpoints_[at_]);
      if (opened || at_ + 1 == endpoints_.size() || opened.error().kind() == ErrorKind::kCancelled) return opened;
      answer_ = ApiAnswer{};
    }
  }

  Result<size_t> read(std::span<std::byte> buffer) override {
    if (offset_ == blob_.size && ended_) return size_t{0};
    while (true) {
      auto n = answer_.session->read(buffer);
      // Too few bytes without an error: a proxy that closed early.
      if (n && *n == 0 && offset_ < blob_.size) n = Error(ErrorKind::kUnavailable, fmt::format("the connection ended after {} of {} bytes", offset_, blob_.size));
      if (n) {
        offset_ += *n;
        if (*n > 0) breaks_ = 0;
        if (*n == 0) {
          ended_ = true;
          answer_ = ApiAnswer{};
        }
        return n;
      }
      answer_ = ApiAnswer{};
      if (n.error().kind() != ErrorKind::kUnavailable || ++breaks_ > kMaxBreaks) {
        return std::move(n).error().with_context(fmt::format("downloading {}", blob_words(blob_, endpoints_[at_].reference)));
      }
      RETURN_IF_ERROR(api_.back_off(breaks_ - 1, nullptr));
      // This one has been tried several times when it fails.
      RETURN_IF_ERROR_WITH(open(), fmt::format("downloading {}, of which {} of {} bytes are here", blob_words(blob_, endpoints_[at_].reference), offset_, blob_.size));
    }
  }

 private:
  Result<void> open_at(const Endpoint& endpoint) {
    net::HttpRequest request;
    ASSIGN_OR_RETURN(request.url, api_.url(endpoint, "blobs/" + blob_.digest.text()));
    // What fits into the exchange's buffer holds up nobody, whenever it is read.
    request.shareable = blob_.size - offset_ <= net::kShareableBytes;
    if (offset_ > 0) request.headers.push_back(fmt::format("Range: bytes={}-", offset_));
    ASSIGN_OR_RETURN(answer_, api_.send(endpoint, {pull_scope(endpoint.reference.repository())}, request, Api::Kind::kDownload));
    uint64_t start = 0;
    if (answer_.response.status == 206) {
      start = range_start(answer_.response).value_or(offset_);
      if (start > offset_) return Error(ErrorKind::kUnavailable, fmt::format("the registry sends bytes from {} on instead of {}", start, offset_));
    } else if (answer_.response.status == 416 && offset_ == blob_.size) {
      ended_ = true;  // everything was there already
      return {};
    } else if (answer_.response.status != 200) {
      return api_.error_of(endpoint, answer_, blob_words(blob_, endpoint.reference));
    }
    // A server that does not know Range sends everything again.
    for (uint64_t left = offset_ - start; left > 0;) {
      std::array<std::byte, 65536> block;
      ASSIGN_OR_RETURN(const size_t n, answer_.session->read(std::span(block).first(std::min<uint64_t>(left, block.size()))));
      if (n == 0) return Error(ErrorKind::kUnavailable, "the connection ended early");
      left -= n;
    }
    return {};
  }

  Api& api_;
  std::vector<Endpoint> endpoints_;
  size_t at_ = 0;
  oci::Descriptor blob_;
  ApiAnswer answer_;
  uint64_t offset_;
  bool ended_ = false;
  unsigned breaks_ = 0;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> download_blob(Api& api, const std::vector<Endpoint>& endpoints, const oci::Descriptor& blob, uint64_t offset) {
  auto download = std::make_unique<Download>(api, endpoints, blob, offset);
  RETURN_IF_ERROR(download->open());
  return std::unique_ptr<ByteSource>(std::move(download));
}

}  // namespace lamina::registry::internal
