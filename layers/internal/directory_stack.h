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
  static constexpr size_t kOpenLevels = 32;

  // Borrows `root_fd`. At most so many levels above the deepest are kept open.
  explicit DirectoryStack(int root_fd, size_t open_levels = kOpenLevels) : root_fd_(root_fd), open_levels_(open_levels) {}

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
  size_t open_levels_;
  std::string path_;
  std::vector<Level> levels_;
};

}  // namespace lamina::layers
