// One maker at a time for things that have names.
#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <string>

#include "base/trace.h"

namespace lamina::layers {

// Any thread.
class FlightTower {
 public:
  // Held while `name` is being made.
  class Slot {
   public:
    Slot(FlightTower& tower, std::string name) : tower_(tower), name_(std::move(name)) {}
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    ~Slot() {
      const std::lock_guard lock(tower_.mutex_);
      tower_.busy_.erase(name_);
      tower_.changed_.notify_all();
    }

   private:
    FlightTower& tower_;
    std::string name_;
  };

  // Waits until nobody else makes `name`. The caller then looks again whether it was made.
  [[nodiscard]] Slot enter(const std::string& name) {
    std::unique_lock lock(mutex_);
    if (busy_.contains(name)) {
      const TraceSpan span("wait", "for another that makes " + name);
      changed_.wait(lock, [&] { return !busy_.contains(name); });
    }
    busy_.insert(name);
    return Slot(*this, name);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> busy_;
};

}  // namespace lamina::layers
