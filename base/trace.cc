#include "base/trace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "base/files.h"
#include "base/guarded.h"
#include "base/text.h"

namespace lamina {
namespace {

using Clock = std::chrono::steady_clock;

enum class Kind { kSpan, kLasting, kArrowFrom, kArrowTo, kThreadName };

struct Event {
  Kind kind = Kind::kSpan;
  const char* category = "";
  std::string name;
  TraceTime start, end;
  pid_t thread = 0;
  uint64_t id = 0;  // of a track, or of an arrow
};

struct Recording {
  TraceTime origin;
  std::vector<Event> events;
};

std::atomic<bool> recording_on{false};

// Never destroyed: a span may end while static objects are being destroyed.
Guarded<Recording>& recording() {
  static auto* const instance = new Guarded<Recording>;
  return *instance;
}

pid_t this_thread() {
  thread_local const pid_t id = ::gettid();
  return id;
}

// A JSON string. Bytes that are not UTF-8 and control characters become U+FFFD.
std::string json_string(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : printable(text)) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\t') {
      quoted += "\\t";
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

double microseconds(Clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}

void record(Event event) {
  event.thread = this_thread();
  recording().lock()->events.push_back(std::move(event));
}

// What all events have; times in microseconds since the recording began.
std::string event_start(std::string_view phase, const Event& event, TraceTime at, TraceTime origin) {
  return fmt::format("{{\"ph\": \"{}\", \"cat\": {}, \"name\": {}, \"ts\": {:.3f}, \"pid\": {}, \"tid\": {}", phase, json_string(event.category), json_string(event.name),
                     microseconds(at - origin), ::getpid(), event.thread);
}

std::string to_json(const Event& event, TraceTime origin) {
  switch (event.kind) {
    case Kind::kSpan: return event_start("X", event, event.start, origin) + fmt::format(", \"dur\": {:.3f}}}", microseconds(event.end - event.start));
    case Kind::kLasting:
      return event_start("b", event, event.start, origin) + fmt::format(", \"id\": {}}},\n", event.id) + event_start("e", event, event.end, origin) + fmt::format(", \"id\": {}}}", event.id);
    case Kind::kArrowFrom: return event_start("s", event, event.start, origin) + fmt::format(", \"id\": {}}}", event.id);
    case Kind::kArrowTo: return event_start("f", event, event.start, origin) + fmt::format(", \"id\": {}, \"bp\": \"e\"}}", event.id);
    case Kind::kThreadName: break;
  }
  return fmt::format("{{\"ph\": \"M\", \"name\": \"thread_name\", \"pid\": {}, \"tid\": {}, \"args\": {{\"name\": {}}}}}", ::getpid(), event.thread, json_string(event.name));
}

void record_arrow(Kind kind, uint64_t id) {
  if (!tracing()) return;
  const TraceTime now = Clock::now();
  record({kind, "releases", "releases", now, now, 0, id});
}

}  // namespace

void start_trace() {
  recording().lock()->origin = Clock::now();
  recording_on.store(true, std::memory_order_release);
  name_thread("main");
}

bool tracing() { return recording_on.load(std::memory_order_acquire); }

void name_thread(std::string_view name) {
  if (tracing()) record({Kind::kThreadName, "", std::string(name), {}, {}, 0, 0});
}

void trace_lasting(const char* category, std::string_view name, uint64_t track, TraceTime since) {
  if (tracing()) record({Kind::kLasting, category, std::string(name), since, Clock::now(), 0, track});
}

void trace_arrow_from(uint64_t id) { record_arrow(Kind::kArrowFrom, id); }
void trace_arrow_to(uint64_t id) { record_arrow(Kind::kArrowTo, id); }

Result<void> write_trace(const std::string& path) {
  std::string text = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [";
  {
    auto recorded = recording().lock();
    const char* separator = "\n";
    for (const Event& event : recorded->events) {
      text += separator + to_json(event, recorded->origin);
      separator = ",\n";
    }
  }
  text += "\n]}\n";
  // Not by rename: the path may be /dev/stderr or a pipe.
  ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  RETURN_IF_ERROR(write_all(fd.get(), text));
  return fd.close();
}

TraceSpan::TraceSpan(const char* category, std::string_view name) : category_(category), recording_(tracing()) {
  if (!recording_) return;
  name_ = name;
  start_ = Clock::now();
}

TraceSpan::~TraceSpan() {
  if (recording_) record({Kind::kSpan, category_, std::move(name_), start_, Clock::now(), 0, 0});
}

}  // namespace lamina
