// SnapshotWriter of snapshot.h. Rules: OCI image-spec layer.md, "Applying Changesets"; kernel
// Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <map>

#include "base/files.h"
#include "base/stoppable.h"
#include "base/text.h"
#include "layers/internal/attributes.h"
#include "layers/internal/directory_stack.h"
#include "layers/internal/file_copy.h"
#include "layers/internal/new_inodes.h"
#include "layers/internal/paths.h"
#include "layers/internal/xattrs.h"
#include "layers/rootfs_view.h"
#include "layers/snapshot.h"

namespace lamina::layers {
namespace {

constexpr int kMaxSymlinks = 255;

Error corrupt(std::string message) { return Error(ErrorKind::kCorrupt, std::move(message)); }

bool is_clean(std::string_view path) {
  if (path.size() > kMaxPathBytes || path.find('\0') != std::string_view::npos) return false;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
    if (path.empty()) return false;
  }
  return true;
}

}  // namespace

struct SnapshotWriter::Impl {
  Impl(int fd, ViewBelow view) : root_fd(fd), view_below(std::move(view)), stack(fd) {}

  struct Directory {
    Entry entry;            // attributes, set at the end: until then directories are 0700
    bool implicit = false;  // no entry named it
    bool opaque = false;
  };
  // A place in the real tree of this layer: no symlink in it.
  struct Place {
    std::string directory, name;
    std::string path() const { return join_path(directory, name); }
  };
  enum class Missing { kCreate, kSkip };

  void prepare_root() const;
  Result<void> add(const Entry& entry, ByteSource* content);
  Result<void> finish();

  // Where the parents of an entry are. Nothing when they are missing and need not be made.
  Result<std::optional<std::string>> resolve(std::string_view path, Missing missing);
  Result<std::optional<std::string>> step(const std::string& at, const std::string& name, Missing missing,
                                          std::optional<std::string>& symlink);
  Result<void> make_implicit(const std::string& path, const FileInfo* info, const RootfsView* view, bool opaque);
  Result<const RootfsView*> view();
  bool hides_below(std::string_view path) const;

  Result<void> put(const Place& place, const Entry& entry, ByteSource* content);
  Result<void> put_directory(const Place& place, const Entry& entry);
  Result<void> put_file(const Place& place, const Entry& entry, ByteSource* content);
  Result<void> put_special(const Place& place, const Entry& entry);
  Result<void> put_hardlink(const Place& place, const Entry& entry);
  Result<void> put_whiteout(const Place& place);
  Result<void> put_opaque(const Entry& entry);
  Result<void> copy_up(const Place& place, const Entry& link);
  // Removes what is there so that something else can be. Whether it was anything but a whiteout.
  Result<void> clear(const Place& place);
  // make() is a system call that fails with EEXIST when something is there; that is then removed.
  template <typename Make>
  Result<void> replace(const Place& place, const char* call, Make make);

  Result<void> hide_root_below();
  Result<void> set_directory(const std::string& path, const Directory& directory);

  const int root_fd;
  ViewBelow view_below;
  std::shared_ptr<const RootfsView> below;
  bool below_known = false;
  bool used_implicit = false;
  bool root_opaque = false;
  std::optional<Entry> root_entry;
  NewInodes inodes{std::string()};
  DirectoryStack stack;
  FileCopier copier;
  std::stop_token stop;
  std::map<std::string, Directory, PathLess> directories;  // all that are in this layer, but the root
  // The last parent that went through a symlink or over `below`, and where it led.
  std::string last_logical, last_real;
};

// What would be inherited by everything: a set-group-id bit and default ACLs of the store's directory.
void SnapshotWriter::Impl::prepare_root() const {
  ::fchmod(root_fd, 0700);
  ::fremovexattr(root_fd, "system.posix_acl_default");
}

Result<const RootfsView*> SnapshotWriter::Impl::view() {
  used_implicit = true;
  if (!below_known && view_below) {
    ASSIGN_OR_RETURN(below, view_below());
  }
  below_known = true;
  return below.get();
}

bool SnapshotWriter::Impl::hides_below(std::string_view path) const {
  for (; !path.empty(); path = parent_path(path)) {
    const auto it = directories.find(path);
    if (it != directories.end() && it->second.opaque) return true;
  }
  return root_opaque;
}

Result<std::optional<std::string>> SnapshotWriter::Impl::resolve(std::string_view path, Missing missing) {
  // A directory of this layer, so all above it are too.
  if (path.empty() || directories.find(path) != directories.end()) return std::optional<std::string>(path);
  if (!last_logical.empty() && path == last_logical) return std::optional<std::string>(last_real);
  std::deque<std::string> todo;
  for (std::string& part : path_components(path)) todo.push_back(std::move(part));
  std::string at;
  for (int symlinks = 0; !todo.empty();) {
    const std::string name = std::move(todo.front());
    todo.pop_front();
    if (name == "..") {
      at = parent_path(at);
      continue;
    }
    std::optional<std::string> symlink;
    ASSIGN_OR_RETURN(const auto next, step(at, name, missing, symlink));
    if (symlink) {
      if (++symlinks > kMaxSymlinks) {
        return corrupt(fmt::format("too many levels of symbolic links in \"{}\"", printable(path)));
      }
      if (symlink->starts_with('/')) at.clear();
      const std::vector<std::string> parts = path_components(*symlink);
      todo.insert(todo.begin(), parts.begin(), parts.end());
    } else if (!next) {
      return std::optional<std::string>();
    } else {
      at = *next;
    }
    if (at.size() > kMaxPathBytes) return corrupt("a path through symbolic links is too long");
  }
  last_logical = path;
  last_real = at;
  return std::optional<std::string>(at);
}

// From the directory `at` to `name` in it: the path of that directory, or the target of the symlink that is
// there. A missing directory is made as `below` has it.
Result<std::optional<std::string>> SnapshotWriter::Impl::step(const std::string& at, const std::string& name,
                                                              Missing missing,
                                                              std::optional<std::string>& symlink) {
  std::string path = join_path(at, name);
  if (directories.contains(path)) return std::optional<std::string>(std::move(path));
  const auto not_a_directory = [&] {
    return corrupt(fmt::format("\"{}\" has something in it but is no directory", printable(path)));
  };
  ASSIGN_OR_RETURN(const int fd, stack.enter(at));
  struct stat st {};
  if (::fstatat(fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    if (S_ISLNK(st.st_mode)) {
      std::string target(static_cast<size_t>(st.st_size) + 1, '\0');
      const ssize_t size = ::readlinkat(fd, name.c_str(), target.data(), target.size());
      if (size < 0) return system_error(errno, "readlinkat", path);
      target.resize(static_cast<size_t>(size));
      symlink = std::move(target);
      return std::optional<std::string>();
    }
    if (!is_whiteout(st)) return not_a_directory();
    // Deleted, and now made again: nothing of what was below shows.
    if (missing == Missing::kSkip) return std::optional<std::string>();
    if (::unlinkat(fd, name.c_str(), 0) != 0) return system_error(errno, "unlinkat", path);
    RETURN_IF_ERROR(make_implicit(path, nullptr, nullptr, true));
    return std::optional<std::string>(std::move(path));
  }
  if (errno != ENOENT) return system_error(errno, "fstatat", path);
  if (!hides_below(at)) {
    ASSIGN_OR_RETURN(const RootfsView* const view_of_below, view());
    if (view_of_below != nullptr) {
      ASSIGN_OR_RETURN(const std::optional<FileInfo> info, view_of_below->lstat(path));
      if (info && info->type == EntryType::kSymlink) {
        ASSIGN_OR_RETURN(symlink, view_of_below->read_link(path));
        return std::optional<std::string>();
      }
      if (info && info->type != EntryType::kDirectory) return not_a_directory();
      if (info) {
        RETURN_IF_ERROR(make_implicit(path, &*info, view_of_below, false));
        return std::optional<std::string>(std::move(path));
      }
      if (missing == Missing::kSkip) return std::optional<std::string>();
    }
  }
  RETURN_IF_ERROR(make_implicit(path, nullptr, nullptr, false));
  return std::optional<std::string>(std::move(path));
}

Result<void> SnapshotWriter::Impl::make_implicit(const std::string& path, const FileInfo* info,
                                                 const RootfsView* view_of_below, bool opaque) {
  ASSIGN_OR_RETURN(const int fd, stack.enter(parent_path(path)));
  if (::mkdirat(fd, std::string(base_name(path)).c_str(), 0700) != 0) return system_error(errno, "mkdirat", path);
  Directory directory;
  directory.implicit = true;
  directory.opaque = opaque;
  Entry& entry = directory.entry;
  entry.path = path;
  entry.type = EntryType::kDirectory;
  entry.mode = 0755;
  if (info != nullptr) {
    entry.mode = info->mode;
    entry.uid = info->uid;
    entry.gid = info->gid;
    entry.mtime = info->mtime;
    ASSIGN_OR_RETURN(entry.xattrs, view_of_below->xattrs(path));
  }
  directories.emplace(path, std::move(directory));
  return {};
}

Result<void> SnapshotWriter::Impl::clear(const Place& place) {
  const std::string path = place.path();
  ASSIGN_OR_RETURN(const int fd, stack.enter(place.directory));
  last_logical.clear();  // it may have led through this
  if (!directories.contains(path)) {
    if (::unlinkat(fd, place.name.c_str(), 0) != 0) return system_error(errno, "unlinkat", path);
    return {};
  }
  RETURN_IF_ERROR(remove_tree(fd, place.name));
  stack.forget();
  auto begin = directories.find(path), end = begin;
  while (end != directories.end() && is_at_or_below(end->first, path)) ++end;
  directories.erase(begin, end);
  return {};
}

template <typename Make>
Result<void> SnapshotWriter::Impl::replace(const Place& place, const char* call, Make make) {
  for (bool cleared = false;; cleared = true) {
    ASSIGN_OR_RETURN(const int fd, stack.enter(place.directory));
    if (make(fd)) return {};
    if (errno != EEXIST || cleared) return system_error(errno, call, place.path());
    RETURN_IF_ERROR(clear(place));
  }
}

Result<void> SnapshotWriter::Impl::put_directory(const Place& place, const Entry& entry) {
  const std::string path = place.path();
  auto it = directories.find(path);
  if (it == directories.end()) {
    bool was_there = false;
    RETURN_IF_ERROR(replace(place, "mkdirat", [&](int fd) {
      if (inodes.make(fd, place.name, [](int at, const char* name) { return ::mkdirat(at, name, 0700) == 0; })) return true;
      was_there = was_there || errno == EEXIST;
      return false;
    }));
    it = directories.emplace(path, Directory{}).first;
    it->second.opaque = was_there;  // a file or a whiteout of this layer had hidden what is below
    last_logical.clear();
  }
  it->second.implicit = false;
  it->second.entry = entry;
  it->second.entry.path = path;
  return {};
}

Result<void> SnapshotWriter::Impl::put_file(const Place& place, const Entry& entry, ByteSource* content) {
  UniqueFd file;
  RETURN_IF_ERROR(replace(place, "openat", [&](int fd) {
    return inodes.make(fd, place.name, [&](int at, const char* name) {
      file = UniqueFd(::openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
      return file.valid();
    });
  }));
  auto written = content != nullptr ? copier.copy_stream(*content, file.get()) : copier.copy_own(entry, file.get());
  if (!written) {
    // Where nobody throws the directory away, no half of a file stays.
    if (const auto fd = stack.enter(place.directory)) ::unlinkat(*fd, place.name.c_str(), 0);
    return std::move(written).error().with_context(fmt::format("writing \"{}\"", printable(entry.path)));
  }
  RETURN_IF_ERROR(apply_attributes(file.get(), entry));
  return file.close();
}

Result<void> SnapshotWriter::Impl::put_special(const Place& place, const Entry& entry) {
  if (entry.type == EntryType::kSymlink) {
    RETURN_IF_ERROR(replace(place, "symlinkat", [&](int fd) {
      return inodes.make(fd, place.name, [&](int at, const char* name) { return ::symlinkat(entry.link_target.c_str(), at, name) == 0; });
    }));
  } else if (entry.type == EntryType::kFifo) {
    RETURN_IF_ERROR(replace(place, "mknodat", [&](int fd) {
      return ::mknodat(fd, place.name.c_str(), S_IFIFO | 0600, 0) == 0;
    }));
  } else {
    const bool character = entry.type == EntryType::kCharDevice;
    if (character && entry.dev_major == 0 && entry.dev_minor == 0) {
      return corrupt(fmt::format("\"{}\" is a character device 0:0, which overlay takes for a deleted file",
                                 printable(entry.path)));
    }
    bool refused = false;
    RETURN_IF_ERROR(replace(place, "mknodat", [&](int fd) {
      if (::mknodat(fd, place.name.c_str(), (character ? S_IFCHR : S_IFBLK) | 0600,
                    makedev(entry.dev_major, entry.dev_minor)) == 0) {
        return true;
      }
      refused = errno == EPERM && !has_full_privileges();
      return refused;
    }));
    if (refused) {
      Entry file = entry;
      file.type = EntryType::kFile;
      file.size = 0;
      file.xattrs.clear();
      RETURN_IF_ERROR(put_file(place, file, nullptr));
      ASSIGN_OR_RETURN(const int fd, stack.enter(place.directory));
      const std::string value = format_device({entry.type, entry.dev_major, entry.dev_minor});
      const std::string path = fmt::format("/proc/self/fd/{}/{}", fd, place.name);
      if (::lsetxattr(path.c_str(), kDeviceXattr, value.data(), value.size(), 0) != 0) {
        return system_error(errno, fmt::format("lsetxattr {}", kDeviceXattr), entry.path);
      }
      return {};
    }
  }
  ASSIGN_OR_RETURN(const int fd, stack.enter(place.directory));
  return apply_attributes_at(fd, place.name, entry);
}

// A target that only `below` has is copied up, as overlay would do it.
Result<void> SnapshotWriter::Impl::copy_up(const Place& place, const Entry& link) {
  const std::string path = place.path();
  const Error missing = corrupt(fmt::format("\"{}\" is a hard link to \"{}\", which does not exist",
                                            printable(link.path), printable(link.link_target)));
  if (hides_below(place.directory)) return missing;
  ASSIGN_OR_RETURN(const RootfsView* const view_of_below, view());
  if (view_of_below == nullptr) return missing;
  ASSIGN_OR_RETURN(const std::optional<FileInfo> info, view_of_below->lstat(path));
  if (!info || info->type == EntryType::kDirectory) return missing;
  Entry entry;
  entry.path = entry.source_path = path;
  entry.type = info->type;
  entry.mode = info->mode;
  entry.uid = info->uid;
  entry.gid = info->gid;
  entry.mtime = info->mtime;
  entry.size = info->size;
  entry.dev_major = info->dev_major;
  entry.dev_minor = info->dev_minor;
  entry.opener = below;
  ASSIGN_OR_RETURN(entry.xattrs, view_of_below->xattrs(path));
  if (entry.type == EntryType::kSymlink) {
    ASSIGN_OR_RETURN(entry.link_target, view_of_below->read_link(path));
  }
  return put(place, entry, nullptr);
}

Result<void> SnapshotWriter::Impl::put_hardlink(const Place& place, const Entry& entry) {
  const auto bad = [&](std::string_view why) {
    return corrupt(fmt::format("\"{}\" is a hard link to \"{}\", which {}", printable(entry.path),
                               printable(entry.link_target), why));
  };
  if (!is_clean(entry.link_target) || entry.link_target.empty()) return bad("is no path of the layer");
  ASSIGN_OR_RETURN(const auto parent, resolve(parent_path(entry.link_target), Missing::kSkip));
  if (!parent) return bad("does not exist");
  const Place target{*parent, std::string(base_name(entry.link_target))};
  if (target.path() == place.path()) return bad("is itself");
  ASSIGN_OR_RETURN(int fd, stack.enter(target.directory));
  struct stat st {};
  if (::fstatat(fd, target.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno != ENOENT) return system_error(errno, "fstatat", target.path());
    RETURN_IF_ERROR(copy_up(target, entry));
    ASSIGN_OR_RETURN(fd, stack.enter(target.directory));
  } else if (is_whiteout(st)) {
    return bad("does not exist");
  } else if (S_ISDIR(st.st_mode)) {
    return bad("is a directory");
  }
  UniqueFd target_directory(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!target_directory) return system_error(errno, "fcntl");
  auto linked = replace(place, "linkat", [&](int directory) {
    return ::linkat(target_directory.get(), target.name.c_str(), directory, place.name.c_str(), 0) == 0;
  });
  if (!linked && linked.error().error_number() == ENOENT) return bad("does not exist");
  return linked;
}

// OCI image-spec layer.md: whiteouts apply to lower layers only, so what this layer put there stays.
Result<void> SnapshotWriter::Impl::put_whiteout(const Place& place) {
  ASSIGN_OR_RETURN(const int fd, stack.enter(place.directory));
  if (::mknodat(fd, place.name.c_str(), S_IFCHR, makedev(0, 0)) == 0) return {};
  if (errno == EEXIST) {
    const auto it = directories.find(place.path());
    if (it != directories.end()) it->second.opaque = true;
    return {};
  }
  Error error = system_error(errno, "mknodat (whiteout)", place.path());
  if (error.error_number() != EPERM) return error;
  return std::move(error).with_note("making overlay whiteouts in a user namespace needs Linux 5.8 or newer");
}

Result<void> SnapshotWriter::Impl::put_opaque(const Entry& entry) {
  if (entry.path.empty()) {
    root_opaque = true;
    used_implicit = true;
    return {};
  }
  ASSIGN_OR_RETURN(const auto real, resolve(entry.path, view_below ? Missing::kSkip : Missing::kCreate));
  if (!real) return {};  // there is nothing to hide
  if (real->empty()) {
    root_opaque = true;
  } else {
    directories.at(*real).opaque = true;
  }
  return {};
}

Result<void> SnapshotWriter::Impl::put(const Place& place, const Entry& entry, ByteSource* content) {
  // A symlink of `below` that the last path went through may be hidden by this entry.
  if (entry.type != EntryType::kFile || is_at_or_below(last_logical, place.path())) last_logical.clear();
  switch (entry.type) {
    case EntryType::kDirectory: return put_directory(place, entry);
    case EntryType::kFile: return put_file(place, entry, content);
    case EntryType::kHardlink: return put_hardlink(place, entry);
    case EntryType::kWhiteout: return put_whiteout(place);
    default: return put_special(place, entry);
  }
}

Result<void> SnapshotWriter::Impl::add(const Entry& entry, ByteSource* content) {
  if (!is_clean(entry.path)) {
    return corrupt(fmt::format("\"{}\" is no path of a layer", printable(entry.path.substr(0, 200))));
  }
  if (entry.type == EntryType::kOpaqueWhiteout) return put_opaque(entry);
  if (entry.path.empty()) {
    // The root stays a directory whatever an archive says.
    if (entry.type == EntryType::kDirectory) root_entry = entry;
    return {};
  }
  const bool skip = entry.type == EntryType::kWhiteout && view_below;
  ASSIGN_OR_RETURN(const auto parent,
                   resolve(parent_path(entry.path), skip ? Missing::kSkip : Missing::kCreate));
  if (!parent) return {};
  std::string name(base_name(entry.path));
  if (name.size() > NAME_MAX) {
    return system_error(ENAMETOOLONG, "openat", printable(entry.path));
  }
  return put({*parent, std::move(name)}, entry, content);
}

// Overlay knows no opaque root: what is below gets a whiteout each.
Result<void> SnapshotWriter::Impl::hide_root_below() {
  ASSIGN_OR_RETURN(const RootfsView* const view_of_below, view());
  if (view_of_below == nullptr) return {};
  ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> names, view_of_below->list(""));
  for (const DirectoryEntry& child : names) RETURN_IF_ERROR(put_whiteout({"", child.name}));
  return {};
}

Result<void> SnapshotWriter::Impl::set_directory(const std::string& path, const Directory& directory) {
  ASSIGN_OR_RETURN(const int fd, stack.enter(path));
  if (directory.opaque) RETURN_IF_ERROR_WITH(mark_opaque(fd), fmt::format("marking \"{}\"", printable(path)));
  return apply_attributes(fd, directory.entry);
}

Result<void> SnapshotWriter::Impl::finish() {
  if (root_opaque) RETURN_IF_ERROR(hide_root_below());
  // Deepest first: later changes would set the times again, and a mode may lock the directory.
  for (auto it = directories.rbegin(); it != directories.rend(); ++it) {
    RETURN_IF_ERROR(set_directory(it->first, it->second));
  }
  Directory root;
  root.entry.type = EntryType::kDirectory;
  root.entry.mode = 0755;
  if (root_entry) {
    root.entry = *root_entry;
  } else if (below) {
    ASSIGN_OR_RETURN(const std::optional<FileInfo> info, below->lstat(""));
    if (info) {
      root.entry.mode = info->mode;
      root.entry.uid = info->uid;
      root.entry.gid = info->gid;
      root.entry.mtime = info->mtime;
    }
  }
  return apply_attributes(root_fd, root.entry);
}

SnapshotWriter::SnapshotWriter(int root_fd, const RootfsView* below)
    : SnapshotWriter(root_fd, below == nullptr ? ViewBelow() : [below]() -> Result<std::shared_ptr<const RootfsView>> {
        return below->shared_from_this();
      }) {}
SnapshotWriter::SnapshotWriter(int root_fd, ViewBelow below) : impl_(std::make_unique<Impl>(root_fd, std::move(below))) {
  impl_->prepare_root();
}
SnapshotWriter::~SnapshotWriter() = default;

void SnapshotWriter::stop_on(std::stop_token stop) {
  impl_->stop = stop;
  impl_->copier.stop_on(std::move(stop));
}
void SnapshotWriter::spread_over(std::string room) { impl_->inodes = NewInodes(std::move(room)); }
Result<void> SnapshotWriter::add(const Entry& entry, ByteSource* content) {
  RETURN_IF_ERROR(check_stop(impl_->stop));
  return impl_->add(entry, content);
}
Result<void> SnapshotWriter::finish() { return impl_->finish(); }
Result<void> SnapshotWriter::add_all(EntrySource& entries) {
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<Entry> entry, entries.next());
    if (!entry) return finish();
    RETURN_IF_ERROR(add(*entry, nullptr));
  }
}

bool SnapshotWriter::used_implicit_parents() const { return impl_->used_implicit; }

std::vector<std::string> SnapshotWriter::implicit_directories() const {
  std::vector<std::string> paths;
  for (const auto& [path, directory] : impl_->directories) {
    if (directory.implicit) paths.push_back(path);
  }
  return paths;
}

}  // namespace lamina::layers
