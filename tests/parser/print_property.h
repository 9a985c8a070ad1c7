// parse(print(tree)) == tree, as a check to be used over many texts.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/text.h"
#include "parser/tree.h"

namespace lamina::parser {

// Checks the property for one text; true when the parser accepted the text, so that there was something to check.
inline bool check_print_property(const std::string& text) {
  const ParsedTree first = parse_tree("Dockerfile", text);
  if (has_errors(first.diagnostics)) return false;
  const std::string printed = print(first.tree);
  const ParsedTree second = parse_tree("Dockerfile", printed);
  const bool same = !has_errors(second.diagnostics) && first.tree.nodes == second.tree.nodes && dump(first.tree) == dump(second.tree) &&
                    first.tree.directives.escape == second.tree.directives.escape && first.tree.directives.syntax == second.tree.directives.syntax &&
                    first.tree.directives.check == second.tree.directives.check && print(second.tree) == printed;
  if (!same) {
    CAPTURE(go_quote(text));  // NUL bytes would end it
    CAPTURE(go_quote(printed));
    CHECK(same);
  }
  return true;
}

// A few random edits in the style of a careless editor: pieces removed, repeated, moved in from another text, and the
// language's own marks put in.
inline std::string mutate(std::string text, const std::string& other, std::mt19937_64& random) {
  static const std::vector<std::string> kMarks = {"\\\n", "`\n", "\n", "\r\n", "\n\n", " ", "\t", "\v", "\xC2\xA0", "#", "\n# x=y\n", "# escape=`\n", "\"", "'", "$", "${",
                                                  "}", "<<E", "<<-'E'", "\nE\n", "[", "[\"a\"]", "]", ",", "=", "--", " --a=b ", "\\", "\\\\", "ONBUILD ", "\nRUN ",
                                                  "\nCOPY ", "\nENV ", "\nHEALTHCHECK CMD ", std::string(1, '\0'), "\xFF", "\xEF\xBB\xBF"};
  const auto below = [&](size_t n) { return n == 0 ? 0 : static_cast<size_t>(random() % n); };
  for (size_t edits = 1 + below(6); edits > 0; --edits) {
    const size_t at = below(text.size() + 1);
    const size_t length = below(std::min<size_t>(text.size() - at, 80) + 1);
    switch (below(4)) {
      case 0: text.erase(at, length); break;
      case 1: text.insert(below(text.size() + 1), text.substr(at, length)); break;
      case 2: text.insert(at, other.substr(below(other.size() + 1), below(80))); break;
      default: text.insert(at, kMarks[below(kMarks.size())]); break;
    }
  }
  return text;
}

}  // namespace lamina::parser
