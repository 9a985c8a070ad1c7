// What does not depend on the step: the mount calls, and /proc, /dev and /sys, which can be made before anybody knows
// what will run.
#include "builder/internal/mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "base/files.h"
#include "base/text.h"
#include "builder/internal/sandbox_plan.h"

namespace lamina::builder::internal {

namespace {

// What the kernel had to say about a failed fsconfig: it queues messages on the context.
std::string kernel_messages(int context) {
  std::string out;
  char buffer[512];
  while (true) {
    const ssize_t n = ::read(context, buffer, sizeof buffer);
    if (n <= 0) return out;
    out += (out.empty() ? "" : "; ") + std::string(trim(std::string_view(buffer, static_cast<size_t>(n))));
  }
}

}  // namespace

Result<FsContext> FsContext::open(const char* type) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)));
  if (!fd) return system_error(errno, "fsopen", type);
  return FsContext(std::move(fd));
}

bool FsContext::try_set(const char* key, const std::string& value) { return ::syscall(SYS_fsconfig, fd_.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0; }

Result<void> FsContext::set(const char* key, const std::string& value) {
  if (!try_set(key, value)) return failed(errno, key);
  return {};
}

Result<void> FsContext::flag(const char* key) {
  if (::syscall(SYS_fsconfig, fd_.get(), FSCONFIG_SET_FLAG, key, nullptr, 0) != 0) return failed(errno, key);
  return {};
}

Result<UniqueFd> FsContext::mount(unsigned attributes) {
  if (::syscall(SYS_fsconfig, fd_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return failed(errno, "create");
  UniqueFd fd(static_cast<int>(::syscall(SYS_fsmount, fd_.get(), FSMOUNT_CLOEXEC, attributes)));
  if (!fd) return failed(errno, "fsmount");
  return fd;
}

Error FsContext::failed(int error, const char* what) {
  Error e = system_error(error, "mounting", what);
  const std::string said = kernel_messages(fd_.get());
  if (said.empty()) return e;
  return std::move(e).with_note("the kernel says: " + said);
}

Result<void> attach(int mount_fd, int target_fd) {
  if (::syscall(SYS_move_mount, mount_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0) return system_error(errno, "move_mount");
  return {};
}

Result<UniqueFd> clone_tree(int dir_fd, const std::string& path, bool recursive, bool read_only, bool no_devices) {
  const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (path.empty() ? AT_EMPTY_PATH : 0) | (recursive ? AT_RECURSIVE : 0);
  UniqueFd fd(static_cast<int>(::syscall(SYS_open_tree, dir_fd, path.c_str(), flags)));
  if (!fd) return system_error(errno, "open_tree", path);
  if (read_only || no_devices) {
    mount_attr attributes{};
    attributes.attr_set = (read_only ? MOUNT_ATTR_RDONLY : 0) | (no_devices ? MOUNT_ATTR_NODEV : 0);
    if (::syscall(SYS_mount_setattr, fd.get(), "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attributes, sizeof attributes) != 0) {
      return system_error(errno, "mount_setattr", path);
    }
  }
  return fd;
}

namespace {

class Staging {
 public:
  explicit Staging(const SandboxBase& base) : base_(base) {}

  // The directory with proc, dev and sys. It covers this namespace's /sys, which is looked at first.
  Result<UniqueFd> make() {
    if (::mount(nullptr, "/", nullptr, kRec | kPrivate, nullptr) != 0) return system_error(errno, "making mounts private");
    ASSIGN_OR_RETURN(const UniqueFd sys, sys_tree());
    ASSIGN_OR_RETURN(const std::vector<UniqueFd> shared_devices, machine_devices());
    if (::mount("tmpfs", "/sys", "tmpfs", kNosuid | kNoexec, "mode=755") != 0) return system_error(errno, "mount", "/sys");
    ASSIGN_OR_RETURN(root_, open_directory(AT_FDCWD, "/sys"));
    for (const char* name : {"proc", "dev", "sys"}) {
      if (::mkdirat(root_.get(), name, 0755) != 0) return system_error(errno, "mkdir", name);
    }
    RETURN_IF_ERROR(mount_proc());
    RETURN_IF_ERROR(make_dev(shared_devices));
    ASSIGN_OR_RETURN(const UniqueFd at, open_at(root_.get(), "sys", O_PATH | O_DIRECTORY));
    RETURN_IF_ERROR(attach(sys.get(), at.get()));
    if (!base_.insecure) mask();
    return std::move(root_);
  }

 private:
  std::string path_of(const char* name) const { return fd_path(root_.get()) + "/" + name; }

  Result<void> mount_proc() {
    if (::mount("proc", path_of("proc").c_str(), "proc", kNosuid | kNodev | kNoexec, "") == 0) return {};
    Error error = system_error(errno, "mount", "/proc");
    if (error.kind() != ErrorKind::kDenied) return error;
    return std::move(error).with_note("a container that masks parts of /proc forbids this; run it with --security-opt systempaths=unconfined or as a privileged pod");
  }

  // sysfs shows a network namespace. Where that is not ours the machine's mount is shown, read-only.
  static Result<UniqueFd> sys_tree() {
    if (auto context = FsContext::open("sysfs")) {
      if (auto own = context->mount(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)) return own;
    }
    return clone_tree(AT_FDCWD, "/sys", true, true);
  }

  struct Device {
    const char* name;
    unsigned major, minor;
  };
  static constexpr Device kDevices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};

  // In a user namespace no node can be made, and root there cannot change the machine's.
  Result<std::vector<UniqueFd>> machine_devices() const {
    std::vector<UniqueFd> trees;
    if (base_.full_privileges) return trees;
    for (const Device& d : kDevices) {
      ASSIGN_OR_RETURN(UniqueFd tree, clone_tree(AT_FDCWD, std::string("/dev/") + d.name, false, false));
      trees.push_back(std::move(tree));
    }
    return trees;
  }

  // With full privileges they are nodes of our own, on the staging file system: chmod in a RUN must not reach the
  // machine's. The command sees clones of the single files.
  Result<UniqueFd> own_device(const Device& d) const {
    if (::mknodat(root_.get(), d.name, S_IFCHR | 0666, makedev(d.major, d.minor)) != 0) return system_error(errno, "mknod", d.name);
    if (::fchmodat(root_.get(), d.name, 0666, 0) != 0) return system_error(errno, "chmod", d.name);
    return clone_tree(root_.get(), d.name, false, false);
  }

  Result<void> make_dev(const std::vector<UniqueFd>& shared_devices) {
    // Everything that the command can write to is nodev: a node it makes (it may, for the image) opens no device of
    // the machine.
    if (::mount("tmpfs", path_of("dev").c_str(), "tmpfs", kNosuid | kNodev, "mode=755,size=65536k") != 0) return system_error(errno, "mount", "/dev");
    ASSIGN_OR_RETURN(const UniqueFd dev, open_in_root(root_.get(), "dev", O_RDONLY | O_DIRECTORY));
    for (size_t i = 0; i < std::size(kDevices); ++i) {
      ASSIGN_OR_RETURN(const UniqueFd file, open_at(dev.get(), kDevices[i].name, O_WRONLY | O_CREAT | O_EXCL, 0666));
      UniqueFd own;
      if (base_.full_privileges) {
        ASSIGN_OR_RETURN(own, own_device(kDevices[i]));
      }
      RETURN_IF_ERROR(attach(own ? own.get() : shared_devices[i].get(), file.get()));
    }
    const std::pair<const char*, const char*> links[] = {{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}, {"/proc/kcore", "core"}};
    for (const auto& [to, name] : links) {
      if (::symlinkat(to, dev.get(), name) != 0) return system_error(errno, "symlink", name);
    }
    for (const char* name : {"pts", "shm", "mqueue"}) {
      if (::mkdirat(dev.get(), name, 0755) != 0) return system_error(errno, "mkdir", name);
    }
    const std::string base = fd_path(dev.get());
    if (::mount("devpts", (base + "/pts").c_str(), "devpts", kNosuid | kNoexec, "newinstance,ptmxmode=0666,mode=0620") != 0) return system_error(errno, "mount", "/dev/pts");
    const std::string size = fmt::format("mode=1777,size={}", base_.shm_size_bytes);
    if (::mount("shm", (base + "/shm").c_str(), "tmpfs", kNosuid | kNodev | kNoexec, size.c_str()) != 0) return system_error(errno, "mount", "/dev/shm");
    // Not every kernel has POSIX message queues.
    ::mount("mqueue", (base + "/mqueue").c_str(), "mqueue", kNosuid | kNodev | kNoexec, nullptr);
    return {};
  }

  // Docker's masked and read-only paths; absent ones are fine.
  void mask() {
    const auto null = open_in_root(root_.get(), "dev/null", O_PATH);
    const char* const masked[] = {"proc/asound", "proc/acpi", "proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
                                  "proc/timer_stats", "proc/sched_debug", "proc/scsi", "sys/firmware", "sys/devices/virtual/powercap"};
    for (const char* path : masked) {
      const auto at = open_in_root(root_.get(), path, O_PATH);
      struct stat st {};
      if (!at || ::fstat(at->get(), &st) != 0) continue;
      if (S_ISDIR(st.st_mode)) {
        ::mount("tmpfs", fd_path(at->get()).c_str(), "tmpfs", kRdonly, "size=0");
      } else if (const auto tree = clone_tree(null ? null->get() : -1, "", false, false)) {
        ignore_error(attach(tree->get(), at->get()), "the path is masked as far as the kernel allows");
      }
    }
    for (const char* path : {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"}) {
      const auto at = open_in_root(root_.get(), path, O_PATH);
      if (!at) continue;
      if (const auto tree = clone_tree(at->get(), "", true, true)) ignore_error(attach(tree->get(), at->get()), "as above");
    }
  }

  const SandboxBase& base_;
  UniqueFd root_;
};

}  // namespace

Result<UniqueFd> prepare_kernel_file_systems(const SandboxBase& base) { return Staging(base).make(); }

}  // namespace lamina::builder::internal
