// What the sources of the checks share.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "parser/checks.h"
#include "parser/expand.h"

namespace lamina::parser::internal {

// Collects findings about one file.
class Findings {
 public:
  explicit Findings(const Tree& tree) : tree_(tree) {}
  void add(std::string_view rule, SourceRange range, std::string message, std::vector<std::string> notes = {},
           std::optional<Mend> mend = {});
  const Tree& tree() const { return tree_; }
  // The source text of a range on one line; empty when it is on several.
  std::string_view text_of(SourceRange range) const;
  std::vector<Diagnostic> take() { return std::move(found_); }

 private:
  const Tree& tree_;
  std::vector<Diagnostic> found_;
};

// Rules that look at single instructions as they are written.
void check_lines(Findings& findings);

// A text after expansion, with the names that were asked for.
struct Looked {
  std::string text;
  std::vector<std::string> found, missing;  // each name once, in order
  bool failed = false;
};
Looked look(std::string_view text, const Lookup& lookup, char escape);

// Variables that a FROM sees: global ARGs and the platform's.
class GlobalValues {
 public:
  // `use_build_args` false: only the defaults of the Dockerfile.
  GlobalValues(const Dockerfile& dockerfile, const CheckInput& input, bool use_build_args);
  std::optional<std::string> get(std::string_view name) const;
  Looked look(std::string_view text) const;
  std::vector<std::string> names() const;
  // ARGs before the first FROM, with a value or not.
  bool declared(const std::string& name) const { return declared_.contains(name); }
  // A default that cannot be expanded.
  bool failed() const { return failed_; }

 private:
  char escape_;
  std::map<std::string, std::string, std::less<>> values_;
  std::set<std::string> declared_;
  bool failed_ = false;
};

// What an instruction of a stage sees; a stage inherits it from the stage it is based on.
struct StageValues {
  std::map<std::string, std::string, std::less<>> env;
  std::set<std::string> declared;  // ARGs of the stage
  bool complete = true;            // no other variable can come from the base image
  bool shell = false;              // SHELL was set, here or in the base image
  bool workdir = false;

  std::optional<std::string> get(std::string_view name) const;
};

// The value that ARG gives: --build-arg, else the default, else the global one. Sets it.
std::optional<std::string> declare(const Arg::Item& item, const CheckInput& input, const GlobalValues& global, StageValues& values, char escape);

// The earlier stage that `name` means in the stage `before`, or -1. `indexes`: a decimal is a stage's number.
int stage_named(const Dockerfile& dockerfile, const std::string& name, size_t before, bool indexes);
// The stage that --target means; the last one when there is none of that name.
size_t target_stage(const Dockerfile& dockerfile, const std::string& target);
// Which stages the target needs.
std::vector<bool> reached_stages(const Dockerfile& dockerfile, const GlobalValues& global, const std::string& target);

// The keyword as the user wrote it.
std::string keyword_of(const Instruction& instruction);

// Rules that follow variables and state through the stages.
void check_stages(const Dockerfile& dockerfile, const CheckInput& input, Findings& findings);

// Rules of our own about one instruction; `values` is what it sees.
struct HabitScope {
  const Dockerfile& dockerfile;
  const CheckInput& input;
  size_t stage;
  const StageValues& values;
};
void check_habits(const HabitScope& scope, const Instruction& instruction, Findings& findings);

// An ADD source that is fetched: a URL or a git repository.
bool is_remote_source(std::string_view text);

}  // namespace lamina::parser::internal
