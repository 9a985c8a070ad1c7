// The checks (lint rules) of a Dockerfile: those that docker/dockerfile has, under their names and with their words, and
// some of our own. Pure: what needs the context, an ignore file or a store is in builder/checks.h. docs/checks.md
// describes every rule.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "parser/instructions.h"

namespace lamina::parser {

struct CheckRule {
  // kBuild: builds tell it too. kCheck: told when somebody asks for the checks. kExperimental: only where the check
  // options name it.
  enum class Runs { kBuild, kCheck, kExperimental };
  std::string_view name;
  std::string_view description;  // of the rule, one sentence
  std::string_view page;         // of docker/dockerfile's documentation, or empty
  Runs runs = Runs::kBuild;

  std::string url() const;       // of that page, or empty
};

// In alphabetical order.
const std::vector<CheckRule>& check_rules();
// Null when there is no rule of that name.
const CheckRule* find_check_rule(std::string_view name);

// skip=A,B|all;error=true;experimental=A|all
struct CheckOptions {
  bool skip_all = false;
  std::set<std::string> skip;
  bool experimental_all = false;
  std::set<std::string> experimental;
  bool error = false;  // warnings are errors
};
// kInvalidInput for an unknown option or value. Names of rules are not looked at.
Result<CheckOptions> parse_check_options(std::string_view text);

// Decides which findings are told: by the check directive (or what replaces it), by "# check=" comments directly above
// the instruction, and by what a rule runs for.
class CheckFilter {
 public:
  // `given` replaces the directive (BUILDKIT_DOCKERFILE_CHECK). `all_rules`: rules of kind kCheck too.
  CheckFilter(const Tree& tree, const std::optional<std::string>& given, bool all_rules);

  // Errors and findings without a rule are always kept.
  bool keeps(const Diagnostic& diagnostic) const;
  // Whether any check of this name can be told anywhere: spares the work of expensive ones.
  bool may_report(std::string_view rule) const;
  bool warnings_are_errors() const { return options_.error; }
  // Mistakes in the check options themselves: errors for the directive, findings for unknown names.
  const std::vector<Diagnostic>& problems() const { return problems_; }

 private:
  struct Local {
    uint32_t first_line, last_line;
    CheckOptions options;
  };
  void read_directive(const Tree& tree, const std::optional<std::string>& given);
  void read_comments(const Tree& tree, const Node& node);
  void check_names(const Tree& tree, SourceRange range, const CheckOptions& options);

  std::string file_;
  CheckOptions options_;
  std::vector<Local> locals_;
  std::vector<Diagnostic> problems_;
  bool all_rules_;
};

// What is known about a base image without asking anybody.
struct BaseImage {
  std::vector<std::string> env_names;
  bool has_shell = false;   // its config sets SHELL
  std::string platform;     // "linux/amd64", or empty
};

struct CheckInput {
  std::map<std::string, std::string> build_args;
  std::string build_platform = "linux/amd64";
  std::string target_platform = "linux/amd64";
  std::string target;       // stage; empty: the last
  bool all_stages = false;  // also stages that the target does not reach
  std::set<std::string> named_contexts;  // names that are no images
  // Nothing when the image is not known. `platform` is what the FROM asks for.
  std::function<std::optional<BaseImage>(const std::string& name, const std::string& platform)> base_image;
  // Whether a text can be the name of an image.
  std::function<bool(const std::string& name)> valid_image_name;
};

// Every finding of the rules that need nothing but the text, unfiltered, sorted by place: the parser's own
// warnings and these. Errors of the parser are not repeated. Works on what could be read when the file has errors.
std::vector<Diagnostic> check_dockerfile(const ParsedDockerfile& parsed, const Tree& tree, const CheckInput& input);

// A COPY or ADD that reads the build context, with what its sources expand to.
struct ContextCopy {
  const Instruction* instruction = nullptr;  // lives in the Dockerfile
  std::vector<Word> sources;                 // without heredocs and what is fetched
};
// In the stages that are looked at.
std::vector<ContextCopy> context_copies(const Dockerfile& dockerfile, const CheckInput& input);

// By place; findings of one place stay in the order in which they were found.
void sort_by_place(std::vector<Diagnostic>& diagnostics);

}  // namespace lamina::parser
