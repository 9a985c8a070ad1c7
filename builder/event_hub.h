// Numbers vertices and serialises events from many threads to the one listener.
#pragma once

#include <mutex>
#include <string>

#include "builder/build.h"

namespace lamina::builder {

// Any thread.
class EventHub {
 public:
  explicit EventHub(BuildEvents& listener) : listener_(listener) {}

  int announce(const std::string& name, const std::string& stage = {}) {
    const std::lock_guard lock(mutex_);
    listener_.vertex_announced({++last_id_, name, stage});
    return last_id_;
  }
  void started(int id) { locked([&] { listener_.vertex_started(id); }); }
  void finished(int id, VertexStatus status, const std::string& why = {}) { locked([&] { listener_.vertex_finished(id, status, why); }); }
  void output(int id, OutputStream stream, std::string_view bytes) { locked([&] { listener_.output(id, stream, bytes); }); }
  void progress(int id, const std::string& what, uint64_t done, uint64_t total) { locked([&] { listener_.progress(id, what, done, total); }); }
  void diagnostic(const Diagnostic& d) { locked([&] { listener_.diagnostic(d); }); }
  void warning(const std::string& text) { locked([&] { listener_.warning(text); }); }

 private:
  template <typename F>
  void locked(F f) {
    const std::lock_guard lock(mutex_);
    f();
  }

  std::mutex mutex_;
  BuildEvents& listener_;
  int last_id_ = 0;
};

// A vertex that lasts as long as a scope: failed unless done() was called.
class VertexScope {
 public:
  VertexScope(EventHub& hub, const std::string& name) : hub_(hub), id_(hub.announce(name)) { hub_.started(id_); }
  VertexScope(const VertexScope&) = delete;
  VertexScope& operator=(const VertexScope&) = delete;
  ~VertexScope() {
    if (!finished_) hub_.finished(id_, VertexStatus::kFailed);
  }
  int id() const { return id_; }
  void done(VertexStatus status = VertexStatus::kDone) {
    finished_ = true;
    hub_.finished(id_, status);
  }

 private:
  EventHub& hub_;
  int id_;
  bool finished_ = false;
};

}  // namespace lamina::builder
