// RUN: from a planned command to a sandbox and back to a layer.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <deque>

#include "base/files.h"
#include "base/scope_exit.h"
#include "base/text.h"
#include "base/trace.h"
#include "builder/executor.h"
#include "layers/snapshot.h"

namespace lamina::builder {

namespace {

// The merged root has the attributes of the upper directory: give it those of the root below.
Result<void> copy_root_attributes(const std::string& upper, const std::vector<std::string>& snapshots) {
  if (snapshots.empty()) {
    if (::chmod(upper.c_str(), 0755) != 0) return system_error(errno, "chmod", upper);
    return {};
  }
  struct stat st {};
  if (::stat(snapshots.back().c_str(), &st) != 0) return system_error(errno, "stat", snapshots.back());
  if (::chown(upper.c_str(), st.st_uid, st.st_gid) != 0) return system_error(errno, "chown", upper);
  if (::chmod(upper.c_str(), st.st_mode & 07777) != 0) return system_error(errno, "chmod", upper);
  const timespec times[2] = {st.st_mtim, st.st_mtim};
  if (::utimensat(AT_FDCWD, upper.c_str(), times, 0) != 0) return system_error(errno, "utimensat", upper);
  return {};
}

// What the mounts of one RUN need until it has ended.
class MountSet {
 public:
  MountSet(layers::Store& store, const BuildRequest& request) : store_(store), request_(request) {}

  std::vector<SandboxMount> mounts;
  std::vector<std::pair<std::string, std::string>> environment;

  // A fresh directory that lives as long as this object.
  Result<std::string> scratch_directory() {
    ASSIGN_OR_RETURN(layers::PendingLayer layer, store_.begin_layer());
    scratch_.push_back(std::move(layer));
    return scratch_.back().fs();
  }

  Result<void> add_file(const std::string& target, std::string_view content, mode_t mode, uint32_t uid, uint32_t gid) {
    ASSIGN_OR_RETURN(const std::string directory, scratch_directory());
    const std::string path = directory + "/file";
    RETURN_IF_ERROR(write_file_atomically(AT_FDCWD, path, content, Durability::kNone, 0600));
    if (::chown(path.c_str(), uid, gid) != 0) return system_error(errno, "chown", target);
    if (::chmod(path.c_str(), mode) != 0) return system_error(errno, "chmod", target);
    // The directories above are private; the bind mount shows the file alone.
    SandboxMount mount;
    mount.source = path;
    mount.target = target;
    mount.read_only = true;
    mounts.push_back(std::move(mount));
    return {};
  }

  Result<void> add_secret(const parser::Mount& m) {
    const SecretSpec* found = nullptr;
    for (const SecretSpec& s : request_.secrets) {
      if (s.id == m.id) found = &s;
    }
    if (found == nullptr) {
      if (!m.required) return {};
      return Error(ErrorKind::kNotFound, fmt::format("the secret {} is required and was not given", m.id))
          .with_note(fmt::format("pass it with --secret id={},src=FILE", m.id));
    }
    std::string value;
    if (!found->env.empty()) {
      const char* text = std::getenv(found->env.c_str());  // NOLINT(concurrency-mt-unsafe): nobody sets
      if (text == nullptr) return Error(ErrorKind::kNotFound, fmt::format("the environment variable {} of the secret {} is not set", found->env, m.id));
      value = text;
    } else {
      ASSIGN_OR_RETURN_WITH(value, read_file(AT_FDCWD, found->file, 500 * 1024), "reading the secret " + m.id);
    }
    if (m.env) environment.emplace_back(*m.env, value);
    if (m.target.empty()) return {};
    return add_file(m.target, value, m.mode.value_or(0400), m.uid.value_or(0), m.gid.value_or(0));
  }

  Result<void> add_ssh(const parser::Mount& m, int number) {
    const SshSpec* found = nullptr;
    for (const SshSpec& s : request_.ssh) {
      if (s.id == m.id) found = &s;
    }
    const char* agent = std::getenv("SSH_AUTH_SOCK");  // NOLINT(concurrency-mt-unsafe): nobody sets
    const std::string path = found == nullptr ? "" : !found->path.empty() ? found->path : agent != nullptr ? agent : "";
    if (path.empty()) {
      if (!m.required) return {};
      return Error(ErrorKind::kNotFound, fmt::format("the ssh agent {} is required and was not given", m.id))
          .with_note("start an agent and pass --ssh " + m.id);
    }
    SandboxMount mount;
    mount.source = path;
    mount.target = m.target.empty() ? fmt::format("/run/buildkit/ssh_agent.{}", number) : m.target;
    if (environment.empty() || environment.back().first != "SSH_AUTH_SOCK") environment.emplace_back("SSH_AUTH_SOCK", mount.target);
    mounts.push_back(std::move(mount));
    return {};
  }

  Result<void> add_cache(const parser::Mount& m, const std::vector<std::string>& seed) {
    const std::string identity = fmt::format("{}\n{}\n{}\n{}", m.id.empty() ? m.target : m.id, m.mode.value_or(0755), m.uid.value_or(0), m.gid.value_or(0));
    const std::string root = store_.path() + "/cache-mounts";
    RETURN_IF_ERROR(make_directories(AT_FDCWD, root, 0711));
    std::string directory = root + "/" + sha256_hex(identity);
    const std::string lock = directory + ".lock";
    if (m.sharing == parser::CacheSharing::kLocked) {
      ASSIGN_OR_RETURN(FileLock held, FileLock::acquire(AT_FDCWD, lock, FileLock::Mode::kExclusive));
      locks_.push_back(std::move(held));
    } else if (m.sharing == parser::CacheSharing::kPrivate) {
      ASSIGN_OR_RETURN(std::optional<FileLock> held, FileLock::try_acquire(AT_FDCWD, lock, FileLock::Mode::kExclusive));
      if (held) {
        locks_.push_back(std::move(*held));
      } else {
        ASSIGN_OR_RETURN(directory, scratch_directory());  // somebody else has it: a fresh one
      }
    }
    struct stat st {};
    const bool fresh = ::lstat(directory.c_str(), &st) != 0;
    if (fresh) {
      RETURN_IF_ERROR(make_directories(AT_FDCWD, directory, 0755));
      if (!seed.empty()) RETURN_IF_ERROR(copy_tree(seed, m.source, directory));
      if (::chown(directory.c_str(), m.uid.value_or(0), m.gid.value_or(0)) != 0) return system_error(errno, "chown", m.target);
      if (::chmod(directory.c_str(), m.mode.value_or(0755)) != 0) return system_error(errno, "chmod", m.target);
    }
    SandboxMount mount;
    mount.source = directory;
    if (seed.empty() && !m.source.empty() && m.source != "/") {
      mount.source += "/" + clean_path("/" + m.source).substr(1);
      RETURN_IF_ERROR(make_directories(AT_FDCWD, mount.source, 0755));
    }
    mount.target = m.target;
    mount.read_only = m.read_only;
    mounts.push_back(std::move(mount));
    return {};
  }

  // A stage or image: an overlay of its layers, whose changes are thrown away.
  Result<void> add_stack(const parser::Mount& m, const std::vector<std::string>& bottom_first) {
    SandboxMount mount;
    mount.target = m.target;
    mount.read_only = m.read_only;
    mount.overlay_lower.assign(bottom_first.rbegin(), bottom_first.rend());
    mount.subpath = clean_path("/" + m.source).substr(1);
    ASSIGN_OR_RETURN(mount.scratch, scratch_directory());
    mounts.push_back(std::move(mount));
    return {};
  }

  // A context: its visible files in a directory of our own, owned by root as COPY would make them.
  Result<void> add_context(const parser::Mount& m, const Step& step, std::shared_ptr<const SourceTree> tree, ThreadPool& pool) {
    CopyStep copy;
    copy.from.kind = SourceRef::Kind::kContext;
    copy.sources.push_back({m.source.empty() ? "/" : m.source, step.instruction.range});
    copy.destination = "/shown";
    ASSIGN_OR_RETURN(const Selection selection, select_sources(copy, step, std::move(tree), pool));
    ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> nothing, layers::RootfsView::open({}));
    ASSIGN_OR_RETURN(const layers::EntryList entries, place_sources(selection, copy, Placement{}, *nothing));
    ASSIGN_OR_RETURN(const std::string directory, scratch_directory());
    ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, directory));
    layers::SnapshotWriter writer(root.get(), nullptr);
    for (const layers::Entry& entry : entries) RETURN_IF_ERROR(writer.add(entry, nullptr));
    RETURN_IF_ERROR(writer.finish());
    SandboxMount mount;
    mount.source = directory + "/shown";
    mount.target = m.target;
    mount.read_only = m.read_only;  // with rw the copy is written to, and thrown away
    mounts.push_back(std::move(mount));
    return {};
  }

 private:
  static Result<void> copy_tree(const std::vector<std::string>& bottom_first, const std::string& source, const std::string& directory) {
    ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> view, layers::RootfsView::open(bottom_first));
    CopyStep copy;
    copy.sources.push_back({source.empty() ? "/" : source, {}});
    copy.destination = "/";
    ThreadPool inline_pool(1);
    ASSIGN_OR_RETURN(const Selection selection, select_sources(copy, Step{}, tree_of_view(view, "seed"), inline_pool));
    ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> nothing, layers::RootfsView::open({}));
    ASSIGN_OR_RETURN(const layers::EntryList entries, place_sources(selection, copy, Placement{}, *nothing));
    ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, directory));
    layers::SnapshotWriter writer(root.get(), nullptr);
    for (const layers::Entry& entry : entries) RETURN_IF_ERROR(writer.add(entry, nullptr));
    return writer.finish();
  }

  layers::Store& store_;
  const BuildRequest& request_;
  std::deque<layers::PendingLayer> scratch_;
  std::vector<FileLock> locks_;
};

Error command_failed(const RunStep& run, const ExitStatus& status) {
  std::string how;
  if (status.signal != 0) {
    const char* name = ::sigabbrev_np(status.signal);
    how = fmt::format("signal SIG{}", name != nullptr ? name : std::to_string(status.signal));
  } else {
    how = fmt::format("exit code: {}", status.code);
  }
  Error error(ErrorKind::kStepFailed, fmt::format("process {} did not complete successfully: {}", go_quote(join(run.argv, " ")), how));
  if (status.signal == SIGKILL) error = std::move(error).with_note("it was killed from outside; the kernel does that when memory runs out");
  return std::move(error).with_exit_status(status.shell_code());
}

}  // namespace

Result<layers::LayerId> Executor::run_command(const Step& step, const RunStep& run) {
  ASSIGN_OR_RETURN(const std::vector<std::string> below, snapshots(layers_below(step), step.stage));
  ASSIGN_OR_RETURN(layers::PendingLayer layer, env_.store.begin_layer());
  RETURN_IF_ERROR(copy_root_attributes(layer.fs(), below));

  MountSet set(env_.store, env_.request);
  int ssh_number = 0;
  for (const PlannedMount& planned : run.mounts) {
    const parser::Mount& m = planned.mount;
    switch (m.type) {
      case parser::MountType::kTmpfs: {
        SandboxMount mount;
        mount.type = SandboxMount::Type::kTmpfs;
        mount.target = m.target;
        mount.size_bytes = m.size_bytes;
        set.mounts.push_back(std::move(mount));
        break;
      }
      case parser::MountType::kSecret: RETURN_IF_ERROR(set.add_secret(m)); break;
      case parser::MountType::kSsh: RETURN_IF_ERROR(set.add_ssh(m, ssh_number++)); break;
      case parser::MountType::kCache: {
        std::vector<std::string> seed;
        if (!m.from.empty()) {
          ASSIGN_OR_RETURN(seed, snapshots_of_source(planned.from, step.stage));
        }
        RETURN_IF_ERROR(set.add_cache(m, seed));
        break;
      }
      case parser::MountType::kBind: {
        const auto kind = planned.from.kind;
        if (kind == SourceRef::Kind::kContext || kind == SourceRef::Kind::kNamedContext) {
          ASSIGN_OR_RETURN(std::shared_ptr<const SourceTree> tree, tree_of(planned.from, step.stage));
          RETURN_IF_ERROR(set.add_context(m, step, std::move(tree), env_.pool));
        } else {
          ASSIGN_OR_RETURN(const std::vector<std::string> stack, snapshots_of_source(planned.from, step.stage));
          RETURN_IF_ERROR(set.add_stack(m, stack));
        }
        break;
      }
    }
  }
  if (run.script) RETURN_IF_ERROR(set.add_file("/dev/pipes/" + run.script->first, run.script->second, 0755, 0, 0));

  SandboxSpec spec;
  spec.lower_dirs.assign(below.rbegin(), below.rend());
  spec.upper_dir = layer.fs();
  spec.work_dir = layer.work();
  spec.argv = run.argv;
  for (const std::vector<std::pair<std::string, std::string>>* variables : std::initializer_list<const std::vector<std::pair<std::string, std::string>>*>{&run.env, &run.hidden_env, &set.environment}) {
    for (const auto& [name, value] : *variables) spec.environment.push_back(name + "=" + value);
  }
  spec.working_dir = run.working_dir;
  spec.user = run.user;
  if (!run.hostname.empty()) spec.hostname = run.hostname;
  spec.network = run.network;
  spec.extra_hosts = env_.request.extra_hosts;
  spec.mounts = std::move(set.mounts);
  spec.insecure = run.insecure;
  spec.shm_size_bytes = env_.request.shm_size_bytes;
  spec.ulimits = env_.request.ulimits;

  ExitStatus status;
  {
    const TraceSpan span("sandbox", step.title);
    ASSIGN_OR_RETURN(status, run_sandboxed(spec, [&](OutputStream stream, std::string_view bytes) { env_.output(step.id, stream, bytes); }, env_.stop));
  }
  if (!status.success()) return command_failed(run, status);
  ASSIGN_OR_RETURN(const bool empty, layers::snapshot_is_empty(layer.fs()));
  if (empty) return layers::LayerId{};
  return env_.store.seal(std::move(layer), layers::SealOptions{env_.request.source_date_epoch});
}

}  // namespace lamina::builder
