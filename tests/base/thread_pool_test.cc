#include "base/thread_pool.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>

using namespace lamina;

TEST_CASE("a pool runs everything before it dies") {
  std::atomic<int> count{0};
  {
    ThreadPool pool(4);
    CHECK(pool.size() == 4);
    for (int i = 0; i < 1000; ++i) pool.post([&] { ++count; });
  }
  CHECK(count == 1000);
}

TEST_CASE("tasks of one worker run in order, and zero workers are one") {
  std::vector<int> order;
  {
    ThreadPool pool(0);
    CHECK(pool.size() == 1);
    for (int i = 0; i < 100; ++i) pool.post([&order, i] { order.push_back(i); });
  }
  REQUIRE(order.size() == 100);
  for (int i = 0; i < 100; ++i) CHECK(order[static_cast<size_t>(i)] == i);
}

TEST_CASE("submit gives a future, also for values that only move") {
  ThreadPool pool(2);
  auto number = pool.submit([] { return 42; });
  auto pointer = pool.submit([p = std::make_unique<int>(7)]() mutable { return std::move(p); });
  auto nothing = pool.submit([] {});
  CHECK(number.get() == 42);
  CHECK(*pointer.get() == 7);
  nothing.get();
}

TEST_CASE("a task may post another") {
  std::atomic<int> count{0};
  {
    ThreadPool pool(2);
    for (int i = 0; i < 50; ++i) {
      pool.post([&] {
        ++count;
        pool.post([&] { ++count; });
      });
    }
  }
  CHECK(count == 100);
}

TEST_CASE("Guarded serialises and waits") {
  Guarded<int> value(0);
  std::condition_variable changed;
  ThreadPool pool(4);
  for (int i = 0; i < 200; ++i) {
    pool.post([&] {
      ++*value.lock();
      changed.notify_all();
    });
  }
  auto access = value.lock();
  access.wait(changed, [](int v) { return v == 200; });
  CHECK(*access == 200);
}

TEST_CASE("parallel_for calls every index once, also from inside the pool and when the pool is busy") {
  ThreadPool pool(2);
  for (const size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{1000}}) {
    std::vector<std::atomic<int>> calls(count);
    parallel_for(pool, count, [&](size_t i) { ++calls[i]; });
    CHECK(std::all_of(calls.begin(), calls.end(), [](const std::atomic<int>& n) { return n == 1; }));
  }
  std::vector<std::future<int>> results;
  for (int task = 0; task < 8; ++task) {
    results.push_back(pool.submit([&pool] {
      std::atomic<int> sum = 0;
      parallel_for(pool, 100, [&](size_t i) { sum += static_cast<int>(i); });
      return sum.load();
    }));
  }
  for (std::future<int>& result : results) CHECK(result.get() == 4950);
}
