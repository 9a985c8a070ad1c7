#include "layers/internal/directory_stack.h"

#include "base/files.h"
#include "layers/internal/paths.h"

namespace lamina::layers {

Result<int> DirectoryStack::enter(std::string_view path) {
  while (!levels_.empty() && !is_at_or_below(path, std::string_view(path_).substr(0, levels_.back().path_size))) {
    levels_.pop_back();
  }
  // Too far up: from there on everything is opened again, from the root.
  if (!levels_.empty() && !levels_.back().fd) levels_.clear();
  path_.resize(levels_.empty() ? 0 : levels_.back().path_size);
  int fd = levels_.empty() ? root_fd_ : levels_.back().fd.get();
  while (path_.size() < path.size()) {
    const size_t begin = path_.empty() ? 0 : path_.size() + 1;
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string name(path.substr(begin, end - begin));
    ASSIGN_OR_RETURN(UniqueFd next, open_at(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    path_.assign(path.substr(0, end));
    fd = next.get();
    levels_.push_back({end, std::move(next)});
    if (levels_.size() > open_levels_) levels_[levels_.size() - 1 - open_levels_].fd.reset();
  }
  return fd;
}

void DirectoryStack::forget() {
  levels_.clear();
  path_.clear();
}

}  // namespace lamina::layers
