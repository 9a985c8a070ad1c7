#include "base/trace.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/files.h"

using namespace lamina;

TEST_CASE("spans of all threads are written as JSON") {
  const TempDir dir = *TempDir::create("/tmp", "lamina-test");
  { const TraceSpan before("test", "not recorded"); }
  start_trace();
  { const TraceSpan span("test", "a \"quoted\" \\ \x1b\xff\tname"); }
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int n = 0; n < 25; ++n) const TraceSpan span("test", "work");
    });
  }
  for (std::thread& t : threads) t.join();

  REQUIRE(write_trace(dir.path() + "/trace"));
  const auto trace =
      nlohmann::json::parse(*read_file(AT_FDCWD, dir.path() + "/trace"), nullptr, false);
  REQUIRE_FALSE(trace.is_discarded());
  const auto& events = trace["traceEvents"];
  std::set<int64_t> tids;
  size_t work = 0;
  bool named = false;
  for (const auto& event : events) {
    CHECK(event["ph"] == "X");
    CHECK(event["dur"] >= 0);
    CHECK(event["name"] != "not recorded");
    named |= event["name"] == "a \"quoted\" \\ \xef\xbf\xbd\xef\xbf\xbd\tname";
    if (event["name"] != "work") continue;
    ++work;
    tids.insert(event["tid"].get<int64_t>());
  }
  CHECK(named);
  CHECK(work == 100);
  CHECK(tids.size() == 4);
  CHECK_FALSE(write_trace("/no/such/directory/trace").has_value());
}
