// Parser directives: "# key=value" lines at the very top. dockerfile-language reference 1.1.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "parser/tree.h"

namespace lamina::parser::internal {

struct Directive {
  std::string key;  // lower case: syntax, escape or check
  Word value;
};

// The directive on a line that begins with `mark` ("#" or "//"); nothing when it is none or not a known one.
// `number` and `column` (1-based) are the place of the line's first byte, for the ranges.
std::optional<Directive> directive_of(std::string_view line, std::string_view mark, uint32_t number, uint32_t column = 1);

// What names the frontend: "# syntax=", else "// syntax=", else a JSON object with "syntax". Stricter than the
// parser about blanks before the mark, laxer about a "#!" line, which it skips.
std::optional<Word> detect_syntax(std::string_view text);
// "# check=", found by the same rules, in its first form only.
std::optional<Word> detect_check(std::string_view text);

}  // namespace lamina::parser::internal
