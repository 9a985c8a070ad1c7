#include "layers/rootfs_view.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>
#include <mutex>

#include "base/files.h"
#include "base/stream.h"
#include "base/text.h"
#include "layers/internal/attributes.h"
#include "layers/internal/paths.h"
#include "layers/internal/xattrs.h"
#include "layers/snapshot.h"

namespace lamina::layers {
namespace {

constexpr int kMaxSymlinks = 255;
// Descriptors that cached directories may hold: far below the usual RLIMIT_NOFILE of 1024.
constexpr size_t kMaxCachedFds = 192;

// A directory of one layer: of its snapshot, or of its listing.
struct Part {
  UniqueFd fd;
  const Listing* listing = nullptr;
  std::string path;  // in the listing
};

// A merged directory: those that make it up, topmost first.
struct MergedDirectory {
  std::vector<Part> parts;
};
using DirectoryPtr = std::shared_ptr<const MergedDirectory>;

// What overlay shows under a name.
struct Found {
  const UniqueFd* directory = nullptr;  // that holds it,
  const Entry* entry = nullptr;         // or what it is; neither: the root of scratch
  size_t part = 0;
  EntryType type = EntryType::kFile;
  struct stat st {};
  std::optional<EmulatedDevice> device;
};

std::string clean(std::string_view path) {
  std::string cleaned = clean_path(std::string("/").append(path));
  cleaned.erase(0, 1);
  return cleaned;
}

}  // namespace

struct RootfsView::Impl {
  Result<DirectoryPtr> directory(std::string_view path) const;
  Result<DirectoryPtr> child_directory(const MergedDirectory& parent, const std::string& name, size_t from) const;
  Result<std::optional<Found>> find(const MergedDirectory& parent, const std::string& name) const;
  // `holder` keeps the descriptor in the result alive.
  Result<std::optional<Found>> find_path(const std::string& path, DirectoryPtr& holder, std::string& name) const;

  std::vector<std::shared_ptr<const Listing>> listings;
  DirectoryPtr root;
  mutable std::mutex mutex;
  mutable std::map<std::string, DirectoryPtr, std::less<>> cache;
  mutable size_t cached_fds = 0;
};

// overlayfs.rst: the topmost layer that has the name decides, and a whiteout decides for "absent".
Result<std::optional<Found>> RootfsView::Impl::find(const MergedDirectory& parent, const std::string& name) const {
  if (name.size() > NAME_MAX) return std::optional<Found>();
  Found found;
  for (size_t i = 0; i < parent.parts.size(); ++i) {
    const Part& part = parent.parts[i];
    if (part.listing != nullptr) {
      found.entry = part.listing->find(join_path(part.path, name));
      if (found.entry == nullptr) continue;
      if (found.entry->type == EntryType::kWhiteout) return std::optional<Found>();
      found.part = i;
      found.type = found.entry->type;
      return std::optional<Found>(std::move(found));
    }
    const int fd = part.fd.get();
    if (::fstatat(fd, name.c_str(), &found.st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) continue;
      return system_error(errno, "fstatat", name);
    }
    const std::optional<EntryType> type = type_of(found.st);
    if (!type || *type == EntryType::kWhiteout) return std::optional<Found>();
    found.directory = &part.fd;
    found.part = i;
    found.type = *type;
    if (*type == EntryType::kFile && found.st.st_size == 0 && !has_full_privileges()) {
      found.device = emulated_device(fd, name);
      if (found.device) found.type = found.device->type;
    }
    return std::optional<Found>(std::move(found));
  }
  return std::optional<Found>();
}

// Directories of one name merge, down to an opaque one or to what is no directory.
Result<DirectoryPtr> RootfsView::Impl::child_directory(const MergedDirectory& parent, const std::string& name,
                                                       size_t from) const {
  auto merged = std::make_shared<MergedDirectory>();
  for (size_t i = from; i < parent.parts.size(); ++i) {
    const Part& part = parent.parts[i];
    if (part.listing != nullptr) {
      std::string path = join_path(part.path, name);
      const Entry* entry = part.listing->find(path);
      if (entry == nullptr) continue;
      if (entry->type != EntryType::kDirectory) break;
      const bool opaque = part.listing->opaque(path);
      merged->parts.push_back({UniqueFd(), part.listing, std::move(path)});
      if (opaque) break;
      continue;
    }
    UniqueFd fd(::openat(part.fd.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) {
      if (errno == ENOENT) continue;
      if (errno == ENOTDIR || errno == ELOOP) break;
      return system_error(errno, "openat", name);
    }
    const bool opaque = is_opaque(fd.get());
    merged->parts.push_back({std::move(fd), nullptr, {}});
    if (opaque) break;
  }
  return DirectoryPtr(std::move(merged));
}

// Null when there is no such directory.
Result<DirectoryPtr> RootfsView::Impl::directory(std::string_view path) const {
  if (path.empty()) return root;
  {
    const std::lock_guard lock(mutex);
    const auto it = cache.find(path);
    if (it != cache.end()) return it->second;
  }
  ASSIGN_OR_RETURN(const DirectoryPtr parent, directory(parent_path(path)));
  if (!parent) return DirectoryPtr();
  const std::string name(base_name(path));
  ASSIGN_OR_RETURN(const std::optional<Found> found, find(*parent, name));
  if (!found || found->type != EntryType::kDirectory) return DirectoryPtr();
  ASSIGN_OR_RETURN(DirectoryPtr merged, child_directory(*parent, name, found->part));
  const std::lock_guard lock(mutex);
  if (cached_fds + merged->parts.size() > kMaxCachedFds) {
    cache.clear();
    cached_fds = 0;
  }
  if (cache.emplace(path, merged).second) cached_fds += merged->parts.size();
  return merged;
}

Result<std::optional<Found>> RootfsView::Impl::find_path(const std::string& path, DirectoryPtr& holder,
                                                         std::string& name) const {
  const std::string cleaned = clean(path);
  if (cleaned.size() > kMaxPathBytes) return std::optional<Found>();
  if (cleaned.empty()) {
    holder = root;
    name = ".";
    Found found;
    found.type = EntryType::kDirectory;
    for (const Part& part : root->parts) {
      if (part.listing != nullptr) {
        found.entry = part.listing->find("");
        if (found.entry != nullptr) break;
        continue;  // it says nothing of the root
      }
      found.directory = &part.fd;
      if (::fstat(part.fd.get(), &found.st) != 0) return system_error(errno, "fstat");
      break;
    }
    return std::optional<Found>(std::move(found));
  }
  ASSIGN_OR_RETURN(holder, directory(parent_path(cleaned)));
  if (!holder) return std::optional<Found>();
  name = base_name(cleaned);
  return find(*holder, name);
}

RootfsView::RootfsView(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RootfsView::~RootfsView() = default;

Result<std::shared_ptr<RootfsView>> RootfsView::open(const std::vector<std::string>& snapshots,
                                                     std::vector<std::shared_ptr<const Listing>> listings) {
  auto merged = std::make_shared<MergedDirectory>();
  for (auto it = listings.rbegin(); it != listings.rend(); ++it) merged->parts.push_back({UniqueFd(), it->get(), {}});
  for (auto it = snapshots.rbegin(); it != snapshots.rend(); ++it) {
    ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, *it, O_PATH | O_DIRECTORY | O_NOFOLLOW));
    merged->parts.push_back({std::move(fd), nullptr, {}});
  }
  auto impl = std::make_unique<Impl>();
  impl->root = std::move(merged);
  impl->listings = std::move(listings);
  return std::shared_ptr<RootfsView>(new RootfsView(std::move(impl)));
}

namespace {

FileInfo info_of(const Entry& entry) {
  FileInfo info;
  info.type = entry.type;
  info.mode = entry.type == EntryType::kSymlink ? 0777 : entry.mode;  // as of any symlink in a snapshot
  info.uid = entry.uid;
  info.gid = entry.gid;
  info.mtime = entry.mtime;
  info.size = entry.size;
  info.dev_major = entry.dev_major;
  info.dev_minor = entry.dev_minor;
  return info;
}

}  // namespace

Result<std::optional<FileInfo>> RootfsView::lstat(const std::string& path) const {
  DirectoryPtr holder;
  std::string name;
  ASSIGN_OR_RETURN(const std::optional<Found> found, impl_->find_path(path, holder, name));
  if (!found) return std::optional<FileInfo>();
  if (found->entry != nullptr) return std::optional<FileInfo>(info_of(*found->entry));
  if (found->directory == nullptr) {  // the root of scratch
    FileInfo info;
    info.type = EntryType::kDirectory;
    info.mode = 0755;
    return std::optional<FileInfo>(info);
  }
  Entry entry;
  set_metadata(entry, found->type, found->st);
  FileInfo info = info_of(entry);
  if (found->device) {
    info.dev_major = found->device->major;
    info.dev_minor = found->device->minor;
  }
  info.device = found->st.st_dev;
  info.inode = found->st.st_ino;
  info.nlink = found->st.st_nlink;
  return std::optional<FileInfo>(info);
}

// As chroot(2) and path_resolution(7) would do it.
Result<std::string> RootfsView::resolve(const std::string& path, bool follow_last) const {
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
    std::string next = join_path(at, name);
    if (next.size() > kMaxPathBytes) {
      return Error(ErrorKind::kInvalidInput, "the path \"" + printable(path.substr(0, 200)) + "\" is too long");
    }
    if (!todo.empty() || follow_last) {
      ASSIGN_OR_RETURN(const std::optional<FileInfo> info, lstat(next));
      if (info && info->type == EntryType::kSymlink) {
        if (++symlinks > kMaxSymlinks) {
          return Error(ErrorKind::kInvalidInput, "too many levels of symbolic links in \"" + printable(path) + "\"");
        }
        ASSIGN_OR_RETURN(const std::string target, read_link(next));
        if (target.starts_with('/')) at.clear();
        const std::vector<std::string> parts = path_components(target);
        todo.insert(todo.begin(), parts.begin(), parts.end());
        continue;
      }
    }
    at = std::move(next);
  }
  return at;
}

Result<std::vector<DirectoryEntry>> RootfsView::list(const std::string& path) const {
  const std::string cleaned = clean(path);
  ASSIGN_OR_RETURN(const DirectoryPtr merged, impl_->directory(cleaned));
  if (!merged) {
    ASSIGN_OR_RETURN(const auto info, lstat(cleaned));
    if (!info) return system_error(ENOENT, "open", cleaned);
    return Error(ErrorKind::kInvalidInput, "\"" + printable(cleaned) + "\" is not a directory");
  }
  std::vector<std::string> names;
  for (const Part& part : merged->parts) {
    std::vector<std::string> here;
    if (part.listing != nullptr) {
      here = part.listing->names(part.path);
    } else {
      ASSIGN_OR_RETURN(here, list_directory(part.fd.get()));
    }
    names.insert(names.end(), here.begin(), here.end());
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  std::vector<DirectoryEntry> entries;
  entries.reserve(names.size());
  for (std::string& name : names) {
    ASSIGN_OR_RETURN(const std::optional<Found> found, impl_->find(*merged, name));
    if (found) entries.push_back({std::move(name), found->type});
  }
  return entries;
}

namespace {

Error only_listed(const std::string& path) {
  return Error(ErrorKind::kUnavailable, "the bytes of \"" + printable(path) + "\" are in no snapshot");
}

Error not_found(const std::string& path) { return system_error(ENOENT, "open", path); }

}  // namespace

Result<std::string> RootfsView::read_link(const std::string& path) const {
  DirectoryPtr holder;
  std::string name;
  ASSIGN_OR_RETURN(const std::optional<Found> found, impl_->find_path(path, holder, name));
  if (!found) return not_found(path);
  if (found->type != EntryType::kSymlink) {
    return Error(ErrorKind::kInvalidInput, "\"" + printable(path) + "\" is not a symbolic link");
  }
  if (found->entry != nullptr) return found->entry->link_target;
  std::string target(static_cast<size_t>(found->st.st_size) + 1, '\0');
  const ssize_t size = ::readlinkat(found->directory->get(), name.c_str(), target.data(), target.size());
  if (size < 0) return system_error(errno, "readlinkat", path);
  target.resize(static_cast<size_t>(size));
  return target;
}

Result<std::map<std::string, std::string>> RootfsView::xattrs(const std::string& path) const {
  DirectoryPtr holder;
  std::string name;
  ASSIGN_OR_RETURN(const std::optional<Found> found, impl_->find_path(path, holder, name));
  if (!found) return not_found(path);
  if (found->entry != nullptr) return found->entry->xattrs;
  if (found->directory == nullptr) return std::map<std::string, std::string>();
  return read_layer_xattrs(found->directory->get(), name, found->type);
}

Result<UniqueFd> RootfsView::open_file(const std::string& path) const {
  DirectoryPtr holder;
  std::string name;
  ASSIGN_OR_RETURN(const std::optional<Found> found, impl_->find_path(path, holder, name));
  if (!found) return not_found(path);
  if (found->type != EntryType::kFile) {
    return Error(ErrorKind::kInvalidInput, "\"" + printable(path) + "\" is not a regular file");
  }
  if (found->entry != nullptr) return only_listed(path);
  return open_at(found->directory->get(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
}

Result<std::optional<std::string>> RootfsView::read_text(const std::string& path, uint64_t limit) const {
  ASSIGN_OR_RETURN(const std::string resolved, resolve(path, true));
  DirectoryPtr holder;
  std::string name;
  ASSIGN_OR_RETURN(const std::optional<Found> found, impl_->find_path(resolved, holder, name));
  if (!found) return std::optional<std::string>();
  if (found->entry != nullptr && found->entry->bytes && found->entry->bytes->size() <= limit) {
    return std::optional<std::string>(*found->entry->bytes);
  }
  ASSIGN_OR_RETURN(const UniqueFd fd, open_file(resolved));
  ASSIGN_OR_RETURN_WITH(std::string text, read_fd(fd.get(), limit), "reading \"" + printable(path) + "\"");
  return std::optional<std::string>(std::move(text));
}

}  // namespace lamina::layers
