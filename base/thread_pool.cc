#include "base/thread_pool.h"

#include <algorithm>

namespace lamina {

ThreadPool::ThreadPool(unsigned threads) {
  const unsigned count = std::max(threads, 1u);
  workers_.reserve(count);
  for (unsigned i = 0; i < count; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  queue_.lock()->closed = true;
  ready_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::post(std::function<void()> task) {
  queue_.lock()->tasks.push_back(std::move(task));
  ready_.notify_one();
}

void ThreadPool::work() {
  while (true) {
    std::function<void()> task;
    {
      auto queue = queue_.lock();
      queue.wait(ready_, [](const Queue& q) { return q.closed || !q.tasks.empty(); });
      if (queue->tasks.empty()) return;
      task = std::move(queue->tasks.front());
      queue->tasks.pop_front();
    }
    task();
  }
}

}  // namespace lamina
