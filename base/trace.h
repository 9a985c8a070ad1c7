// Spans of work for --trace=FILE, in the Chrome trace event format (ui.perfetto.dev reads it).
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lamina {

// Starts recording; until then spans cost one atomic load. Call once, before threads start.
void start_trace();
// Writes what was recorded as {"traceEvents": […]}.
Result<void> write_trace(const std::string& path);

// One span of work on this thread, from construction to destruction.
class TraceSpan {
 public:
  explicit TraceSpan(const char* category, std::string_view name);
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;
  ~TraceSpan();

 private:
  const char* category_;
  std::string name_;
  std::chrono::steady_clock::time_point start_;
  bool recording_;
};

}  // namespace lamina
