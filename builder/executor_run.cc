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
#include "builder/internal/run_mounts.h"
#include "layers/snapshot.h"

namespace lamina::builder {

namespace {

// A part of a stage. Reading all of one could cost more than the RUN.
bool known_by_content(const PlannedMount& planned) {
  return planned.mount.type == parser::MountType::kBind && planned.from.kind == SourceRef::Kind::kStage && clean_path("/" + planned.mount.source) != "/";
}

Result<void> must_exist(const SourceTree& tree, const std::string& source) {
  ASSIGN_OR_RETURN(const std::string path, tree.resolve(clean_path("/" + source).substr(1), true));
  ASSIGN_OR_RETURN(const std::optional<FileInfo> info, tree.lstat(path));
  if (!info) return Error(ErrorKind::kNotFound, fmt::format("{} was not found in the {}", printable(source), tree.name()));
  return {};
}

std::string mount_prefix(size_t number) { return fmt::format("mount[{}].", number); }

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

// A later one of the same name replaces the earlier; an agent's socket is only named where the image names none.
void add_variable(std::vector<std::string>& environment, const std::string& name, const std::string& value) {
  const auto same = std::find_if(environment.begin(), environment.end(), [&](const std::string& e) { return e.compare(0, name.size() + 1, name + "=") == 0; });
  if (same == environment.end()) {
    environment.push_back(name + "=" + value);
  } else if (name != "SSH_AUTH_SOCK") {
    *same = name + "=" + value;
  }
}

}  // namespace

Result<Outcome> Executor::execute_body(const Step& step, const RunStep& run) {
  --commands_ahead_;
  auto outcome = execute_run(step, run);
  if (!outcome) return at_instruction(step, std::move(outcome).error());
  return outcome;
}

// All but the files of stages.
Result<KeyInputs> Executor::run_inputs(const Step& step, const RunStep& run) {
  KeyInputs inputs = common_inputs(step, "RUN");
  for (size_t i = 0; i < run.argv.size(); ++i) inputs.add_text(fmt::format("argv[{}]", i), run.argv[i]);
  if (run.script) inputs.add_text("script " + run.script->first, run.script->second);
  for (const auto& [name, value] : run.env) inputs.add_text("env." + name, value);
  inputs.add("working directory", run.working_dir);
  inputs.add("user", run.user);
  if (!run.hostname.empty()) inputs.add("host name", run.hostname);
  inputs.add("network", run.network == NetworkMode::kNone ? "none" : "host");
  if (run.insecure) inputs.add("security", "insecure");
  for (const auto& [name, address] : env_.request.extra_hosts) inputs.add("host " + name, "");
  for (const std::string& limit : env_.request.ulimits) inputs.add("ulimit", limit);
  if (env_.request.shm_size_bytes != BuildRequest().shm_size_bytes) inputs.add("size of /dev/shm", std::to_string(env_.request.shm_size_bytes));
  for (const PlannedDevice& device : run.devices) inputs.add("device " + device.name, join(device.edits.names, " "));
  RETURN_IF_ERROR(add_mount_inputs(step, run, inputs));
  return inputs;
}

Result<Outcome> Executor::execute_run(const Step& step, const RunStep& run) {
  ASSIGN_OR_RETURN(KeyInputs inputs, run_inputs(step, run));
  const Reading reading = reading_of(step, run);
  std::optional<KeyInputs> definition;
  if (!reading.sources.empty()) {
    ASSIGN_OR_RETURN(definition, by_definition(reading, inputs));
    if (auto hit = recorded(step, *definition)) return std::move(*hit);
    ASSIGN_OR_RETURN(const std::string any, any_content(step, reading, inputs));
    ASSIGN_OR_RETURN(const bool by_content, digest_earlier(step, reading, inputs, any));
    if (!by_content) {
      ASSIGN_OR_RETURN(layers::LayerId layer, run_command(step, run));
      return record_undigested(step, reading, *definition, any, std::move(layer));
    }
    Trees trees;
    for (const SourceRef& from : reading.sources) {
      ASSIGN_OR_RETURN(trees.emplace_back(), tree_of(from));
    }
    RETURN_IF_ERROR(reading.add_files(trees, inputs));
  }
  auto outcome = recorded(step, inputs);
  if (!outcome) {
    ASSIGN_OR_RETURN(layers::LayerId layer, run_command(step, run));
    ASSIGN_OR_RETURN(outcome, record(step, inputs, std::move(layer)));
  }
  if (definition) RETURN_IF_ERROR(put_by_definition(step, *definition, *outcome));
  return std::move(*outcome);
}

// What a cache or secret holds is no input; what a cache starts with is. Files of a stage are added otherwise.
Result<void> Executor::add_mount_inputs(const Step& step, const RunStep& run, KeyInputs& inputs) {
  for (size_t number = 0; number < run.mounts.size(); ++number) {
    const PlannedMount& planned = run.mounts[number];
    const parser::Mount& m = planned.mount;
    const std::string prefix = mount_prefix(number);
    inputs.add(prefix + "type", std::to_string(static_cast<int>(m.type)));
    inputs.add(prefix + "target", m.target);
    const bool cache = m.type == parser::MountType::kCache;
    inputs.add(prefix + "options", fmt::format("ro={} id={} env={} mode={} uid={} gid={} size={}", m.read_only, cache ? "" : m.id, m.env.value_or(""),
                                               m.mode.value_or(0), m.uid.value_or(0), m.gid.value_or(0), m.size_bytes.value_or(0)));
    if (m.type != parser::MountType::kBind && !(cache && !m.from.empty())) continue;
    inputs.add(prefix + "source", m.source);
    if (known_by_content(planned)) continue;
    if (const std::string key = key_of_source(planned.from); !key.empty()) {
      inputs.add(prefix + "from", key);
      continue;
    }
    ASSIGN_OR_RETURN(const std::shared_ptr<const SourceTree> tree, tree_of(planned.from));
    RETURN_IF_ERROR(add_mounted_files(step, planned, tree, inputs));
  }
  return {};
}

Result<Selection> Executor::add_mounted_files(const Step& step, const PlannedMount& planned, std::shared_ptr<const SourceTree> tree, KeyInputs& inputs) {
  CopyStep everything;
  everything.from = planned.from;
  everything.sources.push_back(literal_path(planned.mount.source, step.instruction.range));
  ASSIGN_OR_RETURN(Selection selection, select_sources(everything, step, std::move(tree), env_.pool, env_.store.temporary_files()));
  RETURN_IF_ERROR(digest_selection(selection, env_.pool));
  RETURN_IF_ERROR(add_selection_inputs(selection, inputs));
  return selection;
}

Executor::Reading Executor::reading_of(const Step& step, const RunStep& run) {
  std::vector<size_t> numbers;  // of the mounts
  Reading reading;
  for (size_t number = 0; number < run.mounts.size(); ++number) {
    if (!known_by_content(run.mounts[number])) continue;
    numbers.push_back(number);
    reading.sources.push_back(run.mounts[number].from);
  }
  reading.add_names = [&run, numbers](const Named& named, KeyInputs& all) {
    for (const size_t number : numbers) all.add(mount_prefix(number) + "stage", named(run.mounts[number].from));
  };
  reading.add_files = [this, &step, &run, numbers](const Trees& trees, KeyInputs& all) -> Result<void> {
    for (size_t i = 0; i < numbers.size(); ++i) {
      ASSIGN_OR_RETURN(const Selection selection, add_mounted_files(step, run.mounts[numbers[i]], trees[i], all));
      // A stage's directory is mounted as it is, with its own attributes; a context's files are laid out anew.
      RETURN_IF_ERROR(add_root_inputs(selection, mount_prefix(numbers[i]), all));
    }
    return {};
  };
  return reading;
}

Result<void> Executor::add_mounts(const Step& step, const RunStep& run, internal::RunMounts& set) {
  std::deque<internal::CacheWish> caches;
  for (const PlannedMount& planned : run.mounts) {
    if (planned.mount.type != parser::MountType::kCache) continue;
    internal::CacheWish wish{&planned.mount, nullptr, {}};
    if (!planned.mount.from.empty() && planned.from.kind != SourceRef::Kind::kScratch) {
      ASSIGN_OR_RETURN(wish.seed, tree_of(planned.from));
      wish.seed_key = key_of_source(planned.from);
      if (wish.seed_key.empty()) wish.seed_key = "context " + planned.from.name;
    }
    caches.push_back(std::move(wish));
  }
  RETURN_IF_ERROR(set.open_caches({caches.begin(), caches.end()}, step.no_cache));
  for (const PlannedMount& planned : run.mounts) {
    const parser::Mount& m = planned.mount;
    switch (m.type) {
      case parser::MountType::kTmpfs: set.add_tmpfs(m); break;
      case parser::MountType::kSecret: RETURN_IF_ERROR(set.add_secret(m)); break;
      case parser::MountType::kSsh: RETURN_IF_ERROR(set.add_ssh(m)); break;
      case parser::MountType::kCache:
        RETURN_IF_ERROR(set.add_cache(caches.front()));
        caches.pop_front();
        break;
      case parser::MountType::kBind: {
        const auto kind = planned.from.kind;
        if (kind == SourceRef::Kind::kContext || kind == SourceRef::Kind::kNamedContext) {
          ASSIGN_OR_RETURN(std::shared_ptr<const SourceTree> tree, tree_of(planned.from));
          RETURN_IF_ERROR(set.add_context(m, step, std::move(tree), env_.pool));
        } else {
          ASSIGN_OR_RETURN(const std::vector<std::string> stack, snapshots_of_source(planned.from));
          ASSIGN_OR_RETURN(const std::shared_ptr<const SourceTree> tree, tree_of_snapshots(stack, planned.from));
          RETURN_IF_ERROR(must_exist(*tree, m.source));
          RETURN_IF_ERROR(set.add_stack(m, stack));
        }
        break;
      }
    }
  }
  if (run.script) set.add_file("/dev/pipes/" + run.script->first, run.script->second, 0755, 0, 0);
  for (const PlannedDevice& device : run.devices) set.add_devices(device.edits);
  return {};
}

Result<layers::LayerId> Executor::run_command(const Step& step, const RunStep& run) {
  ASSIGN_OR_RETURN(const std::vector<layers::LayerId> stack, layers_below(step));
  ASSIGN_OR_RETURN(const std::vector<std::string> below, snapshots(stack, step.stage));
  ASSIGN_OR_RETURN(layers::PendingLayer layer, env_.store.begin_layer());
  RETURN_IF_ERROR(copy_root_attributes(layer.fs(), below));

  internal::RunMounts set(env_.store, env_.request, env_.stop);
  RETURN_IF_ERROR(add_mounts(step, run, set));

  SandboxSpec spec;
  spec.lower_dirs.assign(below.rbegin(), below.rend());
  spec.upper_dir = layer.fs();
  spec.work_dir = layer.work();
  spec.argv = run.argv;
  for (const auto& [name, value] : run.env) add_variable(spec.environment, name, value);
  for (const auto& [name, value] : run.hidden_env) add_variable(spec.environment, name, value);
  for (const auto& [name, value] : set.environment) add_variable(spec.environment, name, value);
  spec.working_dir = run.working_dir;
  spec.user = run.user;
  if (!run.hostname.empty()) spec.hostname = run.hostname;
  spec.network = run.network;
  spec.extra_hosts = env_.request.extra_hosts;
  spec.mounts = std::move(set.mounts);
  spec.insecure = run.insecure;
  spec.shm_size_bytes = env_.request.shm_size_bytes;
  spec.ulimits = env_.request.ulimits;
  for (const PlannedDevice& device : run.devices) spec.extra_groups.insert(spec.extra_groups.end(), device.edits.groups.begin(), device.edits.groups.end());

  ExitStatus status;
  {
    const TraceSpan span("sandbox", step.title);
    ASSIGN_OR_RETURN(status, sandboxes_.run(spec, [&](OutputStream stream, std::string_view bytes) { env_.output(step.id, stream, bytes); }, env_.stop, commands_ahead_ > 0));
  }
  if (!status.success()) return command_failed(run, status);
  ASSIGN_OR_RETURN(const bool empty, layers::snapshot_is_empty(layer.fs()));
  if (empty) return layers::LayerId{};
  return env_.store.seal(std::move(layer), layers::SealOptions{latest_time(env_.request)});
}

}  // namespace lamina::builder
