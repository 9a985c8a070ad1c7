#include "net/internal/multiplexer.h"

#include <future>
#include <utility>

namespace lamina::net::internal {

namespace {

// Orders wake the thread up; curl's own timers are shorter when there are any.
constexpr int kIdleMs = 10000;

}  // namespace

Result<std::shared_ptr<Multiplexer>> Multiplexer::create() {
  ASSIGN_OR_RETURN(const CurlApi* api, curl_api());
  CURLM* multi = api->curl_multi_init();
  if (multi == nullptr) return Error(ErrorKind::kInternal, "curl cannot be initialised");
  api->curl_multi_setopt(multi, CURLMOPT_PIPELINING, static_cast<long>(CURLPIPE_MULTIPLEX));
  auto made = std::shared_ptr<Multiplexer>(new Multiplexer(*api, multi));
  made->thread_ = std::thread([self = made.get()] { self->run(); });
  return made;
}

Multiplexer::~Multiplexer() {
  orders_.lock()->closed = true;
  api_.curl_multi_wakeup(multi_);
  thread_.join();
  api_.curl_multi_cleanup(multi_);
}

void Multiplexer::give(Order order) {
  orders_.lock()->waiting.push_back(std::move(order));
  api_.curl_multi_wakeup(multi_);
}

void Multiplexer::add(Transfer& transfer) {
  give([this, &transfer] {
    active_.insert(&transfer);
    api_.curl_multi_add_handle(multi_, transfer.handle());
  });
}

void Multiplexer::resume(Transfer& transfer) {
  give([this, &transfer] {
    if (active_.contains(&transfer)) api_.curl_easy_pause(transfer.handle(), CURLPAUSE_CONT);
  });
}

void Multiplexer::remove(Transfer& transfer) {
  if (transfer.ended()) return;  // dropped before that
  std::promise<void> removed;
  give([this, &transfer, &removed] {
    drop(transfer);
    removed.set_value();
  });
  removed.get_future().wait();
}

void Multiplexer::drop(Transfer& transfer) {
  if (active_.erase(&transfer) != 0) api_.curl_multi_remove_handle(multi_, transfer.handle());
}

// False when nothing more will be asked for.
bool Multiplexer::carry_out() {
  std::deque<Order> now;
  {
    auto orders = orders_.lock();
    if (orders->closed) return false;
    now.swap(orders->waiting);
  }
  for (const Order& order : now) order();
  return true;
}

void Multiplexer::run() {
  while (carry_out()) {
    int running = 0;
    api_.curl_multi_perform(multi_, &running);
    int left = 0;
    while (const CURLMsg* message = api_.curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      const CURLcode result = message->data.result;
      char* owner = nullptr;
      api_.curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &owner);
      auto& transfer = *reinterpret_cast<Transfer*>(owner);
      drop(transfer);
      transfer.end(result);
    }
    api_.curl_multi_poll(multi_, nullptr, 0, kIdleMs, nullptr);
  }
}

Result<std::shared_ptr<Multiplexer>> SharedConnections::current() {
  auto current = current_.lock();
  if (!*current || (*current)->distrusted()) {
    ASSIGN_OR_RETURN(*current, Multiplexer::create());
  }
  return *current;
}

}  // namespace lamina::net::internal
