// Variable expansion and word splitting: the shell-like level of the language.
// dockerfile-language reference 1.3.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamina::parser {

// The value of a variable, or nothing when it is unset.
using Lookup = std::function<std::optional<std::string>(std::string_view name)>;

struct Expanded {
  std::string text;
  std::vector<std::string> unset;  // names that were unset and had no default, in order
};

// Expands $variables and removes quotes and escapes. Errors are kInvalidInput with the reason only
// (no place); the caller adds the diagnostic.
Result<Expanded> expand_word(std::string_view text, const Lookup& lookup, char escape = '\\');

// The same, then split at white space outside quotes (EXPOSE).
struct ExpandedWords {
  std::vector<std::string> words;
  std::vector<std::string> unset;
};
Result<ExpandedWords> expand_words(std::string_view text, const Lookup& lookup, char escape = '\\');

// Heredoc bodies of COPY and ADD: $variables and the escape "\" only; quotes stay.
Result<Expanded> expand_raw(std::string_view text, const Lookup& lookup);

}  // namespace lamina::parser
