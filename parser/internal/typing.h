// Node → typed instruction. One object types one node and collects what is wrong with it.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "parser/instructions.h"

namespace lamina::parser::internal {

class Typer {
 public:
  Typer(const std::string& file, const std::string& text, std::vector<Diagnostic>& diagnostics)
      : file_(file), text_(text), diagnostics_(diagnostics) {}

  // Nothing when the node has errors; they are in the diagnostics then.
  std::optional<Instruction> type(const Node& node);

  void report(Severity severity, SourceRange range, std::string message, std::vector<std::string> notes = {}, std::string rule = {},
              std::optional<Mend> mend = {});

 private:
  bool body_of(const Node& node, Instruction& out);
  bool check_flags(const Node& node, const std::vector<std::string>& with_value, const std::vector<std::string>& booleans,
                   const std::vector<std::string>& repeatable);
  std::optional<Word> flag(const Node& node, const std::string& name) const;
  std::vector<Word> flags(const Node& node, const std::string& name) const;
  std::optional<bool> bool_flag(const Node& node, const std::string& name) const;
  bool exactly_one(const Node& node);
  bool at_least(const Node& node, size_t count, const char* words);
  void warn_hash(const Node& node);
  std::optional<Mend> comment_above(const Node& node, SourceRange comment) const;
  void report_unknown(const Node& node);
  CommandLine command_of(const Node& node, size_t first_arg = 0) const;

  bool type_from(const Node& node, Instruction& out);
  bool type_arg(const Node& node, Instruction& out);
  bool type_pairs(const Node& node, std::vector<KeyValue>& pairs, bool& legacy);
  bool type_run(const Node& node, Instruction& out);
  bool type_copy(const Node& node, Instruction& out);
  bool type_healthcheck(const Node& node, Instruction& out);
  bool type_onbuild(const Node& node, Instruction& out);

  std::string_view line_text(uint32_t line);

  const std::string& file_;
  const std::string& text_;
  std::vector<Diagnostic>& diagnostics_;
  std::vector<size_t> line_begins_;   // filled for the first report: finding a line may not cost a walk over the file
  std::array<size_t, 3> reported_{};  // by severity
};

// A Go duration such as "1h30m" or "500ms"; nothing when it is not one.
std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text);

}  // namespace lamina::parser::internal
