// The shell-like lexer below variable expansion, word splitting and the search for heredocs.
// dockerfile-language reference 1.3; BuildKit's frontend/dockerfile/shell.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "parser/expand.h"

namespace lamina::parser::internal {

struct LexOptions {
  char escape = '\\';
  bool raw_quotes = false;   // quotes stay in the result
  bool raw_escapes = false;  // escapes stay in the result
  bool skip_quotes = false;  // quotes are plain characters
  bool keep_unset = false;   // $x stays "$x" when x is unset
};

struct LexedWord {
  std::string text;
  size_t begin = 0, end = 0;  // where it stands in the input
};

struct Lexed {
  std::string text;               // not split
  std::vector<LexedWord> words;   // split at white space outside quotes, also at white space from values; never empty words
  std::vector<std::string> unset; // names that were unset and had no default, in order
};

// Errors are kInvalidInput with the reason only. Time and memory are linear in the input and the values it names; the
// result and the nesting are limited.
Result<Lexed> lex(std::string_view text, const Lookup& lookup, const LexOptions& options);

}  // namespace lamina::parser::internal
