#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>

#include "base/text.h"
#include "parser/internal/directives.h"
#include "parser/internal/line.h"

namespace lamina::parser::internal {

namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// RE2's \s, which knows no vertical tab.
bool is_regex_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r'; }

size_t skip_regex_space(std::string_view s, size_t i) {
  while (i < s.size() && is_regex_space(s[i])) ++i;
  return i;
}

std::optional<Word> detect(std::string_view text, std::string_view key, std::string_view mark) {
  std::set<std::string> seen;
  uint32_t number = 0;
  if (text.substr(0, 2) == "#!") {
    number = 1;
    const size_t end = text.find('\n');
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    auto found = directive_of(line, mark, ++number);
    if (!found || !seen.insert(found->key).second) return std::nullopt;
    if (found->key == key) return std::move(found->value);
  }
  return std::nullopt;
}

std::optional<Word> detect_json(std::string_view text) {
  if (text.substr(leading_space(text), 1) != "{") return std::nullopt;
  const auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (!json.is_object()) return std::nullopt;
  const auto value = json.find("syntax");
  if (value == json.end() || !value->is_string()) return std::nullopt;
  const std::string_view line = line_of(text, 1);
  return Word{value->get<std::string>(), {1, 1, 1, static_cast<uint32_t>(line.size() + 1)}};
}

}  // namespace

// ^([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$ behind the mark and any white space.
std::optional<Directive> directive_of(std::string_view line, std::string_view mark, uint32_t number, uint32_t column) {
  if (line.substr(0, mark.size()) != mark) return std::nullopt;
  size_t i = mark.size() + leading_space(line.substr(mark.size()));
  const size_t key_begin = i;
  while (i < line.size() && (is_letter(line[i]) || (i > key_begin && line[i] >= '0' && line[i] <= '9'))) ++i;
  Directive out;
  out.key = to_lower(line.substr(key_begin, i - key_begin));
  if (out.key != "syntax" && out.key != "escape" && out.key != "check") return std::nullopt;
  i = skip_regex_space(line, i);
  if (i >= line.size() || line[i] != '=') return std::nullopt;
  i = skip_regex_space(line, i + 1);
  size_t end = line.size();
  while (end > i && is_regex_space(line[end - 1])) --end;
  if (end == i) return std::nullopt;
  out.value.text = std::string(line.substr(i, end - i));
  out.value.range = {number, column + static_cast<uint32_t>(i), number, column + static_cast<uint32_t>(end)};
  return out;
}

std::optional<Word> detect_syntax(std::string_view text) {
  auto found = detect(text, "syntax", "#");
  if (!found) found = detect(text, "syntax", "//");
  if (!found) found = detect_json(text);
  if (!found) return std::nullopt;
  // What follows the first blank belongs to the frontend's command line.
  found->text.resize(std::min(found->text.size(), found->text.find_first_of(" \t\n\v\f\r")));
  if (found->text.empty()) return std::nullopt;
  return found;
}

std::optional<Word> detect_check(std::string_view text) { return detect(text, "check", "#"); }

}  // namespace lamina::parser::internal
