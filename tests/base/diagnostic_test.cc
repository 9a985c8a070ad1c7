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

TEST_CASE("a very long line is shown around its range") {
  Diagnostic d;
  d.message = "m";
  d.line_text = std::string(500, 'a') + "BAD" + std::string(500, 'b');
  d.range = {1, 501, 1, 504};
  const std::string around = "…" + std::string(60, 'a') + "BAD" + std::string(97, 'b') + "…";
  CHECK(d.render() == "1:501: error: m\n    1 | " + around + "\n      | " + std::string(61, ' ') + "^~~");
  d.range = {1, 1, 1, 4};
  CHECK(d.render() == "1:1: error: m\n    1 | " + std::string(160, 'a') + "…\n      | ^~~");
  d.range = {1, 1001, 1, 1004};
  CHECK(d.render() == "1:1001: error: m\n    1 | …" + std::string(160, 'b') + "\n      | " + std::string(158, ' ') + "^~~");
  // No character is cut.
  d.line_text.clear();
  for (int i = 0; i < 300; ++i) d.line_text += "é";
  d.range = {1, 301, 1, 303};
  CHECK(d.render().find("\\x") == std::string::npos);
  // Marked to where the excerpt ends.
  d.line_text = std::string(400, 'x');
  d.range = {1, 201, 3, 1};
  CHECK(d.render() == "1:201: error: m\n    1 | …" + std::string(160, 'x') + "…\n      | " + std::string(61, ' ') + "^" + std::string(99, '~'));
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
