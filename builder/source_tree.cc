#include "builder/source_tree.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>

#include "base/stream.h"
#include "base/text.h"

namespace lamina::builder {

namespace {

// As path_resolution(7): the kernel's limit is 40, runc's is 255.
constexpr int kMaxSymlinks = 255;

class ViewTree : public SourceTree {
 public:
  ViewTree(std::shared_ptr<const layers::RootfsView> view, std::string name)
      : view_(std::move(view)), name_(std::move(name)) {}

  std::string name() const override { return name_; }
  Result<std::optional<FileInfo>> lstat(const std::string& path) const override {
    return view_->lstat(path);
  }
  Result<std::string> resolve(const std::string& path, bool follow_last) const override {
    return view_->resolve(path, follow_last);
  }
  Result<std::vector<DirectoryEntry>> list(const std::string& path) const override {
    return view_->list(path);
  }
  Result<std::string> read_link(const std::string& path) const override {
    return view_->read_link(path);
  }
  Result<std::map<std::string, std::string>> xattrs(const std::string& path) const override {
    return view_->xattrs(path);
  }
  Result<std::string> file_digest(const std::string& path, const FileInfo&) const override {
    ASSIGN_OR_RETURN(const UniqueFd fd, view_->open_file(path));
    return digest_of_fd(fd.get());
  }
  std::shared_ptr<const layers::FileOpener> opener() const override { return view_; }

 private:
  std::shared_ptr<const layers::RootfsView> view_;
  std::string name_;
};

}  // namespace

std::shared_ptr<const SourceTree> tree_of_view(std::shared_ptr<const layers::RootfsView> view,
                                               std::string name) {
  return std::make_shared<ViewTree>(std::move(view), std::move(name));
}

Result<std::string> resolve_in_tree(const SourceTree& tree, const std::string& path,
                                    bool follow_last) {
  std::vector<std::string> done;
  std::deque<std::string> todo;
  for (std::string& part : path_components(path)) todo.push_back(std::move(part));
  int symlinks = 0;
  while (!todo.empty()) {
    std::string part = std::move(todo.front());
    todo.pop_front();
    if (part == "..") {
      if (!done.empty()) done.pop_back();
      continue;
    }
    done.push_back(std::move(part));
    if (todo.empty() && !follow_last) break;
    const std::string here = join(done, "/");
    ASSIGN_OR_RETURN(const std::optional<FileInfo> info, tree.lstat(here));
    if (!info || info->type != EntryType::kSymlink) continue;
    if (++symlinks > kMaxSymlinks) {
      return Error(ErrorKind::kInvalidInput, "too many levels of symbolic links in " + path);
    }
    ASSIGN_OR_RETURN(const std::string target, tree.read_link(here));
    done.pop_back();
    if (!target.empty() && target.front() == '/') done.clear();
    std::vector<std::string> parts = path_components(target);
    todo.insert(todo.begin(), parts.begin(), parts.end());
  }
  return join(done, "/");
}

Result<std::string> digest_of_fd(int fd) {
  thread_local std::vector<std::byte> buffer(kCopyBufferSize);
  thread_local Sha256 hash;
  while (true) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      const int error = errno;
      hash.finish();  // forgets the bytes so far
      return system_error(error, "read");
    }
    if (n == 0) break;
    hash.update(std::span<const std::byte>(buffer.data(), static_cast<size_t>(n)));
  }
  return to_hex(hash.finish());
}

}  // namespace lamina::builder
