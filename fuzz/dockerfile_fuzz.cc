// Any text is parsed; what is accepted prints to a text that parses to the same tree.
#include "fuzz/fuzz.h"
#include "parser/instructions.h"
#include "parser/tree.h"

using namespace lamina;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(fuzz::text_of(data, size));
  const parser::ParsedDockerfile typed = parser::parse_dockerfile("Dockerfile", text);
  for (const Diagnostic& d : typed.diagnostics) fuzz::require(!d.render().empty(), "a diagnostic has a text");

  const parser::ParsedTree first = parser::parse_tree("Dockerfile", text);
  if (parser::has_errors(first.diagnostics)) return 0;
  const std::string printed = print(first.tree);
  const parser::ParsedTree second = parser::parse_tree("Dockerfile", printed);
  fuzz::require(!parser::has_errors(second.diagnostics), "the printed tree is accepted");
  fuzz::require(first.tree.nodes == second.tree.nodes, "the printed tree parses to the same nodes");
  fuzz::require(dump(first.tree) == dump(second.tree), "the dumps are equal");
  fuzz::require(first.tree.directives.escape == second.tree.directives.escape, "the escape directive is kept");
  fuzz::require(first.tree.directives.syntax == second.tree.directives.syntax, "the syntax directive is kept");
  fuzz::require(first.tree.directives.check == second.tree.directives.check, "the check directive is kept");
  fuzz::require(print(second.tree) == printed, "printing is stable");
  return 0;
}
