// A merged, read-only view of a stack of snapshots, computed in user space: no mount, no privileges. On top of them may
// be layers of which no snapshot exists, as listings.
// Follows overlay's rules for whiteouts and opaque directories.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "layers/entry.h"
#include "layers/listing.h"

namespace lamina::layers {

struct FileInfo {
  EntryType type = EntryType::kFile;  // never a hardlink or whiteout type
  uint32_t mode = 0, uid = 0, gid = 0;
  Timestamp mtime, ctime;  // ctime: only where changes are watched (contexts)
  uint64_t size = 0;
  uint32_t dev_major = 0, dev_minor = 0;
  uint64_t device = 0, inode = 0, nlink = 1;  // of the file that holds it, to find hard links; not in listings
};

struct DirectoryEntry {
  std::string name;
  EntryType type = EntryType::kFile;
};

// Immutable while its snapshots are; any thread. Paths are relative to the root with or without a leading
// "/"; no path can leave the root.
class RootfsView : public FileOpener, public std::enable_shared_from_this<RootfsView> {
 public:
  // Bottom first, as layers are stacked, the listings on top. None: an empty root directory (scratch).
  static Result<std::shared_ptr<RootfsView>> open(const std::vector<std::string>& snapshots,
                                                  std::vector<std::shared_ptr<const Listing>> listings = {});
  ~RootfsView() override;

  // Of the path itself; a symlink among the parents is NOT followed (such a path does not exist). Nothing
  // when absent.
  Result<std::optional<FileInfo>> lstat(const std::string& path) const;
  // Follows symlinks of all components (the last one only if follow_last) inside the root, as chroot
  // would; ".." stops at the root. Components that do not exist are kept as they are. At most 255
  // symlinks (kInvalidInput "too many levels of symbolic links"). Gives a path without leading "/".
  Result<std::string> resolve(const std::string& path, bool follow_last) const;
  // Sorted by name; kNotFound when absent, kInvalidInput when not a directory.
  Result<std::vector<DirectoryEntry>> list(const std::string& path) const;
  Result<std::string> read_link(const std::string& path) const;
  Result<std::map<std::string, std::string>> xattrs(const std::string& path) const;  // overlay's own left out
  // O_RDONLY, regular files only; nothing is followed. kUnavailable when the file stands in a listing.
  Result<UniqueFd> open_file(const std::string& path) const override;
  // Small text files such as /etc/passwd: resolves symlinks; nothing when absent. kUnavailable when the file stands in a
  // listing that does not hold its bytes.
  Result<std::optional<std::string>> read_text(const std::string& path, uint64_t limit = 10 << 20) const;

 private:
  struct Impl;
  explicit RootfsView(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lamina::layers
