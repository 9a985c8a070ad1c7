// What a text parses to, in the few words that tables compare.
#pragma once

#include <string>

#include "base/text.h"
#include "parser/instructions.h"
#include "parser/tree.h"

namespace lamina::parser {

// The dump, or the first error's message behind "error: ".
inline std::string outcome(const std::string& text) {
  const auto parsed = parse_tree("D", text);
  for (const Diagnostic& d : parsed.diagnostics) {
    if (d.severity == Severity::kError) return "error: " + d.message;
  }
  return std::string(trim(dump(parsed.tree)));
}

// The first error of the whole parser, or "".
inline std::string first_error(const std::string& text) {
  for (const Diagnostic& d : parse_dockerfile("D", text).diagnostics) {
    if (d.severity == Severity::kError) return d.message;
  }
  return "";
}

}  // namespace lamina::parser
