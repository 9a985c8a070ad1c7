#include "builder/context.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unordered_map>

#include "base/files.h"
#include "base/guarded.h"
#include "base/text.h"
#include "builder/xattrs.h"

namespace lamina::builder {

namespace {

constexpr std::string_view kIndexFormat = "lamina-digests 1\n";
// The kernel stamps files with a clock of up to 10 ms granularity (CONFIG_HZ=100).
constexpr int64_t kClockGranularityNs = 20'000'000;

int64_t realtime_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

}  // namespace

struct DigestIndex::Impl {
  struct Known {
    Stat stat;
    int64_t read_at_ns = 0;
    Sha256Bytes digest{};
  };
  struct State {
    std::unordered_map<std::string, Known> known;
    bool changed = false;
  };
  std::string name;
  mutable Guarded<State> state;

  static std::string hex_of(const Sha256Bytes& b) { return to_hex(b); }
};

DigestIndex::DigestIndex() : impl_(std::make_unique<Impl>()) {}
DigestIndex::~DigestIndex() = default;

std::shared_ptr<DigestIndex> DigestIndex::load(layers::Store& store, const std::string& name) {
  std::shared_ptr<DigestIndex> index(new DigestIndex());
  index->impl_->name = name;
  const auto text = store.index(name);
  if (!text || !*text || (*text)->compare(0, kIndexFormat.size(), kIndexFormat) != 0) return index;
  auto state = index->impl_->state.lock();
  const char* at = (*text)->data() + kIndexFormat.size();
  const char* const end = (*text)->data() + (*text)->size();
  constexpr size_t kFixed = 8 * 8 + 32 + 2;
  while (end - at >= static_cast<ptrdiff_t>(kFixed)) {
    int64_t numbers[8];
    Impl::Known known;
    uint16_t length = 0;
    std::memcpy(numbers, at, sizeof numbers);
    std::memcpy(known.digest.data(), at + sizeof numbers, 32);
    std::memcpy(&length, at + sizeof numbers + 32, 2);
    at += kFixed;
    if (end - at < length) break;
    known.stat = {static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1]),
                  static_cast<uint64_t>(numbers[2]), numbers[3], numbers[4], numbers[5], numbers[6]};
    known.read_at_ns = numbers[7];
    state->known.emplace(std::string(at, length), known);
    at += length;
  }
  return index;
}

std::string DigestIndex::find(const std::string& path, const Stat& stat) const {
  auto state = impl_->state.lock();
  const auto it = state->known.find(path);
  if (it == state->known.end() || !(it->second.stat == stat)) return {};
  const int64_t ctime = stat.ctime_s * 1'000'000'000LL + stat.ctime_ns;
  if (ctime + kClockGranularityNs >= it->second.read_at_ns) return {};  // racily clean
  return Impl::hex_of(it->second.digest);
}

void DigestIndex::put(const std::string& path, const Stat& stat, const std::string& hex,
                      int64_t read_at_ns) {
  if (path.size() > UINT16_MAX || hex.size() != 64) return;
  Impl::Known known{stat, read_at_ns, {}};
  for (size_t i = 0; i < 32; ++i) {
    known.digest[i] = static_cast<unsigned char>(*parse_uint(hex.substr(2 * i, 2), 16));
  }
  auto state = impl_->state.lock();
  state->known.insert_or_assign(path, known);
  state->changed = true;
}

Result<void> DigestIndex::save(layers::Store& store) {
  auto state = impl_->state.lock();
  if (!state->changed) return {};
  std::string out(kIndexFormat);
  for (const auto& [path, known] : state->known) {
    const int64_t numbers[8] = {static_cast<int64_t>(known.stat.device),
                                static_cast<int64_t>(known.stat.inode),
                                static_cast<int64_t>(known.stat.size),
                                known.stat.mtime_s,
                                known.stat.mtime_ns,
                                known.stat.ctime_s,
                                known.stat.ctime_ns,
                                known.read_at_ns};
    const auto length = static_cast<uint16_t>(path.size());
    out.append(reinterpret_cast<const char*>(numbers), sizeof numbers);
    out.append(reinterpret_cast<const char*>(known.digest.data()), 32);
    out.append(reinterpret_cast<const char*>(&length), 2);
    out += path;
  }
  state->changed = false;
  return store.put_index(impl_->name, out);
}

namespace {

FileInfo info_of(const struct stat& st) {
  FileInfo info;
  switch (st.st_mode & S_IFMT) {
    case S_IFDIR: info.type = EntryType::kDirectory; break;
    case S_IFLNK: info.type = EntryType::kSymlink; break;
    case S_IFCHR: info.type = EntryType::kCharDevice; break;
    case S_IFBLK: info.type = EntryType::kBlockDevice; break;
    case S_IFIFO: info.type = EntryType::kFifo; break;
    default: info.type = EntryType::kFile; break;  // a socket becomes an empty file
  }
  info.mode = st.st_mode & 07777;
  info.mtime = {st.st_mtim.tv_sec, static_cast<uint32_t>(st.st_mtim.tv_nsec)};
  info.size = S_ISREG(st.st_mode) ? static_cast<uint64_t>(st.st_size) : 0;
  info.dev_major = major(st.st_rdev);
  info.dev_minor = minor(st.st_rdev);
  info.device = st.st_dev;
  info.inode = st.st_ino;
  info.nlink = st.st_nlink;
  return info;
}

std::string dot_if_empty(const std::string& path) { return path.empty() ? "." : path; }

// Opens context files for the layer writers. Outlives the context.
class ContextOpener : public layers::FileOpener {
 public:
  explicit ContextOpener(UniqueFd root) : root_(std::move(root)) {}
  int root() const { return root_.get(); }
  Result<UniqueFd> open_file(const std::string& path) const override {
    // O_NONBLOCK: a file that was swapped for a fifo must not hang the build.
    return open_beneath_nofollow(root_.get(), dot_if_empty(path), O_RDONLY | O_NONBLOCK | O_NOCTTY);
  }

 private:
  UniqueFd root_;
};

class ContextTree : public SourceTree {
 public:
  ContextTree(UniqueFd root, std::string name, parser::IgnoreList ignore,
              std::shared_ptr<DigestIndex> index)
      : opener_(std::make_shared<ContextOpener>(std::move(root))),
        name_(std::move(name)),
        ignore_(std::move(ignore)),
        index_(std::move(index)) {}

  std::string name() const override { return name_; }

  Result<std::optional<FileInfo>> lstat(const std::string& path) const override {
    ASSIGN_OR_RETURN(const std::optional<struct stat> st, stat_of(path));
    if (!st) return std::optional<FileInfo>();
    if (!path.empty() && hides(path, S_ISDIR(st->st_mode))) return std::optional<FileInfo>();
    return std::optional<FileInfo>(info_of(*st));
  }

  Result<std::string> resolve(const std::string& path, bool follow_last) const override {
    return resolve_in_tree(*this, path, follow_last);
  }

  Result<std::vector<DirectoryEntry>> list(const std::string& path) const override {
    ASSIGN_OR_RETURN(const UniqueFd fd, open_beneath_nofollow(opener_->root(), dot_if_empty(path),
                                                              O_RDONLY | O_DIRECTORY));
    ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(fd.get()));
    std::vector<DirectoryEntry> entries;
    entries.reserve(names.size());
    for (const std::string& entry_name : names) {
      const std::string child = path.empty() ? entry_name : path + "/" + entry_name;
      struct stat st {};
      if (::fstatat(fd.get(), entry_name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT) continue;  // removed since the listing
        return system_error(errno, "stat", child);
      }
      if (hides(child, S_ISDIR(st.st_mode))) continue;
      entries.push_back({entry_name, info_of(st).type});
    }
    return entries;
  }

  Result<std::string> read_link(const std::string& path) const override {
    std::string target(4096, '\0');
    const ssize_t n = ::readlinkat(opener_->root(), path.c_str(), target.data(), target.size());
    if (n < 0) return system_error(errno, "readlink", path);
    target.resize(static_cast<size_t>(n));
    return target;
  }

  Result<std::map<std::string, std::string>> xattrs(const std::string& path) const override {
    return read_xattrs(opener_->root(), path);
  }

  Result<std::string> file_digest(const std::string& path, const FileInfo&) const override {
    // The stat that proves the digest is taken from the file that is read, before the first byte.
    ASSIGN_OR_RETURN(const std::optional<struct stat> before, stat_of(path));
    if (!before) return Error(ErrorKind::kNotFound, path + " was removed while it was read");
    if (!S_ISREG(before->st_mode)) return sha256_hex({});
    if (index_) {
      std::string known = index_->find(path, key_of(*before));
      if (!known.empty()) return known;
    }
    const int64_t read_at = realtime_ns();
    ASSIGN_OR_RETURN(const UniqueFd fd, opener_->open_file(path));
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) return system_error(errno, "fstat", path);
    ASSIGN_OR_RETURN_WITH(std::string hex, digest_of_fd(fd.get()), "reading " + path);
    if (index_) index_->put(path, key_of(st), hex, read_at);
    return hex;
  }

  std::shared_ptr<const layers::FileOpener> opener() const override { return opener_; }

  std::string hidden_by(const std::string& path) const override {
    const parser::IgnoreRule* rule = path.empty() ? nullptr : ignore_.decide(path);
    if (rule == nullptr || rule->negated) return {};
    const auto st = stat_of(path);
    if (!st || !*st) return {};
    return ignore_.file() + ":" + std::to_string(rule->line) + ": " + rule->text;
  }

 private:
  static DigestIndex::Stat key_of(const struct stat& st) {
    return {st.st_dev,           st.st_ino,           static_cast<uint64_t>(st.st_size),
            st.st_mtim.tv_sec,   st.st_mtim.tv_nsec,  st.st_ctim.tv_sec,
            st.st_ctim.tv_nsec};
  }

  // A directory that only leads to re-included files is shown.
  bool hides(const std::string& path, bool directory) const {
    if (ignore_.empty() || !ignore_.ignored(path)) return false;
    return !directory || !ignore_.may_reinclude_below(path) || !has_visible_below(path);
  }

  bool has_visible_below(const std::string& path) const {
    const auto entries = list(path);
    return entries && !entries->empty();
  }

  Result<std::optional<struct stat>> stat_of(const std::string& path) const {
    struct stat st {};
    if (path.empty()) {
      if (::fstat(opener_->root(), &st) != 0) return system_error(errno, "fstat", name_);
      return std::optional<struct stat>(st);
    }
    // The parent is opened without following links: a path of real directories only.
    const size_t slash = path.rfind('/');
    UniqueFd parent;
    int dir = opener_->root();
    if (slash != std::string::npos) {
      auto opened = open_beneath_nofollow(dir, path.substr(0, slash), O_PATH | O_DIRECTORY);
      if (!opened) {
        const int e = opened.error().error_number();
        if (e == ENOENT || e == ENOTDIR || e == ELOOP) return std::optional<struct stat>();
        return std::move(opened).error();
      }
      parent = std::move(*opened);
      dir = parent.get();
    }
    const std::string last = slash == std::string::npos ? path : path.substr(slash + 1);
    if (::fstatat(dir, last.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return std::optional<struct stat>();
      return system_error(errno, "stat", path);
    }
    return std::optional<struct stat>(st);
  }

  std::shared_ptr<ContextOpener> opener_;
  std::string name_;
  parser::IgnoreList ignore_;
  std::shared_ptr<DigestIndex> index_;
};

}  // namespace

Result<std::shared_ptr<const SourceTree>> open_context(const std::string& directory,
                                                       std::string name, parser::IgnoreList ignore,
                                                       std::shared_ptr<DigestIndex> index) {
  auto root = open_at(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY);
  if (!root) {
    Error error = std::move(root).error();
    if (error.error_number() == ENOTDIR) {
      return Error(ErrorKind::kInvalidInput, "the build context " + directory + " is not a directory")
          .with_note("give the directory that holds the files, and the Dockerfile with -f");
    }
    return std::move(error).with_context("opening the build context " + directory);
  }
  return std::shared_ptr<const SourceTree>(std::make_shared<ContextTree>(
      std::move(*root), std::move(name), std::move(ignore), std::move(index)));
}

}  // namespace lamina::builder
