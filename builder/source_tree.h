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
#include "layers/rootfs_view.h"
#include "parser/patterns.h"

namespace lamina::builder {

using layers::DirectoryEntry;
using layers::EntryType;
using layers::FileInfo;

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
  // SHA-256 of a regular file's bytes; `info` is what lstat gave.
  virtual Result<std::string> file_digest(const std::string& path, const FileInfo& info) const = 0;
  virtual std::shared_ptr<const layers::FileOpener> opener() const = 0;

  // The ignore rule that hides an existing path, with its file and line; empty when none does.
  virtual std::string hidden_by(const std::string& /*path*/) const { return {}; }
};

// The merged files of a stage or image.
std::shared_ptr<const SourceTree> tree_of_view(std::shared_ptr<const layers::RootfsView> view,
                                               std::string name);

// Resolves symlinks inside a root by asking lstat and read_link; shared by the trees.
Result<std::string> resolve_in_tree(const SourceTree& tree, const std::string& path, bool follow_last);

// SHA-256 of everything that can be read from `fd`, from its current offset.
Result<std::string> digest_of_fd(int fd);

}  // namespace lamina::builder
