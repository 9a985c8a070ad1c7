#include "base/trace.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <nlohmann/json.hpp>
#include <map>
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
      name_thread("helper");
      for (int n = 0; n < 25; ++n) const TraceSpan span("test", "work");
    });
  }
  for (std::thread& t : threads) t.join();

  const TraceTime began = std::chrono::steady_clock::now();
  {
    const TraceSpan span("test", "first");
    trace_arrow_from(7);
  }
  {
    const TraceSpan span("test", "second");
    trace_arrow_to(7);
  }
  trace_lasting("wait", "second waits for first", 3, began);

  REQUIRE(write_trace(dir.path() + "/trace"));
  const auto trace =
      nlohmann::json::parse(*read_file(AT_FDCWD, dir.path() + "/trace"), nullptr, false);
  REQUIRE_FALSE(trace.is_discarded());
  const auto& events = trace["traceEvents"];
  std::set<int64_t> tids;
  size_t work = 0;
  bool named = false;
  std::map<std::string, int> phases, threads_named;
  for (const auto& event : events) {
    ++phases[event["ph"].get<std::string>()];
    if (event["ph"] == "M") ++threads_named[event["args"]["name"].get<std::string>()];
    if (event["ph"] == "s" || event["ph"] == "f") CHECK(event["id"] == 7);
    if (event["ph"] == "b" || event["ph"] == "e") {
      CHECK(event["cat"] == "wait");
      CHECK(event["id"] == 3);
    }
    if (event["ph"] != "X") continue;
    CHECK(event["dur"] >= 0);
    CHECK(event["name"] != "not recorded");
    named |= event["name"] == "a \"quoted\" \\ \xef\xbf\xbd\xef\xbf\xbd\tname";
    if (event["name"] != "work") continue;
    ++work;
    tids.insert(event["tid"].get<int64_t>());
  }
  CHECK(phases == std::map<std::string, int>{{"M", 5}, {"X", 103}, {"b", 1}, {"e", 1}, {"f", 1}, {"s", 1}});
  CHECK(threads_named == std::map<std::string, int>{{"helper", 4}, {"main", 1}});
  CHECK(named);
  CHECK(work == 100);
  CHECK(tids.size() == 4);
  CHECK_FALSE(write_trace("/no/such/directory/trace").has_value());
}
