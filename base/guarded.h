// A value that can be reached only while its lock is held.
#pragma once

#include <condition_variable>
#include <mutex>
#include <utility>

namespace lamina {

template <typename T>
class Guarded {
 public:
  Guarded() = default;
  explicit Guarded(T value) : value_(std::move(value)) {}

  // Holds the lock for its lifetime.
  class Access {
   public:
    T* operator->() { return value_; }
    T& operator*() { return *value_; }
    // Waits until pred(value) holds; the lock is released while waiting.
    template <typename Pred>
    void wait(std::condition_variable& cv, Pred pred) {
      cv.wait(lock_, [&] { return pred(*value_); });
    }

   private:
    friend class Guarded;
    Access(std::mutex& m, T& v) : lock_(m), value_(&v) {}
    std::unique_lock<std::mutex> lock_;
    T* value_;
  };

  Access lock() { return Access(mutex_, value_); }

 private:
  std::mutex mutex_;
  T value_{};
};

}  // namespace lamina
