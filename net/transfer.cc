#include "net/internal/transfer.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/text.h"
#include "net/url.h"

namespace lamina::net::internal {

namespace {

// The body waits here between curl and the reader; curl is paused above this.
constexpr size_t kHighWater = kShareableBytes;
constexpr long kConnectTimeoutMs = 15000;
// Bytes that the peer's kernel does not acknowledge for so long: the network is gone.
constexpr unsigned kUnacknowledgedMs = 45000;
constexpr size_t kMaxHeaderBytes = 256 * 1024;
constexpr size_t kMaxLeftBytes = 256 * 1024;

std::string environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets it
  return value == nullptr ? std::string() : std::string(value);
}

// Loopback never goes through a proxy, whatever the environment says.
std::string no_proxy() {
  std::string out = "localhost,127.0.0.1,::1";
  for (const char* name : {"no_proxy", "NO_PROXY"}) {
    const std::string value = environment(name);
    if (value == "*") return value;
    if (!value.empty()) return out + "," + value;
  }
  return out;
}

// Finds a dead peer also when there is nothing to send: probes after 20 s, then every 5 s; tcp(7).
void watch_peer(curl_socket_t fd) {
  const auto set = [fd](int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 20);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 5);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(kUnacknowledgedMs));
}

// RFC 3986, 5: where a Location header leads. Other schemes than http are named too, for messages.
std::string resolved(const CurlApi& api, const std::string& base, const std::string& target) {
  CURLU* url = api.curl_url();
  if (url == nullptr) return {};
  std::string out;
  char* text = nullptr;
  if (api.curl_url_set(url, CURLUPART_URL, base.c_str(), 0) == CURLUE_OK &&
      api.curl_url_set(url, CURLUPART_URL, target.c_str(), CURLU_NON_SUPPORT_SCHEME | CURLU_URLENCODE) == CURLUE_OK &&
      api.curl_url_get(url, CURLUPART_URL, &text, 0) == CURLUE_OK) {
    out = text;
    api.curl_free(text);
  }
  api.curl_url_cleanup(url);
  return out;
}

}  // namespace

Result<std::unique_ptr<Transfer>> Transfer::create() {
  ASSIGN_OR_RETURN(const CurlApi* api, curl_api());
  CURL* easy = api->curl_easy_init();
  if (easy == nullptr) return Error(ErrorKind::kInternal, "curl cannot be initialised");
  return std::unique_ptr<Transfer>(new Transfer(*api, easy));
}

Transfer::~Transfer() {
  api_.curl_easy_cleanup(easy_);
  if (headers_ != nullptr) api_.curl_slist_free_all(headers_);
}

// --- setting up -------------------------------------------------------------------------------------

void Transfer::reset() {
  api_.curl_easy_reset(easy_);
  if (headers_ != nullptr) api_.curl_slist_free_all(std::exchange(headers_, nullptr));
  kept_.clear();
  left_.clear();
  held_ = looked_first_ = false;
  const std::lock_guard lock(mutex_);
  ended_ = headers_done_ = paused_ = false;
  header_bytes_ = taken_ = 0;
  result_ = CURLE_OK;
  response_ = {};
  buffer_.clear();
  source_error_.reset();
  moved_ = looked_ = Clock::now();
}

Result<void> Transfer::prepare(const HttpRequest& request, bool shared) {
  reset();
  shared_ = shared;
  url_ = request.url;
  if (url_.compare(0, 7, "http://") != 0 && url_.compare(0, 8, "https://") != 0) {
    return Error(ErrorKind::kDenied, fmt::format("{} is no http or https URL", shown_url(url_)));
  }
  stall_ = request.stall;
  answer_ = std::max(request.stall, request.answer);
  RETURN_IF_ERROR(take_body(request));
  set(CURLOPT_URL, request.url.c_str());
  if (!request.unix_socket.empty()) set(CURLOPT_UNIX_SOCKET_PATH, request.unix_socket.c_str());
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_PRIVATE, static_cast<void*>(this));
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_CONNECTTIMEOUT_MS, kConnectTimeoutMs);
  void* const own = shared ? nullptr : this;  // a shared socket outlives the transfer that opened it
  set(CURLOPT_SOCKOPTFUNCTION, &Transfer::on_open);
  set(CURLOPT_SOCKOPTDATA, own);
  set(CURLOPT_CLOSESOCKETFUNCTION, &Transfer::on_close);
  set(CURLOPT_CLOSESOCKETDATA, own);
  // A long body has a connection to itself: docs/registries.md, "HTTP/2".
  set(CURLOPT_HTTP_VERSION, static_cast<long>(shared ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
  set(CURLOPT_PIPEWAIT, shared ? 1L : 0L);
  // OpenSSL's own variables, which Go's programs heed too; libcurl would only look at Debian's bundle.
  if (const std::string file = environment("SSL_CERT_FILE"); !file.empty()) set(CURLOPT_CAINFO, file.c_str());
  set_tls(request);
  set(CURLOPT_BUFFERSIZE, 256L * 1024);
  set(CURLOPT_UPLOAD_BUFFERSIZE, 512L * 1024);
  set(CURLOPT_TCP_NODELAY, 1L);
  set_proxy(request.url);
  set(CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(this));
  set(CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  set(CURLOPT_HEADERDATA, static_cast<void*>(this));
  for (const std::string& h : request.headers) add_header(h);
  add_header("Expect:");
  set_body(request);
  set(CURLOPT_HTTPHEADER, headers_);
  return {};
}

Result<void> Transfer::take_body(const HttpRequest& request) {
  has_body_ = request.has_body;
  text_ = request.body;
  text_sent_ = 0;
  source_ = request.body_source;
  uint64_t size = source_ != nullptr ? request.body_size : text_.size();
  if (shared_ && source_ != nullptr) {
    // Whoever drives several exchanges must not wait for a disk.
    text_.resize(size);
    for (size_t at = 0; at < size;) {
      ASSIGN_OR_RETURN(const size_t n, source_->read(std::as_writable_bytes(std::span(text_)).subspan(at)));
      if (n == 0) return Error(ErrorKind::kCorrupt, fmt::format("the body ended after {} of {} bytes", at, size));
      at += n;
    }
    source_ = nullptr;
  }
  salvages_ = has_body_ && !shared_ && request.url.compare(0, 7, "http://") == 0;
  const std::lock_guard lock(mutex_);
  left_to_send_ = has_body_ ? size : 0;
  return {};
}

void Transfer::set_tls(const HttpRequest& request) {
  if (!request.verify_tls) {
    set(CURLOPT_SSL_VERIFYPEER, 0L);
    set(CURLOPT_SSL_VERIFYHOST, 0L);
  }
  if (!request.authorities.empty()) {
    // Takes the place of the system's one file; its directory (CURLOPT_CAPATH) stays in force.
    curl_blob blob{const_cast<char*>(request.authorities.data()), request.authorities.size(), CURL_BLOB_COPY};
    set(CURLOPT_CAINFO_BLOB, &blob);
  }
  if (!request.client_certificate.empty()) {
    set(CURLOPT_SSLCERT, request.client_certificate.c_str());
    set(CURLOPT_SSLKEY, request.client_key.c_str());
  }
}

void Transfer::set_proxy(const std::string& url) {
  set(CURLOPT_NOPROXY, no_proxy().c_str());
  // curl leaves HTTP_PROXY alone, since a CGI program gets it from strangers; every peer reads it.
  if (url.compare(0, 7, "http://") == 0 && environment("http_proxy").empty()) {
    if (const std::string proxy = environment("HTTP_PROXY"); !proxy.empty()) set(CURLOPT_PROXY, proxy.c_str());
  }
}

void Transfer::set_body(const HttpRequest& request) {
  if (request.method == "HEAD") {
    set(CURLOPT_NOBODY, 1L);
  } else if (request.has_body) {
    set(CURLOPT_UPLOAD, 1L);
    set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
    set(CURLOPT_READFUNCTION, &Transfer::on_send);
    set(CURLOPT_READDATA, static_cast<void*>(this));
    set(CURLOPT_SEEKFUNCTION, &Transfer::on_seek);
    set(CURLOPT_SEEKDATA, static_cast<void*>(this));
    const uint64_t size = request.body_source != nullptr ? request.body_size : request.body.size();
    if (size != kUnknownSize) set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(size));
  } else if (request.method != "GET") {
    set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
    if (request.method == "POST" || request.method == "PUT") add_header("Content-Length: 0");
  }
}

// --- called by curl through C frames ----------------------------------------------------------------

size_t Transfer::on_body(char* data, size_t, size_t n, void* p) {
  auto& self = *static_cast<Transfer*>(p);
  const std::lock_guard lock(self.mutex_);
  self.moved_ = Clock::now();
  self.tell();
  if (self.buffer_.size() - self.taken_ > kHighWater) {
    self.paused_ = true;
    return CURL_WRITEFUNC_PAUSE;
  }
  if (self.taken_ > kHighWater) {
    self.buffer_.erase(0, self.taken_);
    self.taken_ = 0;
  }
  self.buffer_.append(data, n);
  return n;
}

size_t Transfer::on_header(char* data, size_t, size_t n, void* p) {
  auto& self = *static_cast<Transfer*>(p);
  const std::lock_guard lock(self.mutex_);
  self.header_bytes_ += n;
  self.moved_ = Clock::now();
  self.tell();
  if (self.header_bytes_ > kMaxHeaderBytes) return 0;  // CURLE_WRITE_ERROR
  self.header_line(trim(std::string_view(data, n)));
  return n;
}

void Transfer::header_line(std::string_view line) {
  if (line.substr(0, 5) == "HTTP/") {  // also after 100 Continue
    response_.headers.clear();
    headers_done_ = false;
    const size_t space = line.find(' ');
    response_.status = static_cast<int>(parse_uint(line.substr(space == std::string_view::npos ? line.size() : space + 1, 3)).value_or(0));
  } else if (line.empty()) {
    headers_done_ = response_.status >= 200;
    // A connection on which a body was not sent to its end is good for nothing else.
    if (refused() && has_body_ && !shared_) set(CURLOPT_FORBID_REUSE, 1L);
  } else if (const size_t colon = line.find(':'); colon != std::string_view::npos) {
    std::string& value = response_.headers[to_lower(line.substr(0, colon))];
    value += (value.empty() ? "" : ", ") + std::string(trim(line.substr(colon + 1)));
  }
}

// Whether the server sent something that curl has not read.
bool Transfer::answer_waits() const {
  curl_socket_t fd = CURL_SOCKET_BAD;
  if (api_.curl_easy_getinfo(easy_, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK || fd == CURL_SOCKET_BAD) return false;
  pollfd look{fd, POLLIN, 0};
  return ::poll(&look, 1, 0) > 0;
}

Result<size_t> Transfer::next_of_body(std::span<std::byte> room) {
  if (!kept_.empty()) {
    const size_t n = std::min(room.size(), kept_.size());
    std::memcpy(room.data(), kept_.data(), n);
    kept_.erase(0, n);
    return n;
  }
  if (source_ != nullptr) return source_->read(room);
  const size_t n = std::min(room.size(), text_.size() - text_sent_);
  std::memcpy(room.data(), text_.data() + text_sent_, n);
  text_sent_ += n;
  return n;
}

size_t Transfer::on_send(char* out, size_t, size_t room, void* p) {
  auto& self = *static_cast<Transfer*>(p);
  {
    const std::lock_guard lock(self.mutex_);
    // Who refuses a body does not want the rest.
    if (self.refused()) return 0;
  }
  auto n = self.next_of_body(std::as_writable_bytes(std::span(out, room)));
  // A server that refused the body may close at once, and then sending fails before its answer is read. Reading the
  // source took time: curl looks at what came in meanwhile, and then sends this.
  if (n && *n > 0 && !self.shared_ && !std::exchange(self.looked_first_, false) && self.answer_waits()) {
    self.kept_.insert(0, out, *n);
    self.held_ = self.looked_first_ = true;
    return CURL_READFUNC_PAUSE;
  }
  const std::lock_guard lock(self.mutex_);
  self.moved_ = Clock::now();
  if (!n) {
    self.source_error_ = std::move(n).error();
    self.tell();
    return CURL_READFUNC_ABORT;
  }
  if (self.left_to_send_ != kUnknownSize) {
    self.left_to_send_ -= std::min<uint64_t>(self.left_to_send_, *n);
  } else if (*n == 0) {
    self.left_to_send_ = 0;
  }
  return *n;
}

// Of a text curl can begin again, when a connection that it kept turns out to be closed; a stream's sender does that.
int Transfer::on_seek(void* p, curl_off_t offset, int origin) {
  auto& self = *static_cast<Transfer*>(p);
  if (self.source_ != nullptr || origin != SEEK_SET || offset < 0 || static_cast<size_t>(offset) > self.text_.size()) return CURL_SEEKFUNC_CANTSEEK;
  self.text_sent_ = static_cast<size_t>(offset);
  self.kept_.clear();
  const std::lock_guard lock(self.mutex_);
  self.left_to_send_ = self.text_.size() - self.text_sent_;
  return CURL_SEEKFUNC_OK;
}

int Transfer::on_open(void* p, curl_socket_t fd, curlsocktype) {
  watch_peer(fd);
  // What a kept connection said before it was found closed is no answer to this request.
  if (p != nullptr) static_cast<Transfer*>(p)->left_.clear();
  return CURL_SOCKOPT_OK;
}

// The kernel keeps what came before a reset: an answer to a body that the server did not read to its end.
int Transfer::on_close(void* p, curl_socket_t fd) {
  auto* self = static_cast<Transfer*>(p);
  if (self != nullptr && self->salvages_) {
    std::array<char, 16384> block;
    while (self->left_.size() < kMaxLeftBytes) {
      const ssize_t n = ::recv(fd, block.data(), block.size(), MSG_DONTWAIT);
      if (n <= 0) break;
      self->left_.append(block.data(), static_cast<size_t>(n));
    }
  }
  return ::close(fd);
}

// --- the driver's -----------------------------------------------------------------------------------

// Takes the answer that curl did not come to read.
void Transfer::take_left_answer() {
  std::string_view rest = left_;
  while (!headers_done_ && rest.compare(0, 5, "HTTP/") == 0) {
    const size_t end = rest.find("\r\n\r\n");
    if (end == std::string_view::npos) return;
    for (const std::string& line : split(rest.substr(0, end), '\n')) header_line(trim(line));
    header_line("");
    rest.remove_prefix(end + 4);
  }
  if (!refused()) return;
  result_ = CURLE_OK;
  if (response_.header("transfer-encoding").empty()) buffer_.append(rest);
}

void Transfer::end(CURLcode result) {
  salvages_ = false;
  const std::lock_guard lock(mutex_);
  result_ = result;
  ended_ = true;
  if (result_ != CURLE_OK && !headers_done_) take_left_answer();
  tell();
}

// --- the reader's -----------------------------------------------------------------------------------

std::optional<Error> Transfer::failure(bool reading) {
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  // Nobody let curl work for a while, because the reader had other things to do: that is no silence of the server.
  if (now - std::exchange(looked_, now) > std::chrono::seconds(1) && !shared_) moved_ = now;
  if (source_error_) return *source_error_;
  if (ended_) {
    if (result_ == CURLE_OK || (refused() && !reading)) return std::nullopt;
    return transport_error();
  }
  // A reader that is slow itself (paused) proves nothing about the server.
  const bool working = left_to_send_ == 0 && !headers_done_;
  if (paused_ || now - moved_ <= (working ? answer_ : stall_)) return std::nullopt;
  const auto limit = std::chrono::duration_cast<std::chrono::seconds>(working ? answer_ : stall_);
  return Error(ErrorKind::kUnavailable, fmt::format("the server is silent: nothing moved for {} seconds", limit.count()));
}

bool Transfer::answered() {
  const std::lock_guard lock(mutex_);
  return ended_ || (headers_done_ && (!has_body_ || refused() || paused_));
}

bool Transfer::ended() {
  const std::lock_guard lock(mutex_);
  return ended_;
}

HttpResponse Transfer::response() {
  const std::lock_guard lock(mutex_);
  if (response_.status >= 300 && response_.status < 400) {
    if (const std::string target = response_.header("location"); !target.empty()) response_.redirect_url = resolved(api_, url_, target);
  }
  return response_;
}

size_t Transfer::take(std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  const size_t n = std::min(out.size(), buffer_.size() - taken_);
  std::memcpy(out.data(), buffer_.data() + taken_, n);
  taken_ += n;
  if (taken_ == buffer_.size()) {
    buffer_.clear();
    taken_ = 0;
  }
  return n;
}

bool Transfer::take_paused() {
  const std::lock_guard lock(mutex_);
  if (paused_) moved_ = Clock::now();
  return std::exchange(paused_, false);
}

void Transfer::wait_for_news() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kLook, [this] { return news_ != seen_; });
  seen_ = news_;
}

Error Transfer::transport_error() const {
  std::string text = api_.curl_easy_strerror(result_);
  Error error(ErrorKind::kUnavailable, text);
  switch (result_) {
    case CURLE_COULDNT_RESOLVE_HOST: return std::move(error).with_note("check the host's name, and the DNS of this machine");
    case CURLE_COULDNT_CONNECT: return Error(ErrorKind::kUnavailable, "connection refused or impossible").with_note("check that the server runs and that address and port are right");
    case CURLE_PEER_FAILED_VERIFICATION: return Error(ErrorKind::kDenied, "the server's certificate is not trusted: " + text).with_note("install the CA's certificate on this machine (update-ca-certificates)");
    case CURLE_SSL_CONNECT_ERROR: return std::move(error).with_note("the server may speak plain HTTP; a registry that does is allowed with --insecure-registry HOST");
    case CURLE_OPERATION_TIMEDOUT: return Error(ErrorKind::kUnavailable, fmt::format("no connection within {} seconds", kConnectTimeoutMs / 1000));
    case CURLE_COULDNT_RESOLVE_PROXY: return std::move(error).with_note("check HTTP_PROXY, HTTPS_PROXY and NO_PROXY");
    case CURLE_SSL_CERTPROBLEM: return Error(ErrorKind::kDenied, "the client certificate cannot be used: " + text);
    case CURLE_WRITE_ERROR: return {ErrorKind::kUnavailable, fmt::format("the server sends more than {} KiB of headers", kMaxHeaderBytes / 1024)};
    case CURLE_SEND_ERROR:
    case CURLE_SEND_FAIL_REWIND: return {ErrorKind::kUnavailable, "the connection broke while the request was sent"};
    case CURLE_RECV_ERROR: return {ErrorKind::kUnavailable, "the connection broke while the answer was read"};
    case CURLE_GOT_NOTHING: return {ErrorKind::kUnavailable, "the server closed the connection without an answer"};
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM: return {ErrorKind::kUnavailable, "the server broke the HTTP/2 stream off"};
    default: return error;
  }
}

}  // namespace lamina::net::internal
