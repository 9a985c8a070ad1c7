#include "base/diagnostic.h"

#include <doctest/doctest.h>

using namespace lamina;

TEST_CASE("a diagnostic shows place, line and caret") {
  Diagnostic d;
  d.file = "Dockerfile";
  d.range = {7, 6, 7, 12};
  d.message = "unknown flag --form for COPY";
  d.line_text = "COPY --form=deps /out /app";
  d.notes = {"did you mean --from?"};
  CHECK(d.render() ==
        "Dockerfile:7:6: error: unknown flag --form for COPY\n"
        "    7 | COPY --form=deps /out /app\n"
        "      |      ^~~~~~\n"
        "note: did you mean --from?");
}

TEST_CASE("diagnostics at the edges") {
  Diagnostic d;
  d.file = "F";
  d.message = "m";
  d.line_text = "\tab\x1b[0m";
  struct Case {
    const char* name;
    SourceRange range;
    std::string excerpt;
  };
  const std::vector<Case> cases = {
      {"no place", {}, "F: error: m"},
      {"line only", {2, 0, 0, 0}, "F:2: error: m\n    2 | \tab?[0m"},
      {"tab kept", {2, 2, 2, 4}, "F:2:2: error: m\n    2 | \tab?[0m\n      | \t^~"},
      {"empty range", {2, 2, 2, 2}, "F:2:2: error: m\n    2 | \tab?[0m\n      | \t^"},
      {"several lines", {2, 2, 5, 1}, "F:2:2: error: m\n    2 | \tab?[0m\n      | \t^~~~~~"},
      {"beyond the end", {2, 90, 2, 99}, "F:2:90: error: m\n    2 | \tab?[0m\n      | \t      ^"},
  };
  for (const Case& c : cases) {
    SUBCASE(c.name) {
      d.range = c.range;
      CHECK(d.render() == c.excerpt);
    }
  }
}

TEST_CASE("a caret after UTF-8 text stays in place") {
  Diagnostic d;
  d.severity = Severity::kWarning;
  d.rule = "Rule";
  d.range = {1, 4, 1, 7};
  d.message = "m";
  d.line_text = "\xc3\xa9 x\xc3\xa9";
  CHECK(d.render() ==
        "1:4: warning: m [Rule]\n"
        "    1 | \xc3\xa9 x\xc3\xa9\n"
        "      |   ^~");
}

TEST_CASE("line_of") {
  CHECK(line_of("a\r\nb\n\nc", 1) == "a");
  CHECK(line_of("a\r\nb\n\nc", 2) == "b");
  CHECK(line_of("a\r\nb\n\nc", 3) == "");
  CHECK(line_of("a\r\nb\n\nc", 4) == "c");
  CHECK(line_of("a\r\nb\n\nc", 5) == "");
  CHECK(line_of("a", 0) == "");
}

TEST_CASE("nearest_name") {
  const std::vector<std::string> flags = {"from", "chown", "chmod", "keep-git-dir", "link"};
  CHECK(nearest_name("form", flags) == "from");  // a swap is one edit
  CHECK(nearest_name("FROM", flags) == "from");
  CHECK(nearest_name("chwon", flags) == "chown");
  CHECK(nearest_name("keepgit-dri", flags) == "keep-git-dir");
  CHECK(nearest_name("keepgitdri", flags) == "keep-git-dir");
  CHECK(nearest_name("network", flags) == std::nullopt);
  CHECK(nearest_name("", flags) == std::nullopt);
  CHECK(nearest_name("x", {"y"}) == std::nullopt);
  CHECK(nearest_name(std::string(100000, 'a'), {std::string(10, 'a')}) == std::nullopt);
}
