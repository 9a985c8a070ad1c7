#include "base/ahead.h"

#include <doctest/doctest.h>

#include <chrono>
#include <latch>
#include <thread>

using namespace lamina;

TEST_CASE("a value is computed once, by the pool or by who needs it") {
  ThreadPool pool(3);
  std::atomic<int> calls = 0;
  std::vector<Ahead<int>> values;
  for (int i = 0; i < 500; ++i) values.emplace_back(i % 5 == 0 ? nullptr : &pool, [i, &calls] { return ++calls, i * i; });
  for (int i = 0; i < 500; ++i) CHECK(values[static_cast<size_t>(i)].take() == i * i);
  CHECK(calls == 500);
}

TEST_CASE("who needs a value does not wait for a pool that is busy") {
  ThreadPool pool(1);
  std::latch release(1);
  pool.post([&] { release.wait(); });
  const auto caller = std::this_thread::get_id();
  Ahead<std::thread::id> value(&pool, [] { return std::this_thread::get_id(); });
  CHECK(value.take() == caller);
  release.count_down();
}

TEST_CASE("what is not needed any more is not computed, and what is being computed is waited for") {
  ThreadPool pool(1);
  std::latch release(1);
  std::atomic<bool> computed = false, began = false, ended = false;
  pool.post([&] { release.wait(); });
  { const Ahead<int> value(&pool, [&] { return computed = true, 1; }); }
  release.count_down();
  {
    const Ahead<int> value(&pool, [&] {
      began = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      return ended = true, 1;
    });
    while (!began) std::this_thread::yield();
  }
  CHECK(ended);
  CHECK_FALSE(computed);
}
