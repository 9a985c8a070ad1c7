// Stages: which are reached, what they start from, how names find files. Instructions are in
// planner_instructions.cc.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>

#include "base/scope_exit.h"
#include "base/text.h"
#include "builder/contexts.h"
#include "builder/internal/planner_scope.h"
#include "net/url.h"

namespace lamina::builder::internal {

namespace {

constexpr std::string_view kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr const char* kProxyNames[] = {"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"};

void put_platform(std::map<std::string, std::string>& out, const std::string& prefix, const oci::Platform& p) {
  out[prefix + "PLATFORM"] = p.text();
  out[prefix + "OS"] = p.os;
  out[prefix + "OSVERSION"] = p.os_version;
  out[prefix + "ARCH"] = p.architecture;
  out[prefix + "VARIANT"] = p.variant;
}

}  // namespace

void set_variable(Variables& variables, const std::string& name, const std::string& value) {
  for (auto& [n, v] : variables) {
    if (n == name) {
      v = value;
      return;
    }
  }
  variables.emplace_back(name, value);
}

std::optional<std::string> get_variable(const Variables& variables, std::string_view name) {
  for (const auto& [n, v] : variables) {
    if (n == name) return v;
  }
  return std::nullopt;
}

BuildArguments::BuildArguments(const BuildRequest& request, const oci::Platform& platform, std::string target_stage) {
  for (const auto& [name, value] : request.build_args) {
    if (value) {
      given_[name] = *value;
    } else if (const char* from_environment = std::getenv(name.c_str())) {  // NOLINT(concurrency-mt-unsafe)
      given_[name] = from_environment;
    }
  }
  put_platform(platform_, "BUILD", oci::Platform::host());
  put_platform(platform_, "TARGET", platform);
  platform_["TARGETSTAGE"] = target_stage.empty() ? "default" : std::move(target_stage);
}

std::optional<std::string> BuildArguments::given(const std::string& name) const {
  const auto it = given_.find(name);
  return it == given_.end() ? std::nullopt : std::optional(it->second);
}

std::optional<std::string> BuildArguments::of_platform(const std::string& name) const {
  const auto it = platform_.find(name);
  if (it == platform_.end()) return std::nullopt;
  const auto instead = given(name);
  return instead ? instead : std::optional(it->second);
}

Variables BuildArguments::proxies() const {
  Variables out;
  // Programs disagree about the case of these names: one given in either is set in both.
  for (const std::string name : kProxyNames) {
    const std::string lower = to_lower(name);
    auto it = given_.find(name);
    if (it == given_.end()) it = given_.find(lower);
    if (it == given_.end()) continue;
    out.emplace_back(name, it->second);
    const auto own = given_.find(lower);
    out.emplace_back(lower, own == given_.end() ? it->second : own->second);
  }
  return out;
}

Error Complaints::fail(const parser::Instruction&, SourceRange range, std::string message,
                       std::vector<std::string> notes, ErrorKind kind) const {
  Diagnostic d = parser::diagnostic_at(dockerfile_, Severity::kError, range, message, std::move(notes));
  return Error(kind, std::move(message)).with_diagnostic(std::move(d));
}

Planner::Planner(const parser::Dockerfile& dockerfile, const BuildRequest& request, const oci::Platform& platform,
                 ImageResolver& resolver)
    : dockerfile_(dockerfile), request_(request), resolver_(resolver), complaints_(dockerfile) {
  plan_.dockerfile = dockerfile.file;
  plan_.platform = platform;
}

Result<Plan> Planner::run() {
  ASSIGN_OR_RETURN(plan_.target, find_target(dockerfile_, request_.target));
  const parser::Stage& target = dockerfile_.stages[static_cast<size_t>(plan_.target)];
  arguments_.emplace(request_, plan_.platform, target.name);
  RETURN_IF_ERROR(check_filters());
  RETURN_IF_ERROR(evaluate_global_args());
  RETURN_IF_ERROR(evaluate_stage(plan_.target));
  name_steps();
  oci::ImageConfig& config = plan_.stages.at(plan_.target).config;
  for (const auto& [name, value] : request_.labels) config.labels[name] = value;
  return std::move(plan_);
}

Result<void> Planner::evaluate_global_args() {
  for (const parser::Instruction& i : dockerfile_.global_args) {
    const auto* arg = std::get_if<parser::Arg>(&i.body);
    if (arg == nullptr) continue;
    for (const parser::Arg::Item& item : arg->items) {
      std::optional<std::string> value = arguments_->given(item.name.text);
      if (!value && item.value) {
        ASSIGN_OR_RETURN(value, expand_global(i, *item.value));
      }
      if (!value) value = arguments_->of_platform(item.name.text);
      if (value) set_variable(global_, item.name.text, *value);
    }
  }
  return {};
}

Result<std::string> Planner::expand_global(const parser::Instruction& i, const parser::Word& word) {
  const auto lookup = [&](std::string_view name) -> std::optional<std::string> {
    if (auto value = get_variable(global_, name)) return value;
    return arguments_->of_platform(std::string(name));
  };
  auto expanded = parser::expand_word(word.text, lookup, dockerfile_.directives.escape);
  if (!expanded) return complaints_.fail(i, word.range, expanded.error().message());
  return std::move(expanded->text);
}

Result<std::string> Planner::expand(const StageScope& scope, const parser::Instruction& i, const parser::Word& word) {
  const auto lookup = [&](std::string_view name) { return get_variable(scope.stage.env, name); };
  auto expanded = parser::expand_word(word.text, lookup, dockerfile_.directives.escape);
  if (!expanded) return complaints_.fail(i, word.range, expanded.error().message());
  return std::move(expanded->text);
}

Result<int> Planner::add_resolved(Result<ResolvedImage> resolved, const parser::Instruction& i, SourceRange range) {
  if (!resolved) {
    Error error = std::move(resolved).error();
    Diagnostic d = parser::diagnostic_at(dockerfile_, Severity::kError, range, error.message());
    (void)i;
    return std::move(error).with_diagnostic(std::move(d));
  }
  plan_.images.push_back(std::move(*resolved));
  return static_cast<int>(plan_.images.size()) - 1;
}

Result<int> Planner::add_image(const std::string& name, const oci::Platform& platform, const parser::Instruction& i,
                               SourceRange range) {
  const std::string key = name + " " + platform.text();
  if (const auto it = image_index_.find(key); it != image_index_.end()) return it->second;
  int index = -1;
  const auto context = named_context(name, platform);
  const auto named = context ? request_.build_contexts.find(*context) : request_.build_contexts.end();
  constexpr std::string_view kLayout = "oci-layout://", kDockerImage = "docker-image://";
  if (named != request_.build_contexts.end() && named->second.compare(0, kLayout.size(), kLayout) == 0) {
    ASSIGN_OR_RETURN(index, add_resolved(resolver_.from_layout(named->second.substr(kLayout.size()), platform), i, range));
  } else if (named != request_.build_contexts.end() && named->second.compare(0, kDockerImage.size(), kDockerImage) == 0) {
    ASSIGN_OR_RETURN(index, add_resolved(resolver_.by_name(named->second.substr(kDockerImage.size()), platform), i, range));
  } else {
    if (const auto parsed = oci::Reference::parse(name); !parsed) {
      Error error = complaints_.fail(i, range, parsed.error().message(), parsed.error().notes());
      return error;
    }
    ASSIGN_OR_RETURN(index, add_resolved(resolver_.by_name(name, platform), i, range));
  }
  image_index_[key] = index;
  return index;
}

// dockerfile-language 1.5: a decimal is an index; else an earlier stage; else a named context or an image.
Result<SourceRef> Planner::source_ref(StageScope& scope, const parser::Instruction& i, const std::string& name,
                                      SourceRange range, bool allow_index) {
  SourceRef ref;
  ref.name = name;
  if (name.empty()) return complaints_.fail(i, range, "the name of the stage or image is empty");
  int stage = -1;
  const std::string lower = to_lower(name);
  const auto& stages = dockerfile_.stages;
  const auto index = parse_uint(name);
  if (allow_index && index) {
    if (*index >= stages.size() || static_cast<int>(*index) >= scope.stage.index) {
      return complaints_.fail(i, range, fmt::format("there is no earlier stage number {}", name),
                              {fmt::format("stages are counted from 0; this is stage {}", scope.stage.index)});
    }
    stage = static_cast<int>(*index);
  } else {
    for (int k = scope.stage.index - 1; k >= 0 && stage < 0; --k) {
      if (stages[static_cast<size_t>(k)].name == lower) stage = k;
    }
  }
  if (stage >= 0) {
    RETURN_IF_ERROR(evaluate_stage(stage));
    ref.kind = SourceRef::Kind::kStage;
    ref.stage = stage;
    return ref;
  }
  const auto context = named_context(name, plan_.platform);
  if (context && is_directory_context(*context)) {
    ref.kind = SourceRef::Kind::kNamedContext;
    ref.name = *context;
    return ref;
  }
  if (!context) {
    if (name == "scratch") {
      ref.kind = SourceRef::Kind::kScratch;
      return ref;
    }
    for (size_t k = static_cast<size_t>(scope.stage.index); k < stages.size(); ++k) {
      if (stages[k].name != lower) continue;
      return complaints_.fail(i, range, static_cast<int>(k) == scope.stage.index
                                            ? fmt::format("a stage cannot copy from itself (\"{}\")", name)
                                            : fmt::format("cannot copy from stage \"{}\", it needs to be defined before current stage", name));
    }
  }
  ref.kind = SourceRef::Kind::kImage;
  ASSIGN_OR_RETURN(ref.image, add_image(name, plan_.platform, i, range));
  return ref;
}

// How images are compared with the names of contexts: as Docker shows them.
namespace {
std::string familiar(const std::string& name) {
  const auto reference = oci::Reference::parse(name);
  if (!reference) return name;
  std::string text = reference->familiar();
  if (!reference->digest() && text.size() > 7 && text.compare(text.size() - 7, 7, ":latest") == 0) text.resize(text.size() - 7);
  return text;
}
}  // namespace

std::optional<std::string> Planner::named_context(const std::string& name, const oci::Platform& platform) const {
  const auto& contexts = request_.build_contexts;
  for (const std::string& candidate : {name + "::" + platform.text(), name}) {
    if (contexts.contains(candidate)) return candidate;
  }
  const std::string wanted = familiar(name);
  for (const auto& [key, place] : contexts) {
    const size_t colons = key.rfind("::");
    if (colons != std::string::npos && key.substr(colons + 2) != platform.text()) continue;
    if (familiar(key.substr(0, colons)) == wanted) return key;
  }
  return std::nullopt;
}

bool Planner::is_directory_context(const std::string& context) const { return !is_image_context(request_.build_contexts.at(context)); }

Result<oci::Platform> Planner::platform_of(const parser::Instruction& i) {
  const auto& from = std::get<parser::From>(i.body);
  if (!from.platform) return plan_.platform;
  ASSIGN_OR_RETURN(const std::string text, expand_global(i, *from.platform));
  if (text.empty()) {
    return complaints_.fail(i, from.platform->range, fmt::format("the platform ({}) is empty after expansion", from.platform->text),
                            {"only ARGs from before the first FROM, and BUILDPLATFORM and TARGETPLATFORM with their parts, are known here"});
  }
  auto parsed = oci::Platform::parse(text);
  if (!parsed) return complaints_.fail(i, from.platform->range, parsed.error().message(), parsed.error().notes());
  return std::move(*parsed);
}

Result<void> Planner::resolve_base(StageScope& scope) {
  const parser::Instruction& i = scope.source.from;
  const auto& from = std::get<parser::From>(i.body);
  PlannedStage& stage = scope.stage;
  ASSIGN_OR_RETURN(const std::string name, expand_global(i, from.image));
  if (name.empty()) {
    return complaints_.fail(i, from.image.range, fmt::format("the base image name ({}) is empty after expansion", from.image.text),
                            {"give the ARG a default value before the first FROM, or pass --build-arg"});
  }
  ASSIGN_OR_RETURN(const oci::Platform platform, platform_of(i));
  const std::string lower = to_lower(name);
  for (int k = stage.index - 1; k >= 0; --k) {
    if (dockerfile_.stages[static_cast<size_t>(k)].name != lower) continue;
    RETURN_IF_ERROR(evaluate_stage(k));
    const PlannedStage& base = plan_.stages.at(k);
    stage.base_stage = k;
    stage.config = base.config;
    stage.history = base.history;
    stage.env = base.env;
    stage.arg_names = base.arg_names;
    return {};
  }
  return start_from(scope, name, platform);
}

// A named context, scratch, or an image.
Result<void> Planner::start_from(StageScope& scope, const std::string& name, const oci::Platform& platform) {
  const parser::Instruction& i = scope.source.from;
  PlannedStage& stage = scope.stage;
  const auto context = named_context(name, platform);
  const bool directory = context && is_directory_context(*context);
  if (directory || (name == "scratch" && !context)) {
    stage.config.platform = platform;
    stage.config.env = {"PATH=" + std::string(kDefaultPath)};
    stage.config.working_dir = "/";
  } else {
    ASSIGN_OR_RETURN(stage.base_image, add_image(name, platform, i, std::get<parser::From>(i.body).image.range));
    stage.config = plan_.images[static_cast<size_t>(stage.base_image)].config;
    stage.config.created.clear();
    for (const oci::HistoryEntry& h : stage.config.history) stage.history.push_back({h, -1});
    if (!stage.config.env_value("PATH")) stage.config.set_env("PATH", kDefaultPath);
  }
  for (const std::string& e : stage.config.env) {
    const size_t eq = e.find('=');
    set_variable(stage.env, e.substr(0, eq), eq == std::string::npos ? "" : e.substr(eq + 1));
  }
  return directory ? start_from_directory(scope, *context) : Result<void>();
}

// A directory in the place of an image: its files on an empty root.
Result<void> Planner::start_from_directory(StageScope& scope, const std::string& context) {
  CopyStep copy;
  copy.from.kind = SourceRef::Kind::kNamedContext;
  copy.from.name = context;
  copy.sources.push_back({"/", scope.source.from.range});
  copy.destination = "/";
  Step step;
  step.body = std::move(copy);
  add_step(scope, scope.source.from, std::move(step), "FROM " + context);
  return {};
}

Result<void> Planner::evaluate_stage(int index) {
  if (plan_.stages.contains(index)) return {};
  // Each stage that another needs is evaluated inside that one.
  constexpr int kMaxDepth = 200;
  ++depth_;
  const ScopeExit leave([this] { --depth_; });
  if (depth_ > kMaxDepth) {
    const parser::Instruction& from = dockerfile_.stages[static_cast<size_t>(index)].from;
    return complaints_.fail(from, from.range, fmt::format("more than {} stages need each other, one after the other", kMaxDepth));
  }
  StageScope scope{dockerfile_.stages[static_cast<size_t>(index)], {}};
  scope.stage.index = index;
  scope.stage.name = scope.source.name;
  if (!scope.stage.name.empty() && !request_.build_contexts.empty()) {
    ASSIGN_OR_RETURN(const oci::Platform platform, platform_of(scope.source.from));
    // A context of the stage's name stands for the whole stage: none of its instructions are executed.
    if (named_context(scope.stage.name, platform)) {
      RETURN_IF_ERROR(start_from(scope, scope.stage.name, platform));
      plan_.stages.emplace(index, std::move(scope.stage));
      return {};
    }
  }
  RETURN_IF_ERROR(resolve_base(scope));
  const std::vector<std::string> triggers = std::exchange(scope.stage.config.on_build, {});
  const std::string origin = scope.stage.base_image >= 0 ? plan_.images[static_cast<size_t>(scope.stage.base_image)].name
                             : "stage " + (scope.stage.base_stage >= 0 ? plan_.stages.at(scope.stage.base_stage).name : std::string());
  RETURN_IF_ERROR(run_triggers(scope, triggers, origin));
  for (const parser::Instruction& i : scope.source.instructions) RETURN_IF_ERROR(apply(scope, i));
  plan_.stages.emplace(index, std::move(scope.stage));
  return {};
}

Result<void> Planner::run_triggers(StageScope& scope, const std::vector<std::string>& triggers, const std::string& origin) {
  for (const std::string& text : triggers) {
    parser::ParsedInstruction parsed = parser::parse_trigger("ONBUILD of " + origin, text);
    if (!parsed.instruction || parser::has_errors(parsed.diagnostics)) {
      Error error(ErrorKind::kInvalidInput, fmt::format("the ONBUILD trigger \"{}\" of {} cannot be used", printable(text), origin));
      for (Diagnostic& d : parsed.diagnostics) error = std::move(error).with_diagnostic(std::move(d));
      return error;
    }
    // Errors about a trigger point at the FROM that brought it.
    parsed.instruction->range = scope.source.from.range;
    scope.in_trigger = true;
    RETURN_IF_ERROR_WITH(apply(scope, *parsed.instruction), fmt::format("running the ONBUILD trigger \"{}\" of {}", printable(text), origin));
    scope.in_trigger = false;
  }
  return {};
}

// --no-cache-filter names stages as the user does; a typing error must not silently use the cache.
Result<void> Planner::check_filters() const {
  std::vector<std::string> names;
  for (const parser::Stage& stage : dockerfile_.stages) {
    if (!stage.name.empty()) names.push_back(stage.name);
  }
  for (const CacheFilter& filter : request_.no_cache_filter) {
    if (filter.stage.empty()) continue;
    const auto index = parse_uint(filter.stage);
    if (index ? *index < dockerfile_.stages.size() : std::find(names.begin(), names.end(), to_lower(filter.stage)) != names.end()) continue;
    Error error(ErrorKind::kInvalidInput, fmt::format("--no-cache-filter: there is no stage \"{}\"", printable(filter.stage)));
    if (const auto near = nearest_name(to_lower(filter.stage), names)) return std::move(error).with_note("did you mean " + *near + "?");
    return std::move(error).with_note(names.empty() ? "no stage has a name; give its number, counted from 0, or lines: :12-20" : "the stages are: " + join(names, ", "));
  }
  return {};
}

bool Planner::filtered(const StageScope& scope, const parser::Instruction& i) const {
  return std::any_of(request_.no_cache_filter.begin(), request_.no_cache_filter.end(), [&](const CacheFilter& filter) {
    const bool stage = filter.stage.empty() || to_lower(filter.stage) == scope.stage.name || parse_uint(filter.stage) == static_cast<uint64_t>(scope.stage.index);
    return stage && i.range.line <= filter.last_line && i.range.end_line >= filter.first_line;
  });
}

Result<void> Planner::apply(StageScope& scope, const parser::Instruction& instruction) {
  return std::visit([&](const auto& body) { return apply_body(scope, instruction, body); }, instruction.body);
}

void Planner::add_history(StageScope& scope, std::string created_by) {
  oci::HistoryEntry entry;
  entry.created_by = std::move(created_by);
  entry.comment = "lamina";
  entry.empty_layer = true;
  scope.stage.history.push_back({std::move(entry), -1});
}

void Planner::add_step(StageScope& scope, const parser::Instruction& i, Step step, std::string created_by) {
  step.id = static_cast<int>(plan_.steps.size());
  step.stage = scope.stage.index;
  step.instruction = i;
  step.file = dockerfile_.file;
  step.line_text = std::string(line_of(*dockerfile_.text, i.range.line));
  step.text = dockerfile_.text;
  if (scope.in_trigger) step.instruction.flags.clear();  // their places are in the trigger's text
  if (!scope.stage.steps.empty()) {
    step.parent = scope.stage.steps.back();
  } else if (scope.stage.base_stage >= 0) {
    const std::vector<int> below = plan_.chain(scope.stage.base_stage);
    if (!below.empty()) step.parent = below.back();
  }
  if (scope.stage.base_stage >= 0 && step.parent < 0) step.needs_stages.push_back(scope.stage.base_stage);
  step.no_cache = request_.no_cache || filtered(scope, i);
  oci::HistoryEntry entry;
  entry.created_by = std::move(created_by) + " # lamina";
  entry.comment = "lamina";
  scope.stage.history.push_back({std::move(entry), step.id});
  scope.stage.steps.push_back(step.id);
  plan_.steps.push_back(std::move(step));
}

namespace {

// Each URL of an instruction without its password: titles go to progress, traces and logs.
std::string without_passwords(std::string_view text) {
  std::string out;
  while (true) {
    const size_t mark = text.find("://");
    if (mark == std::string_view::npos) return out + std::string(text);
    size_t begin = mark;
    while (begin > 0 && (std::isalnum(static_cast<unsigned char>(text[begin - 1])) != 0 || text[begin - 1] == '+')) --begin;
    const size_t end = std::min(text.find_first_of(" \t\r\n\"'/?#", mark + 3), text.size());
    out += text.substr(0, begin);
    out += net::redacted(text.substr(begin, end - begin));
    text.remove_prefix(end);
  }
}

}  // namespace

// "[2/7] RUN make" when there is one stage, else "[build 2/7] …"; FROM counts as the first.
void Planner::name_steps() {
  for (auto& [index, stage] : plan_.stages) {
    int number = 1;
    for (int id : stage.steps) {
      Step& step = plan_.steps[static_cast<size_t>(id)];
      const std::string prefix = plan_.stages.size() == 1 ? ""
                                 : (stage.name.empty() ? fmt::format("stage-{}", index) : stage.name) + " ";
      step.title = fmt::format("[{}{}/{}] {}", prefix, ++number, stage.steps.size() + 1, printable(without_passwords(step.instruction.original)));
      step.identity = fmt::format("{}\n{}\n{}\n{}", request_.context, plan_.dockerfile, index, number);
    }
  }
}

}  // namespace lamina::builder::internal

namespace lamina::builder {

Diagnostic diagnostic_at(const Step& step, std::string message) {
  Diagnostic d;
  d.file = step.file;
  d.range = step.instruction.range;
  d.range.end_line = d.range.line;
  d.range.end_column = d.range.column + static_cast<uint32_t>(step.instruction.name.size());
  d.line_text = step.line_text;
  d.message = std::move(message);
  return d;
}

Error at_instruction(const Step& step, Error error) {
  if (!error.diagnostics().empty()) return error;
  Diagnostic d = diagnostic_at(step, error.message());
  return std::move(error).with_diagnostic(std::move(d));
}

std::vector<int> Plan::chain(int stage) const {
  std::vector<int> out;
  for (int at = stage; at >= 0;) {
    const PlannedStage& s = stages.at(at);
    out.insert(out.begin(), s.steps.begin(), s.steps.end());
    at = s.base_stage;
  }
  return out;
}

std::vector<int> Plan::needs(const Step& step) const {
  std::set<int> out;
  // An independent step waits for nobody: that it is done says nothing of the steps below it.
  const auto add_stack = [&](int at) {
    for (; at >= 0; at = steps[static_cast<size_t>(at)].parent) {
      out.insert(at);
      if (!steps[static_cast<size_t>(at)].independent) break;
    }
  };
  if (!step.independent) add_stack(step.parent);
  for (int stage : step.needs_stages) {
    const std::vector<int> stack = chain(stage);
    if (!stack.empty()) add_stack(stack.back());
  }
  return {out.begin(), out.end()};
}

const ResolvedImage* Plan::base_of(int stage) const {
  int at = stage;
  while (stages.at(at).base_stage >= 0) at = stages.at(at).base_stage;
  const int image = stages.at(at).base_image;
  return image < 0 ? nullptr : &images[static_cast<size_t>(image)];
}

std::string Plan::describe() const {
  std::string out = fmt::format("plan for {} ({} stages, {} steps)\n", platform.text(), stages.size(), steps.size());
  for (const auto& [index, stage] : stages) {
    const std::string base = stage.base_image >= 0   ? images[static_cast<size_t>(stage.base_image)].name
                             : stage.base_stage >= 0 ? fmt::format("stage {}", stage.base_stage)
                                                     : "scratch";
    out += fmt::format("stage {}{}{} from {}\n", index, stage.name.empty() ? "" : " ", stage.name, base);
    for (int id : stage.steps) {
      const Step& step = steps[static_cast<size_t>(id)];
      std::string needs;
      for (int s : step.needs_stages) needs += fmt::format(" needs stage {}", s);
      out += fmt::format("  #{} {}{}{}\n", id, step.title, step.parent >= 0 ? fmt::format(" (on #{})", step.parent) : "", needs);
    }
  }
  return out;
}

Result<int> find_target(const parser::Dockerfile& dockerfile, const std::string& target) {
  if (target.empty()) return static_cast<int>(dockerfile.stages.size()) - 1;
  const std::string wanted = to_lower(target);
  std::vector<std::string> names;
  // The last stage of that name wins, as for later references.
  for (int i = static_cast<int>(dockerfile.stages.size()) - 1; i >= 0; --i) {
    const std::string& name = dockerfile.stages[static_cast<size_t>(i)].name;
    if (name == wanted) return i;
    if (!name.empty()) names.push_back(name);
  }
  if (const auto index = parse_uint(wanted); index && *index < dockerfile.stages.size()) return static_cast<int>(*index);
  Error error(ErrorKind::kInvalidInput, fmt::format("target stage \"{}\" could not be found", target));
  if (const auto near = nearest_name(wanted, names)) return std::move(error).with_note("did you mean " + *near + "?");
  std::reverse(names.begin(), names.end());
  return std::move(error).with_note(names.empty() ? "no stage has a name; add AS name to a FROM" : "the stages are: " + join(names, ", "));
}

Result<Plan> make_plan(const parser::Dockerfile& dockerfile, const BuildRequest& request, const oci::Platform& platform,
                       ImageResolver& resolver) {
  return internal::Planner(dockerfile, request, platform, resolver).run();
}

}  // namespace lamina::builder
