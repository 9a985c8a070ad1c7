#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/text.h"

namespace lamina::cli {

using builder::OutputStream;
using builder::Vertex;
using builder::VertexStatus;
using Clock = std::chrono::steady_clock;

std::vector<std::string> LineBuffer::feed(std::string_view bytes) {
  std::vector<std::string> lines;
  for (char c : bytes) {
    if (c == '\n') {
      lines.push_back(std::exchange(line_, {}));
      return_seen_ = false;
    } else if (c == '\r') {
      return_seen_ = true;
    } else {
      if (return_seen_) line_.clear();  // a progress bar: only its last state is worth a line
      return_seen_ = false;
      line_ += c;
    }
  }
  return lines;
}

std::string LineBuffer::rest() {
  return_seen_ = false;
  return std::exchange(line_, {});
}

std::string format_duration(std::chrono::milliseconds d) {
  const auto tenths = (d.count() + 50) / 100;
  if (tenths < 600) return fmt::format("{}.{}s", tenths / 10, tenths % 10);
  return fmt::format("{}m{:02}s", tenths / 600, tenths / 10 % 60);
}

std::string safe_for_terminal(std::string_view line) {
  std::string out;
  for (size_t i = 0; i < line.size(); ++i) {
    const auto c = static_cast<unsigned char>(line[i]);
    if (c == 0x1b) {
      // ESC [ numbers m is a colour; any other sequence is left out.
      size_t end = i + 1;
      if (end < line.size() && line[end] == '[') {
        ++end;
        while (end < line.size() && (std::isdigit(static_cast<unsigned char>(line[end])) || line[end] == ';')) ++end;
        if (end < line.size() && line[end] == 'm') out += line.substr(i, end - i + 1);
      }
      i = std::min(end, line.size() - 1);
    } else if (c == '\t') {
      out += "    ";
    } else if (c >= 0x20 && c != 0x7f) {
      out += line[i];
    }
  }
  return out;
}

namespace {

void put(int fd, std::string_view text) { ignore_error(write_all(fd, text), "the terminal is gone"); }

// What every kind of progress keeps: names, times, the lines to explain.
class Tracked : public Progress {
 public:
  Tracked(int fd, bool explain) : fd_(fd), explain_(explain) {}

  void vertex_announced(const Vertex& v) override { states_[v.id].vertex = v; }
  void diagnostic(const Diagnostic& d) override { warnings_.push_back(d.render()); }
  void warning(const std::string& text) override { warnings_.push_back("warning: " + text); }

 protected:
  struct State {
    Vertex vertex;
    Clock::time_point start{};
    LineBuffer out, err;
    bool started = false, done = false;
    VertexStatus status = VertexStatus::kDone;
    std::string why;
  };

  std::string end_report() {
    std::string text;
    for (const std::string& w : warnings_) text += w + "\n";
    if (!explain_) return text;
    for (const auto& [id, s] : states_) {
      if (s.vertex.name.compare(0, 1, "[") != 0 || s.vertex.name.compare(0, 10, "[internal]") == 0 || !s.done) continue;
      const char* what = s.status == VertexStatus::kCached ? "hit " : s.status == VertexStatus::kDone ? "miss" : "-   ";
      text += fmt::format("explain: {} {}{}\n", what, s.vertex.name, s.why.empty() || s.status == VertexStatus::kCached ? "" : ": " + s.why);
    }
    return text;
  }

  int fd_;
  bool explain_;
  std::map<int, State> states_;
  std::vector<std::string> warnings_;
};

class PlainProgress : public Tracked {
 public:
  using Tracked::Tracked;

  void vertex_started(int id) override {
    State& s = states_[id];
    s.start = Clock::now();
    s.started = true;
    switch_to(id);
  }

  void vertex_finished(int id, VertexStatus status, const std::string& why) override {
    State& s = states_[id];
    for (LineBuffer* buffer : {&s.out, &s.err}) {
      if (const std::string rest = buffer->rest(); !rest.empty()) line(id, rest);
    }
    s.done = true;
    s.status = status;
    s.why = why;
    if (!s.started) return;  // never ran
    switch_to(id);
    switch (status) {
      case VertexStatus::kCached: put(fd_, fmt::format("#{} CACHED\n", id)); break;
      case VertexStatus::kDone: put(fd_, fmt::format("#{} DONE {}\n", id, format_duration(elapsed(s)))); break;
      case VertexStatus::kFailed: put(fd_, fmt::format("#{} ERROR{}{}\n", id, why.empty() ? "" : ": ", printable(why))); break;
      case VertexStatus::kCancelled: put(fd_, fmt::format("#{} CANCELED\n", id)); break;
    }
    last_ = -1;
  }

  void output(int id, OutputStream stream, std::string_view bytes) override {
    State& s = states_[id];
    for (const std::string& text : (stream == OutputStream::kStdout ? s.out : s.err).feed(bytes)) line(id, text);
  }

  void progress(int, const std::string&, uint64_t, uint64_t) override {}
  void finish(bool) override { put(fd_, end_report()); }

 private:
  static std::chrono::milliseconds elapsed(const State& s) { return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - s.start); }

  void switch_to(int id) {
    if (last_ == id) return;
    put(fd_, fmt::format("{}#{} {}\n", first_ ? "" : "\n", id, states_[id].vertex.name));
    first_ = false;
    last_ = id;
  }

  void line(int id, const std::string& text) {
    switch_to(id);
    const double seconds = static_cast<double>(elapsed(states_[id]).count()) / 1000;
    put(fd_, fmt::format("#{} {:.3f} {}\n", id, seconds, text));
  }

  int last_ = -1;
  bool first_ = true;
};

class QuietProgress : public Tracked {
 public:
  using Tracked::Tracked;
  void vertex_started(int) override {}
  void vertex_finished(int id, VertexStatus status, const std::string&) override {
    // Also a quiet build shows what a failing step said.
    if (status == VertexStatus::kFailed) put(fd_, logs_[id]);
    logs_.erase(id);
  }
  void output(int id, OutputStream, std::string_view bytes) override { logs_[id] += bytes; }
  void diagnostic(const Diagnostic&) override {}  // as docker: what only may be wrong is no news here
  void progress(int, const std::string&, uint64_t, uint64_t) override {}
  void finish(bool) override { put(fd_, end_report()); }

 private:
  std::map<int, std::string> logs_;
};

class JsonProgress : public Tracked {
 public:
  using Tracked::Tracked;
  void vertex_announced(const Vertex& v) override { emit({{"vertex", v.id}, {"name", v.name}, {"stage", v.stage}, {"event", "announced"}}); }
  void vertex_started(int id) override { emit({{"vertex", id}, {"event", "started"}}); }
  void vertex_finished(int id, VertexStatus status, const std::string& why) override {
    const char* const names[] = {"done", "cached", "failed", "cancelled"};
    emit({{"vertex", id}, {"event", "finished"}, {"status", names[static_cast<int>(status)]}, {"why", why}});
  }
  void output(int id, OutputStream stream, std::string_view bytes) override {
    emit({{"vertex", id}, {"event", "output"}, {"stream", stream == OutputStream::kStdout ? 1 : 2}, {"data", std::string(bytes)}});
  }
  void progress(int id, const std::string& what, uint64_t done, uint64_t total) override { emit({{"vertex", id}, {"event", "progress"}, {"what", what}, {"done", done}, {"total", total}}); }
  void diagnostic(const Diagnostic& d) override {
    emit({{"event", "diagnostic"}, {"rule", d.rule}, {"file", d.file}, {"line", d.range.line}, {"column", d.range.column}, {"message", d.message}});
  }
  void warning(const std::string& text) override { emit({{"event", "warning"}, {"message", text}}); }
  void finish(bool) override {}

 private:
  void emit(nlohmann::json event) {
    event["time"] = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
    put(fd_, event.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
};

// A live view: finished steps scroll by, running ones are redrawn below with their last lines.
class TtyProgress : public Tracked {
 public:
  TtyProgress(int fd, bool explain) : Tracked(fd, explain), color_(std::getenv("NO_COLOR") == nullptr) {}  // NOLINT(concurrency-mt-unsafe)

  void vertex_started(int id) override {
    states_[id].start = Clock::now();
    states_[id].started = true;
    running_.push_back(id);
    draw();
  }

  void vertex_finished(int id, VertexStatus status, const std::string& why) override {
    State& s = states_[id];
    for (LineBuffer* buffer : {&s.out, &s.err}) {
      if (const std::string rest = buffer->rest(); !rest.empty()) logs_[id].push_back(rest);
    }
    s.done = true;
    s.status = status;
    s.why = why;
    std::erase(running_, id);
    if (!s.started) return;
    erase_view();
    put(fd_, finished_line(s));
    // Not a line of a failing step is lost.
    if (status == VertexStatus::kFailed) {
      for (const std::string& line : logs_[id]) put(fd_, " > " + safe_for_terminal(line) + "\n");
    }
    logs_.erase(id);
    draw();
  }

  void output(int id, OutputStream stream, std::string_view bytes) override {
    State& s = states_[id];
    for (std::string& line : (stream == OutputStream::kStdout ? s.out : s.err).feed(bytes)) logs_[id].push_back(std::move(line));
    // Redrawing for every line of a chatty step would cost more than the step.
    if (Clock::now() - last_draw_ > std::chrono::milliseconds(80)) draw();
  }

  void progress(int id, const std::string& what, uint64_t done, uint64_t total) override {
    counters_[id] = fmt::format("{} {} / {}", what, human_size(done), human_size(total));
    if (Clock::now() - last_draw_ > std::chrono::milliseconds(80)) draw();
  }

  void finish(bool) override {
    erase_view();
    put(fd_, end_report());
  }

 private:
  std::string colored(const char* code, const std::string& text) const { return color_ ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text; }

  std::string finished_line(const State& s) {
    const std::string time = format_duration(std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - s.start));
    const std::string name = safe_for_terminal(s.vertex.name);
    switch (s.status) {
      case VertexStatus::kCached: return colored("34", " => CACHED " + name) + "\n";
      case VertexStatus::kDone: return colored("34", " => " + name) + "  " + time + "\n";
      case VertexStatus::kFailed: return colored("31", " => ERROR " + name) + "  " + time + "\n";
      case VertexStatus::kCancelled: return colored("33", " => CANCELED " + name) + "\n";
    }
    return {};
  }

  void erase_view() {
    if (drawn_ > 0) put(fd_, fmt::format("\x1b[{}A\x1b[J", drawn_));
    drawn_ = 0;
  }

  // No line may wrap: the view is as many rows high as it has lines.
  static std::string fit(const std::string& text, size_t width) {
    std::string out;
    size_t shown = 0;
    for (size_t i = 0; i < text.size() && shown + 1 < width; ++i) {
      out += text[i];
      if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) ++shown;
    }
    return out;
  }

  static std::string plain(std::string_view line) {
    std::string out = safe_for_terminal(line), bare;
    for (size_t i = 0; i < out.size(); ++i) {
      if (out[i] == '\x1b') {
        i = out.find('m', i);
      } else {
        bare += out[i];
      }
    }
    return bare;
  }

  void draw() {
    last_draw_ = Clock::now();
    winsize size{};
    if (::ioctl(fd_, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) size = {24, 80, 0, 0};
    const size_t rows = size.ws_row > 4 ? size.ws_row - 2U : 4, width = size.ws_col;
    std::vector<std::string> view;
    for (int id : running_) {
      const State& s = states_[id];
      const std::string time = format_duration(std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - s.start));
      view.push_back(fit(" => " + plain(s.vertex.name) + "  " + time, width));
      if (const auto it = counters_.find(id); it != counters_.end()) view.push_back(fit(" => => " + it->second, width));
      const std::deque<std::string>& log = logs_[id];
      constexpr size_t kTail = 6;
      for (size_t i = log.size() > kTail ? log.size() - kTail : 0; i < log.size(); ++i) view.push_back(colored("2", fit(" > " + plain(log[i]), width)));
    }
    if (view.size() > rows) view.resize(rows);
    erase_view();
    for (const std::string& line : view) put(fd_, line + "\n");
    drawn_ = view.size();
  }

  bool color_;
  std::vector<int> running_;
  std::map<int, std::deque<std::string>> logs_;
  std::map<int, std::string> counters_;
  size_t drawn_ = 0;
  Clock::time_point last_draw_{};
};

}  // namespace

std::unique_ptr<Progress> make_progress(ProgressMode mode, int fd, bool explain) {
  if (mode == ProgressMode::kAuto) mode = ::isatty(fd) != 0 ? ProgressMode::kTty : ProgressMode::kPlain;
  if (mode == ProgressMode::kTty && ::isatty(fd) == 0) mode = ProgressMode::kPlain;
  switch (mode) {
    case ProgressMode::kTty: return std::make_unique<TtyProgress>(fd, explain);
    case ProgressMode::kQuiet: return std::make_unique<QuietProgress>(fd, explain);
    case ProgressMode::kRawJson: return std::make_unique<JsonProgress>(fd, explain);
    default: return std::make_unique<PlainProgress>(fd, explain);
  }
}

}  // namespace lamina::cli
