#include "base/thread_pool.h"

#include <doctest/doctest.h>

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
