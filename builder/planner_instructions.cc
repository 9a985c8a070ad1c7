// What each instruction does to the stage: its config, its variables, its steps.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "net/url.h"
#include "builder/internal/planner_scope.h"

namespace lamina::builder::internal {

namespace {

const std::vector<std::string> kDefaultShell = {"/bin/sh", "-c"};

// Go's %q of a list, as Docker's history shows exec forms: ["a" "b"].
std::string quoted_list(const std::vector<std::string>& words) {
  std::vector<std::string> quoted;
  for (const std::string& w : words) quoted.push_back(go_quote(w));
  return "[" + join(quoted, " ") + "]";
}

std::string absolute(const std::string& path, const std::string& working_dir) {
  if (!path.empty() && path.front() == '/') return clean_path(path);
  return clean_path((working_dir.empty() ? "/" : working_dir) + "/" + path);
}

// Like absolute(), but a trailing "/" (or "/.") says "a directory" and is kept.
std::string absolute_destination(const std::string& path, const std::string& working_dir) {
  const bool directory = path.empty() || path == "." || path.back() == '/' ||
                         (path.size() >= 2 && path.compare(path.size() - 2, 2, "/.") == 0);
  const std::string out = absolute(path, working_dir);
  return directory && out.back() != '/' ? out + "/" : out;
}

}  // namespace

std::vector<std::string> Planner::with_shell(const StageScope& scope, const parser::CommandLine& command) const {
  if (!command.shell_form) return command.args;
  std::vector<std::string> argv = scope.stage.config.shell && !scope.stage.config.shell->empty() ? *scope.stage.config.shell : kDefaultShell;
  argv.insert(argv.end(), command.args.begin(), command.args.end());
  return argv;
}

Result<void> Planner::apply_body(StageScope&, const parser::Instruction& i, const parser::From&) {
  return complaints_.fail(i, i.range, "FROM cannot stand here", {}, ErrorKind::kInternal);
}

// dockerfile-language 1.6: --build-arg, else the default, else the global ARG or platform value.
Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Arg& body) {
  std::vector<std::string> shown;
  Variables& env = scope.stage.env;
  for (const parser::Arg::Item& item : body.items) {
    const std::string& name = item.name.text;
    std::optional<std::string> value = arguments_->given(name);
    if (!value && item.value) {
      ASSIGN_OR_RETURN(value, expand(scope, i, *item.value));
    }
    if (!value) value = get_variable(global_, name);
    if (!value) value = arguments_->of_platform(name);
    shown.push_back(value ? name + "=" + *value : name);
    // These two only ask for something of the builder (a list of packages, which is not made here).
    if (!value || name == "BUILDKIT_SBOM_SCAN_CONTEXT" || name == "BUILDKIT_SBOM_SCAN_STAGE") continue;
    set_variable(env, name, *value);
    std::erase(scope.stage.arg_names, name);
    scope.stage.arg_names.push_back(name);
  }
  add_history(scope, "ARG " + join(shown, " "));
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Env& body) {
  // All words see the values from before the instruction.
  Variables pairs;
  for (const parser::KeyValue& kv : body.pairs) {
    ASSIGN_OR_RETURN(std::string key, expand(scope, i, kv.key));
    ASSIGN_OR_RETURN(std::string value, expand(scope, i, kv.value));
    if (key.empty()) return complaints_.fail(i, kv.key.range, "the name of the variable is empty");
    pairs.emplace_back(std::move(key), std::move(value));
  }
  std::string text = "ENV";
  for (const auto& [key, value] : pairs) {
    scope.stage.config.set_env(key, value);
    set_variable(scope.stage.env, key, value);
    std::erase(scope.stage.arg_names, key);
    text += " " + key + "=" + value;
  }
  add_history(scope, std::move(text));
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Label& body) {
  std::string text = "LABEL";
  for (const parser::KeyValue& kv : body.pairs) {
    ASSIGN_OR_RETURN(const std::string key, expand(scope, i, kv.key));
    ASSIGN_OR_RETURN(const std::string value, expand(scope, i, kv.value));
    scope.stage.config.labels[key] = value;
    text += " " + key + "=" + value;
  }
  add_history(scope, std::move(text));
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Workdir& body) {
  ASSIGN_OR_RETURN(const std::string path, expand(scope, i, body.path));
  if (path.empty()) return complaints_.fail(i, body.path.range, "the path of WORKDIR is empty");
  oci::ImageConfig& config = scope.stage.config;
  config.working_dir = absolute(path, config.working_dir);
  if (config.working_dir == "/") {
    add_history(scope, "WORKDIR /");
    return {};
  }
  Step step;
  step.body = WorkdirStep{config.working_dir, config.user};
  add_step(scope, i, std::move(step), "WORKDIR " + config.working_dir);
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::User& body) {
  ASSIGN_OR_RETURN(std::string user, expand(scope, i, body.user));
  if (user.empty()) return complaints_.fail(i, body.user.range, "the user is empty after expansion");
  scope.stage.config.user = std::move(user);
  add_history(scope, "USER " + scope.stage.config.user);
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction&, const parser::Cmd& body) {
  std::vector<std::string> argv = with_shell(scope, body.command);
  add_history(scope, "CMD " + quoted_list(argv));
  scope.stage.config.cmd = std::move(argv);
  scope.stage.config.args_escaped = true;
  scope.stage.cmd_set = true;
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction&, const parser::Entrypoint& body) {
  std::vector<std::string> argv = with_shell(scope, body.command);
  add_history(scope, "ENTRYPOINT " + quoted_list(argv));
  if (argv.empty()) {
    scope.stage.config.entrypoint.reset();
  } else {
    scope.stage.config.entrypoint = std::move(argv);
  }
  // A CMD of the base belongs to the base's entrypoint.
  if (!scope.stage.cmd_set) scope.stage.config.cmd.reset();
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Expose& body) {
  const auto lookup = [&](std::string_view name) { return get_variable(scope.stage.env, name); };
  std::vector<std::string> words;
  for (const parser::Word& word : body.ports) {
    auto expanded = parser::expand_words(word.text, lookup, dockerfile_.directives.escape);
    if (!expanded) return complaints_.fail(i, word.range, expanded.error().message());
    words.insert(words.end(), expanded->words.begin(), expanded->words.end());
  }
  auto ports = parser::parse_ports(words);
  if (!ports) return complaints_.fail(i, i.range, ports.error().message(), ports.error().notes());
  for (const std::string& port : ports->ports) scope.stage.config.exposed_ports.insert(port);
  add_history(scope, "EXPOSE [" + join(ports->ports, " ") + "]");
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Volume& body) {
  std::vector<std::string> paths;
  for (const parser::Word& word : body.paths) {
    ASSIGN_OR_RETURN(std::string path, expand(scope, i, word));
    if (path.empty()) return complaints_.fail(i, word.range, "the path of a VOLUME is empty");
    scope.stage.config.volumes.insert(path);
    paths.push_back(std::move(path));
  }
  add_history(scope, "VOLUME [" + join(paths, " ") + "]");
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::StopSignal& body) {
  ASSIGN_OR_RETURN(const std::string signal, expand(scope, i, body.signal));
  if (!parser::valid_signal(signal)) {
    return complaints_.fail(i, body.signal.range, fmt::format("\"{}\" is no signal", printable(signal)),
                            {"write a name such as SIGTERM or a number from 1 to 64"});
  }
  scope.stage.config.stop_signal = signal;
  add_history(scope, "STOPSIGNAL " + signal);
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction&, const parser::Shell& body) {
  scope.stage.config.shell = body.argv;
  add_history(scope, "SHELL [" + join(body.argv, " ") + "]");
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction&, const parser::Maintainer& body) {
  scope.stage.config.author = body.name.text;
  add_history(scope, "MAINTAINER " + body.name.text);
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Healthcheck& body) {
  oci::HealthcheckConfig check;
  if (body.none) {
    check.test = {"NONE"};
  } else {
    check.test = {body.command.shell_form ? "CMD-SHELL" : "CMD"};
    check.test.insert(check.test.end(), body.command.args.begin(), body.command.args.end());
    using std::chrono::nanoseconds;
    check.interval = body.interval.value_or(nanoseconds(0));
    check.timeout = body.timeout.value_or(nanoseconds(0));
    check.start_period = body.start_period.value_or(nanoseconds(0));
    check.start_interval = body.start_interval.value_or(nanoseconds(0));
    check.retries = body.retries.value_or(0);
  }
  scope.stage.config.healthcheck = std::move(check);
  add_history(scope, i.original);
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction&, const parser::Onbuild& body) {
  scope.stage.config.on_build.push_back(body.trigger);  // no history entry: reference 1.0
  return {};
}

// --- COPY and ADD ---------------------------------------------------------------------------------

namespace {

bool is_http_source(const std::string& text) { return text.compare(0, 7, "http://") == 0 || text.compare(0, 8, "https://") == 0; }

bool numeric_owner(const std::string& owner) {
  const auto number = [](const std::string& part) { return part.empty() || parse_uint(part).has_value(); };
  const size_t colon = owner.find(':');
  return number(owner.substr(0, colon)) && (colon == std::string::npos || number(owner.substr(colon + 1)));
}

std::string copy_history(const CopyStep& step) {
  std::string text = step.is_add ? "ADD" : "COPY";
  if (step.parents) text += " --parents";
  if (!step.chown.empty()) text += " --chown=" + step.chown;
  if (!step.chmod.empty()) text += " --chmod=" + step.chmod;
  // The image must not show a password.
  for (const parser::Word& s : step.sources) text += " " + net::redacted(s.text);
  for (const auto& file : step.inline_files) text += " <<" + file.first;
  return text + " " + step.destination;
}

}  // namespace

// `checksum` is --checksum after expansion, or empty.
Result<RemoteSource> Planner::git_remote(const parser::Instruction& i, const parser::Copy& body, GitSource from, SourceRange range, const std::string& checksum) {
  if (body.keep_git_dir && from.keep_git_dir && *body.keep_git_dir != *from.keep_git_dir) {
    return complaints_.fail(i, range, "--keep-git-dir and the source's own keep-git-dir say different things");
  }
  RemoteSource remote;
  remote.keep_git_dir = body.keep_git_dir.value_or(from.keep_git_dir.value_or(false));
  if (!checksum.empty()) {
    const std::string wanted = to_lower(checksum);
    if (wanted.find_first_not_of("0123456789abcdef") != std::string::npos || wanted.size() > 64) {
      return complaints_.fail(i, body.checksum->range, fmt::format("\"{}\" is no commit", printable(checksum)), {"the checksum of a git source is the hexadecimal name of a commit, or the beginning of it"});
    }
    if (!from.checksum.empty() && from.checksum != wanted) {
      return complaints_.fail(i, body.checksum->range, fmt::format("--checksum={} and the source's own commit {} differ", wanted, from.checksum));
    }
    from.checksum = wanted;
  }
  remote.from = std::move(from);
  return remote;
}

Result<RemoteSource> Planner::http_remote(const parser::Instruction& i, const parser::Copy& body, const parser::Word& source, const std::string& checksum) {
  const auto url = net::Url::parse(source.text);
  if (!url) return complaints_.fail(i, source.range, url.error().message(), url.error().notes());
  if (url->host.empty()) return complaints_.fail(i, source.range, fmt::format("the URL {} has no host", printable(source.text)));
  HttpSource http{source.text, std::nullopt};
  if (!checksum.empty()) {
    auto digest = oci::Digest::parse(checksum);
    if (!digest) return complaints_.fail(i, body.checksum->range, fmt::format("\"{}\" is no checksum of a file", printable(checksum)), {"write --checksum=sha256: and 64 hexadecimal digits"});
    http.checksum = std::move(*digest);
  }
  return RemoteSource{std::move(http), false};
}

Result<void> Planner::find_remotes(const StageScope& scope, const parser::Instruction& i, const parser::Copy& body, CopyStep& step) {
  std::string checksum;
  if (body.checksum) {
    ASSIGN_OR_RETURN(checksum, expand(scope, i, *body.checksum));
    if (checksum.empty()) return complaints_.fail(i, body.checksum->range, "the checksum is empty after expansion");
    if (body.sources.size() != 1 || !body.heredocs.empty()) return complaints_.fail(i, body.checksum->range, "--checksum takes exactly one source", {"write one ADD for each"});
  }
  bool any_git = false;
  // With --from, a path may look like anything.
  for (size_t at = 0; at < step.sources.size() && !body.from; ++at) {
    const parser::Word& source = step.sources[at];
    auto git = parse_git_source(source.text, GitPlace::kDockerfile);
    if (!git) return complaints_.fail(i, source.range, git.error().message(), git.error().notes());
    if (!*git && !is_http_source(source.text)) continue;
    if (!step.is_add) return complaints_.fail(i, source.range, fmt::format("COPY takes no {}", *git ? "git repository" : "URL"), {"ADD does"});
    any_git = any_git || git->has_value();
    ASSIGN_OR_RETURN(RemoteSource remote, *git ? git_remote(i, body, std::move(**git), source.range, checksum) : http_remote(i, body, source, checksum));
    step.remotes.emplace(at, std::move(remote));
  }
  if (body.checksum && step.remotes.empty()) return complaints_.fail(i, body.checksum->range, "--checksum is only for URLs and git repositories");
  if (body.keep_git_dir && !any_git) {
    plan_.warnings.push_back(parser::diagnostic_at(dockerfile_, Severity::kWarning, i.range, "--keep-git-dir does nothing: no source is a git repository"));
  }
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Copy& body) {
  CopyStep step;
  step.is_add = body.is_add;
  step.unpack = body.is_add && body.unpack.value_or(true);
  step.link = body.link;
  step.parents = body.parents;
  step.if_exists = body.if_exists;
  step.unpack_remote = body.is_add && body.unpack.value_or(false);
  Step out;
  for (const parser::Word& source : body.sources) {
    ASSIGN_OR_RETURN(std::string text, expand(scope, i, source));
    // In a trigger the place is that of the FROM that brought it.
    step.sources.push_back({std::move(text), scope.in_trigger ? i.range : source.range});
  }
  RETURN_IF_ERROR(find_remotes(scope, i, body, step));
  const auto lookup = [&](std::string_view name) { return get_variable(scope.stage.env, name); };
  for (const parser::Heredoc& doc : body.heredocs) {
    std::string content = doc.content;
    if (doc.expand) {
      auto expanded = parser::expand_raw(doc.content, lookup);
      if (!expanded) return complaints_.fail(i, doc.range, expanded.error().message());
      content = std::move(expanded->text);
    }
    step.inline_files.emplace_back(doc.name, std::move(content));
  }
  ASSIGN_OR_RETURN(const std::string destination, expand(scope, i, body.destination));
  step.destination = absolute_destination(destination, scope.stage.config.working_dir);
  if (body.chown) {
    ASSIGN_OR_RETURN(step.chown, expand(scope, i, *body.chown));
    if (step.link && !numeric_owner(step.chown)) {
      return complaints_.fail(i, body.chown->range, fmt::format("--link copies without looking at the files below, so the name {} cannot be looked up", printable(step.chown)),
                              {"give numbers, such as --chown=1000:1000, or leave --link out"});
    }
  }
  if (body.chmod) {
    ASSIGN_OR_RETURN(step.chmod, expand(scope, i, *body.chmod));
    auto mode = parser::ModeChange::parse(step.chmod);
    if (!mode) return complaints_.fail(i, body.chmod->range, mode.error().message(), mode.error().notes());
    step.mode = std::move(*mode);
  }
  for (const parser::Word& exclude : body.excludes) {
    ASSIGN_OR_RETURN(std::string pattern, expand(scope, i, exclude));
    step.excludes.push_back(std::move(pattern));
  }
  if (body.from) {
    ASSIGN_OR_RETURN(const std::string name, expand(scope, i, *body.from));
    ASSIGN_OR_RETURN(step.from, source_ref(scope, i, name, body.from->range, true));
    if (step.from.kind == SourceRef::Kind::kStage) out.needs_stages.push_back(step.from.stage);
  }
  std::string history = copy_history(step);
  out.independent = step.link;
  out.body = std::move(step);
  add_step(scope, i, std::move(out), std::move(history));
  return {};
}

// --- RUN --------------------------------------------------------------------------------------------

// dockerfile-language 1.2: how heredocs become a command.
Result<void> Planner::fill_run_command(StageScope& scope, const parser::Run& body, RunStep& step, std::string& history) {
  parser::CommandLine command = body.command;
  if (!body.heredocs.empty() && !command.args.empty()) {
    const parser::Heredoc& first = body.heredocs.front();
    const bool alone = body.heredocs.size() == 1 && first.descriptor.empty() &&
                       command.args[0].find_first_of(" \t", command.args[0].find_first_not_of("<- \t")) == std::string::npos &&
                       command.args[0].compare(0, 2, "<<") == 0;
    if (alone && first.content.compare(0, 2, "#!") == 0) {
      step.script = {first.name, first.content};
      command.args = {"/dev/pipes/" + first.name};
    } else if (alone) {
      command.args = {first.content};
    } else {
      std::string text = command.args[0];
      text += '\n';
      for (const parser::Heredoc& doc : body.heredocs) {
        text += doc.raw_content + doc.name + "\n";
      }
      command.args = {std::move(text)};
    }
  }
  step.argv = with_shell(scope, command);
  history = "RUN ";
  std::vector<std::string> args;
  for (const std::string& name : scope.stage.arg_names) args.push_back(name + "=" + get_variable(scope.stage.env, name).value_or(""));
  if (!args.empty()) history += fmt::format("|{} {} ", args.size(), join(args, " "));
  history += join(step.argv, " ");
  return {};
}

Result<void> Planner::fill_run_mounts(StageScope& scope, const parser::Instruction& i, const parser::Run& body, RunStep& step, Step& out) {
  const auto lookup = [&](std::string_view name) { return get_variable(scope.stage.env, name); };
  for (const parser::Word& raw : body.mounts) {
    auto parsed = parser::parse_mount(raw.text, lookup, dockerfile_.directives.escape);
    if (!parsed) return complaints_.fail(i, raw.range, parsed.error().message(), parsed.error().notes());
    PlannedMount mount;
    mount.mount = std::move(*parsed);
    if (!mount.mount.target.empty()) mount.mount.target = absolute(mount.mount.target, scope.stage.config.working_dir);
    if (mount.mount.target == "/") return complaints_.fail(i, raw.range, "a mount cannot have / as its target");
    const bool takes_files = mount.mount.type == parser::MountType::kBind || mount.mount.type == parser::MountType::kCache;
    if (mount.mount.type == parser::MountType::kCache) {
      // Builds that share a store may keep their caches apart.
      if (const auto space = arguments_->given("BUILDKIT_CACHE_MOUNT_NS"); space && !space->empty()) mount.mount.id = *space + "/" + mount.mount.id;
    }
    if (takes_files && !mount.mount.from.empty()) {
      ASSIGN_OR_RETURN(mount.from, source_ref(scope, i, mount.mount.from, raw.range, false));
      if (mount.from.kind == SourceRef::Kind::kStage) out.needs_stages.push_back(mount.from.stage);
    }
    step.mounts.push_back(std::move(mount));
  }
  return {};
}

Result<void> Planner::fill_run_isolation(StageScope& scope, const parser::Instruction& i, const parser::Run& body, RunStep& step) {
  step.network = request_.network;
  const auto allowed = [&](const char* what) {
    return std::find(request_.allow.begin(), request_.allow.end(), what) != request_.allow.end();
  };
  if (body.network) {
    ASSIGN_OR_RETURN(const std::string network, expand(scope, i, *body.network));
    if (network == "none") {
      step.network = NetworkMode::kNone;
    } else if (network == "host") {
      // There is no bridge: what every RUN has is the host's network. Only a build without network is opened by this.
      if (request_.network == NetworkMode::kNone && !allowed("network.host")) {
        return complaints_.fail(i, body.network->range, "RUN --network=host is not allowed in a build with --network=none", {"allow it for this build with --allow network.host"}, ErrorKind::kDenied);
      }
      step.network = NetworkMode::kHost;
    } else if (network != "default") {
      return complaints_.fail(i, body.network->range, fmt::format("\"{}\" is no network mode", printable(network)), {"it is default, none or host"});
    }
  }
  if (body.security) {
    ASSIGN_OR_RETURN(const std::string security, expand(scope, i, *body.security));
    step.insecure = security == "insecure";
    if (!step.insecure && security != "sandbox") {
      return complaints_.fail(i, body.security->range, fmt::format("\"{}\" is no security mode", printable(security)), {"it is sandbox or insecure"});
    }
    if (step.insecure && !allowed("security.insecure")) {
      return complaints_.fail(i, body.security->range, "RUN --security=insecure is not allowed", {"allow it for this build with --allow security.insecure"}, ErrorKind::kDenied);
    }
  }
  return {};
}

// Names only: which devices they stand for is looked up when the plan is made, so that a refusal comes before
// anything is executed.
Result<void> Planner::fill_run_devices(const parser::Instruction& i, const parser::Run& body, RunStep& step) {
  for (const parser::Word& raw : body.devices) {
    auto wanted = parser::parse_device(raw.text);
    if (!wanted) return complaints_.fail(i, raw.range, wanted.error().message(), wanted.error().notes());
    if (!devices_) {
      auto loaded = DeviceRegistry::load(request_.cdi_directories);
      if (!loaded) return std::move(loaded).error();
      devices_ = std::move(*loaded);
    }
    auto edits = devices_->find(*wanted, request_.allow);
    if (!edits) return complaints_.fail(i, raw.range, edits.error().message(), edits.error().notes(), edits.error().kind());
    step.devices.push_back({wanted->name, std::move(*edits)});
  }
  return {};
}

Result<void> Planner::apply_body(StageScope& scope, const parser::Instruction& i, const parser::Run& body) {
  RunStep step;
  Step out;
  std::string history;
  RETURN_IF_ERROR(fill_run_command(scope, body, step, history));
  RETURN_IF_ERROR(fill_run_devices(i, body, step));
  RETURN_IF_ERROR(fill_run_mounts(scope, i, body, step, out));
  step.env = scope.stage.env;
  for (const auto& [name, value] : arguments_->proxies()) {
    if (!get_variable(step.env, name)) step.hidden_env.emplace_back(name, value);
  }
  step.working_dir = scope.stage.config.working_dir.empty() ? "/" : scope.stage.config.working_dir;
  step.user = scope.stage.config.user;
  step.hostname = arguments_->given("BUILDKIT_SANDBOX_HOSTNAME").value_or("");
  RETURN_IF_ERROR(fill_run_isolation(scope, i, body, step));
  out.body = std::move(step);
  add_step(scope, i, std::move(out), std::move(history));
  return {};
}

}  // namespace lamina::builder::internal
