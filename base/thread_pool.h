// A bounded pool of worker threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "base/guarded.h"

namespace lamina {

// Runs tasks in the order given. Tasks must not throw. A task must not wait for another task of the
// same pool that may not have started (that could deadlock); use a second pool for waiting work.
// The destructor runs what is queued and joins. Threads start when tasks come that no idle one takes.
class ThreadPool {
 public:
  // `name`: of the threads in a trace.
  explicit ThreadPool(unsigned threads, const char* name = "worker");
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  // The most threads that work at the same time.
  unsigned size() const { return size_; }
  // Any thread.
  void post(std::function<void()> task);

  // Any thread. The future never holds an exception.
  template <typename F>
  auto submit(F f) -> std::future<decltype(f())> {
    auto task = std::make_shared<std::packaged_task<decltype(f())()>>(std::move(f));
    auto future = task->get_future();
    post([task] { (*task)(); });
    return future;
  }

 private:
  struct Queue {
    std::deque<std::function<void()>> tasks;
    std::vector<std::thread> workers;
    size_t idle = 0;  // workers that wait, among them those that were notified and have not woken yet
    bool closed = false;
  };
  void work();

  const unsigned size_;
  const char* const name_;
  Guarded<Queue> queue_;
  std::condition_variable ready_;
};

// Calls work(i) for every i below `count`, on the calling thread and on threads of the pool that have nothing else
// to do, and returns when all calls have. `work` must not throw. At most pool.size() threads work, the caller
// among them; a task of the pool may call it too, because the caller does what nobody else begins.
void parallel_for(ThreadPool& pool, size_t count, const std::function<void(size_t)>& work);

}  // namespace lamina
