#include "base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <memory>

#include "base/files.h"
#include "base/text.h"

// glibc's other name of clone(2). ThreadSanitizer intercepts the usual one and takes it for a
// fork(2) whose memory is a copy.
// NOLINTNEXTLINE(bugprone-reserved-identifier): glibc exports it under this name
extern "C" int __clone(int (*function)(void*), void* stack, int flags, void* argument, ...);

namespace lamina {
namespace {

constexpr size_t kChildStackSize = size_t{64} * 1024;

// What the child was doing when it failed.
enum class Stage { kNone, kProcessGroup, kDirectory, kDescriptors, kExec };

// Everything the child needs, made before it exists: it may not allocate. The child shares this
// memory, and the parent is suspended until it runs the program or ends (clone(2), CLONE_VFORK).
struct ChildPlan {
  std::vector<char*> argv;
  char** environment = nullptr;
  std::vector<std::string> programs;  // tried in this order
  const char* working_directory = nullptr;
  std::vector<std::pair<int, int>> fds;
  std::vector<int> copies;  // room for one descriptor per element of fds
  int first_free_fd = 3;    // above all numbers that fds gives out
  bool new_process_group = false;
  bool set_umask = false;
  mode_t umask = 0;

  Stage failed_stage = Stage::kNone;
  int failed_errno = 0;
};

// The code of the child runs on a stack of its own in the parent's memory and never returns, which
// the sanitizers' bookkeeping of stacks and threads cannot follow. It calls the kernel only by
// syscall(2), which they do not intercept.
#define LAMINA_IN_CHILD \
  __attribute__((noinline, no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined")))

// No handler of ours may run in the child: it would see the parent's memory. Ignored signals stay
// ignored by execve(2), so SIGPIPE, which programs expect to be the default, is reset too.
LAMINA_IN_CHILD void reset_signals() {
  // The kernel's struct sigaction begins with the handler; all zeros is SIG_DFL.
  unsigned long standard[8] = {};
  constexpr size_t kMaskSize = 8;
  for (int signal = 1; signal <= 64; ++signal) {
    unsigned long current[8] = {};
    if (::syscall(SYS_rt_sigaction, signal, nullptr, current, kMaskSize) != 0) continue;
    const bool handled = current[0] > 1;  // neither SIG_DFL nor SIG_IGN
    if (handled || (signal == SIGPIPE && current[0] != 0)) {
      ::syscall(SYS_rt_sigaction, signal, standard, nullptr, kMaskSize);
    }
  }
  const uint64_t none = 0;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, kMaskSize);
}

// Copies all to numbers above every target first, so that no target overwrites a source.
LAMINA_IN_CHILD bool place_descriptors(ChildPlan& plan) {
  // Descriptors that this program inherited without FD_CLOEXEC. Linux 5.11; before, they leak.
  ::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
  const std::pair<int, int>* const fds = plan.fds.data();
  int* const copies = plan.copies.data();
  const size_t count = plan.fds.size();
  for (size_t i = 0; i < count; ++i) {
    const long copy = ::syscall(SYS_fcntl, fds[i].first, F_DUPFD_CLOEXEC, plan.first_free_fd);
    if (copy < 0) return false;
    copies[i] = static_cast<int>(copy);
  }
  for (size_t i = 0; i < count; ++i) {
    if (::syscall(SYS_dup3, copies[i], fds[i].second, 0) < 0) return false;
  }
  return true;
}

// Returns only when no program could be run; errno is of the failure most worth telling.
LAMINA_IN_CHILD void run_program(ChildPlan& plan) {
  int result = ENOENT;
  const std::string* const programs = plan.programs.data();
  for (size_t i = 0; i < plan.programs.size(); ++i) {
    ::syscall(SYS_execve, programs[i].c_str(), plan.argv.data(), plan.environment);
    if (errno == EACCES) {
      result = EACCES;
    } else if (errno != ENOENT && errno != ENOTDIR) {
      return;
    }
  }
  errno = result;
}

LAMINA_IN_CHILD int child_main(void* argument) {
  auto& plan = *static_cast<ChildPlan*>(argument);
  plan.failed_stage = Stage::kProcessGroup;
  if (!plan.new_process_group || ::syscall(SYS_setpgid, 0, 0) == 0) {
    plan.failed_stage = Stage::kDirectory;
    if (plan.working_directory == nullptr || ::syscall(SYS_chdir, plan.working_directory) == 0) {
      plan.failed_stage = Stage::kDescriptors;
      if (place_descriptors(plan)) {
        plan.failed_stage = Stage::kExec;
        if (plan.set_umask) ::syscall(SYS_umask, plan.umask);
        reset_signals();
        run_program(plan);
      }
    }
  }
  plan.failed_errno = errno;
  ::syscall(SYS_exit_group, 127);
  __builtin_unreachable();
}

// Where execvp(3) would look: the name itself when it has a slash, else each directory of PATH.
std::vector<std::string> program_candidates(const std::string& name) {
  if (name.find('/') != std::string::npos) return {name};
  const char* path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): never set by us
  std::vector<std::string> candidates;
  for (const std::string& directory : split(path != nullptr ? path : "/usr/bin:/bin", ':')) {
    candidates.push_back((directory.empty() ? "." : directory) + "/" + name);
  }
  return candidates;
}

std::vector<char*> pointers_to(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

Error spawn_error(const ChildPlan& plan, const SpawnOptions& options, const std::string& program) {
  switch (plan.failed_stage) {
    case Stage::kProcessGroup:
      return system_error(plan.failed_errno, "setpgid").with_context("starting " + program);
    case Stage::kDirectory:
      return system_error(plan.failed_errno, "chdir", options.working_directory)
          .with_context("starting " + program);
    case Stage::kDescriptors:
      return system_error(plan.failed_errno, "dup").with_context("starting " + program);
    default:
      break;
  }
  // A directory of PATH that may not be searched says EACCES whether or not the program is in it.
  const auto missing = [](const std::string& path) { return ::access(path.c_str(), F_OK) != 0; };
  const bool searched = program.find('/') == std::string::npos;
  if (searched && (plan.failed_errno == ENOENT || plan.failed_errno == EACCES) &&
      std::all_of(plan.programs.begin(), plan.programs.end(), missing)) {
    return Error(ErrorKind::kNotFound,
                 fmt::format("program \"{}\" was not found in PATH", printable(program)))
        .with_errno(ENOENT);
  }
  return system_error(plan.failed_errno, "execve", program);
}

// Blocks every signal of this thread while it lives.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

int wait_pidfd(int pidfd, siginfo_t& info) {
  int result;
  do {
    result = ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED);
  } while (result != 0 && errno == EINTR);
  return result;
}

struct Pipe {
  UniqueFd read_end, write_end;
};

// The read end does not block.
Result<Pipe> make_pipe() {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) return system_error(errno, "pipe2");
  Pipe made{UniqueFd(fds[0]), UniqueFd(fds[1])};
  if (::fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0) return system_error(errno, "fcntl");
  return made;
}

// A file instead of a pipe: it can be filled before the child exists, and no SIGPIPE can come back.
Result<UniqueFd> input_file(std::string_view data) {
  if (data.empty()) return open_at(AT_FDCWD, "/dev/null", O_RDONLY);
  UniqueFd fd(::memfd_create("standard-input", MFD_CLOEXEC));
  if (!fd) return system_error(errno, "memfd_create");
  RETURN_IF_ERROR(write_all(fd.get(), data));
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return system_error(errno, "lseek");
  return fd;
}

// Appends what can be read now; closes `fd` at the end of the stream.
Result<void> drain(UniqueFd& fd, std::string& text) {
  std::array<char, 16384> buffer;
  while (fd) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got > 0) {
      text.append(buffer.data(), static_cast<size_t>(got));
    } else if (got == 0) {
      fd.reset();
    } else if (errno == EAGAIN) {
      return {};
    } else if (errno != EINTR) {
      return system_error(errno, "read");
    }
  }
  return {};
}

// Asks a child, or its whole process group, to end; forces it after two seconds.
void stop_child(const ChildProcess& child, bool whole_group) {
  const auto signal = [&](int number) {
    if (whole_group) {
      ::kill(-child.pid(), number);
    } else {
      child.kill(number);
    }
  };
  signal(SIGTERM);
  pollfd ended{child.pidfd(), POLLIN, 0};
  ::poll(&ended, 1, 2000);
  signal(SIGKILL);
}

// Reads both streams until the child has ended. Not until their end: a daemon that the child left
// behind may hold them open for ever.
Result<void> collect(const ChildProcess& child, UniqueFd& out_fd, std::string& out,
                     UniqueFd& err_fd, std::string& err, const std::stop_token& stop,
                     bool whole_group) {
  for (bool ended = false; !ended;) {
    if (stop.stop_requested()) {
      stop_child(child, whole_group);
      return Error(ErrorKind::kCancelled, "interrupted");
    }
    std::array<pollfd, 3> polled{
        {{out_fd.get(), POLLIN, 0}, {err_fd.get(), POLLIN, 0}, {child.pidfd(), POLLIN, 0}}};
    // A stop request wakes no poll.
    if (::poll(polled.data(), polled.size(), stop.stop_possible() ? 100 : -1) < 0) {
      if (errno == EINTR) continue;
      return system_error(errno, "poll");
    }
    ended = polled[2].revents != 0;
    RETURN_IF_ERROR(drain(out_fd, out));
    RETURN_IF_ERROR(drain(err_fd, err));
  }
  return {};
}

}  // namespace

Result<ChildProcess> ChildProcess::spawn(const SpawnOptions& options) {
  if (options.argv.empty()) return Error(ErrorKind::kInternal, "spawn without arguments");
  const std::string& program = options.executable.empty() ? options.argv[0] : options.executable;

  ChildPlan plan;
  plan.argv = pointers_to(options.argv);
  std::vector<char*> environment;
  if (options.environment) environment = pointers_to(*options.environment);
  plan.environment = options.environment ? environment.data() : ::environ;
  plan.programs =
      options.executable.empty() ? program_candidates(program) : std::vector<std::string>{program};
  if (!options.working_directory.empty()) {
    plan.working_directory = options.working_directory.c_str();
  }
  plan.fds = options.fds;
  plan.copies.resize(plan.fds.size());
  for (const auto& [from, to] : plan.fds) plan.first_free_fd = std::max(plan.first_free_fd, to + 1);
  plan.new_process_group = options.new_process_group;
  plan.set_umask = options.umask.has_value();
  plan.umask = options.umask.value_or(0);

  const std::unique_ptr<std::byte[]> stack(new std::byte[kChildStackSize]);
  int raw_pidfd = -1;
  int pid;
  int error_number;
  {
    const SignalsBlocked blocked;
    pid = ::__clone(child_main, stack.get() + kChildStackSize,
                    CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &raw_pidfd);
    error_number = errno;
  }
  if (pid < 0) return system_error(error_number, "clone").with_context("starting " + program);
  ChildProcess child(pid, UniqueFd(raw_pidfd));
  if (plan.failed_errno != 0) return spawn_error(plan, options, program);  // the destructor reaps
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);  // the other's destructor ends the child that was here
  std::swap(pidfd_, other.pidfd_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (!pidfd_) return;
  kill(SIGKILL);
  siginfo_t info{};
  wait_pidfd(pidfd_.get(), info);
}

Result<ExitStatus> ChildProcess::wait() {
  if (!pidfd_) return Error(ErrorKind::kInternal, "wait for a child that was waited for before");
  siginfo_t info{};
  if (wait_pidfd(pidfd_.get(), info) != 0) return system_error(errno, "waitid");
  pidfd_.reset();
  pid_ = -1;
  ExitStatus status;
  (info.si_code == CLD_EXITED ? status.code : status.signal) = info.si_status;
  return status;
}

void ChildProcess::kill(int signal) const {
  if (pidfd_) ::syscall(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0);
}

Result<std::string> run_and_capture(const SpawnOptions& options, std::string_view standard_input,
                                    const std::stop_token& stop) {
  ASSIGN_OR_RETURN(const UniqueFd input, input_file(standard_input));
  ASSIGN_OR_RETURN(Pipe out_pipe, make_pipe());
  ASSIGN_OR_RETURN(Pipe err_pipe, make_pipe());
  SpawnOptions piped = options;
  piped.fds.insert(piped.fds.end(), {{input.get(), STDIN_FILENO},
                                     {out_pipe.write_end.get(), STDOUT_FILENO},
                                     {err_pipe.write_end.get(), STDERR_FILENO}});
  ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::spawn(piped));
  out_pipe.write_end.reset();
  err_pipe.write_end.reset();
  std::string out, err;
  RETURN_IF_ERROR(collect(child, out_pipe.read_end, out, err_pipe.read_end, err, stop,
                          options.new_process_group));
  ASSIGN_OR_RETURN(const ExitStatus status, child.wait());
  if (status.success()) return out;

  std::string message = fmt::format("\"{}\" ", printable(options.argv[0]));
  message += status.signal != 0 ? fmt::format("was killed by signal {}", status.signal)
                                : fmt::format("ended with exit status {}", status.code);
  if (const std::string_view said = trim(err); !said.empty()) message += fmt::format(": {}", said);
  return Error(ErrorKind::kStepFailed, std::move(message)).with_exit_status(status.shell_code());
}

}  // namespace lamina
