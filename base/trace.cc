#include "base/trace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <iterator>
#include <vector>

#include "base/files.h"
#include "base/guarded.h"
#include "base/text.h"

namespace lamina {
namespace {

using Clock = std::chrono::steady_clock;

struct Event {
  const char* category;
  std::string name;
  Clock::time_point start, end;
  pid_t thread;
};

struct Recording {
  Clock::time_point origin;
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

}  // namespace

void start_trace() {
  recording().lock()->origin = Clock::now();
  recording_on.store(true, std::memory_order_release);
}

Result<void> write_trace(const std::string& path) {
  std::string text = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [";
  {
    auto recorded = recording().lock();
    const char* separator = "\n";
    for (const Event& event : recorded->events) {
      fmt::format_to(std::back_inserter(text),
                     "{}{{\"ph\": \"X\", \"cat\": {}, \"name\": {}, \"ts\": {:.3f}, "
                     "\"dur\": {:.3f}, \"pid\": {}, \"tid\": {}}}",
                     separator, json_string(event.category), json_string(event.name),
                     microseconds(event.start - recorded->origin),
                     microseconds(event.end - event.start), ::getpid(), event.thread);
      separator = ",\n";
    }
  }
  text += "\n]}\n";
  // Not by rename: the path may be /dev/stderr or a pipe.
  ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  RETURN_IF_ERROR(write_all(fd.get(), text));
  return fd.close();
}

TraceSpan::TraceSpan(const char* category, std::string_view name)
    : category_(category), recording_(recording_on.load(std::memory_order_acquire)) {
  if (!recording_) return;
  name_ = name;
  start_ = Clock::now();
}

TraceSpan::~TraceSpan() {
  if (!recording_) return;
  Event event{category_, std::move(name_), start_, Clock::now(), this_thread()};
  recording().lock()->events.push_back(std::move(event));
}

}  // namespace lamina
