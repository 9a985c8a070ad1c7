// The first line is a word (its first byte chooses the escape character), the lines that follow are NAME=VALUE.
#include <map>
#include <string>

#include "base/text.h"
#include "fuzz/fuzz.h"
#include "parser/expand.h"

using namespace lamina;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const char escape = data[0] % 2 == 0 ? '\\' : '`';
  const std::vector<std::string> lines = split(fuzz::text_of(data + 1, size - 1), '\n');
  std::map<std::string, std::string, std::less<>> values;
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t eq = lines[i].find('=');
    if (eq != std::string::npos) values[lines[i].substr(0, eq)] = lines[i].substr(eq + 1);
  }
  const parser::Lookup lookup = [&](std::string_view name) {
    const auto it = values.find(name);
    return it == values.end() ? std::nullopt : std::optional(it->second);
  };
  const auto word = parser::expand_word(lines[0], lookup, escape);
  const auto words = parser::expand_words(lines[0], lookup, escape);
  const auto raw = parser::expand_raw(lines[0], lookup);
  fuzz::require(word.has_value() == words.has_value(), "a word can be expanded exactly when it can be split");
  if (!word) fuzz::require(!word.error().message().empty(), "an error has a text");
  if (words) {
    size_t length = 0;
    for (const std::string& w : words->words) {
      fuzz::require(!w.empty(), "no word is empty");
      length += w.size();
    }
    fuzz::require(length <= word->text.size(), "splitting adds nothing");
    fuzz::require(word->unset == words->unset, "the same names are unset");
  }
  const bool plain = lines[0].find_first_of("$'\"\\`") == std::string::npos;
  if (plain) fuzz::require(word && word->text == lines[0] && raw && raw->text == lines[0], "plain text stays as it is");
  return 0;
}
