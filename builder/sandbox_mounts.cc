// The root file system of a sandbox: overlay, kernel file systems, the step's own mounts; and the removal of
// mount points that must not reach the layer. New mount API: fsopen(2), fsconfig(2), move_mount(2).
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>

#include "base/files.h"
#include "base/text.h"
#include "builder/internal/sandbox_plan.h"

// <sys/mount.h> clashes with <linux/mount.h> in glibc 2.36.
extern "C" {
int mount(const char*, const char*, const char*, unsigned long, const void*) noexcept;
int umount2(const char*, int) noexcept;
}

namespace lamina::builder::internal {

namespace {

constexpr unsigned long kRdonly = 1, kNosuid = 2, kNodev = 4, kNoexec = 8, kRec = 16384, kPrivate = 1 << 18;
constexpr int kDetach = 2;

std::string parent_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

std::string fd_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

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

class FsContext {
 public:
  static Result<FsContext> open(const char* type) {
    UniqueFd fd(static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)));
    if (!fd) return system_error(errno, "fsopen", type);
    return FsContext(std::move(fd));
  }
  bool try_set(const char* key, const std::string& value) { return ::syscall(SYS_fsconfig, fd_.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0; }
  Result<void> set(const char* key, const std::string& value) {
    if (!try_set(key, value)) return failed(errno, key);
    return {};
  }
  Result<void> flag(const char* key) {
    if (::syscall(SYS_fsconfig, fd_.get(), FSCONFIG_SET_FLAG, key, nullptr, 0) != 0) return failed(errno, key);
    return {};
  }
  Result<UniqueFd> mount(unsigned attributes) {
    if (::syscall(SYS_fsconfig, fd_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return failed(errno, "create");
    UniqueFd fd(static_cast<int>(::syscall(SYS_fsmount, fd_.get(), FSMOUNT_CLOEXEC, attributes)));
    if (!fd) return failed(errno, "fsmount");
    return fd;
  }

 private:
  explicit FsContext(UniqueFd fd) : fd_(std::move(fd)) {}
  Error failed(int error, const char* what) {
    Error e = system_error(error, "mounting", what);
    const std::string said = kernel_messages(fd_.get());
    if (said.empty()) return e;
    return std::move(e).with_note("the kernel says: " + said);
  }
  UniqueFd fd_;
};

// overlayfs: upper with its changes, or none (then read-only). Lower directories top first.
Result<UniqueFd> mount_overlay(const std::vector<std::string>& lower, const std::string& upper, const std::string& work, bool full_privileges, bool no_devices) {
  ASSIGN_OR_RETURN(FsContext context, FsContext::open("overlay"));
  ignore_error(context.set("source", "lamina"), "only a label");
  bool one_by_one = true;
  for (size_t i = 0; i < lower.size() && one_by_one; ++i) {
    one_by_one = context.try_set("lowerdir+", lower[i]);
    if (!one_by_one && i > 0) return system_error(errno, "adding overlay layer", lower[i]);
  }
  if (!one_by_one) {  // before Linux 6.8
    RETURN_IF_ERROR(context.set("lowerdir", join(lower, ":")));
  }
  if (!upper.empty()) {
    RETURN_IF_ERROR(context.set("upperdir", upper));
    RETURN_IF_ERROR(context.set("workdir", work));
    // No sync at unmount: the store decides what must be on the disk. A fresh workdir each time.
    RETURN_IF_ERROR(context.flag("volatile"));
  }
  RETURN_IF_ERROR(context.set("metacopy", "off"));
  // Neither made nor followed; "off" would mean "follow", which userxattr does not allow.
  RETURN_IF_ERROR(context.set("redirect_dir", "nofollow"));
  RETURN_IF_ERROR(context.set("index", "off"));
  if (!full_privileges) RETURN_IF_ERROR(context.flag("userxattr"));
  return context.mount(no_devices ? MOUNT_ATTR_NODEV : 0);
}

Result<void> attach(int mount_fd, int target_fd) {
  if (::syscall(SYS_move_mount, mount_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0) return system_error(errno, "move_mount");
  return {};
}

Result<UniqueFd> clone_tree(int dir_fd, const std::string& path, bool recursive, bool read_only, bool no_devices = false) {
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

class RootBuilder {
 public:
  RootBuilder(const SandboxPlan& plan, int root) : plan_(plan), root_(root) {}

  Result<void> kernel_file_systems() {
    RETURN_IF_ERROR(mount_proc());
    RETURN_IF_ERROR(make_dev());
    RETURN_IF_ERROR(mount_sys());
    if (!plan_.spec.insecure) mask();
    return {};
  }

  // Read-only files that exist in memory alone: on the file system of /dev, where their names go again.
  Result<void> network_files() {
    ASSIGN_OR_RETURN(const UniqueFd dev, open_in_root(root_, "dev", O_RDONLY | O_DIRECTORY));
    const std::string* const texts[] = {&plan_.hosts, &plan_.resolv_conf};
    const char* const paths[] = {"/etc/hosts", "/etc/resolv.conf"};
    for (size_t i = 0; i < std::size(paths); ++i) {
      const char* const name = ".text";
      ASSIGN_OR_RETURN(UniqueFd file, open_at(dev.get(), name, O_WRONLY | O_CREAT | O_EXCL, 0644));
      RETURN_IF_ERROR(write_all(file.get(), *texts[i]));
      if (::fchmod(file.get(), 0644) != 0) return system_error(errno, "fchmod", name);
      RETURN_IF_ERROR(file.close());
      ASSIGN_OR_RETURN(const UniqueFd tree, clone_tree(dev.get(), name, false, true));
      ASSIGN_OR_RETURN(const UniqueFd at, target(paths[i], false));
      RETURN_IF_ERROR(attach(tree.get(), at.get()));
      if (::unlinkat(dev.get(), name, 0) != 0) return system_error(errno, "unlink", name);
    }
    return {};
  }

  Result<void> user_mounts() {
    for (const SandboxMount& m : plan_.spec.mounts) {
      RETURN_IF_ERROR_WITH(user_mount(m), "mounting " + m.target);
    }
    return {};
  }

  MountPoints made;

 private:
  // Follows symlinks as chroot would; what does not exist is kept, so that it can be made.
  Result<std::string> resolve(const std::string& path) {
    std::deque<std::string> todo;
    for (std::string& p : path_components(path)) todo.push_back(std::move(p));
    std::vector<std::string> done;
    for (int links = 0; !todo.empty();) {
      std::string part = std::move(todo.front());
      todo.pop_front();
      if (part == "..") {
        if (!done.empty()) done.pop_back();
        continue;
      }
      auto parent = open_in_root(root_, join(done, "/"), O_PATH | O_DIRECTORY);
      if (parent) {
        std::string target(4096, '\0');
        const ssize_t n = ::readlinkat(parent->get(), part.c_str(), target.data(), target.size());
        if (n >= 0) {
          if (++links > 40) return Error(ErrorKind::kInvalidInput, "too many levels of symbolic links in " + path);
          target.resize(static_cast<size_t>(n));
          if (!target.empty() && target[0] == '/') done.clear();
          const std::vector<std::string> parts = path_components(target);
          todo.insert(todo.begin(), parts.begin(), parts.end());
          continue;
        }
      }
      done.push_back(std::move(part));
    }
    return join(done, "/");
  }

  // Opens the mount point, making what is missing and remembering what was made.
  Result<UniqueFd> target(const std::string& path, bool directory) {
    ASSIGN_OR_RETURN(const std::string real, resolve(path));
    if (auto existing = open_in_root(root_, real, O_PATH); existing) return existing;
    const std::vector<std::string> parts = path_components(real);
    std::string here;
    for (size_t i = 0; i < parts.size(); ++i) {
      ASSIGN_OR_RETURN(const UniqueFd parent, open_in_root(root_, here, O_RDONLY | O_DIRECTORY));
      const std::string next = here.empty() ? parts[i] : here + "/" + parts[i];
      const bool as_directory = directory || i + 1 < parts.size();
      struct stat st {};
      if (::fstatat(parent.get(), parts[i].c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
        struct stat before {};
        ::fstat(parent.get(), &before);
        remember_ancestors(here);
        if (as_directory) {
          if (::mkdirat(parent.get(), parts[i].c_str(), 0755) != 0) return system_error(errno, "mkdir", next);
        } else {
          ASSIGN_OR_RETURN(const UniqueFd file, open_at(parent.get(), parts[i], O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0644));
        }
        made.stubs.push_back({next, as_directory});
        const timespec times[2] = {before.st_atim, before.st_mtim};
        ::futimens(parent.get(), times);
      }
      here = next;
    }
    return open_in_root(root_, real, O_PATH);
  }

  // All directories from `path` up are copied up by overlayfs when something is made in it.
  void remember_ancestors(std::string path) {
    for (; !path.empty(); path = parent_path(path)) {
      const auto known = [&](const Ancestor& a) { return a.path == path; };
      const auto stub = [&](const Stub& s) { return s.path == path; };
      if (std::any_of(made.ancestors.begin(), made.ancestors.end(), known) || std::any_of(made.stubs.begin(), made.stubs.end(), stub)) continue;
      Ancestor ancestor{path, {}};
      const auto fd = open_in_root(root_, path, O_PATH);
      if (fd && ::fstat(fd->get(), &ancestor.before) == 0) made.ancestors.push_back(std::move(ancestor));
    }
  }

  Result<void> bind(const std::string& source, const std::string& path, bool read_only) {
    struct stat st {};
    if (::stat(source.c_str(), &st) != 0) return system_error(errno, "stat", source);
    ASSIGN_OR_RETURN(const UniqueFd at, target(path, S_ISDIR(st.st_mode)));
    ASSIGN_OR_RETURN(const UniqueFd tree, clone_tree(AT_FDCWD, source, S_ISDIR(st.st_mode), read_only, !plan_.spec.insecure));
    return attach(tree.get(), at.get());
  }

  Result<void> mount_at(const char* type, const std::string& path, unsigned long flags, const std::string& options) {
    ASSIGN_OR_RETURN(const UniqueFd at, target(path, true));
    if (::mount(type, fd_path(at.get()).c_str(), type, flags, options.c_str()) != 0) return system_error(errno, "mount", path);
    return {};
  }

  Result<void> mount_proc() {
    auto mounted = mount_at("proc", "/proc", kNosuid | kNodev | kNoexec, "");
    if (mounted || mounted.error().kind() != ErrorKind::kDenied) return mounted;
    return std::move(mounted).error().with_note("a container that masks parts of /proc forbids this; run it with --security-opt systempaths=unconfined or as a privileged pod");
  }

  struct Device {
    const char* name;
    unsigned major, minor;
  };
  static constexpr Device kDevices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};

  // Mounts of single device nodes. With full privileges they are nodes of our own: chmod in a RUN must not reach the
  // machine's. In a user namespace none can be made, and root there cannot change the machine's.
  Result<std::vector<UniqueFd>> device_trees() {
    std::vector<UniqueFd> trees;
    if (!plan_.full_privileges) {
      for (const Device& d : kDevices) {
        ASSIGN_OR_RETURN(UniqueFd tree, clone_tree(AT_FDCWD, std::string("/dev/") + d.name, false, false));
        trees.push_back(std::move(tree));
      }
      return trees;
    }
    RETURN_IF_ERROR(mount_at("tmpfs", "/dev", kNosuid | kNoexec, "mode=755,size=64k"));
    {
      ASSIGN_OR_RETURN(const UniqueFd nodes, open_in_root(root_, "dev", O_RDONLY | O_DIRECTORY));
      for (const Device& d : kDevices) {
        if (::mknodat(nodes.get(), d.name, S_IFCHR | 0666, makedev(d.major, d.minor)) != 0) return system_error(errno, "mknod", d.name);
        if (::fchmodat(nodes.get(), d.name, 0666, 0) != 0) return system_error(errno, "chmod", d.name);
        ASSIGN_OR_RETURN(UniqueFd tree, clone_tree(nodes.get(), d.name, false, false));
        trees.push_back(std::move(tree));
      }
      // The clones keep the file system; its name goes.
      if (::umount2(fd_path(nodes.get()).c_str(), kDetach) != 0) return system_error(errno, "umount", "/dev");
    }
    return trees;
  }

  Result<void> make_dev() {
    ASSIGN_OR_RETURN(const std::vector<UniqueFd> devices, device_trees());
    // Everything that the command can write to is nodev: a node it makes (it may, for the image) opens no device of
    // the machine.
    RETURN_IF_ERROR(mount_at("tmpfs", "/dev", kNosuid | kNodev, "mode=755,size=65536k"));
    ASSIGN_OR_RETURN(const UniqueFd dev, open_in_root(root_, "dev", O_RDONLY | O_DIRECTORY));
    for (size_t i = 0; i < devices.size(); ++i) {
      ASSIGN_OR_RETURN(const UniqueFd file, open_at(dev.get(), kDevices[i].name, O_WRONLY | O_CREAT | O_EXCL, 0666));
      RETURN_IF_ERROR(attach(devices[i].get(), file.get()));
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
    // A mount of the user's at the same place replaces this one instead of covering it.
    const bool own_shm = std::any_of(plan_.spec.mounts.begin(), plan_.spec.mounts.end(), [](const SandboxMount& m) { return m.target == "/dev/shm"; });
    const std::string size = fmt::format("mode=1777,size={}", plan_.spec.shm_size_bytes);
    if (!own_shm && ::mount("shm", (base + "/shm").c_str(), "tmpfs", kNosuid | kNodev | kNoexec, size.c_str()) != 0) return system_error(errno, "mount", "/dev/shm");
    // Not every kernel has POSIX message queues.
    ::mount("mqueue", (base + "/mqueue").c_str(), "mqueue", kNosuid | kNodev | kNoexec, nullptr);
    return {};
  }

  Result<void> mount_sys() {
    if (mount_at("sysfs", "/sys", kRdonly | kNosuid | kNodev | kNoexec, "")) return {};
    // sysfs shows a network namespace that is not ours: the host's mount is shown, read-only.
    ASSIGN_OR_RETURN(const UniqueFd at, target("/sys", true));
    ASSIGN_OR_RETURN(const UniqueFd tree, clone_tree(AT_FDCWD, "/sys", true, true));
    return attach(tree.get(), at.get());
  }

  // Docker's masked and read-only paths; absent ones are fine.
  void mask() {
    const auto null = open_in_root(root_, "dev/null", O_PATH);
    const char* const masked[] = {"proc/asound", "proc/acpi", "proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
                                  "proc/timer_stats", "proc/sched_debug", "proc/scsi", "sys/firmware", "sys/devices/virtual/powercap"};
    for (const char* path : masked) {
      const auto at = open_in_root(root_, path, O_PATH);
      struct stat st {};
      if (!at || ::fstat(at->get(), &st) != 0) continue;
      if (S_ISDIR(st.st_mode)) {
        ::mount("tmpfs", fd_path(at->get()).c_str(), "tmpfs", kRdonly, "size=0");
      } else if (const auto tree = clone_tree(null ? null->get() : -1, "", false, false)) {
        ignore_error(attach(tree->get(), at->get()), "the path is masked as far as the kernel allows");
      }
    }
    for (const char* path : {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"}) {
      const auto at = open_in_root(root_, path, O_PATH);
      if (!at) continue;
      if (const auto tree = clone_tree(at->get(), "", true, true)) ignore_error(attach(tree->get(), at->get()), "as above");
    }
  }

  Result<void> user_mount(const SandboxMount& m) {
    if (m.type == SandboxMount::Type::kTmpfs) {
      std::string options = fmt::format("mode={:o}", m.mode);
      if (m.size_bytes) options += fmt::format(",size={}", *m.size_bytes);
      return mount_at("tmpfs", m.target, kNosuid | kNodev, options);
    }
    if (m.type == SandboxMount::Type::kFile) return memory_file(m);
    if (m.type == SandboxMount::Type::kDevice) return device(m);
    if (m.overlay_lower.empty() && m.scratch.empty()) return bind(m.source, m.target, m.read_only);
    // A stage or image. Even read-only it needs two layers or an upper: the scratch directory serves.
    const std::string upper = m.scratch + "/upper", work = m.scratch + "/work", empty = m.scratch + "/empty";
    for (const std::string& d : {upper, work, empty}) {
      if (::mkdir(d.c_str(), 0755) != 0 && errno != EEXIST) return system_error(errno, "mkdir", d);
    }
    ASSIGN_OR_RETURN(const UniqueFd overlay, mount_overlay(m.overlay_lower.empty() ? std::vector<std::string>{empty} : m.overlay_lower, upper, work, plan_.full_privileges, true));
    // open_tree on a detached mount works only once it is attached somewhere: the scratch directory is ours.
    ASSIGN_OR_RETURN(const UniqueFd place, open_at(AT_FDCWD, empty, O_PATH | O_DIRECTORY));
    RETURN_IF_ERROR(attach(overlay.get(), place.get()));
    ASSIGN_OR_RETURN(const UniqueFd source, open_in_root(overlay.get(), m.subpath, O_PATH));
    struct stat st {};
    if (::fstat(source.get(), &st) != 0) return system_error(errno, "fstat", m.subpath);
    ASSIGN_OR_RETURN(const UniqueFd at, target(m.target, S_ISDIR(st.st_mode)));
    ASSIGN_OR_RETURN(const UniqueFd tree, clone_tree(source.get(), "", false, m.read_only));
    return attach(tree.get(), at.get());
  }

  // A file system in memory, outside the root: what is shown inside are clones of single files in it.
  Result<int> memory() {
    if (memory_) return memory_.get();
    const std::string place = plan_.spec.upper_dir.substr(0, plan_.spec.upper_dir.rfind('/')) + "/memory";
    if (::mkdir(place.c_str(), 0700) != 0 && errno != EEXIST) return system_error(errno, "mkdir", place);
    if (::mount("tmpfs", place.c_str(), "tmpfs", kNosuid, "mode=700") != 0) return system_error(errno, "mount", place);
    ASSIGN_OR_RETURN(memory_, open_directory(AT_FDCWD, place));
    return memory_.get();
  }

  Result<void> memory_file(const SandboxMount& m) {
    ASSIGN_OR_RETURN(const int directory, memory());
    const std::string name = std::to_string(++memory_files_);
    {
      ASSIGN_OR_RETURN(UniqueFd file, open_at(directory, name, O_WRONLY | O_CREAT | O_EXCL, 0600));
      RETURN_IF_ERROR(write_all(file.get(), m.content));
      if (::fchown(file.get(), m.uid, m.gid) != 0) {
        Error error = system_error(errno, "chown", m.target);
        return std::move(error).with_note(fmt::format("the ids {}:{} must be mapped into this user's namespace: see docs/sandbox.md", m.uid, m.gid));
      }
      if (::fchmod(file.get(), m.mode) != 0) return system_error(errno, "chmod", m.target);
      RETURN_IF_ERROR(file.close());
    }
    return show(directory, name, m.target, true);
  }

  // With full privileges a node of our own: chmod in the command must not reach the machine's.
  Result<void> device(const SandboxMount& m) {
    if (!plan_.full_privileges) return show(AT_FDCWD, m.source, m.target, false);
    ASSIGN_OR_RETURN(const int directory, memory());
    const std::string name = std::to_string(++memory_files_);
    if (::mknodat(directory, name.c_str(), (m.block ? S_IFBLK : S_IFCHR) | 0600, makedev(m.dev_major, m.dev_minor)) != 0) return system_error(errno, "mknod", m.target);
    if (::fchownat(directory, name.c_str(), m.uid, m.gid, 0) != 0) return system_error(errno, "chown", m.target);
    if (::fchmodat(directory, name.c_str(), m.mode, 0) != 0) return system_error(errno, "chmod", m.target);
    return show(directory, name, m.target, false);
  }

  Result<void> show(int directory, const std::string& name, const std::string& path, bool read_only) {
    ASSIGN_OR_RETURN(const UniqueFd at, target(path, false));
    ASSIGN_OR_RETURN(const UniqueFd tree, clone_tree(directory, name, false, read_only));
    return attach(tree.get(), at.get());
  }

  const SandboxPlan& plan_;
  int root_;
  UniqueFd memory_;
  int memory_files_ = 0;
};

}  // namespace

Result<MountPoints> enter_root(const SandboxPlan& plan) {
  const SandboxSpec& spec = plan.spec;
  if (::mount(nullptr, "/", nullptr, kRec | kPrivate, nullptr) != 0) return system_error(errno, "making mounts private");
  std::vector<std::string> lower = spec.lower_dirs;
  if (lower.empty()) {  // FROM scratch: overlayfs wants at least one
    const std::string empty = spec.upper_dir.substr(0, spec.upper_dir.rfind('/')) + "/empty";
    if (::mkdir(empty.c_str(), 0755) != 0 && errno != EEXIST) return system_error(errno, "mkdir", empty);
    lower.push_back(empty);
  }
  ASSIGN_OR_RETURN_WITH(const UniqueFd root, mount_overlay(lower, spec.upper_dir, spec.work_dir, plan.full_privileges, !spec.insecure), fmt::format("mounting an overlay of {} layers", spec.lower_dirs.size()));
  // It must be attached to be pivoted into; nobody else sees this namespace.
  ASSIGN_OR_RETURN(const UniqueFd place, open_at(AT_FDCWD, spec.work_dir, O_PATH | O_DIRECTORY));
  RETURN_IF_ERROR(attach(root.get(), place.get()));

  RootBuilder builder(plan, root.get());
  const auto fill = [&]() -> Result<void> {
    RETURN_IF_ERROR(builder.kernel_file_systems());
    RETURN_IF_ERROR(builder.network_files());
    RETURN_IF_ERROR(builder.user_mounts());
    if (::fchdir(root.get()) != 0) return system_error(errno, "fchdir");
    // pivot_root(2), "pivot_root(".", ".")": the old root ends up below the new one and is detached.
    if (::syscall(SYS_pivot_root, ".", ".") != 0) return system_error(errno, "pivot_root");
    if (::umount2(".", kDetach) != 0) return system_error(errno, "umount");
    if (::chdir("/") != 0) return system_error(errno, "chdir", "/");
    return {};
  };
  RETURN_IF_ERROR(fill());
  return std::move(builder.made);
}

namespace {

// Opens the directory that holds `path` below `root` without following anything; sets the last component.
Result<UniqueFd> open_parent(int root, const std::string& path, std::string& last) {
  const size_t slash = path.rfind('/');
  last = slash == std::string::npos ? path : path.substr(slash + 1);
  return open_beneath_nofollow(root, slash == std::string::npos ? "." : path.substr(0, slash), O_RDONLY | O_DIRECTORY);
}

}  // namespace

void remove_stubs(int upper_fd, const MountPoints& made) {
  // Removal must not show in the times of the directories around.
  const auto remove = [&](const std::string& path, const auto& permitted) {
    std::string name;
    const auto parent = open_parent(upper_fd, path, name);
    struct stat before {}, own {};
    if (!parent || ::fstat(parent->get(), &before) != 0) return;
    if (::fstatat(parent->get(), name.c_str(), &own, AT_SYMLINK_NOFOLLOW) != 0 || !permitted(own)) return;
    if (::unlinkat(parent->get(), name.c_str(), S_ISDIR(own.st_mode) ? AT_REMOVEDIR : 0) != 0) return;
    const timespec times[2] = {before.st_atim, before.st_mtim};
    ::futimens(parent->get(), times);
  };
  for (auto stub = made.stubs.rbegin(); stub != made.stubs.rend(); ++stub) {
    remove(stub->path, [&](const struct stat& st) { return stub->directory ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode) && st.st_size == 0; });
  }
  std::vector<Ancestor> ancestors = made.ancestors;  // deepest first
  std::sort(ancestors.begin(), ancestors.end(), [](const Ancestor& a, const Ancestor& b) { return a.path.size() > b.path.size(); });
  for (const Ancestor& a : ancestors) {
    remove(a.path, [&](const struct stat& st) {
      return S_ISDIR(st.st_mode) && st.st_mode == a.before.st_mode && st.st_uid == a.before.st_uid && st.st_gid == a.before.st_gid &&
             st.st_mtim.tv_sec == a.before.st_mtim.tv_sec && st.st_mtim.tv_nsec == a.before.st_mtim.tv_nsec;
    });
  }
}

}  // namespace lamina::builder::internal
