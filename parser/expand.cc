#include "parser/expand.h"

#include "parser/internal/lexer.h"

namespace lamina::parser {

Result<Expanded> expand_word(std::string_view text, const Lookup& lookup, char escape) {
  ASSIGN_OR_RETURN(internal::Lexed lexed, internal::lex(text, lookup, {.escape = escape}));
  return Expanded{std::move(lexed.text), std::move(lexed.unset)};
}

Result<ExpandedWords> expand_words(std::string_view text, const Lookup& lookup, char escape) {
  ASSIGN_OR_RETURN(internal::Lexed lexed, internal::lex(text, lookup, {.escape = escape}));
  ExpandedWords out;
  for (internal::LexedWord& word : lexed.words) out.words.push_back(std::move(word.text));
  out.unset = std::move(lexed.unset);
  return out;
}

Result<Expanded> expand_raw(std::string_view text, const Lookup& lookup) {
  ASSIGN_OR_RETURN(internal::Lexed lexed, internal::lex(text, lookup, {.skip_quotes = true}));
  return Expanded{std::move(lexed.text), std::move(lexed.unset)};
}

}  // namespace lamina::parser
