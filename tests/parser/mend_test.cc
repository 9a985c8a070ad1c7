#include "parser/mend.h"

#include <doctest/doctest.h>

#include "parser/checks.h"

using namespace lamina;
using namespace lamina::parser;

namespace {

std::vector<Diagnostic> find(const std::string& text) {
  const ParsedDockerfile parsed = parse_dockerfile("D", text);
  CheckInput input;
  input.all_stages = true;
  std::vector<Diagnostic> found = check_dockerfile(parsed, parse_tree("D", text).tree, input);
  for (const Diagnostic& d : parsed.diagnostics) {
    if (d.severity == Severity::kError) found.push_back(d);
  }
  return found;
}

std::string mended(const std::string& text) { return mend_all(text, "D", find).text; }

Diagnostic with_mend(SourceRange range, std::string replacement, std::string file = "D") {
  Diagnostic d;
  d.file = std::move(file);
  d.mend = Mend{range, std::move(replacement)};
  return d;
}

}  // namespace

TEST_CASE("mends are put where they belong") {
  const std::string text = "one\ntwo\nthree";
  CHECK(apply_mends(text, "D", {with_mend({2, 1, 2, 4}, "2"), with_mend({1, 1, 1, 2}, "O")}).text == "One\n2\nthree");
  CHECK(apply_mends(text, "D", {with_mend({2, 1, 3, 1}, "")}).text == "one\nthree");
  CHECK(apply_mends(text, "D", {with_mend({3, 6, 3, 6}, "!")}).text == "one\ntwo\nthree!");
  SUBCASE("not in another file, not outside, not over each other") {
    CHECK(apply_mends(text, "D", {with_mend({1, 1, 1, 2}, "x", "E")}).count == 0);
    CHECK(apply_mends(text, "D", {with_mend({4, 1, 4, 1}, "x")}).count == 0);
    CHECK(apply_mends(text, "D", {with_mend({1, 9, 1, 9}, "x")}).count == 0);
    CHECK(apply_mends(text, "D", {with_mend({1, 3, 1, 1}, "x")}).count == 0);
    CHECK(apply_mends(text, "D", {with_mend({1, 1, 1, 3}, "x"), with_mend({1, 2, 1, 4}, "y")}).text == "xe\ntwo\nthree");
  }
}

TEST_CASE("what is mended, and how") {
  struct Case {
    const char* name;
    std::string before, after;
  };
  const std::vector<Case> cases = {
      {"case", "FROM scratch as Base\nuser x\nUser y\n", "FROM scratch AS base\nUSER x\nUSER y\n"},
      {"old form", "FROM scratch\nENV a b\nENV c d $e f\nENV g \"h i\"\nLABEL l m\n", "FROM scratch\nENV a=b\nENV c=\"d $e f\"\nENV g=\"h i\"\nLABEL l=m\n"},
      {"old form that is not sure to stay the same", "FROM scratch\nENV a b \"c\" d\nENV e f\\ g\n", "FROM scratch\nENV a b \"c\" d\nENV e f\\ g\n"},
      {"empty lines", "FROM scratch\nRUN a && \\\n\n\n  b && \\\n\n  c\n", "FROM scratch\nRUN a && \\\n  b && \\\n  c\n"},
      {"platform", "FROM --platform=$TARGETPLATFORM scratch\n", "FROM scratch\n"},
      {"ports", "FROM scratch\nEXPOSE 80/TCP 1.2.3.4:80:90/UDP $P/TCP\n", "FROM scratch\nEXPOSE 80/tcp 90/udp $P/TCP\n"},
      {"quotes", "FROM scratch\nCMD ['a', 'b \"c\"',]\nVOLUME ['/a','/b']\n", "FROM scratch\nCMD [\"a\", \"b \\\"c\\\"\"]\nVOLUME [\"/a\", \"/b\"]\n"},
      {"quotes that mean something else", "FROM scratch\nCMD ['a' b]\nCMD ['a\\'s']\n", "FROM scratch\nCMD ['a' b]\nCMD ['a\\'s']\n"},
      {"comments", "FROM scratch   # the base\nEXPOSE 80 # web\n", "# the base\nFROM scratch\n# web\nEXPOSE 80\n"},
      {"a comment that would be a directive", "FROM scratch # escape=`\n", "FROM scratch # escape=`\n"},
      {"a value may hold a #", "FROM scratch\nENV A we are #1\n", "FROM scratch\nENV A=\"we are #1\"\n"},
      {"slash", "FROM scratch\nCOPY a b /c\nCOPY a b $D\n", "FROM scratch\nCOPY a b /c/\nCOPY a b $D\n"},
      {"line endings stay", "FROM scratch as a\r\nUSER x\r\n", "FROM scratch AS a\r\nUSER x\r\n"},
      {"no newline at the end", "FROM scratch as a", "FROM scratch AS a"},
      {"heredocs are not touched", "FROM scratch\nRUN <<EOF\nuser X as y\n\nEOF\n", "FROM scratch\nRUN <<EOF\nuser X as y\n\nEOF\n"},
  };
  for (const Case& c : cases) {
    SUBCASE(c.name) {
      CHECK(mended(c.before) == c.after);
      // Nothing is left to do, and what could be read still can.
      CHECK(mended(c.after) == c.after);
      if (!has_errors(parse_dockerfile("D", c.before).diagnostics)) CHECK_FALSE(has_errors(parse_dockerfile("D", c.after).diagnostics));
    }
  }
}

TEST_CASE("a mend that breaks the file is taken back") {
  const auto wrong = [](const std::string& text) {
    std::vector<Diagnostic> found;
    if (text.find("broken") != std::string::npos) {
      found.emplace_back();
      found.back().severity = Severity::kError;
      return found;
    }
    if (text.starts_with("a")) found.push_back(with_mend({1, 1, 1, 2}, "broken"));
    if (text.ends_with("b")) found.push_back(with_mend({1, 2, 1, 3}, "c"));
    for (Diagnostic& d : found) d.severity = Severity::kWarning;
    return found;
  };
  CHECK(mend_all("ab", "D", wrong).text == "ac");
}
