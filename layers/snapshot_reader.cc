// SnapshotReader of snapshot.h.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <mutex>

#include "base/files.h"
#include "base/text.h"
#include "layers/internal/attributes.h"
#include "layers/internal/directory_stack.h"
#include "layers/internal/paths.h"
#include "layers/internal/xattrs.h"
#include "layers/snapshot.h"

namespace lamina::layers {
namespace {

// Opens the files of a snapshot; shared by its entries.
class SnapshotFiles : public FileOpener {
 public:
  SnapshotFiles(UniqueFd root, size_t open_levels) : root_(std::move(root)), stack_(root_.get(), open_levels) {}
  int root() const { return root_.get(); }

  Result<UniqueFd> open_file(const std::string& path) const override {
    const std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(const int fd, stack_.enter(parent_path(path)));
    // O_NONBLOCK: whatever is there now, opening it must not wait.
    UniqueFd file(::openat(fd, std::string(base_name(path)).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!file) return system_error(errno, "openat", path);
    return file;
  }

 private:
  const UniqueFd root_;
  mutable std::mutex mutex_;
  mutable DirectoryStack stack_;  // of its own: files are opened in the order they are read
};

// A directory whose members are being yielded.
struct Frame {
  std::string path;
  std::vector<std::string> names;
  size_t next = 0;
  bool opaque = false;  // to be yielded before them
};

}  // namespace

struct SnapshotReader::Impl {
  Impl(UniqueFd root, size_t open_levels) : files(std::make_shared<const SnapshotFiles>(std::move(root), open_levels)), stack(files->root(), open_levels) {}

  Result<std::optional<Entry>> next();
  Result<void> push(const std::string& path);
  // Nothing for what no layer can hold.
  Result<std::optional<Entry>> read_member(const Frame& frame, const std::string& name);

  const std::shared_ptr<const SnapshotFiles> files;
  DirectoryStack stack;
  std::vector<Frame> frames;
  std::vector<std::string> left_out;  // sorted by path_less
  std::map<std::pair<uint64_t, uint64_t>, std::string> first_links;
  bool include_root = false;
  bool started = false;
  bool linked = false;  // the last file
};

Result<void> SnapshotReader::Impl::push(const std::string& path) {
  ASSIGN_OR_RETURN(const int fd, stack.enter(path));
  Frame frame;
  frame.path = path;
  frame.opaque = is_opaque(fd);
  ASSIGN_OR_RETURN(frame.names, list_directory(fd));
  frames.push_back(std::move(frame));
  return {};
}

Result<std::optional<Entry>> SnapshotReader::Impl::read_member(const Frame& frame, const std::string& name) {
  Entry entry;
  entry.path = join_path(frame.path, name);
  if (entry.path.size() > kMaxPathBytes) {
    return Error(ErrorKind::kUnsupported, fmt::format("\"{}…\" has a path of more than {} bytes, which a layer cannot hold",
                                                      printable(entry.path.substr(0, 100)), kMaxPathBytes));
  }
  ASSIGN_OR_RETURN(const int fd, stack.enter(frame.path));
  struct stat st {};
  if (::fstatat(fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return system_error(errno, "fstatat", entry.path);
  const std::optional<EntryType> type = type_of(st);
  if (!type) return std::optional<Entry>();
  if (*type == EntryType::kWhiteout) {
    entry.type = *type;
    return std::optional<Entry>(std::move(entry));
  }
  set_metadata(entry, *type, st);
  if (*type == EntryType::kFile && st.st_size == 0 && !has_full_privileges()) {
    if (const auto device = emulated_device(fd, name)) {
      entry.type = device->type;
      entry.dev_major = device->major;
      entry.dev_minor = device->minor;
      return std::optional<Entry>(std::move(entry));
    }
  }
  if (*type == EntryType::kSymlink) {
    entry.link_target.resize(static_cast<size_t>(st.st_size) + 1);
    const ssize_t size = ::readlinkat(fd, name.c_str(), entry.link_target.data(), entry.link_target.size());
    if (size < 0) return system_error(errno, "readlinkat", entry.path);
    entry.link_target.resize(static_cast<size_t>(size));
  }
  linked = *type == EntryType::kFile && st.st_nlink > 1;
  if (linked) {
    const auto [it, is_first] = first_links.try_emplace({st.st_dev, st.st_ino}, entry.path);
    if (!is_first) {
      entry.type = EntryType::kHardlink;
      entry.size = 0;
      entry.link_target = it->second;
      return std::optional<Entry>(std::move(entry));
    }
  }
  ASSIGN_OR_RETURN(entry.xattrs, read_layer_xattrs(fd, name, *type));
  if (*type == EntryType::kFile) {
    entry.opener = files;
    entry.source_path = entry.path;
  }
  return std::optional<Entry>(std::move(entry));
}

Result<std::optional<Entry>> SnapshotReader::Impl::next() {
  if (!started) {
    started = true;
    RETURN_IF_ERROR(push(""));
    if (include_root) {
      struct stat st {};
      if (::fstat(files->root(), &st) != 0) return system_error(errno, "fstat");
      Entry entry;
      set_metadata(entry, EntryType::kDirectory, st);
      ASSIGN_OR_RETURN(entry.xattrs, read_layer_xattrs(files->root(), ".", EntryType::kDirectory));
      return std::optional<Entry>(std::move(entry));
    }
  }
  while (!frames.empty()) {
    Frame& frame = frames.back();
    if (frame.opaque) {
      frame.opaque = false;
      Entry entry;
      entry.path = frame.path;
      entry.type = EntryType::kOpaqueWhiteout;
      return std::optional<Entry>(std::move(entry));
    }
    if (frame.next == frame.names.size()) {
      frames.pop_back();
      continue;
    }
    const std::string name = std::move(frame.names[frame.next++]);
    ASSIGN_OR_RETURN(std::optional<Entry> entry, read_member(frame, name));
    if (!entry) continue;
    if (entry->type != EntryType::kDirectory) return entry;
    RETURN_IF_ERROR(push(entry->path));
    if (!std::binary_search(left_out.begin(), left_out.end(), entry->path, path_less)) return entry;
  }
  return std::optional<Entry>();
}

SnapshotReader::SnapshotReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SnapshotReader::~SnapshotReader() = default;

Result<std::unique_ptr<SnapshotReader>> SnapshotReader::open(const std::string& directory, bool include_root) {
  return open_with(directory, include_root, DirectoryStack::kOpenLevels);
}

Result<std::unique_ptr<SnapshotReader>> SnapshotReader::open_among_many(const std::string& directory) {
  constexpr size_t kFewLevels = 2;
  return open_with(directory, false, kFewLevels);
}

Result<std::unique_ptr<SnapshotReader>> SnapshotReader::open_with(const std::string& directory, bool include_root, size_t open_levels) {
  ASSIGN_OR_RETURN(UniqueFd root, open_directory(AT_FDCWD, directory));
  auto impl = std::make_unique<Impl>(std::move(root), open_levels);
  impl->include_root = include_root;
  return std::unique_ptr<SnapshotReader>(new SnapshotReader(std::move(impl)));
}

void SnapshotReader::leave_out(std::vector<std::string> directories) {
  std::sort(directories.begin(), directories.end(), path_less);
  impl_->left_out = std::move(directories);
}

Result<std::optional<Entry>> SnapshotReader::next() {
  auto entry = impl_->next();
  if (!entry) return std::move(entry).error().with_context("reading a snapshot");
  return entry;
}

bool SnapshotReader::has_other_names() const { return impl_->linked; }

Result<bool> snapshot_is_empty(const std::string& directory) {
  ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, directory));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(root.get()));
  return names.empty();
}

}  // namespace lamina::layers
