#include "registry/internal/pacing.h"

#include <ctime>
#include <random>

#include "base/text.h"
#include "base/trace.h"

namespace lamina::registry::internal {

namespace {

constexpr std::chrono::milliseconds kFirstPause{500};
constexpr std::chrono::milliseconds kLongestPause{30000};
// Nobody means more than this.
constexpr uint64_t kMostSeconds = 24 * 3600;

}  // namespace

std::optional<std::chrono::milliseconds> retry_after(const net::HttpResponse& response) {
  const std::string value = response.header("retry-after");
  if (value.empty()) return std::nullopt;
  if (const auto seconds = parse_uint(trim(value))) return std::chrono::seconds(std::min(*seconds, kMostSeconds));
  // "Wed, 21 Oct 2015 07:28:00 GMT"; the names are English, as in the "C" locale, which this program never leaves.
  std::tm date{};
  if (::strptime(value.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &date) == nullptr) return std::nullopt;
  const time_t left = ::timegm(&date) - std::time(nullptr);
  return std::chrono::seconds(left < 0 ? 0 : std::min<uint64_t>(static_cast<uint64_t>(left), kMostSeconds));
}

std::chrono::milliseconds jittered_pause(unsigned attempt) {
  thread_local std::minstd_rand random(std::random_device{}());
  const auto whole = std::min(kLongestPause, kFirstPause * (1u << std::min(attempt, 10u)));
  return whole - std::chrono::milliseconds(std::uniform_int_distribution<int64_t>(0, whole.count() / 2)(random));
}

void HostLimiter::Slot::release() {
  if (limiter_ == nullptr) return;
  --(*limiter_->busy_.lock())[host_];
  limiter_->freed_.notify_all();
  limiter_ = nullptr;
}

Result<HostLimiter::Slot> HostLimiter::enter(const std::string& host, const std::stop_token& stop) {
  // A stop request wakes nobody here, but it ends the exchanges that hold the slots, and those do.
  auto busy = busy_.lock();
  {
    std::optional<TraceSpan> span;
    if ((*busy)[host] >= limit_) span.emplace("wait", "for a turn at the registry " + host);
    busy.wait(freed_, [&](auto& hosts) { return stop.stop_requested() || hosts[host] < limit_; });
  }
  if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
  ++(*busy)[host];
  return Slot(this, host);
}

}  // namespace lamina::registry::internal
