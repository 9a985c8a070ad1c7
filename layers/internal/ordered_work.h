// Work on many items at once, with the results in order.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "base/trace.h"

namespace lamina::layers {

// One thread fills items and takes them back in the same order; in between a pool works on them. An item that no task
// has begun is worked on by the one who waits for it: so nobody waits for a task that may not start. Items are used
// again, at most `most` exist.
template <typename Item>
class OrderedWork {
 public:
  // `work` runs on any thread, also after this object has gone: it must own what it uses. `take` runs in the calls
  // below; what it does to an item has to make it ready to be filled again.
  OrderedWork(ThreadPool& pool, size_t most, std::function<void(Item&)> work, std::function<Result<void>(Item&)> take)
      : pool_(pool), shared_(std::make_shared<Shared>(std::move(work))), take_(std::move(take)), ring_(most) {}

  // The item to be filled. Makes room first, if there is none.
  Result<Item*> current() {
    if (next_ - oldest_ == ring_.size()) RETURN_IF_ERROR(take_oldest());
    std::shared_ptr<Slot>& slot = slot_at(next_);
    if (!slot) slot = std::make_shared<Slot>();
    return &slot->item;
  }
  // The same if current() has made it; null when not.
  Item* filling() { return next_ - oldest_ == ring_.size() || !slot_at(next_) ? nullptr : &slot_at(next_)->item; }

  // REQUIRES: current() was called.
  void submit() {
    const std::shared_ptr<Slot> slot = slot_at(next_++);
    {
      const std::lock_guard lock(shared_->mutex);
      slot->state = State::kQueued;
    }
    pool_.post([shared = shared_, slot] { shared->try_run(*slot); });
  }

  Result<void> take_all() {
    while (oldest_ != next_) RETURN_IF_ERROR(take_oldest());
    return {};
  }

  bool any_submitted() const { return next_ != 0; }

 private:
  enum class State { kFilling, kQueued, kRunning, kDone };
  struct Slot {
    Item item;
    State state = State::kFilling;
  };

  // What tasks of the pool hold on to.
  struct Shared {
    explicit Shared(std::function<void(Item&)> w) : work(std::move(w)) {}

    // Does the work if nobody has begun it. False when somebody has.
    bool try_run(Slot& slot) {
      {
        const std::lock_guard lock(mutex);
        if (slot.state != State::kQueued) return false;
        slot.state = State::kRunning;
      }
      {
        const TraceSpan span("layers", "compress a part");
        work(slot.item);
      }
      const std::lock_guard lock(mutex);
      slot.state = State::kDone;
      done.notify_all();
      return true;
    }

    const std::function<void(Item&)> work;
    std::mutex mutex;
    std::condition_variable done;
  };

  std::shared_ptr<Slot>& slot_at(size_t number) { return ring_[number % ring_.size()]; }

  Result<void> take_oldest() {
    std::shared_ptr<Slot>& slot = slot_at(oldest_++);
    if (!shared_->try_run(*slot)) {
      const TraceSpan span("wait", "for the oldest part");
      std::unique_lock lock(shared_->mutex);
      shared_->done.wait(lock, [&] { return slot->state == State::kDone; });
    }
    RETURN_IF_ERROR(take_(slot->item));
    // A task that is still queued for this item must not find it in its next life.
    if (slot.use_count() > 1) {
      slot.reset();
    } else {
      const std::lock_guard lock(shared_->mutex);
      slot->state = State::kFilling;
    }
    return {};
  }

  ThreadPool& pool_;
  std::shared_ptr<Shared> shared_;
  std::function<Result<void>(Item&)> take_;
  std::vector<std::shared_ptr<Slot>> ring_;
  size_t next_ = 0, oldest_ = 0;  // numbers of items: to be submitted, to be taken
};

}  // namespace lamina::layers
