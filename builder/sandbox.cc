// The parent's side: starts the child, relays output, waits for the end.
#include "builder/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/files.h"
#include "base/guarded.h"
#include "base/text.h"
#include "base/trace.h"
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

internal::SandboxBase base_of(const SandboxSpec& spec) {
  static const bool full_privileges = ::geteuid() == 0 && read_file(AT_FDCWD, "/proc/self/uid_map").value_or("").find("4294967295") != std::string::npos;
  return {spec.network, spec.insecure, spec.inherit_stdio, full_privileges, spec.shm_size_bytes};
}

internal::SandboxPlan make_plan(const SandboxSpec& spec, const internal::SandboxBase& base) {
  internal::SandboxPlan plan;
  plan.spec = spec;
  plan.hosts = hosts_text(spec);
  plan.resolv_conf = resolv_conf_text();
  plan.full_privileges = base.full_privileges;
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

// Relays until the child has reported how its command ended, which it does when everything that the command started is
// dead, or until it and all its streams have ended.
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
    // After the report nobody writes to the outputs any more: what they hold is read, their ends are not waited for.
    const auto report_read = text.empty() ? Result<std::optional<ExitStatus>>(std::nullopt) : internal::read_report(text);
    const bool reported = report_read && *report_read;
    const int ready = ::poll(fds.data(), fds.size(), reported ? 0 : -1);
    if (ready == 0) return text;
    if (ready < 0) {
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

// The processes of a sandbox that waits for its plan.
struct Prepared {
  internal::SandboxBase base;
  ChildProcess child;
  UniqueFd plan;  // a socket: writing to a dead child raises no signal
  UniqueFd report, out, err;
};

Result<Prepared> prepare(const internal::SandboxBase& base) {
  const TraceSpan span("sandbox", "prepare");
  int plan[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, plan) != 0) return system_error(errno, "socketpair");
  UniqueFd plan_ours(plan[0]);
  const UniqueFd plan_theirs(plan[1]);
  ASSIGN_OR_RETURN(Pipe report, make_pipe());
  SpawnOptions options;
  options.executable = "/proc/self/exe";
  options.argv = internal::to_arguments(base);
  options.environment.emplace();
  options.fds = {{plan_theirs.get(), internal::kPlanFd}, {report.write.get(), internal::kReportFd}};
  UniqueFd null;
  Pipe out, err;
  if (!base.inherit_stdio) {
    ASSIGN_OR_RETURN(null, open_at(AT_FDCWD, "/dev/null", O_RDONLY));
    ASSIGN_OR_RETURN(out, make_pipe());
    ASSIGN_OR_RETURN(err, make_pipe());
    options.fds.insert(options.fds.end(), {{null.get(), 0}, {out.write.get(), 1}, {err.write.get(), 2}});
    options.new_process_group = true;  // Ctrl-C reaches us, and we end the sandbox in order
  }
  ASSIGN_OR_RETURN_WITH(ChildProcess child, ChildProcess::spawn(options), "starting the sandbox");
  return Prepared{base, std::move(child), std::move(plan_ours), std::move(report.read), std::move(out.read), std::move(err.read)};
}

// A child that is dead says why in its report.
void send_plan(const UniqueFd& socket, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (n < 0 && errno != EINTR) return;
    if (n > 0) text.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

struct Sandboxes::Impl {
  // A sandbox is taken down by the kernel when its last process ends. That takes a while, and only the next root is in
  // need of it: overlayfs wants no upper directory to be another's lower one.
  void wait_for_ending() {
    std::vector<ChildProcess> all;
    all.swap(*ending.lock());
    if (all.empty()) return;
    const TraceSpan span("wait", "for the last sandbox to be taken down");
    for (ChildProcess& child : all) ignore_error(child.wait(), "its command has been reported");
  }

  // One that was prepared, or a new one.
  Result<Prepared> take(const internal::SandboxBase& base) {
    if (auto waiting = prepared.lock(); !waiting->empty()) {
      // Killed while it waited, by who is short of memory.
      std::erase_if(*waiting, [](const Prepared& p) {
        pollfd ended{p.child.pidfd(), POLLIN, 0};
        return ::poll(&ended, 1, 0) > 0;
      });
      const auto fits = std::find_if(waiting->begin(), waiting->end(), [&](const Prepared& p) { return p.base == base; });
      if (fits != waiting->end()) {
        Prepared found = std::move(*fits);
        waiting->erase(fits);
        return found;
      }
    }
    return prepare(base);
  }

  Guarded<std::vector<Prepared>> prepared;
  Guarded<std::vector<ChildProcess>> ending;  // their commands were reported
};

Sandboxes::Sandboxes() : impl_(std::make_unique<Impl>()) {}
Sandboxes::~Sandboxes() { impl_->wait_for_ending(); }

Result<ExitStatus> Sandboxes::run(const SandboxSpec& spec, const OutputCallback& output, std::stop_token stop, bool another_follows) {
  if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
  const internal::SandboxBase base = base_of(spec);
  const internal::SandboxPlan plan = make_plan(spec, base);
  const UniqueFd stop_event(::eventfd(0, EFD_CLOEXEC));
  if (!stop_event) return system_error(errno, "eventfd");
  const std::stop_callback on_stop(stop, [&] {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(stop_event.get(), &one, sizeof one);
  });
  ASSIGN_OR_RETURN(Prepared sandbox, impl_->take(base));
  impl_->wait_for_ending();
  send_plan(sandbox.plan, internal::serialise(plan));
  sandbox.plan.reset();
  if (another_follows && impl_->prepared.lock()->empty()) {
    // Without it the next command waits a little longer; a reason that lasts is told then.
    if (auto next = prepare(base)) impl_->prepared.lock()->push_back(*std::move(next));
  }
  std::vector<Relay> relays;
  if (!spec.inherit_stdio) {
    relays.emplace_back(std::move(sandbox.out), OutputStream::kStdout, output);
    relays.emplace_back(std::move(sandbox.err), OutputStream::kStderr, output);
  }
  std::optional<TraceSpan> span;
  span.emplace("sandbox", "command");
  ASSIGN_OR_RETURN(const std::string text, supervise(sandbox.child, relays, std::move(sandbox.report), stop_event.get()));
  span.reset();
  const auto reported = internal::read_report(text);
  if (reported && *reported && !stop.stop_requested()) {
    impl_->ending.lock()->push_back(std::move(sandbox.child));
    return **reported;
  }
  ASSIGN_OR_RETURN(const ExitStatus own, sandbox.child.wait());
  if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
  if (!reported) return Error(reported.error());
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
