#include "net/http.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/text.h"
#include "net/internal/curl_api.h"

namespace lamina::net {

namespace {

// The body waits here between curl and read(); curl is paused above this.
constexpr size_t kHighWater = 1 << 20;
constexpr long kConnectTimeoutMs = 15000;
// Bytes that the peer's kernel does not acknowledge for so long: the network is gone.
constexpr unsigned kUnacknowledgedMs = 45000;
constexpr size_t kMaxHeaderBytes = 256 * 1024;

using Clock = std::chrono::steady_clock;

std::string environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets it
  return value == nullptr ? std::string() : std::string(value);
}

// Finds a dead peer also when there is nothing to send: probes after 20 s, then every 5 s; tcp(7).
int prepare_socket(void*, curl_socket_t fd, curlsocktype) {
  const auto set = [fd](int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 20);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 5);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(kUnacknowledgedMs));
  return CURL_SOCKOPT_OK;
}

}  // namespace

struct HttpSession::Impl {
  const internal::CurlApi* api = nullptr;
  CURL* easy = nullptr;
  CURLM* multi = nullptr;
  curl_slist* headers = nullptr;
  bool active = false;
  bool ended = false;     // curl is done with the exchange
  CURLcode result = CURLE_OK;
  bool headers_done = false;
  bool paused = false;
  size_t header_bytes = 0;
  HttpResponse response;
  std::string buffer;
  size_t taken = 0;
  std::stop_token stop;
  // The request's body.
  std::string text_body;
  size_t text_sent = 0;
  ByteSource* source = nullptr;
  std::optional<Error> source_error;
  uint64_t left_to_send = 0;
  // When bytes last moved, and how long they may stand still.
  Clock::time_point moved, looked;
  std::chrono::milliseconds stall{}, answer{};

  ~Impl() {
    if (api == nullptr) return;
    end();
    if (easy != nullptr) api->curl_easy_cleanup(easy);
    if (multi != nullptr) api->curl_multi_cleanup(multi);
  }

  void end() {
    if (active) api->curl_multi_remove_handle(multi, easy);
    if (headers != nullptr) api->curl_slist_free_all(headers);
    headers = nullptr;
    active = false;
  }

  // --- called by curl through C frames ------------------------------------------------------------
  static size_t on_body(char* data, size_t, size_t n, void* p) {
    auto* self = static_cast<Impl*>(p);
    self->moved = Clock::now();
    if (self->buffer.size() - self->taken > kHighWater) {
      self->paused = true;
      return CURL_WRITEFUNC_PAUSE;
    }
    self->buffer.append(data, n);
    return n;
  }

  static size_t on_header(char* data, size_t, size_t n, void* p) {
    auto* self = static_cast<Impl*>(p);
    self->header_bytes += n;
    self->moved = Clock::now();
    if (self->header_bytes > kMaxHeaderBytes) return 0;
    const std::string_view line = trim(std::string_view(data, n));
    if (line.substr(0, 5) == "HTTP/") {  // also after 100 Continue
      self->response.headers.clear();
      self->headers_done = false;
      const size_t space = line.find(' ');
      self->response.status = static_cast<int>(parse_uint(line.substr(space == std::string_view::npos ? line.size() : space + 1, 3)).value_or(0));
    } else if (line.empty()) {
      self->headers_done = self->response.status >= 200;
    } else if (const size_t colon = line.find(':'); colon != std::string_view::npos) {
      std::string& value = self->response.headers[to_lower(line.substr(0, colon))];
      value += (value.empty() ? "" : ", ") + std::string(trim(line.substr(colon + 1)));
    }
    return n;
  }

  static size_t on_send(char* out, size_t, size_t room, void* p) {
    auto* self = static_cast<Impl*>(p);
    if (self->source == nullptr) {
      const size_t n = std::min(room, self->text_body.size() - self->text_sent);
      std::memcpy(out, self->text_body.data() + self->text_sent, n);
      self->text_sent += n;
      return self->sent(n);
    }
    auto n = self->source->read(std::span(reinterpret_cast<std::byte*>(out), room));
    if (!n) {
      self->source_error = std::move(n).error();
      return CURL_READFUNC_ABORT;
    }
    return self->sent(*n);
  }

  size_t sent(size_t n) {
    moved = Clock::now();
    left_to_send -= std::min<uint64_t>(left_to_send, n);
    return n;
  }

  template <typename T>
  void set(CURLoption option, T value) {
    api->curl_easy_setopt(easy, option, value);
  }

  Result<void> prepare(const HttpRequest& request) {
    if (api == nullptr) {
      ASSIGN_OR_RETURN(api, internal::curl_api());
      easy = api->curl_easy_init();
      multi = api->curl_multi_init();
      if (easy == nullptr || multi == nullptr) return Error(ErrorKind::kInternal, "curl cannot be initialised");
    }
    end();
    api->curl_easy_reset(easy);
    ended = headers_done = paused = false;
    header_bytes = 0;
    result = CURLE_OK;
    response = {};
    buffer.clear();
    taken = 0;
    text_body = request.body;
    text_sent = 0;
    source = request.body_source;
    source_error.reset();
    left_to_send = !request.has_body ? 0 : source != nullptr ? request.body_size : text_body.size();
    moved = Clock::now();
    stall = request.stall;
    answer = std::max(request.stall, request.answer);
    set(CURLOPT_URL, request.url.c_str());
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_CONNECTTIMEOUT_MS, kConnectTimeoutMs);
    set(CURLOPT_SOCKOPTFUNCTION, &prepare_socket);
    set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
    // OpenSSL's own variables, which Go's programs heed too; libcurl would only look at Debian's bundle.
    if (const char* file = std::getenv("SSL_CERT_FILE"); file != nullptr && *file != 0) set(CURLOPT_CAINFO, file);  // NOLINT(concurrency-mt-unsafe)
    set_tls(request);
    set(CURLOPT_BUFFERSIZE, 256L * 1024);
    set(CURLOPT_UPLOAD_BUFFERSIZE, 512L * 1024);
    set(CURLOPT_TCP_NODELAY, 1L);
    set_proxy(request.url);
    set(CURLOPT_WRITEFUNCTION, &Impl::on_body);
    set(CURLOPT_WRITEDATA, static_cast<void*>(this));
    set(CURLOPT_HEADERFUNCTION, &Impl::on_header);
    set(CURLOPT_HEADERDATA, static_cast<void*>(this));
    for (const std::string& h : request.headers) headers = api->curl_slist_append(headers, h.c_str());
    headers = api->curl_slist_append(headers, "Expect:");
    set_method(request);
    set(CURLOPT_HTTPHEADER, headers);
    api->curl_multi_add_handle(multi, easy);
    active = true;
    return {};
  }

  void set_tls(const HttpRequest& request) {
    if (!request.verify_tls) {
      set(CURLOPT_SSL_VERIFYPEER, 0L);
      set(CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (!request.authorities.empty()) {
      // Takes the place of the system's one file; its directory (CURLOPT_CAPATH) stays in force.
      curl_blob blob{const_cast<char*>(request.authorities.data()), request.authorities.size(), CURL_BLOB_COPY};
      api->curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob);
    }
    if (!request.client_certificate.empty()) {
      set(CURLOPT_SSLCERT, request.client_certificate.c_str());
      set(CURLOPT_SSLKEY, request.client_key.c_str());
    }
  }

  void set_proxy(const std::string& url) {
    // Loopback never goes through a proxy, whatever the environment says.
    set(CURLOPT_NOPROXY, no_proxy().c_str());
    // curl leaves HTTP_PROXY alone, since a CGI program gets it from strangers; every peer reads it.
    if (url.compare(0, 7, "http://") == 0 && environment("http_proxy").empty()) {
      if (const std::string proxy = environment("HTTP_PROXY"); !proxy.empty()) set(CURLOPT_PROXY, proxy.c_str());
    }
  }

  void set_method(const HttpRequest& request) {
    if (request.method == "HEAD") {
      set(CURLOPT_NOBODY, 1L);
    } else if (request.has_body) {
      set(CURLOPT_UPLOAD, 1L);
      set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
      set(CURLOPT_READFUNCTION, &Impl::on_send);
      set(CURLOPT_READDATA, static_cast<void*>(this));
      set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body_source != nullptr ? request.body_size : request.body.size()));
    } else if (request.method != "GET") {
      set(CURLOPT_CUSTOMREQUEST, request.method.c_str());
      if (request.method == "POST" || request.method == "PUT") headers = api->curl_slist_append(headers, "Content-Length: 0");
    }
  }

  static std::string no_proxy() {
    std::string out = "localhost,127.0.0.1,::1";
    for (const char* name : {"no_proxy", "NO_PROXY"}) {
      const std::string value = environment(name);
      if (value == "*") return value;
      if (!value.empty()) return out + "," + value;
    }
    return out;
  }

  // One round of work; waits at most a little, so that a stop request is seen.
  Result<void> step() {
    if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
    // Nobody looked for a while, because the reader had other work: that is no silence of the server.
    if (Clock::now() - std::exchange(looked, Clock::now()) > std::chrono::seconds(1)) moved = Clock::now();
    int running = 0;
    api->curl_multi_perform(multi, &running);
    int left = 0;
    while (const CURLMsg* message = api->curl_multi_info_read(multi, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      ended = true;
      result = message->data.result;
    }
    if (source_error) return *source_error;
    if (ended && result != CURLE_OK) return transport_error();
    // A reader that is slow itself (paused) proves nothing about the server.
    const bool working = left_to_send == 0 && !headers_done;
    if (!ended && !paused && Clock::now() - moved > (working ? answer : stall)) {
      const auto limit = std::chrono::duration_cast<std::chrono::seconds>(working ? answer : stall);
      return Error(ErrorKind::kUnavailable, fmt::format("the server is silent: nothing moved for {} seconds", limit.count()));
    }
    return {};
  }
  void wait() { api->curl_multi_poll(multi, nullptr, 0, 200, nullptr); }

  Error transport_error() const {
    std::string text = api->curl_easy_strerror(result);
    Error error(ErrorKind::kUnavailable, text);
    switch (result) {
      case CURLE_COULDNT_RESOLVE_HOST: return std::move(error).with_note("check the host's name, and the DNS of this machine");
      case CURLE_COULDNT_CONNECT: return Error(ErrorKind::kUnavailable, "connection refused or impossible").with_note("check that the server runs and that address and port are right");
      case CURLE_PEER_FAILED_VERIFICATION: return Error(ErrorKind::kDenied, "the server's certificate is not trusted: " + text).with_note("install the CA's certificate on this machine (update-ca-certificates)");
      case CURLE_SSL_CONNECT_ERROR: return std::move(error).with_note("the server may speak plain HTTP; a registry that does is allowed with --insecure-registry HOST");
      case CURLE_OPERATION_TIMEDOUT: return Error(ErrorKind::kUnavailable, fmt::format("no connection within {} seconds", kConnectTimeoutMs / 1000));
      case CURLE_COULDNT_RESOLVE_PROXY: return std::move(error).with_note("check HTTP_PROXY, HTTPS_PROXY and NO_PROXY");
      case CURLE_SSL_CERTPROBLEM: return Error(ErrorKind::kDenied, "the client certificate cannot be used: " + text);
      default: return error;
    }
  }
};

HttpSession::HttpSession() : impl_(std::make_unique<Impl>()) {}
HttpSession::~HttpSession() = default;

Result<HttpResponse> HttpSession::start(const HttpRequest& request, std::stop_token stop) {
  Impl& s = *impl_;
  RETURN_IF_ERROR(s.prepare(request));
  s.stop = std::move(stop);
  while (true) {
    RETURN_IF_ERROR(s.step());
    // With a body still being sent, an early answer is only final when the exchange ends, or when its own body is so
    // long that somebody has to read it first.
    if (s.ended || (s.headers_done && (!request.has_body || s.paused))) break;
    s.wait();
  }
  if (s.response.status >= 300 && s.response.status < 400) {
    const char* url = nullptr;
    s.api->curl_easy_getinfo(s.easy, CURLINFO_REDIRECT_URL, &url);
    if (url != nullptr) s.response.redirect_url = url;
  }
  return s.response;
}

Result<size_t> HttpSession::read(std::span<std::byte> out) {
  Impl& s = *impl_;
  while (s.buffer.size() == s.taken) {
    s.buffer.clear();
    s.taken = 0;
    if (s.ended) return size_t{0};
    if (s.paused) {
      s.paused = false;
      s.moved = Clock::now();
      s.api->curl_easy_pause(s.easy, CURLPAUSE_CONT);
    }
    RETURN_IF_ERROR(s.step());
    if (s.buffer.empty() && !s.ended) s.wait();
  }
  const size_t n = std::min(out.size(), s.buffer.size() - s.taken);
  std::memcpy(out.data(), s.buffer.data() + s.taken, n);
  s.taken += n;
  return n;
}

Result<std::string> HttpSession::read_all(uint64_t limit) {
  std::string out;
  std::vector<std::byte> block(64 * 1024);
  while (true) {
    ASSIGN_OR_RETURN(const size_t n, read(block));
    if (n == 0) return out;
    if (out.size() + n > limit) return Error(ErrorKind::kCorrupt, fmt::format("the answer is larger than {} bytes", limit));
    out.append(reinterpret_cast<const char*>(block.data()), n);
  }
}

void HttpSession::finish() {
  if (impl_->api != nullptr) impl_->end();
}

SessionPool::Lease SessionPool::acquire() {
  std::unique_ptr<HttpSession> session;
  {
    auto sessions = free_->lock();
    if (!sessions->empty()) {
      session = std::move(sessions->back());
      sessions->pop_back();
    }
  }
  if (!session) session = std::make_unique<HttpSession>();
  return {session.release(), [free = free_](HttpSession* s) {
            s->finish();
            free->lock()->emplace_back(s);
          }};
}

}  // namespace lamina::net
