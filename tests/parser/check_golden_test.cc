// testdata/checks: every finding as a user sees it, then what --fix changes.
#include "base/diff.h"
#include "parser/checks.h"
#include "parser/mend.h"
#include "tests/parser/goldens.h"

using namespace lamina;

namespace {

std::vector<Diagnostic> find(const std::string& text) {
  const parser::ParsedDockerfile parsed = parser::parse_dockerfile("Dockerfile", text);
  const parser::Tree tree = parser::parse_tree("Dockerfile", text).tree;
  parser::CheckInput input;
  input.all_stages = true;
  input.valid_image_name = [](const std::string& name) { return !name.empty(); };
  const parser::CheckFilter filter(tree, std::nullopt, true);
  std::vector<Diagnostic> found = parser::check_dockerfile(parsed, tree, input);
  for (const Diagnostic& d : parsed.diagnostics) {
    if (d.severity == Severity::kError) found.push_back(d);
  }
  found.insert(found.end(), filter.problems().begin(), filter.problems().end());
  parser::sort_by_place(found);
  std::erase_if(found, [&](const Diagnostic& d) { return !filter.keeps(d); });
  return found;
}

}  // namespace

TEST_CASE("goldens of the checks") {
  lamina::testing::compare_goldens(LAMINA_TESTDATA "/checks", 6, [](const std::string& text) {
    std::string actual;
    for (const Diagnostic& d : find(text)) actual += d.render() + "\n";
    return actual + unified_diff(text, parser::mend_all(text, "Dockerfile", find).text, "Dockerfile");
  });
}
