#include "cli/arguments.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <climits>
#include <cstdlib>

#include "base/files.h"
#include "base/text.h"
#include "builder/contexts.h"

namespace lamina::cli {

namespace {

Error bad(std::string message) { return Error(ErrorKind::kInvalidInput, std::move(message)); }

// Flags that CLI11 did not know, with the nearest known one.
Error unknown_flag(const CLI::App& app, const std::string& flag) {
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  Error error = bad(fmt::format("unknown flag {}", flag));
  if (const auto near = nearest_name(flag.substr(0, flag.find('=')), known)) return std::move(error).with_note("did you mean " + *near + "?");
  return std::move(error).with_note("build " + (app.get_name() == "build" ? "" : app.get_name() + " ") + "--help lists the flags");
}

// Runs CLI11 without its exceptions getting out. The help text when that was asked for.
Result<std::optional<HelpText>> run_parser(CLI::App& app, const std::string& usage, std::vector<std::string> arguments) {
  std::reverse(arguments.begin(), arguments.end());
  try {
    app.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    return std::optional(HelpText{"Usage: " + usage + "\n\n" + app.help()});
  } catch (const CLI::ExtrasError&) {
    for (const std::string& rest : app.remaining()) {
      if (rest.size() > 1 && rest[0] == '-') return unknown_flag(app, rest);
    }
    return bad(fmt::format("unexpected argument \"{}\"", app.remaining().empty() ? "" : app.remaining().front()));
  } catch (const CLI::ParseError& error) {
    return bad(error.what());
  }
  return std::optional<HelpText>();
}

void add_common(CLI::App& app, CommonOptions& o) {
  app.add_option("--store", o.store, "Directory of the store (default: $LAMINA_STORE, /var/lib/lamina, or ~/.local/share/lamina)");
  app.add_option("--authfile", o.auth_file, "File with registry credentials");
  app.add_option("--insecure-registry", o.insecure_registries, "HOST[:PORT] that may be spoken to over plain HTTP")->allow_extra_args(false);
  app.add_option("--trace", o.trace_file, "Write a Chrome trace of what was done to FILE");
  app.add_flag("--debug", o.debug, "Say more about the machine and the isolation in use");
}

Result<ProgressMode> parse_progress(std::string text) {
  if (text.empty()) {
    const char* from_environment = std::getenv("BUILDKIT_PROGRESS");  // NOLINT(concurrency-mt-unsafe)
    text = from_environment == nullptr ? "auto" : from_environment;
  }
  if (text == "auto") return ProgressMode::kAuto;
  if (text == "plain") return ProgressMode::kPlain;
  if (text == "tty") return ProgressMode::kTty;
  if (text == "quiet" || text == "none") return ProgressMode::kQuiet;
  if (text == "rawjson") return ProgressMode::kRawJson;
  return bad(fmt::format("--progress={}: it is auto, plain, tty, quiet or rawjson", text));
}

Result<builder::PullPolicy> parse_pull(const std::string& text) {
  if (text == "always" || text == "true") return builder::PullPolicy::kAlways;
  if (text == "missing" || text == "false") return builder::PullPolicy::kMissing;
  if (text == "never") return builder::PullPolicy::kNever;
  if (text == "newer") return builder::PullPolicy::kNewer;
  return bad(fmt::format("--pull={}: it is always, missing, never or newer", text));
}

Result<builder::NetworkMode> parse_network(const std::string& text) {
  if (text == "default" || text == "host" || text.empty()) return builder::NetworkMode::kHost;
  if (text == "none") return builder::NetworkMode::kNone;
  return bad(fmt::format("--network={}: it is default, host or none", text));
}

std::pair<std::string, std::string> key_value(const std::string& text) {
  const size_t eq = text.find('=');
  return {text.substr(0, eq), eq == std::string::npos ? "" : text.substr(eq + 1)};
}

Result<std::vector<oci::Platform>> parse_platforms(const std::vector<std::string>& texts) {
  std::vector<std::string> all = texts;
  if (all.empty()) {
    if (const char* standard = std::getenv("DOCKER_DEFAULT_PLATFORM"); standard != nullptr && *standard != 0) all.emplace_back(standard);  // NOLINT(concurrency-mt-unsafe)
  }
  std::vector<oci::Platform> out;
  for (const std::string& text : all) {
    for (const std::string& one : split(text, ',')) {
      ASSIGN_OR_RETURN(oci::Platform platform, oci::Platform::parse(trim(one)));
      if (std::find(out.begin(), out.end(), platform) == out.end()) out.push_back(std::move(platform));
    }
  }
  return out;
}

// A number; or a name that only the build can give a meaning.
Result<void> find_epoch(builder::BuildRequest& request) {
  std::optional<std::string> text;
  for (const auto& [name, value] : request.build_args) {
    if (name == "SOURCE_DATE_EPOCH" && value) text = value;
  }
  if (!text) {
    if (const char* e = std::getenv("SOURCE_DATE_EPOCH"); e != nullptr && *e != 0) text = e;  // NOLINT(concurrency-mt-unsafe)
  }
  if (!text || text->empty()) return {};
  const auto seconds = parse_int(*text);
  if (seconds && *seconds < 0) return bad(fmt::format("SOURCE_DATE_EPOCH \"{}\" is not a number of seconds since 1970", printable(*text)));
  request.source_date_epoch = seconds;
  if (!seconds) request.source_date_epoch_name = *text;
  return {};
}

// What CLI11 fills for `build`; turned into a request when it is done.
struct RawBuild {
  std::vector<std::string> build_args, labels, annotations, contexts, platforms, outputs, hosts, secrets, ssh, cache, cache_filters;
  std::string pull, network, shm_size, progress, context, check, call, format, load, max_used_space, rewrite_timestamp;
  bool ignored = false, fix = false;
};

void add_build_options(CLI::App& app, BuildOptions& o, RawBuild& raw) {
  builder::BuildRequest& r = o.request;
  const auto many = [&](const char* flags, std::vector<std::string>& target, const char* text) { app.add_option(flags, target, text)->allow_extra_args(false); };
  app.add_option("CONTEXT", raw.context, "Directory, git repository or URL of a tar to build from; - is standard input");
  many("-t,--tag", r.tags, "Name and tag of the image (repeatable)");
  app.add_option("-f,--file", r.dockerfile, "Dockerfile (default: CONTEXT/Dockerfile; - is standard input; or a URL)");
  app.add_option("--target", r.target, "Stage to build");
  many("--build-arg", raw.build_args, "NAME=VALUE for an ARG; NAME alone takes it from the environment");
  many("--build-context", raw.contexts, "NAME=PLACE: what CONTEXT takes, docker-image://IMAGE or oci-layout://PATH");
  many("--label", raw.labels, "NAME=VALUE to put into the image");
  many("--annotation", raw.annotations, "[LEVEL:]NAME=VALUE; levels: manifest (default), index, manifest-descriptor, index-descriptor");
  many("--platform", raw.platforms, "OS/ARCH[/VARIANT] to build for; several make an index");
  many("-o,--output", raw.outputs, "type=image|registry|oci|docker|tar|local[,dest=…][,compression=gzip|zstd|estargz|zstd:chunked|uncompressed]");
  app.add_flag("--push", r.push, "Push every tag to its registry");
  app.add_option("--load", raw.load, "Load the image into a running docker or podman, too; --load=docker, --load=podman: into that one");
  app.add_flag("--no-cache", r.no_cache, "Do not use recorded steps");
  many("--no-cache-filter", raw.cache_filters, "STAGE[:FIRST-LAST]: a stage, or lines of the Dockerfile, whose recorded steps are not used");
  app.add_option("--pull", raw.pull, "Look for base images in the registry: always, missing, never, newer");
  app.add_option("--network", raw.network, "Network of RUN: default, host, none");
  many("--add-host", raw.hosts, "NAME:ADDRESS for /etc/hosts of RUN");
  many("--secret", raw.secrets, "id=NAME,src=FILE or id=NAME,env=VARIABLE");
  many("--ssh", raw.ssh, "default or ID=SOCKET: an ssh agent for RUN --mount=type=ssh");
  many("--allow", r.allow, "Permission for the build: security.insecure, network.host, device[=NAME]");
  many("--cdi-spec-dir", r.cdi_directories, "Directory of device descriptions for RUN --device (default: /etc/cdi, /var/run/cdi)");
  app.add_flag("--squash", r.squash, "Make one layer of all that the Dockerfile adds to the base image");
  app.add_flag("--strict", r.strict, "A wildcard of COPY or ADD that matches nothing is an error");
  many("--compat", r.compat, "unknown-owner: a --chown name that is not found means 0, as in BuildKit");
  app.add_option("--rewrite-timestamp", raw.rewrite_timestamp, "Files newer than SOURCE_DATE_EPOCH get that time (default); =false keeps theirs");
  app.add_option("--shm-size", raw.shm_size, "Size of /dev/shm in RUN");
  many("--ulimit", r.ulimits, "NAME=SOFT[:HARD] limit of RUN");
  app.add_option("--ignorefile", r.ignore_file, "Ignore file to use instead of .dockerignore");
  app.add_option("--max-used-space", raw.max_used_space, "What the store may take on the disk, also during the build: 10g (default: $LAMINA_MAX_USED_SPACE)");
  app.add_option("--jobs,-j", r.jobs, "Number of compute tasks at the same time");
  app.add_option("--progress", raw.progress, "auto, plain, tty, quiet, rawjson");
  app.add_flag("-q,--quiet", o.quiet, "Print the image id only");
  app.add_option("--iidfile", o.iid_file, "Write the image id to FILE");
  app.add_option("--metadata-file", o.metadata_file, "Write digests of the result to FILE (JSON)");
  app.add_option("--digest-file", o.digest_file, "Write the digest of the image's manifest to FILE");
  app.add_flag("--explain", o.explain, "Say for every step why it was run or taken from the cache");
  app.add_flag("--dry-run", o.dry_run, "Print the plan, execute nothing; with --fix: change nothing");
  app.add_option("--check", raw.check, "Check the Dockerfile, build nothing; --check=error: warnings are errors");
  app.add_option("--call", raw.call, "check, outline or targets of the Dockerfile[,format=text|json|sarif]");
  app.add_option("--format", raw.format, "Format of --check and --call: text, json, sarif");
  app.add_flag("--fix", raw.fix, "With check: apply the safe mends to the Dockerfile and show the difference");
  app.add_flag("--rm,--force-rm", raw.ignored, "Accepted for compatibility: nothing is ever left behind")->group("");
  many("--cache-from,--cache-to", raw.cache, "Not supported");
}

// --allow and --compat take words; a misspelt one must not silently do nothing.
Result<void> check_words(builder::BuildRequest& r) {
  const auto check = [](const char* flag, const std::string& word, const std::vector<std::string>& known) -> Result<void> {
    if (std::find(known.begin(), known.end(), word) != known.end()) return {};
    Error error = bad(fmt::format("{}: \"{}\" is not known", flag, printable(word)));
    if (const auto near = nearest_name(word, known)) return std::move(error).with_note("did you mean " + *near + "?");
    return std::move(error).with_note("known: " + join(known, ", "));
  };
  std::vector<std::string> allowed;
  for (const std::string& text : r.allow) {
    for (const std::string& word : split(text, ',')) {
      RETURN_IF_ERROR(check("--allow", word.compare(0, 7, "device=") == 0 ? "device" : word, {"network.host", "security.insecure", "device"}));
      allowed.push_back(word);
    }
  }
  r.allow = std::move(allowed);
  for (const std::string& word : r.compat) RETURN_IF_ERROR(check("--compat", word, {"unknown-owner"}));
  return {};
}

// --load is -o type=docker without a destination, unless that is there.
Result<void> add_load(builder::BuildRequest& r, const std::string& text) {
  if (text.empty() || text == "false") return {};
  builder::OutputSpec output;
  output.type = builder::OutputSpec::Type::kDocker;
  if (text == "docker") {
    output.daemon = registry::DaemonKind::kDocker;
  } else if (text == "podman") {
    output.daemon = registry::DaemonKind::kPodman;
  } else if (text != "true") {
    return bad(fmt::format("--load={}: it is docker or podman, or --load alone", printable(text)));
  }
  const auto loads = std::find_if(r.outputs.begin(), r.outputs.end(), [](const auto& o) { return o.type == builder::OutputSpec::Type::kDocker && o.dest.empty(); });
  if (loads == r.outputs.end()) {
    r.outputs.push_back(std::move(output));
  } else if (text != "true") {
    loads->daemon = output.daemon;
  }
  return {};
}

Result<void> fill_request(BuildOptions& o, const RawBuild& raw) {
  builder::BuildRequest& r = o.request;
  if (!raw.cache.empty()) return bad("--cache-from and --cache-to are not supported").with_note("the store keeps what was built; keep its directory (--store) between runs");
  if (raw.context.empty()) return bad("the build context is missing").with_note("give a directory: build -t name .");
  RETURN_IF_ERROR(builder::parse_context(raw.context));
  r.context = raw.context;
  while (r.context.size() > 1 && r.context.back() == '/') r.context.pop_back();
  r.auth_file = o.common.auth_file;
  r.insecure_registries = o.common.insecure_registries;
  for (const std::string& text : raw.build_args) {
    auto [name, value] = key_value(text);
    if (name.empty()) return bad(fmt::format("--build-arg \"{}\" has no name", text));
    r.build_args.emplace_back(std::move(name), text.find('=') == std::string::npos ? std::nullopt : std::optional(std::move(value)));
  }
  for (const std::string& text : raw.labels) {
    auto [name, value] = key_value(text);
    if (name.empty()) return bad(fmt::format("--label \"{}\" has no name", text));
    r.labels[name] = value;
  }
  for (const std::string& text : raw.annotations) {
    ASSIGN_OR_RETURN(const std::vector<builder::AnnotationSpec> specs, builder::parse_annotation(text));
    r.annotations.insert(r.annotations.end(), specs.begin(), specs.end());
  }
  for (const std::string& text : raw.contexts) {
    auto [name, value] = key_value(text);
    if (name.empty() || value.empty()) return bad(fmt::format("--build-context \"{}\" is not NAME=PLACE", text));
    if (!builder::is_image_context(value)) {
      if (const auto place = builder::parse_context(value); !place) return Error(place.error()).with_context("reading --build-context " + name);
    }
    r.build_contexts[name] = value;
  }
  ASSIGN_OR_RETURN(r.platforms, parse_platforms(raw.platforms));
  for (const std::string& text : raw.cache_filters) {
    ASSIGN_OR_RETURN(const std::vector<builder::CacheFilter> filters, builder::parse_cache_filter(text));
    r.no_cache_filter.insert(r.no_cache_filter.end(), filters.begin(), filters.end());
  }
  RETURN_IF_ERROR(check_words(r));
  for (const std::string& text : raw.outputs) {
    ASSIGN_OR_RETURN(builder::OutputSpec output, builder::parse_output(text));
    r.outputs.push_back(std::move(output));
  }
  RETURN_IF_ERROR(add_load(r, raw.load));
  if (!raw.pull.empty()) {
    ASSIGN_OR_RETURN(r.pull, parse_pull(raw.pull));
  }
  ASSIGN_OR_RETURN(r.network, parse_network(raw.network));
  for (const std::string& text : raw.hosts) {
    ASSIGN_OR_RETURN(auto host, parse_extra_host(text));
    r.extra_hosts.push_back(std::move(host));
  }
  for (const std::string& text : raw.secrets) {
    ASSIGN_OR_RETURN(builder::SecretSpec secret, parse_secret(text));
    r.secrets.push_back(std::move(secret));
  }
  for (const std::string& text : raw.ssh) {
    auto [id, path] = key_value(text);
    r.ssh.push_back({id.empty() ? "default" : id, path});
  }
  if (!raw.shm_size.empty()) {
    ASSIGN_OR_RETURN(r.shm_size_bytes, parse_bytes(raw.shm_size));
  }
  ASSIGN_OR_RETURN(r.max_used_space, parse_max_used_space(raw.max_used_space));
  RETURN_IF_ERROR(find_epoch(r));
  if (!raw.rewrite_timestamp.empty()) {
    if (raw.rewrite_timestamp != "true" && raw.rewrite_timestamp != "false") return bad(fmt::format("--rewrite-timestamp={}: it is true or false", printable(raw.rewrite_timestamp)));
    r.rewrite_timestamp = raw.rewrite_timestamp == "true";
  }
  ASSIGN_OR_RETURN(o.progress, parse_progress(raw.progress));
  if (o.quiet) o.progress = ProgressMode::kQuiet;
  return {};
}

// CLI11 reads "--pull ." as "--pull=." since the value is optional; docker's value needs "=".
std::vector<std::string> settle_optional_values(std::vector<std::string> arguments) {
  for (std::string& a : arguments) {
    if (a == "--pull") a = "--pull=always";
    if (a == "--check") a = "--check=true";
    if (a == "--load") a = "--load=true";
    if (a == "--rewrite-timestamp") a = "--rewrite-timestamp=true";
  }
  return arguments;
}

Result<CallOptions::Format> parse_format(const std::string& text) {
  if (text.empty() || text == "text") return CallOptions::Format::kText;
  if (text == "json") return CallOptions::Format::kJson;
  if (text == "sarif") return CallOptions::Format::kSarif;
  return bad(fmt::format("format {} is not known: it is text, json or sarif", printable(text)));
}

// --call=check,format=json; as docker, the word "lint" is another name of check.
Result<void> parse_call(const std::string& text, CallOptions& call, std::string& format) {
  const std::vector<std::string> parts = split(text, ',');
  if (parts[0] == "check" || parts[0] == "lint") {
    call.what = CallOptions::What::kCheck;
  } else if (parts[0] == "outline") {
    call.what = CallOptions::What::kOutline;
  } else if (parts[0] == "targets") {
    call.what = CallOptions::What::kTargets;
  } else {
    Error error = bad(fmt::format("--call={}: it is build, check, outline or targets", printable(parts[0])));
    if (const auto near = nearest_name(parts[0], {"build", "check", "outline", "targets"})) return std::move(error).with_note("did you mean " + *near + "?");
    return error;
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    const auto [key, value] = key_value(parts[i]);
    if (key != "format" || value.empty()) return bad(fmt::format("--call={}: {} is not known there", printable(text), printable(parts[i]))).with_note("write --call=outline,format=json");
    format = value;
  }
  return {};
}

Result<void> fill_call(BuildOptions& o, const RawBuild& raw, bool check) {
  CallOptions call;
  std::string format = raw.format;
  const bool wants_check = check || (!raw.check.empty() && raw.check != "false");
  const bool wants_call = !raw.call.empty() && raw.call != "build";
  if (wants_call) RETURN_IF_ERROR(parse_call(raw.call, call, format));
  if (wants_check && call.what != CallOptions::What::kCheck) return bad(fmt::format("--check and --call={} ask for different things", printable(raw.call)));
  if (!wants_check && !wants_call) {
    if (!format.empty()) return bad("--format is for --check and --call");
    if (raw.fix) return bad("--fix is for checks").with_note("build check --fix CONTEXT");
    return {};
  }
  if (!raw.check.empty() && raw.check != "true" && raw.check != "false" && raw.check != "error") return bad(fmt::format("--check={}: it is --check or --check=error", printable(raw.check)));
  call.warnings_are_errors = raw.check == "error";
  ASSIGN_OR_RETURN(call.format, parse_format(format));
  if (call.format == CallOptions::Format::kSarif && call.what != CallOptions::What::kCheck) return bad("the format sarif is for checks");
  if (raw.fix && call.what != CallOptions::What::kCheck) return bad("--fix is for checks");
  if (raw.fix && call.format != CallOptions::Format::kText) return bad("--fix shows a difference, which has no other format");
  if (o.dry_run && !raw.fix) return bad("--dry-run has no meaning for a check without --fix: nothing is built or changed");
  call.fix = raw.fix;
  o.call = call;
  return {};
}

}  // namespace

Result<Parsed<BuildOptions>> parse_build(const std::vector<std::string>& arguments, bool check) {
  Parsed<BuildOptions> parsed;
  RawBuild raw;
  CLI::App app(check ? "Checks a Dockerfile and its context; builds nothing. Flags of a build may be given too." : "Builds an image from a Dockerfile and a directory of files.",
               check ? "check" : "build");
  add_build_options(app, parsed.options, raw);
  add_common(app, parsed.options.common);
  ASSIGN_OR_RETURN(parsed.help, run_parser(app, check ? "build check [flags] CONTEXT" : "build [flags] CONTEXT", settle_optional_values(arguments)));
  if (parsed.help) {
    if (!check) parsed.help->text += overview();
    return parsed;
  }
  RETURN_IF_ERROR(fill_request(parsed.options, raw));
  RETURN_IF_ERROR(fill_call(parsed.options, raw, check));
  return parsed;
}

Result<Parsed<RunOptions>> parse_run(const std::vector<std::string>& arguments) {
  Parsed<RunOptions> parsed;
  builder::RunRequest& r = parsed.options.request;
  std::vector<std::string> words, environment, env_files, volumes, hosts;
  std::string network, entrypoint, ignored;
  bool has_entrypoint = false, harmless = false;
  CLI::App app("Runs a command in an image of the store; what it writes is thrown away.", "run");
  app.prefix_command();  // what follows the image belongs to the command
  const auto many = [&](const char* flags, std::vector<std::string>& target, const char* text) { app.add_option(flags, target, text)->allow_extra_args(false); };
  many("-e,--env", environment, "NAME=VALUE; NAME alone takes it from the environment");
  many("--env-file", env_files, "File of NAME=VALUE lines");
  many("-v,--volume", volumes, "SOURCE:TARGET[:ro]");
  app.add_option("-w,--workdir", r.working_dir, "Working directory");
  app.add_option("-u,--user", r.user, "User[:group]");
  app.add_option("--hostname", r.hostname, "Host name");
  auto* entry = app.add_option("--entrypoint", entrypoint, "Replaces the image's ENTRYPOINT");
  app.add_option("--network", network, "default, host, none");
  many("--add-host", hosts, "NAME:ADDRESS");
  app.add_flag("--rm,-i,--interactive,-t,--tty", harmless, "Accepted: that is how it always works");
  add_common(app, parsed.options.common);
  ASSIGN_OR_RETURN(parsed.help, run_parser(app, "build run [flags] IMAGE [COMMAND …]", arguments));
  if (parsed.help) return parsed;
  words = app.remaining();
  if (words.empty()) return bad("the image is missing").with_note("build run IMAGE [COMMAND …]");
  if (words[0].size() > 1 && words[0][0] == '-') return unknown_flag(app, words[0]);
  has_entrypoint = entry->count() > 0;
  ASSIGN_OR_RETURN(r.image, oci::Reference::parse(words[0]));
  r.command.assign(words.begin() + 1, words.end());
  if (has_entrypoint) r.entrypoint = entrypoint.empty() ? std::vector<std::string>() : std::vector<std::string>{entrypoint};
  for (const std::string& file : env_files) {
    ASSIGN_OR_RETURN_WITH(const std::string text, read_file(AT_FDCWD, file, 1 << 20), "reading --env-file " + file);
    std::vector<std::string> lines;
    for (const std::string& line : split(text, '\n')) {
      if (!trim(line).empty() && trim(line)[0] != '#') lines.emplace_back(trim(line));
    }
    environment.insert(environment.begin(), lines.begin(), lines.end());
  }
  for (const std::string& e : environment) {
    if (e.find('=') != std::string::npos) {
      r.environment.push_back(e);
    } else if (const char* value = std::getenv(e.c_str())) {  // NOLINT(concurrency-mt-unsafe)
      r.environment.push_back(e + "=" + value);
    }
  }
  for (const std::string& v : volumes) {
    ASSIGN_OR_RETURN(builder::SandboxMount mount, parse_volume(v));
    r.volumes.push_back(std::move(mount));
  }
  for (const std::string& h : hosts) {
    ASSIGN_OR_RETURN(auto host, parse_extra_host(h));
    r.extra_hosts.push_back(std::move(host));
  }
  ASSIGN_OR_RETURN(r.network, parse_network(network));
  return parsed;
}

Result<Parsed<ImageOptions>> parse_image_command(const std::string& command, const std::vector<std::string>& arguments) {
  static const std::vector<std::tuple<std::string, std::string, std::string, size_t, size_t>> kCommands = {
      {"images", "[NAME]", "Lists the images in the store.", 0, 1},
      {"inspect", "NAME …", "Prints config and manifest of images as JSON.", 1, SIZE_MAX},
      {"history", "NAME", "Lists the steps that made an image.", 1, 1},
      {"rmi", "NAME …", "Removes names, and what nothing needs any more.", 1, SIZE_MAX},
      {"tag", "SOURCE NAME", "Gives an image another name.", 2, 2},
      {"push", "SOURCE [DESTINATION …]", "Sends an image to a registry.", 1, SIZE_MAX},
      {"pull", "NAME", "Fetches an image from a registry.", 1, 1},
      {"copy", "SOURCE DESTINATION", "Copies an image or index as it is: NAME, docker://NAME, oci:DIRECTORY:TAG, oci-archive:FILE:TAG, docker-archive:FILE:NAME.", 2, 2},
      {"diff", "A B", "Tells why two images of the store differ: config, layers, files, bytes. Exit status 1 when they do.", 2, 2},
      {"tags", "REPOSITORY", "Lists the tags of a repository in a registry.", 1, 1},
      {"fsck", "", "Checks everything in the store, and puts what is damaged out of the way.", 0, 0},
      {"prune", "", "Removes what neither an image nor a build record needs, and downloads that broke off; with --all the build cache too.", 0, 0},
      {"du", "", "Tells what the store holds.", 0, 0},
      {"login", "[REGISTRY]", "Stores the credentials for a registry.", 0, 1},
      {"logout", "[REGISTRY]", "Removes the credentials for a registry.", 0, 1}};
  Parsed<ImageOptions> parsed;
  ImageOptions& o = parsed.options;
  const auto found = std::find_if(kCommands.begin(), kCommands.end(), [&](const auto& c) { return std::get<0>(c) == command; });
  if (found == kCommands.end()) return Error(ErrorKind::kInternal, "no such command: " + command);
  const auto& [name, usage, text, least, most] = *found;
  std::string progress;
  CLI::App app(text, name);
  app.add_option("NAME", o.names, "");
  const auto is = [&](std::initializer_list<const char*> names) { return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; }); };
  if (is({"images"})) app.add_flag("-q,--quiet", o.quiet, "Print ids only");
  if (is({"images", "history"})) app.add_flag("--no-trunc", o.no_truncation, "Do not shorten");
  if (is({"images", "history", "du", "tags", "diff"})) app.add_option("--format", o.format, "json");
  if (is({"inspect"})) app.add_option("--raw", o.raw, "manifest or config: its bytes as they are");
  if (is({"prune"})) app.add_flag("-a,--all", o.all, "The build cache too");
  if (is({"prune", "rmi"})) app.add_flag("-f,--force", o.force, "Accepted: nothing is asked");
  if (is({"inspect"})) app.add_flag("--remote", o.remote, "Ask the registry, not the store; so do names that begin with docker://, oci: or oci-archive:");
  if (is({"prune"})) {
    app.add_option("--filter", o.filters, "until=DURATION, type=regular|exec.cachemount|source.git|partial")->allow_extra_args(false);
    app.add_option("--keep-duration", o.keep_duration, "Remove build records that helped no build for so long: 90s, 30m, 24h, 7d");
    app.add_option("--max-used-space", o.max_used_space, "Then remove the records unused for longest, until the store takes no more: 10g");
  }
  if (is({"fsck"})) app.add_flag("--check-only", o.check_only, "Report, change nothing");
  if (is({"copy"})) app.add_flag("--referrers", o.referrers, "Copy what refers to the image too (signatures, SBOMs)");
  if (is({"push", "pull", "copy"})) app.add_option("--digest-file", o.digest_file, "Write the digest to FILE");
  if (is({"pull", "inspect", "history", "copy", "diff"})) app.add_option("--platform", o.platform, "OS/ARCH[/VARIANT]");
  if (is({"push"})) {
    app.add_option("--compression", o.compression, "gzip, zstd, estargz, zstd:chunked or uncompressed");
    app.add_option("--compression-level", o.compression_level, "Level of the compression");
    app.add_flag("--force-compression", o.force_compression, "Compress layers of the base image again too");
  }
  if (is({"push", "pull"})) app.add_option("--progress", progress, "auto, plain, tty, quiet, rawjson");
  if (is({"push", "pull", "copy"})) app.add_flag("-q,--quiet", o.quiet, "Print the digest only");
  if (is({"login"})) {
    app.add_option("-u,--username", o.user_name, "User name");
    app.add_option("-p,--password", o.password, "Password (others can see it in the process list; --password-stdin is better)");
    app.add_flag("--password-stdin", o.password_stdin, "Read the password from standard input");
  }
  add_common(app, o.common);
  ASSIGN_OR_RETURN(parsed.help, run_parser(app, "build " + name + " [flags] " + usage, arguments));
  if (parsed.help) return parsed;
  if (o.names.size() < least || o.names.size() > most) {
    return bad(fmt::format("build {} takes {}", name, least == most ? (least == 0 ? "no names" : least == 1 ? "one name" : "two names") : least == 0 ? "at most one name" : "at least one name"))
        .with_note(fmt::format("build {} {}", name, usage));
  }
  if (!o.format.empty() && o.format != "json") return bad(fmt::format("--format={}: only json is known", o.format));
  ASSIGN_OR_RETURN(o.progress, parse_progress(progress));
  if (o.quiet) o.progress = ProgressMode::kQuiet;
  return parsed;
}

const std::vector<std::string>& command_names() {
  static const std::vector<std::string> kNames = {"build", "push", "pull",  "images", "inspect", "history", "run",   "rmi",
                                                  "tag",   "tags", "copy", "diff", "help", "prune", "du", "fsck",     "login",   "logout",  "check", "version"};
  return kNames;
}

std::string overview() {
  return R"(
Commands (a context directory of such a name is given as ./name):
  build [flags] CONTEXT        build an image (the word build may be left out)
  run IMAGE [COMMAND …]        try an image
  push, pull                   send to, fetch from a registry
  copy SOURCE DESTINATION      between registries, layouts and archives
  tags REPOSITORY              what a registry has
  images, inspect, history     look at what there is
  diff A B                     why two images are not the same
  tag, rmi, prune, du, fsck    names, disk space and health of the store
  check CONTEXT                examine a Dockerfile, build nothing
  login, logout                credentials of registries
  version                      of this program
build COMMAND --help says more.
)";
}

Result<std::pair<std::string, std::string>> parse_extra_host(const std::string& text) {
  const size_t at = text.find_first_of(":=");
  if (at == std::string::npos || at == 0 || at + 1 == text.size()) return bad(fmt::format("--add-host \"{}\" is not NAME:ADDRESS", text));
  std::string address = text.substr(at + 1);
  if (address.front() == '[' && address.back() == ']') address = address.substr(1, address.size() - 2);
  if (address == "host-gateway") address = "127.0.0.1";
  for (char c : address) {
    const bool good = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') || c == '.' || c == ':';
    if (!good) return bad(fmt::format("--add-host {}: \"{}\" is no address", text, printable(address)));
  }
  const std::string name = text.substr(0, at);
  if (name.find_first_of(" \t\n") != std::string::npos) return bad(fmt::format("--add-host \"{}\": a name has no blanks", printable(text)));
  return std::pair(name, address);
}

Result<builder::SecretSpec> parse_secret(const std::string& text) {
  builder::SecretSpec secret;
  std::string type;
  for (const std::string& part : split(text, ',')) {
    const auto [key, value] = key_value(part);
    if (key == "id") {
      secret.id = value;
    } else if (key == "src" || key == "source") {
      secret.file = value;
    } else if (key == "env") {
      secret.env = value;
    } else if (key == "type" && (value == "file" || value == "env")) {
      type = value;
    } else {
      return bad(fmt::format("--secret: unexpected {}", printable(part))).with_note("write id=NAME,src=FILE or id=NAME,env=VARIABLE");
    }
  }
  if (type == "env" && secret.env.empty()) secret.env = std::exchange(secret.file, {});
  if (secret.id.empty()) secret.id = secret.file.substr(secret.file.rfind('/') == std::string::npos ? 0 : secret.file.rfind('/') + 1);
  if (secret.id.empty()) return bad(fmt::format("--secret \"{}\" has no id", text));
  // As docker: the environment when it has a variable of that name, else a file of that name.
  if (secret.file.empty() && secret.env.empty()) (std::getenv(secret.id.c_str()) != nullptr ? secret.env : secret.file) = secret.id;  // NOLINT(concurrency-mt-unsafe)
  return secret;
}

Result<builder::SandboxMount> parse_volume(const std::string& text) {
  const std::vector<std::string> parts = split(text, ':');
  if (parts.size() < 2 || parts.size() > 3 || parts[0].empty() || parts[1].empty() || parts[1][0] != '/') {
    return bad(fmt::format("--volume \"{}\" is not SOURCE:TARGET[:ro]", text)).with_note("the target is an absolute path; volumes without a source are not kept here");
  }
  builder::SandboxMount mount;
  mount.source = real_path(parts[0]);
  if (mount.source.empty()) return Error(ErrorKind::kNotFound, fmt::format("--volume {}: {} does not exist", text, parts[0]));
  mount.target = clean_path(parts[1]);
  if (parts.size() == 3 && parts[2] != "ro" && parts[2] != "rw" && parts[2] != "z" && parts[2] != "Z") return bad(fmt::format("--volume {}: unknown option {}", text, parts[2]));
  mount.read_only = parts.size() == 3 && parts[2] == "ro";
  return mount;
}

Result<uint64_t> parse_bytes(const std::string& text) {
  size_t digits = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
  const auto number = parse_uint(text.substr(0, digits));
  std::string unit = to_lower(text.substr(digits));
  if (!unit.empty() && unit.back() == 'b') unit.pop_back();
  const std::string units = "kmgt";
  if (!number || unit.size() > 1 || (!unit.empty() && units.find(unit) == std::string::npos) || *number > (uint64_t{1} << 40)) {
    return bad(fmt::format("\"{}\" is no size", text)).with_note("write 64m or 1g");
  }
  uint64_t factor = 1;
  if (!unit.empty()) factor <<= 10 * (units.find(unit) + 1);
  return *number * factor;
}

Result<std::optional<uint64_t>> parse_max_used_space(const std::string& text) {
  std::string value = text;
  const char* name = "--max-used-space";
  if (value.empty()) {
    name = "LAMINA_MAX_USED_SPACE";
    if (const char* own = std::getenv(name)) value = own;  // NOLINT(concurrency-mt-unsafe)
  }
  if (value.empty()) return std::optional<uint64_t>();
  ASSIGN_OR_RETURN_WITH(const uint64_t bytes, parse_bytes(value), fmt::format("reading {}", name));
  return bytes == 0 ? std::nullopt : std::optional(bytes);
}

}  // namespace lamina::cli
