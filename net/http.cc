#include "net/http.h"

#include <fmt/format.h>

#include <utility>

#include "net/internal/multiplexer.h"
#include "net/internal/transfer.h"

namespace lamina::net {

namespace {

// A connection of the session's own: the reader's thread does the work.
class OwnConnection : public internal::Driver {
 public:
  static Result<std::unique_ptr<OwnConnection>> create() {
    ASSIGN_OR_RETURN(const internal::CurlApi* api, internal::curl_api());
    CURLM* multi = api->curl_multi_init();
    if (multi == nullptr) return Error(ErrorKind::kInternal, "curl cannot be initialised");
    return std::unique_ptr<OwnConnection>(new OwnConnection(*api, multi));
  }
  ~OwnConnection() override { api_.curl_multi_cleanup(multi_); }

  void add(internal::Transfer& transfer) override { api_.curl_multi_add_handle(multi_, transfer.handle()); }

  void work(internal::Transfer& transfer) override {
    if (transfer.take_held()) api_.curl_easy_pause(transfer.handle(), CURLPAUSE_CONT);
    int running = 0;
    api_.curl_multi_perform(multi_, &running);
    int left = 0;
    while (const CURLMsg* message = api_.curl_multi_info_read(multi_, &left)) {
      if (message->msg == CURLMSG_DONE) transfer.end(message->data.result);
    }
  }

  void wait(internal::Transfer&) override { api_.curl_multi_poll(multi_, nullptr, 0, static_cast<int>(internal::kLook.count()), nullptr); }
  void resume(internal::Transfer& transfer) override { api_.curl_easy_pause(transfer.handle(), CURLPAUSE_CONT); }
  void remove(internal::Transfer& transfer) override { api_.curl_multi_remove_handle(multi_, transfer.handle()); }

 private:
  OwnConnection(const internal::CurlApi& api, CURLM* multi) : api_(api), multi_(multi) {}

  const internal::CurlApi& api_;
  CURLM* const multi_;
};

}  // namespace

struct HttpSession::Impl {
  std::shared_ptr<internal::SharedConnections> connections;
  std::unique_ptr<internal::Transfer> transfer;
  std::unique_ptr<OwnConnection> own;            // dies before the transfer, which it tells of closed sockets
  std::shared_ptr<internal::Multiplexer> shared;
  internal::Driver* driver = nullptr;            // of the exchange that is going on
  std::stop_token stop;

  ~Impl() { finish(); }

  void finish() {
    if (driver != nullptr) std::exchange(driver, nullptr)->remove(*transfer);
    shared.reset();
  }

  Result<void> begin(const HttpRequest& request) {
    finish();
    if (!transfer) {
      ASSIGN_OR_RETURN(transfer, internal::Transfer::create());
    }
    const bool share = connections && request.shareable && request.url.compare(0, 8, "https://") == 0 && (request.body_source == nullptr || request.body_size <= kShareableBytes);
    if (share) {
      ASSIGN_OR_RETURN(shared, connections->current());
    } else if (!own) {
      ASSIGN_OR_RETURN(own, OwnConnection::create());
    }
    RETURN_IF_ERROR(transfer->prepare(request, share));
    driver = share ? static_cast<internal::Driver*>(shared.get()) : own.get();
    driver->add(*transfer);
    return {};
  }

  Result<void> work(bool reading) {
    if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
    driver->work(*transfer);
    std::optional<Error> failed = transfer->failure(reading);
    if (!failed) return {};
    if (!transfer->ended()) driver->distrust();
    return std::move(*failed);
  }
};

HttpSession::HttpSession(std::shared_ptr<internal::SharedConnections> shared) : impl_(std::make_unique<Impl>()) { impl_->connections = std::move(shared); }
HttpSession::~HttpSession() = default;

Result<HttpResponse> HttpSession::start(const HttpRequest& request, std::stop_token stop) {
  Impl& s = *impl_;
  RETURN_IF_ERROR(s.begin(request));
  s.stop = std::move(stop);
  while (true) {
    RETURN_IF_ERROR(s.work(false));
    if (s.transfer->answered()) return s.transfer->response();
    s.driver->wait(*s.transfer);
  }
}

Result<size_t> HttpSession::read(std::span<std::byte> out) {
  Impl& s = *impl_;
  if (s.driver == nullptr) return Error(ErrorKind::kInternal, "there is no exchange to read from");
  while (true) {
    if (const size_t n = s.transfer->take(out); n > 0 || out.empty()) return n;
    const bool ended = s.transfer->ended();
    if (s.transfer->take_paused()) s.driver->resume(*s.transfer);
    RETURN_IF_ERROR(s.work(true));
    if (const size_t n = s.transfer->take(out); n > 0) return n;
    // What came with the end was taken above.
    if (ended) return size_t{0};
    if (!s.transfer->ended()) s.driver->wait(*s.transfer);
  }
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

void HttpSession::finish() { impl_->finish(); }

SessionPool::SessionPool() : shared_(std::make_shared<internal::SharedConnections>()) {}

SessionPool::Lease SessionPool::acquire() {
  std::unique_ptr<HttpSession> session;
  {
    auto sessions = free_->lock();
    if (!sessions->empty()) {
      session = std::move(sessions->back());
      sessions->pop_back();
    }
  }
  if (!session) session = std::make_unique<HttpSession>(shared_);
  return {session.release(), [free = free_](HttpSession* s) {
            s->finish();
            free->lock()->emplace_back(s);
          }};
}

}  // namespace lamina::net
