#include "registry/internal/blob_transfer.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace lamina::registry::internal {

namespace {

// Breaks in a row without a byte of progress.
constexpr unsigned kMaxBreaks = 5;
constexpr size_t kMaxMountTries = 3;

std::string blob_words(const oci::Descriptor& blob, const oci::Reference& repository) {
  return fmt::format("the blob {} of {}", blob.digest.text(), repository.familiar_repository());
}

class Download : public ByteSource {
 public:
  Download(Api& api, oci::Reference repository, oci::Descriptor blob) : api_(api), repository_(std::move(repository)), blob_(std::move(blob)) {}

  Result<void> open() {
    HttpRequest request;
    ASSIGN_OR_RETURN(request.url, api_.url(repository_, "blobs/" + blob_.digest.text()));
    if (offset_ > 0) request.headers.push_back(fmt::format("Range: bytes={}-", offset_));
    ASSIGN_OR_RETURN(answer_, api_.send(repository_, {pull_scope(repository_.repository())}, request));
    if (answer_.response.status == 206) return {};
    if (answer_.response.status != 200) return api_.error_of(repository_, answer_, blob_words(blob_, repository_));
    // A server that does not know Range sends everything again.
    for (uint64_t left = offset_; left > 0;) {
      std::array<std::byte, 65536> block{};
      ASSIGN_OR_RETURN(const size_t n, answer_.session->read(std::span(block).first(std::min<uint64_t>(left, block.size()))));
      if (n == 0) return Error(ErrorKind::kUnavailable, "the connection ended early");
      left -= n;
    }
    return {};
  }

  Result<size_t> read(std::span<std::byte> buffer) override {
    while (true) {
      auto n = broken_ ? Result<size_t>(std::move(*std::exchange(broken_, std::nullopt))) : answer_.session->read(buffer);
      // Too few bytes without an error: a proxy that closed early.
      if (n && *n == 0 && offset_ < blob_.size) n = Error(ErrorKind::kUnavailable, fmt::format("the connection ended after {} of {} bytes", offset_, blob_.size));
      if (n) {
        offset_ += *n;
        if (*n > 0) breaks_ = 0;
        if (*n == 0) answer_.session.reset(), answer_.session = SessionPool::Lease(nullptr, [](HttpSession*) {});
        return n;
      }
      if (n.error().kind() != ErrorKind::kUnavailable || ++breaks_ > kMaxBreaks) {
        return std::move(n).error().with_context(fmt::format("downloading {}", blob_words(blob_, repository_)));
      }
      RETURN_IF_ERROR(api_.back_off(breaks_ - 1, nullptr));
      auto opened = open();
      if (!opened) broken_ = std::move(opened).error();
    }
  }

 private:
  Api& api_;
  oci::Reference repository_;
  oci::Descriptor blob_;
  ApiAnswer answer_;
  uint64_t offset_ = 0;
  unsigned breaks_ = 0;
  std::optional<Error> broken_;
};

// Counts what the network takes, and remembers when the local side fails: that is no reason to try again.
class CountedSource : public ByteSource {
 public:
  CountedSource(std::unique_ptr<ByteSource> inner, uint64_t offset, const oci::Descriptor& blob, const TransferProgress& progress)
      : inner_(std::move(inner)), done_(offset), blob_(blob), progress_(progress) {}
  Result<size_t> read(std::span<std::byte> buffer) override {
    auto n = inner_->read(buffer);
    if (!n) {
      failed_ = true;
      return n;
    }
    done_ += *n;
    if (progress_ && *n > 0) progress_(blob_, done_, blob_.size);
    // The digest is checked by the read that finds the end; the network side stops asking before it.
    if (done_ == blob_.size && !ended_) {
      ended_ = true;
      std::byte extra{};
      auto end = inner_->read(std::span(&extra, 1));
      if (!end) {
        failed_ = true;
        return std::move(end).error();
      }
    }
    return n;
  }
  bool failed() const { return failed_; }

 private:
  std::unique_ptr<ByteSource> inner_;
  uint64_t done_;
  const oci::Descriptor& blob_;
  const TransferProgress& progress_;
  bool failed_ = false;
  bool ended_ = false;
};

class Upload {
 public:
  Upload(Api& api, const oci::Reference& repository, const oci::Descriptor& blob, oci::BlobSource& source, const TransferProgress& progress)
      : api_(api), repository_(repository), blob_(blob), source_(source), progress_(progress), scopes_{push_scope(repository.repository())} {}

  Result<PushOutcome> run(const std::vector<std::string>& mount_from) {
    for (size_t i = 0; i < mount_from.size() && i < kMaxMountTries; ++i) {
      ASSIGN_OR_RETURN(const bool mounted, mount(mount_from[i]));
      if (mounted) return PushOutcome::kMounted;
    }
    for (unsigned breaks = 0;;) {
      const uint64_t before = sent_;
      if (location_.empty()) RETURN_IF_ERROR(start_session());
      auto done = transfer();
      if (done) return PushOutcome::kUploaded;
      breaks = sent_ > before ? 0 : breaks + 1;
      if (done.error().kind() != ErrorKind::kUnavailable || final_ || breaks > kMaxBreaks) {
        return std::move(done).error().with_context(fmt::format("uploading {}", blob_words(blob_, repository_)));
      }
      RETURN_IF_ERROR(api_.back_off(breaks, nullptr));
      RETURN_IF_ERROR(find_offset());
    }
  }

 private:
  Result<bool> mount(const std::string& from) {
    HttpRequest request;
    request.method = "POST";
    ASSIGN_OR_RETURN(request.url, api_.url(repository_, fmt::format("blobs/uploads/?mount={}&from={}", url_escape(blob_.digest.text()), url_escape(from))));
    const std::vector<std::string> scopes = {scopes_.front(), pull_scope(from)};
    ASSIGN_OR_RETURN(ApiAnswer answer, api_.send(repository_, scopes, request));
    if (answer.response.status == 201) return true;
    // 202: it cannot be mounted, and an ordinary session has been opened instead.
    if (answer.response.status == 202 && location_.empty()) set_location(request.url, answer.response);
    return false;
  }

  Result<void> start_session() {
    HttpRequest request;
    request.method = "POST";
    ASSIGN_OR_RETURN(request.url, api_.url(repository_, "blobs/uploads/"));
    ASSIGN_OR_RETURN(ApiAnswer answer, api_.send(repository_, scopes_, request));
    if (answer.response.status != 202 || answer.response.header("location").empty()) {
      return api_.error_of(repository_, answer, "an upload to " + repository_.familiar_repository());
    }
    set_location(request.url, answer.response);
    offset_ = 0;
    return {};
  }

  // Location may be relative to the request.
  void set_location(const std::string& request_url, const HttpResponse& response) {
    const std::string header = response.header("location");
    if (header.empty()) return;
    location_ = header[0] == '/' ? request_url.substr(0, request_url.find('/', request_url.find("://") + 3)) + header : header;
  }

  std::string with_digest() const {
    return location_ + (location_.find('?') == std::string::npos ? "?" : "&") + "digest=" + url_escape(blob_.digest.text());
  }

  // Sends the rest from offset_ on and ends the session.
  Result<void> transfer() {
    if (offset_ == 0) return send_body("PUT", with_digest(), 201);
    if (offset_ < blob_.size) RETURN_IF_ERROR(send_body("PATCH", location_, 202));
    HttpRequest request;
    request.method = "PUT";
    request.url = with_digest();
    ASSIGN_OR_RETURN(ApiAnswer answer, api_.send(repository_, scopes_, request));
    return expect(answer, 201);
  }

  Result<void> send_body(const char* method, const std::string& url, int wanted) {
    ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> stream, source_.open_blob(blob_));
    std::vector<std::byte> block(kCopyBufferSize);
    for (uint64_t left = offset_; left > 0;) {
      ASSIGN_OR_RETURN(const size_t n, stream->read(std::span(block).first(std::min<uint64_t>(left, block.size()))));
      if (n == 0) return Error(ErrorKind::kCorrupt, "the blob in the store is shorter than it was");
      left -= n;
    }
    CountedSource counted(std::move(stream), offset_, blob_, progress_);
    HttpRequest request;
    request.method = method;
    request.url = url;
    request.headers = {"Content-Type: application/octet-stream"};
    if (offset_ > 0) request.headers.push_back(fmt::format("Content-Range: {}-{}", offset_, blob_.size - 1));
    request.body_source = &counted;
    request.body_size = blob_.size - offset_;
    request.has_body = true;
    auto answer = api_.send(repository_, scopes_, request);
    if (!answer) {
      final_ = counted.failed();
      return std::move(answer).error();
    }
    if (answer->response.status == wanted) set_location(url, answer->response);
    return expect(*answer, wanted);
  }

  Result<void> expect(ApiAnswer& answer, int wanted) {
    const int status = answer.response.status;
    if (status == wanted) return check_digest(answer.response);
    // An expired token, a lost session, or a registry out of breath: worth a new try; the rest is the answer.
    const bool transient = status == 401 || status == 404 || status == 416 || status == 429 || status >= 500;
    if (status == 401 || status == 404 || status == 416) location_.clear();
    Error error = api_.error_of(repository_, answer, blob_words(blob_, repository_));
    final_ = !transient;
    if (transient && error.kind() != ErrorKind::kUnavailable && ++refusals_ <= 2) return Error(ErrorKind::kUnavailable, error.message());
    return error;
  }

  Result<void> check_digest(const HttpResponse& response) const {
    const std::string stored = response.header("docker-content-digest");
    if (response.status != 201 || stored.empty() || stored == blob_.digest.text()) return {};
    return Error(ErrorKind::kCorrupt, fmt::format("the registry stored {} instead of {}", printable(stored), blob_.digest.text()));
  }

  // Where the registry stands after a break. When it does not say clearly, a new session starts at 0.
  Result<void> find_offset() {
    if (location_.empty()) return {};
    HttpRequest request;
    request.url = location_;
    auto answer = api_.send(repository_, scopes_, request);
    if (!answer && answer.error().kind() == ErrorKind::kCancelled) return std::move(answer).error();
    if (answer && answer->response.status == 204) {
      // "0-<last>"; an empty upload says "0-0", as one of a single byte does.
      const std::string range = answer->response.header("range");
      const auto last = parse_uint(std::string_view(range).substr(range.find('-') + 1));
      if (range.find('-') != std::string::npos && last && *last > 0 && *last < blob_.size) {
        set_location(location_, answer->response);
        offset_ = *last + 1;
        sent_ = std::max(sent_, offset_);
        return {};
      }
    }
    location_.clear();
    return {};
  }

  Api& api_;
  const oci::Reference& repository_;
  const oci::Descriptor& blob_;
  oci::BlobSource& source_;
  const TransferProgress& progress_;
  std::vector<std::string> scopes_;
  std::string location_;   // of the open session; empty: none
  uint64_t offset_ = 0;    // bytes that the registry has of it
  uint64_t sent_ = 0;      // the most that any session had
  unsigned refusals_ = 0;
  bool final_ = false;     // another try cannot help
};

}  // namespace

Result<std::unique_ptr<ByteSource>> download_blob(Api& api, const oci::Reference& repository, const oci::Descriptor& blob) {
  auto download = std::make_unique<Download>(api, repository, blob);
  RETURN_IF_ERROR(download->open());
  return oci::verify_stream(std::move(download), blob);
}

Result<PushOutcome> upload_blob(Api& api, const oci::Reference& repository, const oci::Descriptor& blob, oci::BlobSource& source,
                                const std::vector<std::string>& mount_from, const TransferProgress& progress) {
  return Upload(api, repository, blob, source, progress).run(mount_from);
}

}  // namespace lamina::registry::internal
