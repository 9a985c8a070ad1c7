// The child's side. Three processes: the outer one waits in our pid namespace; the inner one is pid 1 of the new
// namespace, prepares what every command needs, waits for the plan, makes the root, and reaps; the third becomes the
// command.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <iterator>

#include "base/files.h"
#include "base/text.h"
#include "builder/internal/sandbox_plan.h"
#include "builder/sandbox.h"

namespace lamina::builder {

namespace internal {

namespace {

void report(const std::string& text) { ignore_error(write_all(kReportFd, text), "nobody else to tell"); }

// capabilities(7); the set that Docker leaves to a container.
constexpr int kCapabilities[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FSETID,  CAP_FOWNER,           CAP_MKNOD,      CAP_NET_RAW, CAP_SETGID,
                                 CAP_SETUID, CAP_SETFCAP,      CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_KILL,    CAP_AUDIT_WRITE};

Result<void> set_capabilities(uint64_t mask) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  data[0].effective = data[0].permitted = static_cast<uint32_t>(mask);
  data[1].effective = data[1].permitted = static_cast<uint32_t>(mask >> 32);
  if (::syscall(SYS_capset, &header, data) != 0) return system_error(errno, "capset");
  return {};
}

uint64_t default_capabilities() {
  uint64_t mask = 0;
  for (int c : kCapabilities) mask |= uint64_t{1} << c;
  return mask;
}

// What there is to give: a container or an older kernel may know fewer.
Result<uint64_t> permitted_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return system_error(errno, "capget");
  return uint64_t{data[1].permitted} << 32 | data[0].permitted;
}

Result<void> limit_bounding_set(uint64_t keep) {
  for (int c = 0; c < 64; ++c) {
    if ((keep >> c & 1) != 0 || ::prctl(PR_CAPBSET_READ, c) != 1) continue;
    if (::prctl(PR_CAPBSET_DROP, c) != 0) return system_error(errno, "prctl(PR_CAPBSET_DROP)");
  }
  return {};
}

// seccomp_filter.cc
constexpr sock_filter kDefaultFilter[] = {
#include "seccomp_filter.inc"
};

Result<void> load_seccomp() {
  sock_fprog filter{};
  filter.len = static_cast<unsigned short>(std::size(kDefaultFilter));
  filter.filter = const_cast<sock_filter*>(kDefaultFilter);
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) return system_error(errno, "seccomp");
  return {};
}

Result<void> become_user(const SandboxPlan& plan, const ResolvedUser& user) {
  ASSIGN_OR_RETURN(const uint64_t permitted, permitted_capabilities());
  const uint64_t keep = plan.spec.insecure ? permitted : default_capabilities() & permitted;
  if (!plan.spec.insecure) RETURN_IF_ERROR(limit_bounding_set(keep));
  std::vector<gid_t> groups(user.groups.begin(), user.groups.end());
  groups.insert(groups.end(), plan.spec.extra_groups.begin(), plan.spec.extra_groups.end());
  if (::setgroups(groups.size(), groups.data()) != 0) {
    // With a single mapped id the kernel forbids setgroups; nothing is lost when only group 0 is wanted.
    const bool only_root = groups.empty() || (groups.size() == 1 && groups[0] == 0);
    const bool root_and_more = user.uid == 0 && user.gid == 0;
    if (errno != EPERM || !(only_root || root_and_more)) {
      return system_error(errno, "setgroups").with_note("this user has no subordinate id range, so other groups cannot be used; see docs/sandbox.md");
    }
  }
  const auto id_error = [&](const char* call, uint32_t id) {
    Error error = system_error(errno, call, std::to_string(id));
    if (error.error_number() != EINVAL) return error;
    return std::move(error).with_note(fmt::format("id {} is not mapped into this user's namespace: give the user a subordinate id range in /etc/subuid and /etc/subgid", id));
  };
  if (::setresgid(user.gid, user.gid, user.gid) != 0) return id_error("setresgid", user.gid);
  if (::prctl(PR_SET_KEEPCAPS, 1) != 0) return system_error(errno, "prctl(PR_SET_KEEPCAPS)");
  if (::setresuid(user.uid, user.uid, user.uid) != 0) return id_error("setresuid", user.uid);
  // The filter is loaded while CAP_SYS_ADMIN is still there, so that no_new_privs need not be set and setuid
  // programs of the image keep working (seccomp(2)).
  RETURN_IF_ERROR(set_capabilities(keep | (permitted & uint64_t{1} << CAP_SYS_ADMIN)));
  if (!plan.spec.insecure) RETURN_IF_ERROR(load_seccomp());
  if (plan.spec.insecure && user.uid == 0) return {};
  return set_capabilities(user.uid == 0 ? keep : 0);
}

Result<void> set_limits(const std::vector<std::string>& limits) {
  static const std::vector<std::pair<std::string, int>> kNames = {
      {"core", RLIMIT_CORE},       {"cpu", RLIMIT_CPU},     {"data", RLIMIT_DATA},   {"fsize", RLIMIT_FSIZE},           {"locks", RLIMIT_LOCKS},
      {"memlock", RLIMIT_MEMLOCK}, {"msgqueue", RLIMIT_MSGQUEUE}, {"nice", RLIMIT_NICE}, {"nofile", RLIMIT_NOFILE},     {"nproc", RLIMIT_NPROC},
      {"rss", RLIMIT_RSS},         {"rtprio", RLIMIT_RTPRIO}, {"sigpending", RLIMIT_SIGPENDING}, {"stack", RLIMIT_STACK}};
  for (const std::string& text : limits) {
    const size_t eq = text.find('='), colon = text.find(':');
    const std::string name = text.substr(0, eq);
    const auto value = [](const std::string& s) { return s == "-1" ? std::optional<uint64_t>(RLIM_INFINITY) : parse_uint(s); };
    const auto soft = eq == std::string::npos ? std::nullopt : value(text.substr(eq + 1, colon == std::string::npos ? colon : colon - eq - 1));
    const auto hard = colon == std::string::npos ? soft : value(text.substr(colon + 1));
    bool known = false;
    for (const auto& [n, resource] : kNames) {
      if (n != name || !soft || !hard) continue;
      known = true;
      const rlimit limit{*soft, *hard};
      if (::setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) return system_error(errno, "setrlimit", text);
    }
    if (!known) return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is no limit", text)).with_note("write --ulimit nofile=1024:2048");
  }
  return {};
}

// Why execve failed, in the terms of somebody who wrote the Dockerfile.
Error exec_error(int error_number, const std::string& program, const std::string& path) {
  Error error = Error(error_number == ENOENT ? ErrorKind::kNotFound : ErrorKind::kDenied, fmt::format("exec \"{}\": {}", program, errno_text(error_number))).with_errno(error_number);
  struct stat st {};
  if (error_number == ENOENT && !path.empty() && ::stat(path.c_str(), &st) == 0) {
    return std::move(error).with_note("the file is there, but the interpreter or loader that it names is not in the image");
  }
  if (error_number == ENOENT && program == "/bin/sh") {
    return std::move(error).with_note("the image has no shell; use the exec form, RUN [\"program\", \"argument\"], or a base image with one");
  }
  if (error_number == ENOEXEC) {
    return Error(ErrorKind::kUnsupported, error.message()).with_errno(error_number).with_note("the program is for another processor, or a script without #!; foreign programs need qemu registered in binfmt_misc");
  }
  if (error_number == EACCES) return std::move(error).with_note("the file is not executable for this user");
  return error;
}

void add_home(std::vector<std::string>& environment, const ResolvedUser& user) {
  for (const std::string& e : environment) {
    if (e.compare(0, 5, "HOME=") == 0) return;
  }
  environment.push_back("HOME=" + (user.home.empty() ? "/" : user.home));
}

Result<void> enter_working_directory(const SandboxSpec& spec, const ResolvedUser& user) {
  if (::chdir(spec.working_dir.c_str()) == 0) return {};
  if (errno != ENOENT) return system_error(errno, "chdir", spec.working_dir);
  // We are in the root already: paths cannot lead out of it.
  std::string made;
  for (const std::string& part : path_components(spec.working_dir)) {
    made += "/" + part;
    if (::mkdir(made.c_str(), 0755) == 0) {
      if (::chown(made.c_str(), user.uid, user.gid) != 0) return system_error(errno, "chown", made);
    } else if (errno != EEXIST) {
      return system_error(errno, "mkdir", made);
    }
  }
  if (::chdir(spec.working_dir.c_str()) != 0) return system_error(errno, "chdir", spec.working_dir);
  return {};
}

}  // namespace

Error execute_command(const SandboxPlan& plan, const ResolvedUser& user) {
  const SandboxSpec& spec = plan.spec;
  const auto prepare = [&]() -> Result<void> {
    RETURN_IF_ERROR(set_limits(spec.ulimits));
    if (!spec.inherit_stdio) {
      // A pipe belongs to who made it; the user must be able to open /dev/stdout.
      for (int fd : {1, 2}) {
        if (::fchown(fd, user.uid, user.gid) != 0 && errno != EINVAL && errno != EPERM) return system_error(errno, "fchown");
      }
      ::setsid();
    }
    RETURN_IF_ERROR(enter_working_directory(spec, user));
    return become_user(plan, user);
  };
  if (auto prepared = prepare(); !prepared) return std::move(prepared).error();

  std::vector<std::string> environment = spec.environment;
  add_home(environment, user);
  std::vector<char*> argv, envp;
  for (const std::string& a : spec.argv) argv.push_back(const_cast<char*>(a.c_str()));
  for (const std::string& e : environment) envp.push_back(const_cast<char*>(e.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  const std::string& program = spec.argv[0];
  ::umask(022);
  if (program.find('/') != std::string::npos) {
    ::execve(program.c_str(), argv.data(), envp.data());
    return exec_error(errno, program, program);
  }
  std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (const std::string& e : environment) {
    if (e.compare(0, 5, "PATH=") == 0) path = e.substr(5);
  }
  int worst = ENOENT;
  std::string found;
  for (const std::string& directory : split(path, ':')) {
    const std::string candidate = (directory.empty() ? "." : directory) + "/" + program;
    ::execve(candidate.c_str(), argv.data(), envp.data());
    if (errno == ENOENT || errno == ENOTDIR) {
      struct stat st {};
      if (found.empty() && ::stat(candidate.c_str(), &st) == 0) found = candidate;
      continue;
    }
    worst = errno;
    found = candidate;
    if (worst != EACCES) break;
  }
  return exec_error(worst, program, found).with_note("PATH is " + path);
}

namespace {

void bring_loopback_up() {
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  ifreq request{};
  ::strncpy(request.ifr_name, "lo", sizeof request.ifr_name - 1);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  ::ioctl(fd, SIOCSIFFLAGS, &request);
  ::close(fd);
}

ReadText reader_in_root() {
  return [](const std::string& path) { return read_file_if_exists(AT_FDCWD, path, 10 << 20); };
}

// Makes the root and runs the command in it; returns the exit status of pid 1 (only for the outer process to see).
int run_in_root(const SandboxPlan& plan, int staging) {
  const SandboxSpec& spec = plan.spec;
  auto upper = open_directory(AT_FDCWD, spec.upper_dir);
  if (!upper) {
    report(serialise(upper.error()));
    return 1;
  }
  if (::sethostname(spec.hostname.c_str(), spec.hostname.size()) != 0) {
    report(serialise(system_error(errno, "sethostname", spec.hostname)));
    return 1;
  }
  auto made = enter_root(plan, staging);
  if (!made) {
    report(serialise(std::move(made).error().with_context("setting up the sandbox")));
    return 1;
  }
  auto user = resolve_user(spec.user, reader_in_root());
  if (!user) {
    remove_stubs(upper->get(), *made);
    report(serialise(user.error()));
    return 1;
  }
  const pid_t command = ::fork();
  if (command == 0) {
    report(serialise(execute_command(plan, *user)));
    ::_exit(127);
  }
  if (command < 0) {
    report(serialise(system_error(errno, "fork")));
    return 1;
  }
  ExitStatus status;
  while (true) {
    int raw = 0;
    const pid_t pid = ::waitpid(-1, &raw, 0);
    if (pid < 0 && errno == EINTR) continue;
    if (pid < 0) break;
    if (pid != command) continue;  // an orphan was reaped
    if (WIFSIGNALED(raw)) {
      status.signal = WTERMSIG(raw);
    } else {
      status.code = WEXITSTATUS(raw);
    }
    break;
  }
  // Whatever the command left running must not change the layer any more.
  ::kill(-1, SIGKILL);
  while (::waitpid(-1, nullptr, 0) > 0 || errno == EINTR) {
  }
  remove_stubs(upper->get(), *made);
  report(serialise(status));
  return 0;
}

// pid 1 of the namespace.
int inner_process(const SandboxBase& base) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (base.network == NetworkMode::kNone) bring_loopback_up();
  auto staging = prepare_kernel_file_systems(base);
  const auto text = read_fd(kPlanFd);
  if (text && text->empty()) return 0;  // prepared for a command that never came
  const auto plan = text ? deserialise(*text) : Result<SandboxPlan>(Error(text.error()));
  if (!plan) {
    report(serialise(plan.error()));
    return 1;
  }
  ::close(kPlanFd);
  if (!staging) {
    report(serialise(std::move(staging).error().with_context("setting up the sandbox")));
    return 1;
  }
  return run_in_root(*plan, staging->get());
}

pid_t inner_pid = -1;  // for the signal handler of the outer process
extern "C" void kill_inner(int) {
  if (inner_pid > 0) ::kill(inner_pid, SIGKILL);
}

int outer_process(const SandboxBase& base) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // What is made for the sandbox must be readable in it, whatever the umask of who builds.
  ::umask(022);
  ::fcntl(kPlanFd, F_SETFD, FD_CLOEXEC);
  ::fcntl(kReportFd, F_SETFD, FD_CLOEXEC);
  int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  if (base.network == NetworkMode::kNone) flags |= CLONE_NEWNET;
  if (::unshare(flags) != 0) {
    Error error = system_error(errno, "unshare");
    report(serialise(std::move(error).with_note("the kernel or the container this runs in forbids new namespaces")));
    return 1;
  }
  // Signals that end us must end the namespace first: blocked until the handler knows whom to kill.
  sigset_t blocked, before;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &blocked, &before);
  ::signal(SIGINT, SIG_IGN);
  inner_pid = ::fork();
  if (inner_pid == 0) {
    ::signal(SIGINT, SIG_DFL);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    ::_exit(inner_process(base));
  }
  if (inner_pid < 0) {
    report(serialise(system_error(errno, "fork")));
    return 1;
  }
  struct sigaction action {};
  action.sa_handler = kill_inner;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  ::close(kPlanFd);
  int status = 0;
  while (::waitpid(inner_pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace

}  // namespace internal

void sandbox_child_main(int argc, char** argv) {
  if (const auto base = internal::from_arguments(argc, argv)) ::_exit(internal::outer_process(*base));
}

}  // namespace lamina::builder
