// Deep stacks of snapshots made shallow. A mount takes 500 lower directories at most (OVL_MAX_STACK of the kernel), and
// every one costs each mount and each look at a file. So blocks of consecutive layers are merged, once, into a snapshot
// of hard links that stands for all of them: layers/<id of the topmost>/block-<hash of the layers>.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "layers/internal/attributes.h"
#include "layers/internal/paths.h"
#include "layers/internal/store_impl.h"
#include "layers/internal/xattrs.h"
#include "layers/snapshot.h"

namespace lamina::layers {
namespace {

Result<UniqueFd> open_child(int dir_fd, const std::string& name) { return open_at(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW); }

// What overlay shows of a merged directory are the attributes of its topmost part.
Result<void> take_attributes(int from, int to, const std::string& path) {
  struct stat st {};
  if (::fstat(from, &st) != 0) return system_error(errno, "fstat", path);
  Entry entry;
  entry.path = path;
  set_metadata(entry, EntryType::kDirectory, st);
  ASSIGN_OR_RETURN(entry.xattrs, read_layer_xattrs(from, ".", EntryType::kDirectory));
  ASSIGN_OR_RETURN(const Xattrs old, read_layer_xattrs(to, ".", EntryType::kDirectory));
  for (const auto& [name, value] : old) {
    if (!entry.xattrs.contains(name) && ::fremovexattr(to, name.c_str()) != 0) return system_error(errno, "fremovexattr", path);
  }
  if (::fchown(to, entry.uid, entry.gid) != 0) return system_error(errno, "fchown", path);
  return apply_attributes(to, entry);
}

Result<void> lay_over(int from, int to, const std::string& path);

Result<void> lay_directory(int from, int to, const std::string& name, const std::string& path, const struct stat* there) {
  ASSIGN_OR_RETURN(const UniqueFd upper, open_child(from, name));
  bool opaque = is_opaque(upper.get());
  // A file or a whiteout of this block hid the directory's older content in blocks below.
  const bool replaces = there != nullptr && (opaque || !S_ISDIR(there->st_mode));
  if (replaces) RETURN_IF_ERROR(remove_tree(to, name));
  opaque = opaque || replaces;
  const bool fresh = there == nullptr || replaces;
  if (fresh && ::mkdirat(to, name.c_str(), 0700) != 0) return system_error(errno, "mkdirat", path);
  ASSIGN_OR_RETURN(const UniqueFd merged, open_child(to, name));
  if (fresh && opaque) RETURN_IF_ERROR(mark_opaque(merged.get()));
  // A set-group-id bit would be inherited by what is made in it.
  if (!fresh && ::fchmod(merged.get(), 0700) != 0) return system_error(errno, "fchmod", path);
  RETURN_IF_ERROR(lay_over(upper.get(), merged.get(), path));
  return take_attributes(upper.get(), merged.get(), path);
}

// Lays the directory `from` of one snapshot over `to`, which holds the layers of the block that lie below.
// Whiteouts stay: they hide what is in other blocks.
Result<void> lay_over(int from, int to, const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(from));
  for (const std::string& name : names) {
    const std::string here = join_path(path, name);
    struct stat st {}, old{};
    if (::fstatat(from, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return system_error(errno, "fstatat", here);
    const bool there = ::fstatat(to, name.c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0;
    if (!there && errno != ENOENT) return system_error(errno, "fstatat", here);
    if (S_ISDIR(st.st_mode)) {
      RETURN_IF_ERROR(lay_directory(from, to, name, here, there ? &old : nullptr));
      continue;
    }
    if (there) RETURN_IF_ERROR(remove_tree(to, name));
    if (::linkat(from, name.c_str(), to, name.c_str(), 0) != 0) return system_error(errno, "linkat", here);
  }
  return {};
}

std::string name_of_snapshot(const std::string& path) { return std::string(base_name(path)); }

}  // namespace

Result<std::string> Store::Impl::block_of(std::span<const LayerId> layers, std::span<const std::string> snapshots) {
  std::string members;
  for (size_t i = 0; i < layers.size(); ++i) members += layers[i].value + "/" + name_of_snapshot(snapshots[i]) + "\n";
  const std::string name = "block-" + sha256_hex(members).substr(0, 32);
  const std::string place = layer_path(layers.back()) + "/" + name;
  if (known_blocks.lock()->contains(place)) return place;
  const auto slot = flights.enter("block " + place);
  if (::faccessat(AT_FDCWD, place.c_str(), F_OK, 0) != 0) {
    ASSIGN_OR_RETURN(const PendingLayer pending, self->begin_layer());
    ASSIGN_OR_RETURN(const UniqueFd merged, open_directory(AT_FDCWD, pending.fs()));
    for (const std::string& snapshot : snapshots) {
      ASSIGN_OR_RETURN(const UniqueFd layer, open_directory(AT_FDCWD, snapshot));
      RETURN_IF_ERROR_WITH(lay_over(layer.get(), merged.get(), ""), "merging the layers of a deep image");
      RETURN_IF_ERROR(take_attributes(layer.get(), merged.get(), ""));
    }
    if (::rename(pending.fs().c_str(), place.c_str()) != 0 && errno != ENOTEMPTY && errno != EEXIST) {
      return system_error(errno, "rename", place);
    }
  }
  known_blocks.lock()->insert(place);
  return place;
}

Result<std::vector<std::string>> Store::Impl::shallow(std::span<const LayerId> stack, std::vector<std::string> snapshots, size_t deepest) {
  if (stack.size() <= deepest) return snapshots;
  std::vector<std::string> fewer;
  size_t at = 0;
  for (; at + kBlockLayers <= stack.size(); at += kBlockLayers) {
    ASSIGN_OR_RETURN(std::string block, block_of(stack.subspan(at, kBlockLayers), std::span(snapshots).subspan(at, kBlockLayers)));
    fewer.push_back(std::move(block));
  }
  fewer.insert(fewer.end(), snapshots.begin() + static_cast<ptrdiff_t>(at), snapshots.end());
  return fewer;
}

}  // namespace lamina::layers
