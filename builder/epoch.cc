#include "builder/epoch.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/archive_reader.h"
#include "base/files.h"
#include "base/text.h"
#include "builder/plan.h"

namespace lamina::builder {

namespace {

constexpr const char* kName = "SOURCE_DATE_EPOCH";

// The value, and the place in the Dockerfile when it is from there.
struct Wanted {
  std::string text;
  std::optional<SourceRange> range;
};

Wanted wanted_epoch(const BuildRequest& request, const parser::Dockerfile& dockerfile) {
  if (!request.source_date_epoch_name.empty()) return {request.source_date_epoch_name, std::nullopt};
  for (const parser::Instruction& i : dockerfile.global_args) {
    const auto* arg = std::get_if<parser::Arg>(&i.body);
    if (arg == nullptr) continue;
    for (const parser::Arg::Item& item : arg->items) {
      if (item.name.text == kName && item.value && !item.value->text.empty()) return {item.value->text, item.value->range};
    }
  }
  return {};
}

Error invalid(const parser::Dockerfile& dockerfile, const Wanted& wanted, std::vector<std::string> notes) {
  std::string message = fmt::format("invalid {}: {}", kName, printable(wanted.text));
  Error error(ErrorKind::kInvalidInput, message);
  if (!wanted.range) {
    for (std::string& note : notes) error = std::move(error).with_note(std::move(note));
    return error;
  }
  return std::move(error).with_diagnostic(parser::diagnostic_at(dockerfile, Severity::kError, *wanted.range, std::move(message), std::move(notes)));
}

// Nothing when the file is no archive.
std::optional<int64_t> newest_in_archive(const std::string& path) {
  auto fd = open_at(AT_FDCWD, path, O_RDONLY);
  if (!fd) return std::nullopt;
  FdSource source(std::move(*fd));
  const auto reader = ArchiveReader::open(source);
  if (!reader) return std::nullopt;
  std::optional<int64_t> newest;
  while (true) {
    const auto member = (*reader)->next();
    if (!member) return std::nullopt;
    if (!*member) return newest;
    if ((*member)->type == ArchiveMember::Type::kFile && (!newest || (*member)->mtime.seconds > *newest)) newest = (*member)->mtime.seconds;
  }
}

Result<std::optional<int64_t>> time_of_source(const RemoteSource& remote, const EpochSources& sources) {
  if (const auto* git = std::get_if<GitSource>(&remote.from)) {
    ASSIGN_OR_RETURN(const GitRevision revision, sources.build.repositories.resolve(*git, GitPlace::kDockerfile));
    ASSIGN_OR_RETURN(const int64_t time, sources.build.repositories.commit_time(*git, revision, GitPlace::kDockerfile));
    return std::optional(time);
  }
  const auto& http = std::get<HttpSource>(remote.from);
  ASSIGN_OR_RETURN(RemoteFile file, sources.build.files.look_up(http.url, http.checksum, {}));
  ASSIGN_OR_RETURN(const std::string path, sources.build.files.path_of(http.url, file, {}));
  return file.last_modified ? std::optional(file.last_modified->seconds) : newest_in_archive(path);
}

// The stage is planned alone, as if it were the target.
Result<std::optional<int64_t>> time_of_stage(const parser::Stage& stage, const BuildRequest& request, const Wanted& wanted, const EpochSources& sources) {
  const std::vector<std::string> rule = {fmt::format("the stage {} must be FROM scratch with exactly one ADD of a URL or a git repository, and ARGs", stage.name)};
  for (const parser::Instruction& i : stage.instructions) {
    const auto* copy = std::get_if<parser::Copy>(&i.body);
    if (!std::holds_alternative<parser::Arg>(i.body) && (copy == nullptr || !copy->is_add)) return invalid(sources.dockerfile, wanted, rule);
  }
  BuildRequest alone = request;
  alone.target = stage.name;
  alone.labels.clear();
  ASSIGN_OR_RETURN(const Plan plan, make_plan(sources.dockerfile, alone, request.platforms.empty() ? oci::Platform::host() : request.platforms.front(), sources.resolver));
  const auto* add = plan.steps.size() == 1 ? std::get_if<CopyStep>(&plan.steps.front().body) : nullptr;
  if (plan.stages.size() != 1 || plan.base_of(plan.target) != nullptr || add == nullptr || add->sources.size() != 1 || add->remotes.size() != 1 || !add->inline_files.empty()) {
    return invalid(sources.dockerfile, wanted, rule);
  }
  return time_of_source(add->remotes.begin()->second, sources);
}

Result<std::optional<int64_t>> find_time(const BuildRequest& request, const Wanted& wanted, const EpochSources& sources) {
  if (wanted.text == "context") return sources.build.contexts.time_of("");
  if (request.build_contexts.contains(wanted.text)) return sources.build.contexts.time_of(wanted.text);
  for (auto stage = sources.dockerfile.stages.rbegin(); stage != sources.dockerfile.stages.rend(); ++stage) {
    if (!stage->name.empty() && stage->name == to_lower(wanted.text)) return time_of_stage(*stage, request, wanted, sources);
  }
  return invalid(sources.dockerfile, wanted, {"it is a number of seconds since 1970, \"context\", a named context, or a stage"});
}

}  // namespace

Result<void> settle_epoch(BuildRequest& request, const EpochSources& sources) {
  if (!request.source_date_epoch) {
    const Wanted wanted = wanted_epoch(request, sources.dockerfile);
    if (wanted.text.empty()) return {};
    if (const auto seconds = parse_int(wanted.text)) {
      if (*seconds < 0) return invalid(sources.dockerfile, wanted, {"it is a number of seconds since 1970"});
      request.source_date_epoch = *seconds;
      return {};
    }
    // The time's own source must not ask for it.
    std::erase_if(request.build_args, [](const auto& argument) { return argument.first == kName; });
    auto time = find_time(request, wanted, sources);
    if (!time) return std::move(time).error().with_context(fmt::format("finding the time that {}={} means", kName, printable(wanted.text)));
    request.source_date_epoch = *time;
    if (!*time) {
      sources.warn(fmt::format("{}={} gives no time, so the build has none: it is no git work tree, and nothing fetched", kName, printable(wanted.text)));
      return {};
    }
  }
  std::erase_if(request.build_args, [](const auto& argument) { return argument.first == kName; });
  request.build_args.emplace_back(kName, std::to_string(*request.source_date_epoch));
  return {};
}

}  // namespace lamina::builder
