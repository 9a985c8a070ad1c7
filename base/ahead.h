// A value that a thread pool may compute before it is needed.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <memory>

#include "base/thread_pool.h"
#include "base/trace.h"

namespace lamina {

// take() computes the value itself when no thread of the pool has begun to: a pool that is busy delays nobody. Movable;
// what `compute` borrows must live until take() has returned or the object has died, which waits for a computation that
// goes on.
template <typename T>
class Ahead {
 public:
  // `pool` may be null.
  Ahead(ThreadPool* pool, std::function<T()> compute) : work_(std::make_shared<Work>(std::move(compute))) {
    if (pool == nullptr) return;
    pool->post([work = work_] {
      if (!work->claimed.exchange(true)) work->value.set_value(work->compute());
    });
  }
  Ahead(Ahead&&) noexcept = default;
  Ahead& operator=(Ahead&&) = delete;
  ~Ahead() {
    if (work_ && work_->claimed.exchange(true) && !taken_) work_->value.get_future().wait();
  }

  // Once.
  T take() {
    taken_ = true;
    if (work_->claimed.exchange(true)) {
      const TraceSpan span("wait", "for what a thread computes ahead");
      return work_->value.get_future().get();
    }
    return work_->compute();
  }

 private:
  struct Work {
    explicit Work(std::function<T()> f) : compute(std::move(f)) {}
    const std::function<T()> compute;
    std::atomic<bool> claimed = false;
    std::promise<T> value;
  };
  std::shared_ptr<Work> work_;
  bool taken_ = false;
};

}  // namespace lamina
