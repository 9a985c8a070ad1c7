// Exchanges that share connections: HTTP/2 carries several at a time.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <thread>

#include "base/guarded.h"
#include "net/internal/transfer.h"

namespace lamina::net::internal {

// One thread with one curl multi handle, for the transfers of many readers. A transfer whose reader does not take what
// came may hold up the others of its connection: they must not wait for each other, unless what they receive fits
// into their buffers (kShareableBytes). Any thread; one thread for each transfer.
class Multiplexer : public Driver {
 public:
  static Result<std::shared_ptr<Multiplexer>> create();
  ~Multiplexer() override;  // every transfer was removed

  void add(Transfer& transfer) override;
  void work(Transfer&) override {}
  void wait(Transfer& transfer) override { transfer.wait_for_news(); }
  void resume(Transfer& transfer) override;
  void remove(Transfer& transfer) override;
  // curl would use a connection again that is silent, as long as it is not closed: others use another multiplexer.
  void distrust() override { distrusted_ = true; }
  bool distrusted() const { return distrusted_; }

 private:
  using Order = std::function<void()>;
  Multiplexer(const CurlApi& api, CURLM* multi) : api_(api), multi_(multi) {}
  void run();
  bool carry_out();
  void give(Order order);
  void drop(Transfer& transfer);

  const CurlApi& api_;
  CURLM* const multi_;
  std::atomic<bool> distrusted_ = false;
  struct Orders {
    std::deque<Order> waiting;
    bool closed = false;
  };
  Guarded<Orders> orders_;
  std::set<Transfer*> active_;  // the thread's
  std::thread thread_;
};

// The multiplexer in use, made when one is needed. Any thread.
class SharedConnections {
 public:
  Result<std::shared_ptr<Multiplexer>> current();

 private:
  Guarded<std::shared_ptr<Multiplexer>> current_;
};

}  // namespace lamina::net::internal
