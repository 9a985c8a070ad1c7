// The root file system of a sandbox: overlay, kernel file systems, the step's own mounts; and the removal of
// mount points that must not reach the layer.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>

#include "base/files.h"
#include "base/text.h"
#include "builder/internal/mounts.h"
#include "builder/internal/sandbox_plan.h"

namespace lamina::builder::internal {

namespace {

std::string parent_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

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

class RootBuilder {
 public:
  RootBuilder(const SandboxPlan& plan, int root) : plan_(plan), root_(root) {}

  // Moves /proc, /dev and /sys from where they were prepared.
  Result<void> kernel_file_systems(int staging) {
    for (const char* name : {"proc", "dev", "sys"}) {
      ASSIGN_OR_RETURN(const UniqueFd mounted, open_in_root(staging, name, O_PATH | O_DIRECTORY));
      ASSIGN_OR_RETURN(const UniqueFd at, target(std::string("/") + name, true));
      RETURN_IF_ERROR_WITH(attach(mounted.get(), at.get()), std::string("mounting /") + name);
    }
    // A mount of the user's at the same place replaces this one instead of covering it.
    const bool own_shm = std::any_of(plan_.spec.mounts.begin(), plan_.spec.mounts.end(), [](const SandboxMount& m) { return m.target == "/dev/shm"; });
    if (!own_shm) return {};
    ASSIGN_OR_RETURN(const UniqueFd shm, open_in_root(root_, "dev/shm", O_PATH | O_DIRECTORY));
    if (::umount2(fd_path(shm.get()).c_str(), kDetach) != 0) return system_error(errno, "umount", "/dev/shm");
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

Result<MountPoints> enter_root(const SandboxPlan& plan, int staging) {
  const SandboxSpec& spec = plan.spec;
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
    RETURN_IF_ERROR(builder.kernel_file_systems(staging));
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
