#include "builder/source_tree.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <memory>

#include "base/guarded.h"
#include "base/stream.h"
#include "base/text.h"
#include "builder/internal/paths.h"

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
  Result<Sha256Bytes> file_digest(const std::string& path, const FileInfo& info, bool, ThreadPool* pool) const override {
    ASSIGN_OR_RETURN(const UniqueFd fd, view_->open_file(path));
    ASSIGN_OR_RETURN_WITH(const Sha256Bytes digest, content_digest(fd.get(), info.size, pool), "reading " + path);
    return digest;
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

namespace {

class ListedDirectory : public DirectoryScan {
 public:
  ListedDirectory(const SourceTree& tree, std::string path, std::vector<DirectoryEntry> entries)
      : tree_(tree), path_(std::move(path)), entries_(std::move(entries)) {}
  size_t size() const override { return entries_.size(); }
  Result<std::vector<TreeEntry>> members(size_t begin, size_t end) const override {
    std::vector<TreeEntry> found;
    for (size_t i = begin; i < end; ++i) {
      const std::string child = internal::child_of(path_, entries_[i].name);
      ASSIGN_OR_RETURN(const std::optional<FileInfo> info, tree_.lstat(child));
      if (!info) continue;  // removed since the listing
      TreeEntry member{entries_[i].name, *info, {}, {}, {}};
      if (info->type == EntryType::kSymlink) {
        ASSIGN_OR_RETURN(member.link_target, tree_.read_link(child));
      } else {
        ASSIGN_OR_RETURN(member.xattrs, tree_.xattrs(child));
      }
      found.push_back(std::move(member));
    }
    return found;
  }

 private:
  const SourceTree& tree_;
  const std::string path_;
  const std::vector<DirectoryEntry> entries_;
};

}  // namespace

Result<std::shared_ptr<const DirectoryScan>> SourceTree::scan(const std::string& path) const {
  ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries, list(path));
  return std::shared_ptr<const DirectoryScan>(std::make_shared<ListedDirectory>(*this, path, std::move(entries)));
}

namespace {

// Everything from `offset` on, up to `limit` bytes.
Result<Sha256Bytes> digest_range(int fd, uint64_t offset, uint64_t limit, uint64_t& total) {
  // Not value-initialised: a small file touches a small part of it.
  thread_local const std::unique_ptr<std::byte[]> buffer(new std::byte[kCopyBufferSize]);
  thread_local Sha256 hash;
  total = 0;
  while (total < limit) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(kCopyBufferSize, limit - total));
    const ssize_t n = ::pread(fd, buffer.get(), want, static_cast<off_t>(offset + total));
    if (n < 0) {
      if (errno == EINTR) continue;
      const int error = errno;
      hash.finish();  // forgets the bytes so far
      return system_error(error, "read");
    }
    if (n == 0) break;
    hash.update(std::span<const std::byte>(buffer.get(), static_cast<size_t>(n)));
    total += static_cast<uint64_t>(n);
  }
  return hash.finish();
}

}  // namespace

Result<Sha256Bytes> content_digest(int fd, uint64_t size_bytes, ThreadPool* pool) {
  uint64_t total = 0;
  if (size_bytes <= kDigestPiece) return digest_range(fd, 0, UINT64_MAX, total);
  const size_t count = static_cast<size_t>((size_bytes + kDigestPiece - 1) / kDigestPiece);
  std::vector<Sha256Bytes> pieces(count);
  Guarded<std::optional<Error>> failed;
  const auto digest_piece = [&](size_t i) {
    const uint64_t offset = i * kDigestPiece, expected = std::min(kDigestPiece, size_bytes - offset);
    uint64_t read = 0;
    auto digest = digest_range(fd, offset, expected, read);
    if (digest && read != expected) digest = Error(ErrorKind::kCorrupt, "the file became shorter while it was read");
    if (digest) {
      pieces[i] = *digest;
    } else if (auto first = failed.lock(); !*first) {
      *first = std::move(digest).error();
    }
  };
  if (pool != nullptr) {
    parallel_for(*pool, count, digest_piece);
  } else {
    for (size_t i = 0; i < count; ++i) digest_piece(i);
  }
  if (auto first = failed.lock(); *first) return std::move(**first);
  return sha256(std::string_view(reinterpret_cast<const char*>(pieces.data()), count * sizeof(Sha256Bytes)));
}

}  // namespace lamina::builder
