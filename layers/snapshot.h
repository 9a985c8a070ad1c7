// Snapshots: a layer as a directory in overlay form, ready to be a lowerdir.
//
// Overlay's whiteout is a 0:0 character device, its opaque directory an xattr ("trusted.overlay.opaque" in
// the initial user namespace, "user.overlay.opaque" elsewhere: kernel Documentation/filesystems/overlayfs).
// What the kernel refuses to an unprivileged user is emulated and remembered in xattrs "user.lamina.*",
// which this module reads back so that the tar is the same as root would get:
//   user.lamina.device   "c 1 3": an empty regular file stands for a device node
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/stream.h"
#include "base/unique_fd.h"
#include "layers/entry.h"

namespace lamina::layers {

class RootfsView;

// Whether this process may use trusted.* xattrs and make device nodes (root of the initial user namespace).
// Found out at the first call and remembered: enter a user namespace before that. Any thread.
bool has_full_privileges();

// Writes entries into an empty directory, as if they were unpacked onto a root that has `below` in it.
// Hostile input is safe: nothing outside the directory is touched, the kernel never follows a symlink.
// A symlink among the parents of a path, of this layer or of `below`, is followed by this class inside the
// root (a layer with lib/x over a base with lib -> usr/lib writes usr/lib/x); more than 255 are kCorrupt, as
// are a parent that is no directory and a hard link to nothing. 0:0 character devices, which would be
// whiteouts to overlay, are kCorrupt too. One thread.
//
// An id that this user namespace does not map is kDenied, with a note about subordinate ids.
class SnapshotWriter {
 public:
  // Borrows `root_fd`. `below` (may be null) gives the metadata of parent directories that no entry names.
  SnapshotWriter(int root_fd, const RootfsView* below);
  // The same with a view that is asked for only when a path needs it; it may block. Called once at most.
  using ViewBelow = std::function<Result<std::shared_ptr<const RootfsView>>()>;
  SnapshotWriter(int root_fd, ViewBelow below);
  ~SnapshotWriter();

  // From now on add() fails with kCancelled after a stop request, also in the middle of a file, which is removed.
  void stop_on(std::stop_token stop);
  // Files may be made first in a directory of `room`, which is on the same file system (layers/internal/new_inodes.h). Call
  // before the first add().
  void spread_over(std::string room);
  // Any order. A second entry of a path replaces the first (a directory keeps its content). `content`
  // yields the bytes of a kFile; null: the entry's own content.
  Result<void> add(const Entry& entry, ByteSource* content);
  // Sets directory times and modes last. Call exactly once.
  Result<void> finish();
  // All entries with their own contents, and the end.
  Result<void> add_all(EntrySource& entries);
  // Whether a parent directory had to be made that no entry named: the result then depends on `below`.
  bool used_implicit_parents() const;
  // Those directories, as far as no later entry named them; sorted. They are no members of the layer.
  std::vector<std::string> implicit_directories() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Yields the entries of a snapshot in path_less order, without holding the tree in memory. Hard links
// within the snapshot come as kHardlink to their first path. The root itself is yielded (path "") only
// when include_root.
class SnapshotReader {
 public:
  static Result<std::unique_ptr<SnapshotReader>> open(const std::string& directory, bool include_root = false);
  // For a hundred that are open at the same time: it keeps five descriptors, and opens directories more often.
  static Result<std::unique_ptr<SnapshotReader>> open_among_many(const std::string& directory);
  // Directories that are not to be yielded themselves, only what is in them (see implicit_directories).
  void leave_out(std::vector<std::string> directories);
  ~SnapshotReader();
  // The next entry, or nothing at the end; its content can be opened through the entry.
  Result<std::optional<Entry>> next();
  // Whether the file that came last may come again under other names.
  bool has_other_names() const;

 private:
  struct Impl;
  static Result<std::unique_ptr<SnapshotReader>> open_with(const std::string& directory, bool include_root, size_t open_levels);
  explicit SnapshotReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What RUN leaves in an overlay upper directory becomes a layer as it is; this tells whether there is
// anything in it.
Result<bool> snapshot_is_empty(const std::string& directory);

// lsetxattr that marks a directory opaque with the name that this process can use.
Result<void> mark_opaque(int dir_fd);

}  // namespace lamina::layers
