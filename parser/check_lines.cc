// Rules about single instructions as they are written: case, names, descriptions, arrays that are none.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "parser/internal/checker.h"

namespace lamina::parser::internal {

void Findings::add(std::string_view rule, SourceRange range, std::string message, std::vector<std::string> notes, std::optional<Mend> mend) {
  if (found_.size() >= kMaxDiagnostics) return;
  Diagnostic d;
  d.severity = Severity::kWarning;
  d.rule = rule;
  d.file = tree_.file;
  d.range = range;
  d.message = std::move(message);
  d.notes = std::move(notes);
  d.mend = std::move(mend);
  d.line_text = std::string(line_of(*tree_.text, range.line));
  found_.push_back(std::move(d));
}

std::string_view Findings::text_of(SourceRange range) const {
  if (!range.valid() || range.line != range.end_line) return {};
  const std::string_view line = line_of(*tree_.text, range.line);
  if (range.column == 0 || range.end_column < range.column || range.end_column > line.size() + 1) return {};
  return line.substr(range.column - 1, range.end_column - range.column);
}

namespace {

bool is_lower(const std::string& s) { return s == to_lower(s); }
bool is_upper(const std::string& s) { return s == to_upper(s); }

// FROM and what follows it; ARGs before the first FROM have no part in the majority.
void check_keyword_case(Findings& findings) {
  size_t lower = 0, upper = 0;
  std::vector<const Node*> nodes;
  for (const Node& node : findings.tree().nodes) {
    if (nodes.empty() && node.keyword != "from") continue;
    nodes.push_back(&node);
    if (is_lower(node.keyword_text)) {
      ++lower;
    } else if (is_upper(node.keyword_text)) {
      ++upper;
    }
  }
  const bool want_lower = lower > upper;
  for (const Node* node : nodes) {
    const std::string wanted = want_lower ? to_lower(node->keyword_text) : to_upper(node->keyword_text);
    if (wanted == node->keyword_text) continue;
    findings.add("ConsistentInstructionCasing", node->keyword_range,
                 fmt::format("Command '{}' should match the case of the command majority ({})", node->keyword_text, want_lower ? "lowercase" : "uppercase"),
                 {}, Mend{node->keyword_range, wanted});
  }
}

void check_from(const Node& node, std::set<std::string>& names, Findings& findings) {
  if (node.args.size() != 3 || !iequals(node.args[1].text, "as")) return;
  const Word& as = node.args[1];
  const Word& name = node.args[2];
  const std::string lower = to_lower(name.text);
  if (lower != name.text) {
    findings.add("StageNameCasing", name.range, fmt::format("Stage name '{}' should be lowercase", name.text),
                 {"names of stages are compared without regard to case"}, Mend{name.range, lower});
  }
  const bool consistent = is_lower(node.keyword_text) || is_upper(node.keyword_text);
  const std::string wanted = is_lower(node.keyword_text) ? "as" : "AS";
  if (consistent && as.text != wanted) {
    findings.add("FromAsCasing", as.range, fmt::format("'{}' and '{}' keywords' casing do not match", as.text, node.keyword_text), {}, Mend{as.range, wanted});
  }
  if (lower == "scratch" || lower == "context") {
    findings.add("ReservedStageName", name.range, fmt::format("Stage name should not use the same name as reserved stage \"{}\"", lower));
  }
  if (!names.insert(lower).second) {
    findings.add("DuplicateStageName", name.range, fmt::format("Duplicate stage name \"{}\", stage names should be unique", lower),
                 {"what comes after takes files from the last stage of that name"});
  }
}

// The last comment line above ARG and FROM … AS describes what it begins with the name of.
void check_description(const Node& node, Findings& findings) {
  std::vector<std::string> names;
  if (node.keyword == "from" && node.args.size() == 3) names.push_back(to_lower(node.args[2].text));
  if (node.keyword == "arg") {
    for (const Word& word : node.args) names.push_back(word.text.substr(0, word.text.find('=')));
  }
  if (names.empty() || node.comments.empty()) return;
  const std::string& comment = node.comments.back();
  const std::string first = comment.substr(0, comment.find(' '));
  if (std::find(names.begin(), names.end(), first) != names.end() || first.starts_with("check=")) return;
  findings.add("InvalidDefinitionDescription", node.keyword_range,
               fmt::format("Comment for {} should follow the format: `# {} <description>`", to_upper(node.keyword), names.size() > 1 ? "<arg_key>" : names[0]),
               {"an empty line between the comment and the instruction makes it an ordinary comment"});
}

// ['a', "b"] as a JSON array; nothing when it is something else, or when it is not sure what is meant.
std::optional<std::string> as_json(std::string_view text) {
  std::vector<std::string> items;
  size_t i = 1;
  const auto skip_blanks = [&] {
    while (i < text.size() && (text[i] == ' ' || text[i] == '\t')) ++i;
  };
  if (text.size() < 2 || text.front() != '[' || text.back() != ']') return std::nullopt;
  for (skip_blanks(); i + 1 < text.size(); skip_blanks()) {
    const char quote = text[i];
    if (quote != '\'' && quote != '"') return std::nullopt;
    const size_t end = text.find(quote, i + 1);
    if (end == std::string_view::npos) return std::nullopt;
    items.emplace_back(text.substr(i + 1, end - i - 1));
    if (items.back().find('\\') != std::string::npos) return std::nullopt;
    i = end + 1;
    skip_blanks();
    if (i + 1 >= text.size()) break;
    if (text[i] != ',') return std::nullopt;
    ++i;
  }
  if (items.empty()) return std::nullopt;
  std::string json = "[";
  for (const std::string& item : items) {
    const nlohmann::json value = item;
    json += (json.size() > 1 ? ", " : "") + value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return json + "]";
}

void check_json_form(const Node& node, Findings& findings) {
  const std::string& k = node.keyword;
  const bool command = k == "cmd" || k == "entrypoint" || k == "run" || k == "healthcheck";
  const bool list = k == "copy" || k == "add" || k == "volume";
  const size_t first = k == "healthcheck" ? 1 : 0;
  if ((!command && !list) || node.json || node.args.size() <= first) return;
  const std::string& text = node.args[first].text;
  if (!text.starts_with("['") && !text.starts_with("[\"")) return;
  // ["a" in a shell's text may be a word of it, or a glob's class.
  const std::string& last = node.args.back().text;
  if (text[1] == '"' && last.find(']') == std::string::npos) return;
  SourceRange range = node.args[first].range;
  range.end_line = node.args.back().range.end_line;
  range.end_column = node.args.back().range.end_column;
  std::optional<Mend> mend;
  if (const auto json = as_json(findings.text_of(range))) mend = Mend{range, *json};
  findings.add("InvalidJSONForm", range,
               command ? fmt::format("this is no JSON, so {} runs it through a shell", to_upper(k)) : fmt::format("this is no JSON, so {} takes it as plain words", to_upper(k)),
               {fmt::format("{} is a JSON array: strings in double quotes, separated by commas", command ? "the exec form" : "the form with brackets")}, std::move(mend));
}

}  // namespace

void check_lines(Findings& findings) {
  check_keyword_case(findings);
  std::set<std::string> names;
  for (const Node& node : findings.tree().nodes) {
    if (node.keyword == "from") check_from(node, names, findings);
    if (node.keyword == "maintainer") {
      findings.add("MaintainerDeprecated", node.keyword_range, "Maintainer instruction is deprecated in favor of using label",
                   {"write LABEL org.opencontainers.image.authors=\"…\""});
    }
    check_description(node, findings);
    check_json_form(node, findings);
  }
}

}  // namespace lamina::parser::internal
