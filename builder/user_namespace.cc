// Rootless: the whole program continues inside a user namespace in which it is root, made once at the start.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/child_process.h"
#include "base/files.h"
#include "base/text.h"
#include "builder/sandbox.h"

namespace lamina::builder {

namespace {

struct IdRange {
  uint64_t first = 0, count = 0;
};

bool has_sys_admin() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  return (data[0].effective >> CAP_SYS_ADMIN & 1) != 0;
}

std::string user_name() {
  const passwd* entry = ::getpwuid(::getuid());  // NOLINT(concurrency-mt-unsafe): no threads yet
  return entry == nullptr ? std::to_string(::getuid()) : entry->pw_name;
}

// subuid(5): name or uid, first id, count.
std::vector<IdRange> subordinate_ranges(const char* file, const std::string& user) {
  std::vector<IdRange> out;
  const auto text = read_file_if_exists(AT_FDCWD, file);
  if (!text || !*text) return out;
  for (const std::string& line : split(**text, '\n')) {
    const std::vector<std::string> f = split(line, ':');
    if (f.size() != 3 || (f[0] != user && f[0] != std::to_string(::getuid()))) continue;
    const auto first = parse_uint(f[1]), count = parse_uint(f[2]);
    if (first && count && *count > 0) out.push_back({*first, *count});
  }
  return out;
}

Result<void> map_with_helper(const char* program, pid_t pid, uint64_t own, const std::vector<IdRange>& ranges) {
  SpawnOptions options;
  options.argv = {program, std::to_string(pid), "0", std::to_string(own), "1"};
  uint64_t inside = 1;
  for (const IdRange& r : ranges) {
    options.argv.insert(options.argv.end(), {std::to_string(inside), std::to_string(r.first), std::to_string(r.count)});
    inside += r.count;
  }
  auto done = run_and_capture(options);
  if (done) return {};
  if (done.error().kind() == ErrorKind::kNotFound) {
    return Error(ErrorKind::kUnsupported, fmt::format("{} is not installed", program)).with_note("install it: apt-get install uidmap");
  }
  return std::move(done).error();
}

Result<void> map_single(pid_t pid) {
  const std::string base = "/proc/" + std::to_string(pid);
  const auto write_map = [&](const char* name, const std::string& text) -> Result<void> {
    ASSIGN_OR_RETURN(const UniqueFd fd, open_at(AT_FDCWD, base + "/" + name, O_WRONLY));
    return write_all(fd.get(), text);
  };
  RETURN_IF_ERROR(write_map("setgroups", "deny"));
  RETURN_IF_ERROR(write_map("uid_map", fmt::format("0 {} 1", ::getuid())));
  return write_map("gid_map", fmt::format("0 {} 1", ::getgid()));
}

Error no_namespace(int error_number) {
  Error error = Error(ErrorKind::kUnsupported, fmt::format("this kernel gives ordinary users no user namespace: {}", errno_text(error_number))).with_errno(error_number);
  for (const char* name : {"kernel/unprivileged_userns_clone", "kernel/apparmor_restrict_unprivileged_userns", "user/max_user_namespaces"}) {
    const auto text = read_file_if_exists(AT_FDCWD, std::string("/proc/sys/") + name);
    if (!text || !*text) continue;
    const std::string value(trim(**text));
    std::string dotted = name;
    dotted[dotted.find('/')] = '.';
    if (dotted == "kernel.apparmor_restrict_unprivileged_userns" ? value == "1" : value == "0") {
      error = std::move(error).with_note(fmt::format("{} is {}; an administrator can change it with sysctl", dotted, value));
    }
  }
  return std::move(error).with_note("run as root, or in a container that allows user namespaces");
}

// The outer process does nothing but wait, pass signals on, and end as the inner one does.
pid_t inner = -1;
extern "C" void pass_on(int signal) {
  sigval value{};
  value.sival_int = kPassedOnSignal;
  if (inner > 0) ::sigqueue(inner, signal, value);
}

[[noreturn]] void wait_and_exit() {
  struct sigaction action {};
  action.sa_handler = pass_on;
  action.sa_flags = SA_RESTART;
  for (int s : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) ::sigaction(s, &action, nullptr);
  // A terminal sends it to the whole group: the inner process has got it itself.
  ::signal(SIGQUIT, SIG_IGN);
  int status = 0;
  while (::waitpid(inner, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    ::signal(WTERMSIG(status), SIG_DFL);
    ::raise(WTERMSIG(status));
  }
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

struct Pipe {
  UniqueFd read, write;
};
Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return system_error(errno, "pipe2");
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace

Result<Isolation> enter_user_namespace(int, char**) {
  if (::geteuid() == 0 && has_sys_admin()) return Isolation::kRoot;
  const std::string user = user_name();
  const std::vector<IdRange> uids = subordinate_ranges("/etc/subuid", user), gids = subordinate_ranges("/etc/subgid", user);
  const bool ranged = !uids.empty() && !gids.empty();
  ASSIGN_OR_RETURN(Pipe ready, make_pipe());   // inner → outer: the namespace exists, or why not
  ASSIGN_OR_RETURN(Pipe mapped, make_pipe());  // outer → inner: ids are mapped
  inner = ::fork();
  if (inner < 0) return system_error(errno, "fork");
  if (inner == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int error = ::unshare(CLONE_NEWUSER) == 0 ? 0 : errno;
    ignore_error(write_all(ready.write.get(), std::string_view(reinterpret_cast<const char*>(&error), sizeof error)), "the outer process is gone then");
    if (error != 0) ::_exit(1);
    mapped.write.reset();
    char go = 0;
    if (::read(mapped.read.get(), &go, 1) != 1) ::_exit(1);
    if (::setresgid(0, 0, 0) != 0 || ::setresuid(0, 0, 0) != 0) return system_error(errno, "setresuid");
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // setresuid(2) cleared it
    // HOME and the like stay those of the user; so does access to the user's files.
    return ranged ? Isolation::kRootlessRange : Isolation::kRootlessSingle;
  }
  ready.write.reset();
  int error = EIO;
  if (::read(ready.read.get(), &error, sizeof error) != sizeof error || error != 0) {
    ::waitpid(inner, nullptr, 0);
    return no_namespace(error);
  }
  const auto map = [&]() -> Result<void> {
    if (!ranged) return map_single(inner);
    RETURN_IF_ERROR(map_with_helper("newuidmap", inner, ::getuid(), uids));
    return map_with_helper("newgidmap", inner, ::getgid(), gids);
  };
  if (auto done = map(); !done) {
    ::kill(inner, SIGKILL);
    ::waitpid(inner, nullptr, 0);
    return std::move(done).error().with_context("mapping the subordinate ids of " + user);
  }
  ignore_error(write_all(mapped.write.get(), "1"), "the inner process is gone then");
  wait_and_exit();
}

}  // namespace lamina::builder
