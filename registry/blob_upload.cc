// Uploads: a small blob in one PUT, a large one in chunks; after a break the registry is asked where it stands.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "registry/internal/blob_transfer.h"

namespace lamina::registry::internal {

namespace {

// Breaks in a row without a byte of progress.
constexpr unsigned kMaxBreaks = 6;
constexpr size_t kMaxMountTries = 3;
// What fits into one request is sent without chunks. A large chunk costs fewer round trips and is what every
// registry takes; once a registry has dropped what it had of a chunk, smaller ones lose less.
constexpr uint64_t kChunk = 32 << 20;
constexpr uint64_t kSmallChunk = 8 << 20;

std::string blob_words(const oci::Descriptor& blob, const oci::Reference& repository) {
  return fmt::format("the blob {} of {}", blob.digest.text(), repository.familiar_repository());
}

// The blob as a stream that chunks are cut from. It goes on where it stands, and is opened again to go back.
class Body : public ByteSource {
 public:
  Body(oci::BlobSource& source, const oci::Descriptor& blob, const TransferProgress& progress) : source_(source), blob_(blob), progress_(progress) {}

  Result<void> seek(uint64_t offset, uint64_t limit) {
    if (!stream_ || offset < at_) {
      ASSIGN_OR_RETURN(stream_, local(source_.open_blob(blob_)));
      at_ = 0;
      ended_ = false;
    }
    std::vector<std::byte> block(std::min<uint64_t>(offset - at_, kCopyBufferSize));
    while (at_ < offset) {
      ASSIGN_OR_RETURN(const size_t n, local(stream_->read(std::span(block).first(std::min<uint64_t>(offset - at_, block.size())))));
      if (n == 0) return local(Result<void>(Error(ErrorKind::kCorrupt, "the blob in the store is shorter than it was")));
      at_ += n;
    }
    left_ = limit;
    return {};
  }

  Result<size_t> read(std::span<std::byte> buffer) override {
    if (left_ == 0) return size_t{0};
    ASSIGN_OR_RETURN(const size_t n, local(stream_->read(buffer.first(std::min<uint64_t>(left_, buffer.size())))));
    at_ += n;
    left_ -= n;
    if (progress_ && n > 0) progress_(blob_, at_, blob_.size);
    // The digest is checked by the read that finds the end; the network side stops asking before it.
    if (at_ == blob_.size && !ended_) {
      ended_ = true;
      std::byte extra{};
      ASSIGN_OR_RETURN(const size_t more, local(stream_->read(std::span(&extra, 1))));
      if (more != 0) return local(Result<size_t>(Error(ErrorKind::kCorrupt, "the blob in the store is longer than it was")));
    }
    return n;
  }

  uint64_t at() const { return at_; }
  // Whether it was this side that failed: that is no reason to try again.
  bool failed() const { return failed_; }

 private:
  template <typename T>
  Result<T> local(Result<T> result) {
    failed_ = failed_ || !result;
    return result;
  }

  oci::BlobSource& source_;
  const oci::Descriptor& blob_;
  const TransferProgress& progress_;
  std::unique_ptr<ByteSource> stream_;
  uint64_t at_ = 0;
  uint64_t left_ = 0;
  bool failed_ = false;
  bool ended_ = false;
};

class Upload {
 public:
  Upload(Api& api, const Endpoint& endpoint, const oci::Descriptor& blob, oci::BlobSource& source, const TransferProgress& progress)
      : api_(api), endpoint_(endpoint), blob_(blob), body_(source, blob, progress), scopes_{push_scope(endpoint.reference.repository())} {}

  Result<PushOutcome> run(const std::vector<std::string>& mount_from) {
    for (size_t i = 0; i < mount_from.size() && i < kMaxMountTries; ++i) {
      ASSIGN_OR_RETURN(const bool mounted, mount(mount_from[i]));
      if (mounted) return PushOutcome::kMounted;
    }
    for (unsigned breaks = 0;;) {
      const uint64_t before = furthest_;
      if (location_.empty()) RETURN_IF_ERROR(start_session());
      auto done = transfer();
      if (done) return PushOutcome::kUploaded;
      if (done.error().kind() != ErrorKind::kUnavailable || final_ || body_.failed()) return explained(std::move(done).error());
      RETURN_IF_ERROR_WITH(api_.back_off(breaks, refusal_ ? &*refusal_ : nullptr), "uploading " + blob_words(blob_, endpoint_.reference));
      refusal_.reset();
      RETURN_IF_ERROR(find_offset());
      // It may have arrived whole, and only the answer was lost.
      if (location_.empty() && furthest_ == blob_.size) {
        ASSIGN_OR_RETURN(const bool there, is_there());
        if (there) return PushOutcome::kUploaded;
      }
      breaks = furthest_ > before ? 0 : breaks + 1;
      if (breaks > kMaxBreaks) return explained(std::move(done).error());
    }
  }

 private:
  Error explained(Error error) const {
    return std::move(error).with_context(fmt::format("uploading {}", blob_words(blob_, endpoint_.reference)));
  }

  Result<bool> mount(const std::string& from) {
    net::HttpRequest request;
    request.method = "POST";
    ASSIGN_OR_RETURN(request.url, api_.url(endpoint_, fmt::format("blobs/uploads/?mount={}&from={}", net::url_escape(blob_.digest.text()), net::url_escape(from))));
    const std::vector<std::string> scopes = {scopes_.front(), pull_scope(from)};
    ASSIGN_OR_RETURN(ApiAnswer answer, api_.send(endpoint_, scopes, request));
    if (answer.response.status == 201) return true;
    // 202: it cannot be mounted, and an ordinary session has been opened instead.
    if (answer.response.status == 202 && location_.empty()) {
      set_location(request.url, answer.response);
      take_minimum(answer.response);
    }
    return false;
  }

  Result<void> start_session() {
    net::HttpRequest request;
    request.method = "POST";
    ASSIGN_OR_RETURN(request.url, api_.url(endpoint_, "blobs/uploads/"));
    ASSIGN_OR_RETURN(ApiAnswer answer, api_.send(endpoint_, scopes_, request));
    if (answer.response.status != 202 || answer.response.header("location").empty()) {
      return api_.error_of(endpoint_, answer, "an upload to " + endpoint_.reference.familiar_repository());
    }
    set_location(request.url, answer.response);
    take_minimum(answer.response);
    offset_ = 0;
    return {};
  }

  void take_minimum(const net::HttpResponse& response) {
    if (const auto least = parse_uint(response.header("oci-chunk-min-length"))) minimum_ = std::min<uint64_t>(*least, uint64_t{1} << 40);
  }

  void set_location(const std::string& request_url, const net::HttpResponse& response) {
    if (const std::string header = response.header("location"); !header.empty()) location_ = resolve_url(request_url, header);
  }

  std::string with_digest() const {
    return location_ + (location_.find('?') == std::string::npos ? "?" : "&") + "digest=" + net::url_escape(blob_.digest.text());
  }

  // Sends the rest from offset_ on and ends the session.
  Result<void> transfer() {
    if (offset_ == 0 && blob_.size <= std::max(chunk_, minimum_)) return send_body("PUT", with_digest(), blob_.size, 201);
    while (offset_ < blob_.size) {
      const uint64_t n = std::min(blob_.size - offset_, std::max(chunk_, minimum_));
      RETURN_IF_ERROR(send_body("PATCH", location_, n, 202));
      offset_ += n;
      furthest_ = std::max(furthest_, offset_);
    }
    net::HttpRequest request;
    request.method = "PUT";
    request.url = with_digest();
    ASSIGN_OR_RETURN(ApiAnswer answer, api_.send(endpoint_, scopes_, request));
    return expect(answer, 201);
  }

  Result<void> send_body(const char* method, const std::string& url, uint64_t size, int wanted) {
    RETURN_IF_ERROR(body_.seek(offset_, size));
    net::HttpRequest request;
    request.method = method;
    request.url = url;
    request.headers = {"Content-Type: application/octet-stream"};
    if (wanted == 202 && size > 0) request.headers.push_back(fmt::format("Content-Range: {}-{}", offset_, offset_ + size - 1));
    request.body_source = &body_;
    request.body_size = size;
    request.has_body = true;
    auto sent = api_.send(endpoint_, scopes_, request);
    if (body_.at() == blob_.size) furthest_ = blob_.size;
    ASSIGN_OR_RETURN(ApiAnswer answer, std::move(sent));
    if (answer.response.status == wanted) set_location(url, answer.response);
    // A proxy before the registry has its own idea of what is too large.
    if (answer.response.status == 413 && std::exchange(chunk_, kSmallChunk) > kSmallChunk && size > kSmallChunk && minimum_ <= kSmallChunk) {
      return Error(ErrorKind::kUnavailable, "the registry refuses a chunk as too large");
    }
    return expect(answer, wanted);
  }

  Result<void> expect(ApiAnswer& answer, int wanted) {
    const int status = answer.response.status;
    if (status == wanted) return check_digest(answer.response);
    // An expired token, an offset that the registry sees otherwise, a lost session, or a registry out of breath are
    // worth a new try; anything else is the answer.
    const bool transient = status == 401 || status == 404 || status == 416 || status == 429 || status >= 500;
    refusal_ = answer.response;
    if (status == 404) location_.clear();
    Error error = api_.error_of(endpoint_, answer, blob_words(blob_, endpoint_.reference));
    final_ = !transient;
    // The same refusal again and again, as a rule of missing rights, is an answer too.
    if (transient && error.kind() != ErrorKind::kUnavailable && ++refusals_ <= kMaxBreaks) return Error(ErrorKind::kUnavailable, error.message());
    return error;
  }

  Result<void> check_digest(const net::HttpResponse& response) const {
    const std::string stored = response.header("docker-content-digest");
    if (response.status != 201 || stored.empty() || stored == blob_.digest.text()) return {};
    return Error(ErrorKind::kCorrupt, fmt::format("the registry stored {} instead of {}", printable(stored), blob_.digest.text()));
  }

  Result<bool> is_there() {
    net::HttpRequest request;
    request.method = "HEAD";
    ASSIGN_OR_RETURN(request.url, api_.url(endpoint_, "blobs/" + blob_.digest.text()));
    ASSIGN_OR_RETURN(const ApiAnswer answer, api_.send(endpoint_, scopes_, request));
    return answer.response.status == 200;
  }

  // Where the registry stands after a break. When it does not say clearly, a new session starts at 0.
  Result<void> find_offset() {
    const uint64_t begun = offset_;
    offset_ = 0;
    if (location_.empty()) return {};
    net::HttpRequest request;
    request.url = location_;
    ASSIGN_OR_RETURN_WITH(const ApiAnswer answer, api_.send(endpoint_, scopes_, request), "continuing the upload of " + blob_words(blob_, endpoint_.reference));
    if (answer.response.status == 204 || answer.response.status == 202) {
      // "0-<last>"; an empty upload says "0-0", as one of a single byte does.
      const std::string range = answer.response.header("range");
      const size_t dash = range.find('-');
      const auto last = dash == std::string::npos ? std::nullopt : parse_uint(std::string_view(range).substr(dash + 1));
      if (last && *last < blob_.size) {
        set_location(location_, answer.response);
        offset_ = *last > 0 ? *last + 1 : 0;
        furthest_ = std::max(furthest_, offset_);
        if (offset_ <= begun) chunk_ = kSmallChunk;
        return {};
      }
    }
    location_.clear();
    return {};
  }

  Api& api_;
  const Endpoint& endpoint_;
  const oci::Descriptor& blob_;
  Body body_;
  std::vector<std::string> scopes_;
  std::string location_;    // of the open session; empty: none
  uint64_t minimum_ = 0;    // the least that the registry takes in a chunk
  uint64_t chunk_ = kChunk;
  uint64_t offset_ = 0;     // bytes that the registry has of it
  uint64_t furthest_ = 0;   // the most that any session had, or that was sent whole
  std::optional<net::HttpResponse> refusal_;  // may carry Retry-After
  unsigned refusals_ = 0;
  bool final_ = false;      // another try cannot help
};

}  // namespace

Result<PushOutcome> upload_blob(Api& api, const Endpoint& repository, const oci::Descriptor& blob, oci::BlobSource& source,
                                const std::vector<std::string>& mount_from, const TransferProgress& progress) {
  return Upload(api, repository, blob, source, progress).run(mount_from);
}

}  // namespace lamina::registry::internal
