// Keeps a directory of a tree open, together with those on the way to it, so that work in path order opens
// each directory once.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace lamina::layers {

// Components are opened one by one with O_NOFOLLOW: no symlink is followed, no length limit applies. One
// thread.
class DirectoryStack {
 public:
  // Borrows `root_fd`.
  explicit DirectoryStack(int root_fd) : root_fd_(root_fd) {}

  // A descriptor of the directory `path` (clean, relative to the root), valid until the next call of a
  // member. ENOTDIR or ELOOP when something on the way is no directory.
  Result<int> enter(std::string_view path);
  // Call before a directory is removed or renamed.
  void forget();

 private:
  struct Level {
    size_t path_size;  // of the path up to here
    UniqueFd fd;       // closed on levels far above the deepest: RLIMIT_NOFILE
  };

  int root_fd_;
  std::string path_;
  std::vector<Level> levels_;
};

}  // namespace lamina::layers
