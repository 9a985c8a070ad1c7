// testdata/parser: the parsed instructions, or the diagnostics as a user sees them.
#include "parser/instructions.h"
#include "tests/parser/goldens.h"

using namespace lamina;

TEST_CASE("goldens") {
  lamina::testing::compare_goldens(LAMINA_TESTDATA "/parser", 8, [](const std::string& text) {
    const auto parsed = parser::parse_dockerfile("Dockerfile", text);
    std::string actual;
    for (const Diagnostic& d : parsed.diagnostics) actual += d.render() + "\n";
    if (!parser::has_errors(parsed.diagnostics)) actual += dump(parser::parse_tree("Dockerfile", text).tree);
    return actual;
  });
}
