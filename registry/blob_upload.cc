// Uploads: a small blob in one PUT, a large one in chunks; after a break the registry is asked where it stands. A blob
// that is still being made goes in chunks from the start.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "base/files.h"
#include "base/text.h"
#include "base/trace.h"
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
// Of a blob that is still being made: the least that is worth a request.
constexpr uint64_t kGrowingChunk = 4 << 20;

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

// What the registry says of a blob that it took.
Result<void> check_stored(const net::HttpResponse& response, const oci::Descriptor& blob) {
  const std::string stored = response.header("docker-content-digest");
  if (stored.empty() || stored == blob.digest.text()) return {};
  return Error(ErrorKind::kCorrupt, fmt::format("the registry stored {} instead of {}", printable(stored), blob.digest.text()));
}

// An upload session at the registry: where it is, and how far it got.
class Session {
 public:
  Session(Api& api, const Endpoint& endpoint) : api_(api), endpoint_(endpoint), scopes_{push_scope(endpoint.reference.repository())} {}

  bool open() const { return !location_.empty(); }
  void close() { location_.clear(); }
  const std::string& location() const { return location_; }
  uint64_t minimum() const { return minimum_; }  // bytes that the registry wants in a chunk

  Result<void> start() {
    net::HttpRequest request;
    request.method = "POST";
    ASSIGN_OR_RETURN(request.url, api_.url(endpoint_, "blobs/uploads/"));
    ASSIGN_OR_RETURN(ApiAnswer answer, api_.send(endpoint_, scopes_, request));
    if (answer.response.status != 202 || answer.response.header("location").empty()) {
      return api_.error_of(endpoint_, answer, "an upload to " + endpoint_.reference.familiar_repository());
    }
    take(request.url, answer.response);
    return {};
  }

  // A new session's answer.
  void take(const std::string& request_url, const net::HttpResponse& response) {
    moved(request_url, response);
    if (const auto least = parse_uint(response.header("oci-chunk-min-length"))) minimum_ = std::min<uint64_t>(*least, uint64_t{1} << 40);
  }
  void moved(const std::string& request_url, const net::HttpResponse& response) {
    if (const std::string header = response.header("location"); !header.empty()) location_ = resolve_url(request_url, header);
  }

  std::string with_digest(const oci::Digest& digest) const {
    return location_ + (location_.find('?') == std::string::npos ? "?" : "&") + "digest=" + net::url_escape(digest.text());
  }

  Result<ApiAnswer> send(net::HttpRequest request) { return api_.send(endpoint_, scopes_, std::move(request)); }

  // How many bytes the registry says that it has; nothing, and the session is closed, when it does not say clearly.
  Result<std::optional<uint64_t>> offset(uint64_t most) {
    if (location_.empty()) return std::optional<uint64_t>();
    net::HttpRequest request;
    request.url = location_;
    ASSIGN_OR_RETURN(const ApiAnswer answer, send(request));
    if (answer.response.status == 204 || answer.response.status == 202) {
      // "0-<last>"; an empty upload says "0-0", as one of a single byte does.
      const std::string range = answer.response.header("range");
      const size_t dash = range.find('-');
      const auto last = dash == std::string::npos ? std::nullopt : parse_uint(std::string_view(range).substr(dash + 1));
      if (last && *last < most) {
        moved(request.url, answer.response);
        return std::optional<uint64_t>(*last > 0 ? *last + 1 : 0);
      }
    }
    location_.clear();
    return std::optional<uint64_t>();
  }

 private:
  Api& api_;
  const Endpoint& endpoint_;
  const std::vector<std::string> scopes_;
  std::string location_;
  uint64_t minimum_ = 0;
};

class Upload {
 public:
  Upload(Api& api, const Endpoint& endpoint, const oci::Descriptor& blob, oci::BlobSource& source, const TransferProgress& progress)
      : api_(api), endpoint_(endpoint), blob_(blob), body_(source, blob, progress), session_(api, endpoint) {}

  Result<PushOutcome> run(const std::vector<std::string>& mount_from) {
    for (size_t i = 0; i < mount_from.size() && i < kMaxMountTries; ++i) {
      ASSIGN_OR_RETURN(const bool mounted, mount(mount_from[i]));
      if (mounted) return PushOutcome::kMounted;
    }
    for (unsigned breaks = 0;;) {
      const uint64_t before = furthest_;
      if (!session_.open()) {
        RETURN_IF_ERROR(session_.start());
        offset_ = 0;
      }
      auto done = transfer();
      if (done) return PushOutcome::kUploaded;
      if (done.error().kind() != ErrorKind::kUnavailable || final_ || body_.failed()) return explained(std::move(done).error());
      RETURN_IF_ERROR_WITH(api_.back_off(breaks, refusal_ ? &*refusal_ : nullptr), "uploading " + blob_words(blob_, endpoint_.reference));
      refusal_.reset();
      RETURN_IF_ERROR(find_offset());
      // It may have arrived whole, and only the answer was lost.
      if (!session_.open() && furthest_ == blob_.size) {
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
    const std::vector<std::string> scopes = {push_scope(endpoint_.reference.repository()), pull_scope(from)};
    ASSIGN_OR_RETURN(ApiAnswer answer, api_.send(endpoint_, scopes, request));
    if (answer.response.status == 201) return true;
    // 202: it cannot be mounted, and an ordinary session has been opened instead.
    if (answer.response.status == 202 && !session_.open()) session_.take(request.url, answer.response);
    return false;
  }

  // Sends the rest from offset_ on and ends the session.
  Result<void> transfer() {
    if (offset_ == 0 && blob_.size <= std::max(chunk_, session_.minimum())) return send_body("PUT", session_.with_digest(blob_.digest), blob_.size, 201);
    while (offset_ < blob_.size) {
      const uint64_t n = std::min(blob_.size - offset_, std::max(chunk_, session_.minimum()));
      RETURN_IF_ERROR(send_body("PATCH", session_.location(), n, 202));
      offset_ += n;
      furthest_ = std::max(furthest_, offset_);
    }
    net::HttpRequest request;
    request.method = "PUT";
    request.url = session_.with_digest(blob_.digest);
    ASSIGN_OR_RETURN(ApiAnswer answer, session_.send(request));
    return expect(answer, 201);
  }

  Result<void> send_body(const char* method, const std::string url, uint64_t size, int wanted) {
    RETURN_IF_ERROR(body_.seek(offset_, size));
    net::HttpRequest request;
    request.method = method;
    request.url = url;
    request.headers = {"Content-Type: application/octet-stream"};
    if (wanted == 202 && size > 0) request.headers.push_back(fmt::format("Content-Range: {}-{}", offset_, offset_ + size - 1));
    request.body_source = &body_;
    request.body_size = size;
    request.has_body = true;
    auto sent = session_.send(request);
    if (body_.at() == blob_.size) furthest_ = blob_.size;
    ASSIGN_OR_RETURN(ApiAnswer answer, std::move(sent));
    if (answer.response.status == wanted) session_.moved(url, answer.response);
    // A proxy before the registry has its own idea of what is too large.
    if (answer.response.status == 413 && std::exchange(chunk_, kSmallChunk) > kSmallChunk && size > kSmallChunk && session_.minimum() <= kSmallChunk) {
      return Error(ErrorKind::kUnavailable, "the registry refuses a chunk as too large");
    }
    return expect(answer, wanted);
  }

  Result<void> expect(ApiAnswer& answer, int wanted) {
    const int status = answer.response.status;
    if (status == wanted) return status == 201 ? check_stored(answer.response, blob_) : Result<void>();
    // An expired token, an offset that the registry sees otherwise, a lost session, or a registry out of breath are
    // worth a new try; anything else is the answer.
    const bool transient = status == 401 || status == 404 || status == 416 || status == 429 || status >= 500;
    refusal_ = answer.response;
    if (status == 404) session_.close();
    Error error = api_.error_of(endpoint_, answer, blob_words(blob_, endpoint_.reference));
    final_ = !transient;
    // The same refusal again and again, as a rule of missing rights, is an answer too.
    if (transient && error.kind() != ErrorKind::kUnavailable && ++refusals_ <= kMaxBreaks) return Error(ErrorKind::kUnavailable, error.message());
    return error;
  }

  Result<bool> is_there() {
    net::HttpRequest request;
    request.method = "HEAD";
    ASSIGN_OR_RETURN(request.url, api_.url(endpoint_, "blobs/" + blob_.digest.text()));
    ASSIGN_OR_RETURN(const ApiAnswer answer, session_.send(request));
    return answer.response.status == 200;
  }

  // Where the registry stands after a break. When it does not say clearly, a new session starts at 0.
  Result<void> find_offset() {
    const uint64_t begun = offset_;
    ASSIGN_OR_RETURN_WITH(const std::optional<uint64_t> found, session_.offset(blob_.size), "continuing the upload of " + blob_words(blob_, endpoint_.reference));
    offset_ = found.value_or(0);
    furthest_ = std::max(furthest_, offset_);
    if (found && offset_ <= begun) chunk_ = kSmallChunk;
    return {};
  }

  Api& api_;
  const Endpoint& endpoint_;
  const oci::Descriptor& blob_;
  Body body_;
  Session session_;
  uint64_t chunk_ = kChunk;
  uint64_t offset_ = 0;     // bytes that the registry has of it
  uint64_t furthest_ = 0;   // the most that any session had, or that was sent whole
  std::optional<net::HttpResponse> refusal_;  // may carry Retry-After
  unsigned refusals_ = 0;
  bool final_ = false;      // another try cannot help
};

// A part of a file. Fails with kCancelled once `cancelled`.
class FileRange : public ByteSource {
 public:
  // Borrows all.
  FileRange(int fd, uint64_t offset, uint64_t size, const std::atomic<bool>& cancelled) : fd_(fd), at_(offset), left_(size), cancelled_(cancelled) {}
  Result<size_t> read(std::span<std::byte> buffer) override {
    if (cancelled_) return Error(ErrorKind::kCancelled, "the upload is not wanted any more");
    const size_t want = static_cast<size_t>(std::min<uint64_t>(buffer.size(), left_));
    RETURN_IF_ERROR_WITH(read_exactly_at(fd_, at_, buffer.first(want)), "reading the blob's file");
    at_ += want;
    left_ -= want;
    return want;
  }

 private:
  const int fd_;
  uint64_t at_, left_;
  const std::atomic<bool>& cancelled_;
};

// A thread sends what the file has, in chunks of what has come since the last.
class FollowedBlob : public GrowingBlob {
 public:
  FollowedBlob(Api& api, Endpoint endpoint) : endpoint_(std::move(endpoint)), api_(api), session_(api, endpoint_) {}
  ~FollowedBlob() override {
    cancelled_ = true;
    if (sending_.valid()) sending_.wait();
  }

  void grown(int fd, uint64_t size) override {
    // Opened anew: the writer's offset and flags (O_DIRECT) are its own.
    if (!file_) file_ = UniqueFd(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDONLY | O_CLOEXEC));
    const std::lock_guard lock(mutex_);
    if (!file_) failed_ = Error(ErrorKind::kSystem, "the blob's file cannot be read");
    there_ = size;
    if (busy_ || failed_ || there_ - sent_ < kGrowingChunk) return;
    busy_ = true;
    sending_ = thread_.submit([this] { send_what_is_there(); });
  }

  bool started() const override { return sending_.valid(); }

  Result<PushOutcome> finish(const oci::Descriptor& blob) override {
    if (sending_.valid()) sending_.wait();
    if (failed_) return std::move(*failed_);
    if (!file_ || there_ != blob.size) return Error(ErrorKind::kInternal, "another blob was sent than was made");
    while (sent_ != there_) RETURN_IF_ERROR(send_chunk(std::min(kChunk, there_ - sent_)));
    net::HttpRequest request;
    request.method = "PUT";
    request.url = session_.with_digest(blob.digest);
    ASSIGN_OR_RETURN(ApiAnswer answer, session_.send(request));
    if (answer.response.status != 201) return api_.error_of(endpoint_, answer, blob_words(blob, endpoint_.reference));
    RETURN_IF_ERROR(check_stored(answer.response, blob));
    return PushOutcome::kUploaded;
  }

 private:
  void send_what_is_there() {
    while (!cancelled_) {
      uint64_t size = 0;
      {
        const std::lock_guard lock(mutex_);
        size = std::min(kChunk, there_ - sent_);
        busy_ = size >= kGrowingChunk;
        if (!busy_) return;
      }
      if (auto sent = send_chunk(size); !sent) {
        const std::lock_guard lock(mutex_);
        failed_ = std::move(sent).error();  // busy_ stays: nothing more is sent
        return;
      }
    }
  }

  // The next `size` bytes of the file.
  Result<void> send_chunk(uint64_t size) {
    const TraceSpan span("push", "upload a chunk");
    if (!session_.open()) RETURN_IF_ERROR(session_.start());
    if (session_.minimum() > kGrowingChunk) return Error(ErrorKind::kUnsupported, "the registry wants larger chunks");
    const uint64_t begin = sent_, end = begin + size;
    uint64_t done = begin;
    for (unsigned breaks = 0; done != end;) {
      net::HttpRequest request;
      request.method = "PATCH";
      request.url = session_.location();
      request.headers = {"Content-Type: application/octet-stream", fmt::format("Content-Range: {}-{}", done, end - 1)};
      FileRange body(file_.get(), done, end - done, cancelled_);
      request.body_source = &body;
      request.body_size = end - done;
      request.has_body = true;
      auto answer = session_.send(request);
      if (answer && answer->response.status == 202) {
        session_.moved(request.url, answer->response);
        break;
      }
      if (!answer && (answer.error().kind() != ErrorKind::kUnavailable || cancelled_)) return std::move(answer).error();
      if (++breaks > kMaxBreaks) return answer ? api_.error_of(endpoint_, *answer, "an upload") : std::move(answer).error();
      RETURN_IF_ERROR(api_.back_off(breaks - 1, answer ? &answer->response : nullptr));
      answer = Error(ErrorKind::kUnavailable, "");  // gives its connection back
      ASSIGN_OR_RETURN(const std::optional<uint64_t> there, session_.offset(end + 1));
      if (!there || *there < begin) return Error(ErrorKind::kUnavailable, "the registry lost what was sent");
      done = *there;
    }
    const std::lock_guard lock(mutex_);
    sent_ = end;
    return {};
  }

  const Endpoint endpoint_;
  Api& api_;
  Session session_;  // used by thread_, and by finish() after it
  UniqueFd file_;    // set before anything is sent
  std::atomic<bool> cancelled_ = false;
  std::mutex mutex_;  // of the next four
  uint64_t there_ = 0, sent_ = 0;  // bytes; sent_ is only written by who sends
  bool busy_ = false;
  std::optional<Error> failed_;
  std::future<void> sending_;
  ThreadPool thread_{1, "upload"};  // last: it uses the members above
};

}  // namespace

std::unique_ptr<GrowingBlob> grow_blob(Api& api, Endpoint repository) { return std::make_unique<FollowedBlob>(api, std::move(repository)); }

Result<PushOutcome> upload_blob(Api& api, const Endpoint& repository, const oci::Descriptor& blob, oci::BlobSource& source,
                                const std::vector<std::string>& mount_from, const TransferProgress& progress) {
  return Upload(api, repository, blob, source, progress).run(mount_from);
}

}  // namespace lamina::registry::internal
