// A child process as an owned value.
#pragma once

#include <sys/types.h>

#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace lamina {

// How a process ended: exactly one of the two is meant.
struct ExitStatus {
  int code = 0;    // exit status when signal is 0
  int signal = 0;  // signal number that killed it, or 0

  bool success() const { return code == 0 && signal == 0; }
  // A shell's convention: the code, or 128 + signal.
  int shell_code() const { return signal != 0 ? 128 + signal : code; }
};

struct SpawnOptions {
  std::vector<std::string> argv;  // argv[0] is looked up in PATH unless `executable` is set
  std::string executable;         // path to run, e.g. "/proc/self/exe"; empty: argv[0]
  std::optional<std::vector<std::string>> environment;  // nothing: inherited
  std::string working_directory;  // empty: inherited; relative programs start from it
  // (descriptor here, descriptor number in the child). 0, 1 and 2 are inherited unless they are
  // given here; all others are closed on exec.
  std::vector<std::pair<int, int>> fds;
  bool new_process_group = false;
  std::optional<mode_t> umask;    // nothing: inherited
};

// Owns a child through a pidfd; the destructor kills it with SIGKILL and reaps it.
class ChildProcess {
 public:
  // Uses posix_spawn-like vfork semantics: safe in a threaded process. Fails with kNotFound when
  // the program does not exist. The child starts with no signal blocked, no handler and SIGPIPE at
  // its default.
  static Result<ChildProcess> spawn(const SpawnOptions& options);
  ChildProcess(ChildProcess&&) noexcept;
  ChildProcess& operator=(ChildProcess&&) noexcept;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // Becomes readable when the child ends; for poll(2).
  int pidfd() const { return pidfd_.get(); }
  // Blocks until the child ends; may be called once, after it pid() and pidfd() are -1.
  Result<ExitStatus> wait();
  // Sends a signal; nothing happens when the child was waited for.
  void kill(int signal) const;

 private:
  ChildProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  pid_t pid_ = -1;
  UniqueFd pidfd_;
};

// Runs to the end and returns its standard output; fails with kStepFailed and the program's
// standard error in the message when it does not exit with 0. After a stop request the child (with
// new_process_group everything it started) is ended and the result is kCancelled.
Result<std::string> run_and_capture(const SpawnOptions& options,
                                    std::string_view standard_input = {},
                                    const std::stop_token& stop = {});

}  // namespace lamina
