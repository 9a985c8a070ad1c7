// What the user sees while a build goes on.
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "builder/build.h"
#include "cli/arguments.h"

namespace lamina::cli {

// Called from one thread at a time. finish() is called once at the end, before anything else is printed.
class Progress : public builder::BuildEvents {
 public:
  virtual void finish(bool failed) = 0;
};

// `mode` kAuto takes tty when `fd` is a terminal, else plain. `explain`: a table of hits and misses at the end.
std::unique_ptr<Progress> make_progress(ProgressMode mode, int fd, bool explain);

// --- parts that tests look at ---------------------------------------------------------------------

// Turns a stream of bytes into whole lines; a carriage return starts the line again, as on a terminal.
class LineBuffer {
 public:
  // Complete lines, without their ending.
  std::vector<std::string> feed(std::string_view bytes);
  // What is left without a line ending.
  std::string rest();

 private:
  std::string line_;
  bool return_seen_ = false;
};

// "0.3s", "12.0s", "1m05s".
std::string format_duration(std::chrono::milliseconds d);
// Control sequences other than colours are taken out; tabs become blanks.
std::string safe_for_terminal(std::string_view line);

}  // namespace lamina::cli
