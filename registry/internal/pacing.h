// When the next request may be sent: how many at once, and how long to wait after a failure.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "base/guarded.h"
#include "base/result.h"
#include "net/http.h"

namespace lamina::registry::internal {

// What a Retry-After header asks for: seconds or an HTTP date (RFC 9110, 10.2.3). Nothing when there is none.
std::optional<std::chrono::milliseconds> retry_after(const net::HttpResponse& response);

// The pause before retry number `attempt` (from 0): doubles from half a second to half a minute, and up to half of it
// is taken off at random, so that clients that failed together do not come back together.
std::chrono::milliseconds jittered_pause(unsigned attempt);

// At most `limit` exchanges with one host at a time. Whoever holds a slot must not wait for another slot: downloads,
// whose readers may wait for each other, are bounded by the pools that run them instead. Any thread.
class HostLimiter {
 public:
  explicit HostLimiter(unsigned limit) : limit_(limit == 0 ? 1 : limit) {}

  class Slot {
   public:
    Slot() = default;
    Slot(HostLimiter* limiter, std::string host) : limiter_(limiter), host_(std::move(host)) {}
    Slot(Slot&& other) noexcept : limiter_(std::exchange(other.limiter_, nullptr)), host_(std::move(other.host_)) {}
    Slot& operator=(Slot&& other) noexcept {
      if (this != &other) {
        release();
        limiter_ = std::exchange(other.limiter_, nullptr);
        host_ = std::move(other.host_);
      }
      return *this;
    }
    ~Slot() { release(); }
    void release();

   private:
    HostLimiter* limiter_ = nullptr;
    std::string host_;
  };

  // kCancelled after a stop request.
  Result<Slot> enter(const std::string& host, const std::stop_token& stop);

 private:
  const unsigned limit_;
  Guarded<std::map<std::string, unsigned>> busy_;
  std::condition_variable freed_;
};

}  // namespace lamina::registry::internal
