#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>

#include "base/trace.h"

namespace lamina {

ThreadPool::ThreadPool(unsigned threads, const char* name) : size_(std::max(threads, 1u)), name_(name) {}

ThreadPool::~ThreadPool() {
  std::vector<std::thread> workers;
  {
    auto queue = queue_.lock();
    queue->closed = true;
    workers.swap(queue->workers);
  }
  ready_.notify_all();
  for (std::thread& worker : workers) worker.join();
}

void ThreadPool::post(std::function<void()> task) {
  {
    auto queue = queue_.lock();
    queue->tasks.push_back(std::move(task));
    // While the pool closes, the worker that posts goes on until nothing is left.
    const bool all_busy = queue->tasks.size() > queue->idle;
    if (all_busy && !queue->closed && queue->workers.size() < size_) queue->workers.emplace_back([this] { work(); });
  }
  ready_.notify_one();
}

void ThreadPool::work() {
  name_thread(name_);
  while (true) {
    std::function<void()> task;
    {
      auto queue = queue_.lock();
      ++queue->idle;
      queue.wait(ready_, [](const Queue& q) { return q.closed || !q.tasks.empty(); });
      --queue->idle;
      if (queue->tasks.empty()) return;
      task = std::move(queue->tasks.front());
      queue->tasks.pop_front();
    }
    task();
  }
}

void parallel_for(ThreadPool& pool, size_t count, const std::function<void(size_t)>& work) {
  // Shared with tasks that start when everything is done and the caller has gone.
  struct Shared {
    explicit Shared(size_t n) : count(n) {}
    const size_t count;
    std::atomic<size_t> next = 0;
    std::mutex mutex;
    std::condition_variable changed;
    size_t done = 0;
  };
  const auto shared = std::make_shared<Shared>(count);
  const auto take = [](Shared& s, const std::function<void(size_t)>& each) {
    size_t mine = 0;
    for (size_t i = s.next++; i < s.count; i = s.next++) {
      each(i);
      ++mine;
    }
    if (mine == 0) return;
    const std::lock_guard lock(s.mutex);
    s.done += mine;
    if (s.done == s.count) s.changed.notify_all();
  };
  const size_t helpers = std::min<size_t>(pool.size(), count) - std::min<size_t>(count, 1);
  // `work` is alive as long as an index is left: the caller waits for whoever took one.
  for (size_t i = 0; i < helpers; ++i) pool.post([shared, take, &work] { take(*shared, work); });
  take(*shared, work);
  std::unique_lock lock(shared->mutex);
  if (shared->done == shared->count) return;
  const TraceSpan span("wait", "for the pool's threads");
  shared->changed.wait(lock, [&] { return shared->done == shared->count; });
}

}  // namespace lamina
