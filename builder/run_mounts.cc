#include "builder/internal/run_mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "base/text.h"
#include "builder/secrets.h"
#include "layers/snapshot.h"

namespace lamina::builder::internal {

namespace {

bool has_owner(const parser::Mount& m) { return m.mode || m.uid || m.gid; }

// The files that a mount's source selects, at copy.destination in a directory of our own.
Result<Selection> write_selected(const CopyStep& copy, const Step& step, std::shared_ptr<const SourceTree> tree, ThreadPool& pool, layers::Store& store, const std::string& directory) {
  ASSIGN_OR_RETURN(Selection selection, select_sources(copy, step, std::move(tree), pool, store.temporary_files()));
  ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> nothing, layers::RootfsView::open({}));
  const Placement placement;
  ASSIGN_OR_RETURN(const std::unique_ptr<layers::EntrySource> entries, place_sources(selection, copy, placement, *nothing));
  ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, directory));
  layers::SnapshotWriter writer(root.get(), nullptr);
  RETURN_IF_ERROR(writer.add_all(*entries));
  return selection;
}

// The files of `source` in a tree, and what the directory itself looks like there.
Result<FileInfo> copy_seed(const std::shared_ptr<const SourceTree>& tree, const std::string& source, layers::Store& store, const std::string& directory) {
  CopyStep copy;
  copy.sources.push_back(literal_path(source, {}));
  copy.destination = "/";
  ThreadPool inline_pool(1);
  ASSIGN_OR_RETURN(const Selection selection, write_selected(copy, Step{}, tree, inline_pool, store, directory));
  ASSIGN_OR_RETURN(const SelectedFile top, selection.sources.front().files->front());
  return top.info;
}

}  // namespace

// The time of a cache's lock file says when its content last changed, and when it was last of use: layers/space_meter.cc.
RunMounts::~RunMounts() {
  for (const auto& [directory, cache] : caches_) ::utimensat(AT_FDCWD, (directory + ".lock").c_str(), nullptr, 0);
}

Result<std::string> RunMounts::scratch_directory() {
  ASSIGN_OR_RETURN(layers::PendingLayer layer, store_.begin_layer());
  scratch_.push_back(std::move(layer));
  return scratch_.back().fs();
}

void RunMounts::add_tmpfs(const parser::Mount& m) {
  SandboxMount mount;
  mount.type = SandboxMount::Type::kTmpfs;
  mount.target = m.target;
  mount.size_bytes = m.size_bytes;
  mounts.push_back(std::move(mount));
}

void RunMounts::add_file(const std::string& target, std::string content, uint32_t mode, uint32_t uid, uint32_t gid) {
  SandboxMount mount;
  mount.type = SandboxMount::Type::kFile;
  mount.target = target;
  mount.content = std::move(content);
  mount.mode = mode;
  mount.uid = uid;
  mount.gid = gid;
  mounts.push_back(std::move(mount));
}

Result<void> RunMounts::add_secret(const parser::Mount& m) {
  ASSIGN_OR_RETURN(std::optional<std::string> given, read_secret(request_, m.id));
  if (!given) {
    if (!m.required) return {};
    return Error(ErrorKind::kNotFound, fmt::format("the secret {} is required and was not given", m.id))
        .with_note(fmt::format("pass it with --secret id={},src=FILE", m.id));
  }
  std::string value = std::move(*given);
  if (m.env) environment.emplace_back(*m.env, value);
  if (!m.target.empty()) add_file(m.target, std::move(value), m.mode.value_or(0400), m.uid.value_or(0), m.gid.value_or(0));
  return {};
}

Result<void> RunMounts::add_ssh(const parser::Mount& m) {
  const int number = ssh_mounts_++;
  const std::string path = ssh_agent_socket(request_, m.id);
  if (path.empty()) {
    if (!m.required) return {};
    return Error(ErrorKind::kNotFound, fmt::format("the ssh agent {} is required and was not given", m.id))
        .with_note("start an agent and pass --ssh " + m.id);
  }
  struct stat st {};
  if (::stat(path.c_str(), &st) == 0 && !S_ISSOCK(st.st_mode)) {
    return Error(ErrorKind::kUnsupported, fmt::format("--ssh {}={}: this is no socket of an agent", m.id, path)).with_note("keys are not read here: ssh-add the key and pass --ssh " + m.id);
  }
  ASSIGN_OR_RETURN(const std::string directory, scratch_directory());
  ASSIGN_OR_RETURN_WITH(AgentRelay relay, AgentRelay::start(directory, path, m.mode.value_or(0600), m.uid.value_or(0), m.gid.value_or(0)), "reaching the ssh agent " + m.id);
  SandboxMount mount;
  mount.source = relay.socket_path();
  mount.target = m.target.empty() ? fmt::format("/run/buildkit/ssh_agent.{}", number) : m.target;
  const bool named = std::any_of(environment.begin(), environment.end(), [](const auto& e) { return e.first == "SSH_AUTH_SOCK"; });
  if (!named) environment.emplace_back("SSH_AUTH_SOCK", mount.target);
  mounts.push_back(std::move(mount));
  agents_.push_back(std::move(relay));
  return {};
}

Result<void> RunMounts::add_stack(const parser::Mount& m, const std::vector<std::string>& bottom_first) {
  SandboxMount mount;
  mount.target = m.target;
  mount.read_only = m.read_only;
  mount.overlay_lower.assign(bottom_first.rbegin(), bottom_first.rend());
  mount.subpath = clean_path("/" + m.source).substr(1);
  ASSIGN_OR_RETURN(mount.scratch, scratch_directory());
  mounts.push_back(std::move(mount));
  return {};
}

Result<void> RunMounts::add_context(const parser::Mount& m, const Step& step, std::shared_ptr<const SourceTree> tree, ThreadPool& pool) {
  CopyStep copy;
  copy.from.kind = SourceRef::Kind::kContext;
  copy.sources.push_back(literal_path(m.source, step.instruction.range));
  copy.destination = "/shown";
  ASSIGN_OR_RETURN(const std::string directory, scratch_directory());
  ASSIGN_OR_RETURN(const Selection selection, write_selected(copy, step, std::move(tree), pool, store_, directory));
  SandboxMount mount;
  mount.source = directory + "/shown";
  mount.target = m.target;
  mount.read_only = m.read_only;  // with rw the copy is written to, and thrown away
  mounts.push_back(std::move(mount));
  return {};
}

void RunMounts::add_devices(const DeviceEdits& edits) {
  environment.insert(environment.end(), edits.env.begin(), edits.env.end());
  for (const DeviceNode& node : edits.nodes) {
    SandboxMount mount;
    mount.type = SandboxMount::Type::kDevice;
    mount.source = node.host_path;
    mount.target = node.path;
    mount.block = node.block;
    mount.dev_major = node.major;
    mount.dev_minor = node.minor;
    mount.mode = node.mode.value_or(0666);
    mount.uid = node.uid.value_or(0);
    mount.gid = node.gid.value_or(0);
    mounts.push_back(std::move(mount));
  }
  for (const DeviceBind& bind : edits.binds) {
    SandboxMount mount;
    mount.source = bind.host_path;
    mount.target = bind.path;
    mount.read_only = bind.read_only;
    mounts.push_back(std::move(mount));
  }
}

// --- caches -----------------------------------------------------------------------------------------

std::string RunMounts::cache_directory(const CacheWish& wish) const {
  const parser::Mount& m = *wish.mount;
  std::string identity = fmt::format("{}\n{:o}\n{}\n{}", m.id.empty() ? m.target : m.id, m.mode.value_or(0755), m.uid.value_or(0), m.gid.value_or(0));
  if (wish.seed) identity += "\n" + wish.seed_key + "\n" + m.source;
  return store_.path() + "/cache-mounts/" + sha256_hex(identity);
}

// Polled, so that an interrupted build does not wait for somebody else's.
Result<FileLock> RunMounts::wait_for_lock(const std::string& path, FileLock::Mode mode) {
  while (true) {
    ASSIGN_OR_RETURN(std::optional<FileLock> held, FileLock::try_acquire(AT_FDCWD, path, mode));
    if (held) return std::move(*held);
    if (stop_.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

Result<void> RunMounts::open_caches(const std::vector<CacheWish>& wishes, bool afresh) {
  if (wishes.empty()) return {};
  RETURN_IF_ERROR(make_directories(AT_FDCWD, store_.path() + "/cache-mounts", 0711));
  // Sorted by directory: two RUNs that want the same two caches cannot wait for each other. One cache may be
  // mounted twice; the strictest sharing counts.
  std::map<std::string, std::pair<const CacheWish*, parser::CacheSharing>> wanted;
  for (const CacheWish& wish : wishes) {
    auto [it, inserted] = wanted.try_emplace(cache_directory(wish), &wish, wish.mount->sharing);
    if (!inserted && it->second.second == parser::CacheSharing::kShared) it->second.second = wish.mount->sharing;
  }
  for (const auto& [directory, item] : wanted) {
    const auto& [wish, sharing] = item;
    const std::string lock = directory + ".lock";
    const bool shared = sharing == parser::CacheSharing::kShared;
    const bool empty = afresh && (wish->seed || has_owner(*wish->mount));
    std::string used = directory;
    std::optional<FileLock> held;
    if (sharing == parser::CacheSharing::kPrivate) {
      ASSIGN_OR_RETURN(held, FileLock::try_acquire(AT_FDCWD, lock, FileLock::Mode::kExclusive));
      if (!held) {  // somebody else has it: a fresh one
        ASSIGN_OR_RETURN(used, scratch_directory());
        used += "/cache";
        ASSIGN_OR_RETURN(held, wait_for_lock(used + ".lock", FileLock::Mode::kExclusive));
      } else if (empty) {
        RETURN_IF_ERROR(remove_tree(AT_FDCWD, directory));
      }
    } else {
      if (empty) {
        ASSIGN_OR_RETURN(const std::optional<FileLock> alone, FileLock::try_acquire(AT_FDCWD, lock, FileLock::Mode::kExclusive));
        if (alone) RETURN_IF_ERROR(remove_tree(AT_FDCWD, directory));
      }
      ASSIGN_OR_RETURN(held, wait_for_lock(lock, shared ? FileLock::Mode::kShared : FileLock::Mode::kExclusive));
    }
    RETURN_IF_ERROR_WITH(make_cache(*wish, used), "making the cache for " + wish->mount->target);
    caches_.emplace(directory, Cache{used, std::move(*held)});
  }
  return {};
}

// A new cache appears whole or not at all; of two who make it at the same time the second uses the first's.
Result<void> RunMounts::make_cache(const CacheWish& wish, const std::string& directory) {
  struct stat st {};
  if (::lstat(directory.c_str(), &st) == 0) return {};
  const parser::Mount& m = *wish.mount;
  const size_t slash = directory.rfind('/');
  ASSIGN_OR_RETURN(TempDir temp, TempDir::create(directory.substr(0, slash), ".new"));
  uint32_t mode = 0755, uid = 0, gid = 0;
  if (wish.seed) {
    ASSIGN_OR_RETURN(const FileInfo top, copy_seed(wish.seed, m.source, store_, temp.path()));
    if (top.type == EntryType::kDirectory) {
      mode = top.mode;
      uid = top.uid;
      gid = top.gid;
    }
  }
  if (::chown(temp.path().c_str(), m.uid.value_or(uid), m.gid.value_or(gid)) != 0) return system_error(errno, "chown", m.target);
  if (::chmod(temp.path().c_str(), m.mode.value_or(mode)) != 0) return system_error(errno, "chmod", m.target);
  if (::renameat2(AT_FDCWD, temp.path().c_str(), AT_FDCWD, directory.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno == EEXIST) return {};
    return system_error(errno, "rename", directory);
  }
  temp.release();
  return {};
}

Result<void> RunMounts::add_cache(const CacheWish& wish) {
  const parser::Mount& m = *wish.mount;
  SandboxMount mount;
  mount.source = caches_.at(cache_directory(wish)).directory;
  const std::string below = clean_path("/" + m.source).substr(1);
  if (!wish.seed && !below.empty()) {
    // The cache was writable to commands: a link they left must not lead out of it.
    ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, mount.source));
    std::string at;
    for (const std::string& part : path_components(below)) {
      ASSIGN_OR_RETURN(const UniqueFd parent, open_beneath_nofollow(root.get(), at.empty() ? "." : at, O_RDONLY | O_DIRECTORY));
      if (::mkdirat(parent.get(), part.c_str(), 0755) != 0 && errno != EEXIST) return system_error(errno, "mkdir", part);
      at += (at.empty() ? "" : "/") + part;
    }
    ASSIGN_OR_RETURN(const UniqueFd inside, open_beneath_nofollow(root.get(), below, O_RDONLY | O_DIRECTORY));
    mount.source += "/" + below;
  }
  mount.target = m.target;
  mount.read_only = m.read_only;
  mounts.push_back(std::move(mount));
  return {};
}

}  // namespace lamina::builder::internal
