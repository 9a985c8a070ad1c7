// Where COPY, ADD and bind mounts take files from: the build context, a stage, an image.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"
#include "base/thread_pool.h"
#include "layers/rootfs_view.h"
#include "parser/patterns.h"

namespace lamina::builder {

using layers::DirectoryEntry;
using layers::EntryType;
using layers::FileInfo;

// A member of a directory with everything that a selection must know of it.
struct TreeEntry {
  std::string name;
  FileInfo info;
  std::map<std::string, std::string> xattrs;  // empty for symlinks
  std::string link_target;                    // symlinks
  std::optional<Sha256Bytes> digest;          // of a regular file, as file_digest gives it, when it is known without reading
};

// A directory that is being read. Any thread; borrows its tree.
class DirectoryScan {
 public:
  virtual ~DirectoryScan() = default;
  // How many names there are; what they name may be hidden or gone.
  virtual size_t size() const = 0;
  // The members at the names from `begin` to `end` (at most size()), in byte order.
  virtual Result<std::vector<TreeEntry>> members(size_t begin, size_t end) const = 0;
};

// A read-only tree. Paths are relative to its root, cleaned, without a leading "/"; "" is the root. Any
// thread.
class SourceTree {
 public:
  virtual ~SourceTree() = default;

  // How the tree is called in messages and key inputs: "context", "from:build".
  virtual std::string name() const = 0;
  // Of the path itself; its parents must be real directories. Nothing when absent or hidden.
  virtual Result<std::optional<FileInfo>> lstat(const std::string& path) const = 0;
  // Follows symlinks inside the root; parts that do not exist are kept.
  virtual Result<std::string> resolve(const std::string& path, bool follow_last) const = 0;
  // Sorted by name, hidden ones left out.
  virtual Result<std::vector<DirectoryEntry>> list(const std::string& path) const = 0;
  virtual Result<std::string> read_link(const std::string& path) const = 0;
  virtual Result<std::map<std::string, std::string>> xattrs(const std::string& path) const = 0;
  // For the members that list() gives, some at a time.
  virtual Result<std::shared_ptr<const DirectoryScan>> scan(const std::string& path) const;
  // content_digest() of a regular file; `info` is what lstat gave, `has_xattrs` what xattrs gave.
  // `pool` (may be null) helps with large files.
  virtual Result<Sha256Bytes> file_digest(const std::string& path, const FileInfo& info, bool has_xattrs, ThreadPool* pool) const = 0;
  virtual std::shared_ptr<const layers::FileOpener> opener() const = 0;
  // file_digest() where it is known without reading.
  virtual std::optional<Sha256Bytes> known_digest(const std::string& /*path*/, const FileInfo& /*info*/) const { return {}; }
  // Whether what was read from `fd`, up to its last byte, is the file that `selected` describes; false where it may
  // have been written to meanwhile. Trees that nobody writes to say true.
  virtual Result<bool> unchanged(const std::string& /*path*/, const FileInfo& /*selected*/, int /*fd*/) const { return true; }
  // file_digest() of an unchanged file that somebody else read, not before `read_at_ns` (realtime_ns()).
  virtual void learn_digest(const std::string& /*path*/, const FileInfo& /*selected*/, bool /*has_xattrs*/, const Sha256Bytes& /*digest*/,
                            int64_t /*read_at_ns*/) const {}

  // The ignore rule that hides an existing path, with its file and line; empty when none does.
  virtual std::string hidden_by(const std::string& /*path*/) const { return {}; }
  // The ignore rules that hide paths, and the tree as it is without them; null when nothing is ever hidden.
  virtual const parser::IgnoreList* ignore_list() const { return nullptr; }
  virtual std::shared_ptr<const SourceTree> unfiltered() const { return nullptr; }
};

// The merged files of a stage or image.
std::shared_ptr<const SourceTree> tree_of_view(std::shared_ptr<const layers::RootfsView> view,
                                               std::string name);

// Resolves symlinks inside a root by asking lstat and read_link; shared by the trees.
Result<std::string> resolve_in_tree(const SourceTree& tree, const std::string& path, bool follow_last);

// A file longer than this is digested in pieces of this size.
inline constexpr uint64_t kDigestPiece = 4 << 20;
// What stands for the bytes of a file in keys, together with its size: the SHA-256 of a file of up to kDigestPiece
// bytes; of a longer one the SHA-256 of its pieces' digests, one after the other, so that several threads can work on
// it. `size_bytes` is what fstat said; kCorrupt when a longer file turns out shorter. `fd` stands at its beginning;
// `pool` may be null.
Result<Sha256Bytes> content_digest(int fd, uint64_t size_bytes, ThreadPool* pool);

}  // namespace lamina::builder
