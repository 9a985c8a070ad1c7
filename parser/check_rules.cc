// The table of rules, the check options, and which findings they let through.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "parser/checks.h"

namespace lamina::parser {

namespace {

using Runs = CheckRule::Runs;

// Names and descriptions of the rules with a page are docker/dockerfile's: users skip rules and look them up by them.
constexpr CheckRule kRules[] = {
    {"AddWhereCopySuffices", "COPY does what this ADD does, without fetching or unpacking anything", "", Runs::kCheck},
    {"AptGetUpdateAlone", "A package list that is fetched in a layer of its own goes stale in the build cache", "", Runs::kCheck},
    {"CommentInArgument", "A # inside a line does not begin a comment", ""},
    {"ConsistentInstructionCasing", "All commands within the Dockerfile should use the same casing (either upper or lower)",
     "consistent-instruction-casing"},
    {"CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore", "copy-ignored-file"},
    {"DuplicateStageName", "Stage names should be unique", "duplicate-stage-name"},
    {"ExposeInvalidFormat",
     "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
     "expose-invalid-format"},
    {"ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase", "expose-proto-casing"},
    {"FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword", "from-as-casing"},
    {"FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value",
     "from-platform-flag-const-disallowed"},
    {"IgnoreOnlyMatchesRoot", "A pattern of an ignore file matches at the root of the context only", "", Runs::kCheck},
    {"InvalidBaseImagePlatform", "Base image platform does not match expected target platform", ""},
    {"InvalidDefaultArgInFrom", "Default value for global ARG results in an empty or invalid base image name",
     "invalid-default-arg-in-from"},
    {"InvalidDefinitionDescription",
     "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended "
     "to be a description comment, add an empty line or comment between the instruction and the comment.",
     "invalid-definition-description", Runs::kExperimental},
    {"InvalidJSONForm", "What looks like a JSON array is none, so it is taken as plain words", ""},
    {"JSONArgsRecommended", "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
     "json-args-recommended"},
    {"LatestBaseImage", "An image without a fixed tag or digest can be another one tomorrow", "", Runs::kCheck},
    {"LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used",
     "legacy-key-value-format"},
    {"MaintainerDeprecated", "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
     "maintainer-deprecated"},
    {"MissingTrailingSlash", "The destination of several sources is a directory and should end with /", "", Runs::kCheck},
    {"MultipleInstructionsDisallowed", "Multiple instructions of the same type should not be used in the same stage",
     "multiple-instructions-disallowed"},
    {"NoEmptyContinuation", "Empty continuation lines will become errors in a future release", "no-empty-continuation"},
    {"NotPortable", "Other builders do not understand this or do something else", "", Runs::kCheck},
    {"RedundantTargetPlatform", "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
     "redundant-target-platform"},
    {"ReservedStageName", "Reserved words should not be used as stage names", "reserved-stage-name"},
    {"SecretCopied", "A file that usually holds a secret is copied into a layer", ""},
    {"SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands", "secrets-used-in-arg-or-env"},
    {"StageNameCasing", "Stage names should be lowercase", "stage-name-casing"},
    {"UndefinedArgInFrom", "FROM command must use declared ARGs", "undefined-arg-in-from"},
    {"UndefinedVar", "Variables should be defined before their use", "undefined-var"},
    {"UnknownCheckRule", "Check options name a rule that does not exist", "", Runs::kCheck},
    {"WorkdirRelativePath",
     "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
     "workdir-relative-path"},
};

// "A, B": each up to its first blank, so that a remark may follow.
std::set<std::string> parse_names(std::string_view text) {
  std::set<std::string> names;
  for (const std::string& part : split(text, ',')) {
    const std::string_view name = trim(part);
    if (!name.empty()) names.emplace(name.substr(0, name.find_first_of(" \t")));
  }
  return names;
}

std::optional<bool> parse_bool(std::string_view text) {
  const std::string word = to_lower(trim(text));
  if (word == "true" || word == "1" || word == "t") return true;
  if (word == "false" || word == "0" || word == "f") return false;
  return std::nullopt;
}

// What a comment above an instruction says about checks, or nothing.
std::optional<std::string> check_comment(const std::string& comment) {
  const size_t eq = comment.find('=');
  if (eq == std::string::npos || !iequals(trim(std::string_view(comment).substr(0, eq)), "check")) return std::nullopt;
  return comment.substr(eq + 1);
}

bool skips(const CheckOptions& options, const CheckRule& rule) {
  // As docker/dockerfile: "all" is about the rules that run by themselves.
  return options.skip.contains(std::string(rule.name)) || (options.skip_all && rule.runs != Runs::kExperimental);
}

bool wants_experiment(const CheckOptions& options, const CheckRule& rule) {
  return options.experimental_all || options.experimental.contains(std::string(rule.name));
}

}  // namespace

std::string CheckRule::url() const { return page.empty() ? std::string() : fmt::format("https://docs.docker.com/go/dockerfile/rule/{}/", page); }

const std::vector<CheckRule>& check_rules() {
  static const std::vector<CheckRule> kAll(std::begin(kRules), std::end(kRules));
  return kAll;
}

const CheckRule* find_check_rule(std::string_view name) {
  const auto it = std::find_if(std::begin(kRules), std::end(kRules), [&](const CheckRule& r) { return r.name == name; });
  return it == std::end(kRules) ? nullptr : it;
}

Result<CheckOptions> parse_check_options(std::string_view text) {
  CheckOptions options;
  if (trim(text).empty()) return options;
  for (const std::string& part : split(text, ';')) {
    const size_t eq = part.find('=');
    const std::string key(trim(std::string_view(part).substr(0, eq)));
    const std::string_view value = eq == std::string::npos ? std::string_view() : trim(std::string_view(part).substr(eq + 1));
    if (eq == std::string::npos || (key != "skip" && key != "error" && key != "experimental")) {
      Error error(ErrorKind::kInvalidInput, fmt::format("invalid check option \"{}\"", printable(trim(part))));
      return std::move(error).with_note("the options are skip=RULE,…|all, error=true|false and experimental=RULE,…|all, joined with ;");
    }
    if (key == "error") {
      const auto on = parse_bool(value.substr(0, value.find_first_of(" \t")));
      if (!on) return Error(ErrorKind::kInvalidInput, fmt::format("check option error=\"{}\": it is true or false", printable(value)));
      options.error = *on;
      continue;
    }
    std::set<std::string> names = parse_names(value);
    bool& all = key == "skip" ? options.skip_all : options.experimental_all;
    all = all || names.erase("all") > 0;
    (key == "skip" ? options.skip : options.experimental).merge(names);
  }
  return options;
}

CheckFilter::CheckFilter(const Tree& tree, const std::optional<std::string>& given, bool all_rules) : file_(tree.file), all_rules_(all_rules) {
  read_directive(tree, given);
  for (const Node& node : tree.nodes) read_comments(tree, node);
}

void CheckFilter::read_directive(const Tree& tree, const std::optional<std::string>& given) {
  const std::optional<Word>& directive = tree.directives.check;
  if (!given && !directive) return;
  auto options = parse_check_options(given ? *given : directive->text);
  const SourceRange range = given ? SourceRange{} : directive->range;
  if (options) {
    options_ = std::move(*options);
    check_names(tree, range, options_);
    return;
  }
  Diagnostic d;
  d.file = given ? "BUILDKIT_DOCKERFILE_CHECK" : file_;
  d.range = range;
  d.message = options.error().message();
  d.notes = options.error().notes();
  d.line_text = std::string(line_of(*tree.text, range.line));
  problems_.push_back(std::move(d));
}

void CheckFilter::read_comments(const Tree& tree, const Node& node) {
  for (const std::string& comment : node.comments) {
    const auto text = check_comment(comment);
    if (!text) continue;
    // A comment that cannot be understood is a comment.
    auto options = parse_check_options(*text);
    if (!options) continue;
    check_names(tree, node.keyword_range, *options);
    locals_.push_back({node.range.line, std::max(node.range.line, node.range.end_line), std::move(*options)});
  }
}

void CheckFilter::check_names(const Tree& tree, SourceRange range, const CheckOptions& options) {
  std::set<std::string> names = options.skip;
  names.insert(options.experimental.begin(), options.experimental.end());
  for (const std::string& name : names) {
    if (find_check_rule(name) != nullptr) continue;
    std::vector<std::string> known;
    for (const CheckRule& rule : kRules) known.emplace_back(rule.name);
    Diagnostic d;
    d.severity = Severity::kWarning;
    d.rule = "UnknownCheckRule";
    d.file = file_;
    d.range = range;
    d.message = fmt::format("there is no check named {}", printable(name));
    if (const auto near = nearest_name(name, known)) d.notes.push_back("did you mean " + *near + "?");
    d.line_text = std::string(line_of(*tree.text, range.line));
    problems_.push_back(std::move(d));
  }
}

bool CheckFilter::keeps(const Diagnostic& diagnostic) const {
  const CheckRule* rule = find_check_rule(diagnostic.rule);
  if (rule == nullptr || diagnostic.severity == Severity::kError) return true;
  if (rule->runs == Runs::kCheck && !all_rules_) return false;
  bool skipped = skips(options_, *rule);
  bool wanted = rule->runs != Runs::kExperimental || wants_experiment(options_, *rule);
  for (const Local& local : locals_) {
    if (diagnostic.file != file_ || diagnostic.range.line < local.first_line || diagnostic.range.line > local.last_line) continue;
    skipped = skipped || skips(local.options, *rule);
    wanted = wanted || wants_experiment(local.options, *rule);
  }
  return wanted && !skipped;
}

bool CheckFilter::may_report(std::string_view name) const {
  const CheckRule* rule = find_check_rule(name);
  return rule != nullptr && !skips(options_, *rule) && (rule->runs != Runs::kCheck || all_rules_);
}

void sort_by_place(std::vector<Diagnostic>& diagnostics) {
  std::stable_sort(diagnostics.begin(), diagnostics.end(), [](const Diagnostic& a, const Diagnostic& b) {
    return std::pair(a.range.line, a.range.column) < std::pair(b.range.line, b.range.column);
  });
}

}  // namespace lamina::parser
