// The parent's side: starts the child, relays output, waits for the end.
#include "builder/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "base/files.h"
#include "base/text.h"
#include "builder/internal/sandbox_plan.h"

namespace lamina::builder {

namespace {

struct Pipe {
  UniqueFd read, write;
};

Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return system_error(errno, "pipe2");
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string hosts_text(const SandboxSpec& spec) {
  std::string out = "127.0.0.1\tlocalhost " + spec.hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback\n";
  for (const auto& [name, address] : spec.extra_hosts) out += address + "\t" + name + "\n";
  return out;
}

// The host's network is the command's, so the host's resolver is reachable as it stands.
std::string resolv_conf_text() {
  const auto text = read_file(AT_FDCWD, "/etc/resolv.conf", 1 << 20);
  return text ? *text : "nameserver 8.8.8.8\nnameserver 8.8.4.4\n";
}

Result<UniqueFd> plan_in_memory(const internal::SandboxPlan& plan) {
  UniqueFd fd(::memfd_create("sandbox-plan", MFD_CLOEXEC));
  if (!fd) return system_error(errno, "memfd_create");
  RETURN_IF_ERROR(write_all(fd.get(), internal::serialise(plan)));
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return system_error(errno, "lseek");
  return fd;
}

Result<internal::SandboxPlan> make_plan(const SandboxSpec& spec) {
  internal::SandboxPlan plan;
  plan.spec = spec;
  plan.hosts = hosts_text(spec);
  plan.resolv_conf = resolv_conf_text();
  plan.full_privileges = ::geteuid() == 0 && read_file(AT_FDCWD, "/proc/self/uid_map").value_or("").find("4294967295") != std::string::npos;
  if (!spec.insecure) {
    ASSIGN_OR_RETURN(plan.seccomp, internal::default_seccomp_filter());
  }
  return plan;
}

// One of the child's streams, read as it comes.
class Relay {
 public:
  Relay(UniqueFd fd, OutputStream stream, const OutputCallback& callback) : fd_(std::move(fd)), stream_(stream), callback_(callback) {}
  int fd() const { return fd_.get(); }
  // Reads once; closes at the end.
  void pump() {
    char buffer[65536];
    const ssize_t n = ::read(fd_.get(), buffer, sizeof buffer);
    if (n > 0) {
      if (callback_) callback_(stream_, std::string_view(buffer, static_cast<size_t>(n)));
    } else if (n == 0 || errno != EINTR) {
      fd_.reset();
    }
  }

 private:
  UniqueFd fd_;
  OutputStream stream_;
  const OutputCallback& callback_;
};

// Waits for the child while relaying. Everything it started is dead when its report pipe and outputs are closed
// and it has been waited for: it waits for the pid namespace itself.
Result<std::string> supervise(ChildProcess& child, std::vector<Relay>& relays, UniqueFd report, int stop_event) {
  std::string text;
  OutputCallback collect = [&](OutputStream, std::string_view bytes) { text += bytes; };
  Relay report_relay(std::move(report), OutputStream::kStderr, collect);
  bool stopped = false;
  while (true) {
    std::vector<pollfd> fds;
    bool open = report_relay.fd() >= 0;
    fds.push_back({report_relay.fd(), POLLIN, 0});
    for (const Relay& r : relays) {
      fds.push_back({r.fd(), POLLIN, 0});
      open = open || r.fd() >= 0;
    }
    if (!open) return text;
    fds.push_back({stopped ? -1 : stop_event, POLLIN, 0});
    if (::poll(fds.data(), fds.size(), -1) < 0) {
      if (errno == EINTR) continue;
      return system_error(errno, "poll");
    }
    if (fds[0].revents != 0) report_relay.pump();
    for (size_t i = 0; i < relays.size(); ++i) {
      if (fds[i + 1].revents != 0) relays[i].pump();
    }
    if (fds.back().revents != 0) {
      stopped = true;
      child.kill(SIGTERM);  // the child kills the whole pid namespace and reports nothing more
    }
  }
}

}  // namespace

Result<ExitStatus> run_sandboxed(const SandboxSpec& spec, const OutputCallback& output, std::stop_token stop) {
  if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
  ASSIGN_OR_RETURN(const internal::SandboxPlan plan, make_plan(spec));
  ASSIGN_OR_RETURN(const UniqueFd plan_fd, plan_in_memory(plan));
  ASSIGN_OR_RETURN(Pipe report, make_pipe());
  const UniqueFd stop_event(::eventfd(0, EFD_CLOEXEC));
  if (!stop_event) return system_error(errno, "eventfd");
  const std::stop_callback on_stop(stop, [&] {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(stop_event.get(), &one, sizeof one);
  });

  SpawnOptions options;
  options.executable = "/proc/self/exe";
  options.argv = {internal::kSandboxArgv0};
  options.environment.emplace();
  options.fds = {{plan_fd.get(), internal::kPlanFd}, {report.write.get(), internal::kReportFd}};
  std::vector<Relay> relays;
  UniqueFd null;
  Pipe out, err;
  if (!spec.inherit_stdio) {
    ASSIGN_OR_RETURN(null, open_at(AT_FDCWD, "/dev/null", O_RDONLY));
    ASSIGN_OR_RETURN(out, make_pipe());
    ASSIGN_OR_RETURN(err, make_pipe());
    options.fds.insert(options.fds.end(), {{null.get(), 0}, {out.write.get(), 1}, {err.write.get(), 2}});
    options.new_process_group = true;  // Ctrl-C reaches us, and we end the sandbox in order
  }
  ASSIGN_OR_RETURN_WITH(ChildProcess child, ChildProcess::spawn(options), "starting the sandbox");
  report.write.reset();
  if (!spec.inherit_stdio) {
    out.write.reset();
    err.write.reset();
    relays.emplace_back(std::move(out.read), OutputStream::kStdout, output);
    relays.emplace_back(std::move(err.read), OutputStream::kStderr, output);
  }
  ASSIGN_OR_RETURN(const std::string text, supervise(child, relays, std::move(report.read), stop_event.get()));
  ASSIGN_OR_RETURN(const ExitStatus own, child.wait());
  if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
  ASSIGN_OR_RETURN(const std::optional<ExitStatus> status, internal::read_report(text));
  if (status) return *status;
  return Error(ErrorKind::kInternal, own.signal != 0 ? fmt::format("the sandbox was killed by signal {}", own.signal) : fmt::format("the sandbox ended with status {} and no report", own.code))
      .with_note("when the machine has too little memory, the kernel kills processes");
}

std::string_view to_string(Isolation isolation) {
  switch (isolation) {
    case Isolation::kRoot: return "root";
    case Isolation::kRootlessRange: return "rootless with a subordinate id range";
    case Isolation::kRootlessSingle: return "rootless with a single id";
  }
  return "unknown";
}

}  // namespace lamina::builder
