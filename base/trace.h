// What --trace=FILE writes, in the Chrome trace event format (ui.perfetto.dev reads it): spans of work on threads, waits
// (category "wait", named after what is waited for), and arrows from what ends to what could begin because of it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lamina {

using TraceTime = std::chrono::steady_clock::time_point;

// Starts recording; until then everything here costs one atomic load. Call once, on the main thread, before others start.
void start_trace();
// Writes what was recorded as {"traceEvents": […]}.
Result<void> write_trace(const std::string& path);

// What follows may be called by any thread.

bool tracing();
// Names the calling thread.
void name_thread(std::string_view name);
// What belongs to no thread, such as the waiting of a step, lasted from `since` to now; `track` tells apart what goes on at
// the same time.
void trace_lasting(const char* category, std::string_view name, uint64_t track, TraceTime since);
// The two ends of an arrow; each must lie within a span of its thread.
void trace_arrow_from(uint64_t id);
void trace_arrow_to(uint64_t id);

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
  TraceTime start_;
  bool recording_;
};

}  // namespace lamina
