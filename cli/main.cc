#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <thread>

#include "base/files.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/output.h"

namespace lamina::cli {

int exit_status(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::kInvalidInput: return 2;
    case ErrorKind::kCancelled: return 130;
    case ErrorKind::kUnsupported: return error.diagnostics().empty() ? 1 : 2;  // an instruction we cannot execute
    default: return 1;
  }
}

int report(const Error& error) {
  ignore_error(write_all(STDERR_FILENO, error.render() + "\n"), "standard error is gone");
  return exit_status(error);
}

std::string store_path(const CommonOptions& options, bool root) {
  if (!options.store.empty()) return options.store;
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string store = variable("LAMINA_STORE"); !store.empty()) return store;
  if (root) return "/var/lib/lamina";
  if (const std::string data = variable("XDG_DATA_HOME"); !data.empty()) return data + "/lamina";
  return variable("HOME") + "/.local/share/lamina";
}

namespace {

// Turns SIGINT, SIGTERM and SIGHUP into a stop request on a thread of its own; a second one ends us at once. What the
// outer process of a rootless build passes on is counted apart: a signal to the process group arrives both ways.
class SignalWatcher {
 public:
  SignalWatcher() {
    event_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    event_number = event_.get();
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int signal, siginfo_t* info, void*) {
      const int saved = errno;
      const bool passed_on = info->si_code == SI_QUEUE && info->si_value.sival_int == builder::kPassedOnSignal;
      if ((passed_on ? received_from_outer : received_directly).exchange(signal) != 0) ::_exit(128 + signal);
      received = signal;
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t n = ::write(event_number, &one, sizeof one);
      errno = saved;
    };
    for (int s : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(s, &action, nullptr);
    thread_ = std::thread([this] {
      uint64_t count = 0;
      while (::read(event_.get(), &count, sizeof count) < 0 && errno == EINTR) {
      }
      if (received != 0) source_.request_stop();
    });
  }
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;
  ~SignalWatcher() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(event_.get(), &one, sizeof one);
    thread_.join();
  }
  std::stop_token token() const { return source_.get_token(); }
  static int signal() { return received; }

 private:
  static inline std::atomic<int> received{0}, received_directly{0}, received_from_outer{0};
  static inline int event_number = -1;
  UniqueFd event_;
  std::stop_source source_;
  std::thread thread_;
};

bool needs_store(const std::string& command) { return command != "login" && command != "logout" && command != "check" && command != "copy" && command != "tags"; }

bool wants_help(const std::vector<std::string>& arguments) {
  for (const std::string& a : arguments) {
    if (a == "--") return false;
    if (a == "-h" || a == "--help") return true;
  }
  return false;
}

int run_command_line(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && (arguments[0] == "--version" || arguments[0] == "-v" || arguments[0] == "version")) {
    arguments.erase(arguments.begin());
    return version_command(arguments);
  }
  std::string command = "build";
  const auto& names = command_names();
  if (!arguments.empty() && std::find(names.begin(), names.end(), arguments[0]) != names.end()) {
    command = arguments[0];
    arguments.erase(arguments.begin());
  }
  if (command == "help") {
    command = arguments.empty() ? "build" : arguments[0];
    if (std::find(names.begin(), names.end(), command) == names.end()) {
      return report(Error(ErrorKind::kInvalidInput, fmt::format("there is no command \"{}\"", printable(command))));
    }
    arguments = {"--help"};
  }
  Session session;
  if (command == "check") return check_command(arguments, session);
  if (needs_store(command) && !wants_help(arguments)) {
    auto isolation = builder::enter_user_namespace(argc, argv);
    if (!isolation) return report(isolation.error());
    session.isolation = *isolation;
  }
  if (command == "run") {
    // The terminal's signals are the command's; ours is only to wait.
    ::signal(SIGINT, SIG_IGN);
    ::signal(SIGQUIT, SIG_IGN);
    return run_command(arguments, session);
  }
  const SignalWatcher watcher;
  session.stop = watcher.token();
  const int status = command == "build" ? build_command(arguments, session) : image_command(command, arguments, session);
  return status == 130 && SignalWatcher::signal() == SIGTERM ? 143 : status;
}

// A result that could not be written is no success.
int run(int argc, char** argv) {
  const int status = run_command_line(argc, argv);
  const std::optional<Error> lost = output_error();
  return status == 0 && lost ? report(*lost) : status;
}

}  // namespace

}  // namespace lamina::cli

int main(int argc, char** argv) {
  lamina::builder::sandbox_child_main(argc, argv);
  ::signal(SIGPIPE, SIG_IGN);
  try {
    return lamina::cli::run(argc, argv);
  } catch (const std::exception& e) {  // no memory, or a bug
    ::dprintf(STDERR_FILENO, "error: internal error: %s\n", e.what());
    return 1;
  }
}
