#include "parser/patterns.h"

#include <doctest/doctest.h>

using namespace lamina::parser;

TEST_CASE("ignore lists decide as moby/patternmatcher does") {
  struct Row {
    const char* rules;
    const char* path;
    bool ignored;
  };
  const Row rows[] = {
      {"*.md", "a.md", true},          {"*.md", "d/a.md", false},        {"**/*.md", "d/e/a.md", true},
      {"**/*.md", "a.md", true},       {"d", "d/e/f", true},             {"d/", "d/x", true},
      {"/d", "d", true},               {"d/*", "d/e/f", true},           {"*", "x", true},
      {"*\n!x", "x", false},           {"*\n!d/x", "d/x", false},        {"!x\n*", "x", true},
      {"# c\n\n a.txt ", "a.txt", true}, {"a?c", "abc", true},           {"a?c", "a/c", false},
      {"[a-c]x", "bx", true},          {"[^a]x", "bx", true},            {"d/../e", "e", true},
      {"./a", "a", true},              {"**", "a/b", true},              {"a/**", "a/b/c", true},
      {"a/**/z", "a/z", true},         {"a/**/z", "a/b/c/z", true},      {"a\\*b", "a*b", true},
      {"a\\*b", "axb", false},         {"é", "é", true},                 {"a.b", "axb", false},
      // "**x" with nothing else special is a suffix, with more it is not.
      {"**x", "ax", true},             {"**x", "d/ax", true},            {"**x?", "axy", false},
      {"**/x", "ax", false},           {"**/x", "x", true},              {"a**", "ab/c", true},
      {"a**", "b/a", false},           {"**", "x", true},                {"a**b", "a/x/b", true},
      {"a**b", "ab", true},            {"a**b", "axb", false},
      // One character of "?" may be of several bytes; a byte that is no UTF-8 is one, too.
      {"?", "é", true},                {"??", "é", false},               {"[à-ü]", "é", true},
      {"*.txt", "caf\xE9.txt", true},  {"caf?.txt", "caf\xE9.txt", true}, {"caf\xE9.txt", "caf\xE9.txt", true},
      {"caf\xE9.txt", "caf\xE8.txt", false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.rules);
    CAPTURE(row.path);
    const auto list = IgnoreList::parse(".dockerignore", row.rules);
    REQUIRE(list);
    CHECK(list->ignored(row.path) == row.ignored);
  }
}

TEST_CASE("the deciding rule has its line") {
  const auto list = IgnoreList::parse("f", "# one\n*.o\n\nbuild\n");
  REQUIRE(list);
  REQUIRE(list->decide("build/x"));
  CHECK(list->decide("build/x")->line == 4);
  CHECK(list->decide("x.c") == nullptr);
}

TEST_CASE("walking gives the same verdicts") {
  const auto list = IgnoreList::parse("f", "a\n!a/b\n**/*.o\n!keep.o\n");
  REQUIRE(list);
  const auto root = list->walk_root();
  IgnoreList::WalkState a, b, leaf;
  list->decide_in_walk("a", root, a);
  list->decide_in_walk("a/b", a, b);
  for (const char* path : {"a/b/x.o", "a/b/c"}) CHECK(list->decide_in_walk(path, b, leaf) == list->decide(path));
  CHECK(list->may_reinclude_below("a"));
  CHECK_FALSE(IgnoreList::parse("f", "a\n")->may_reinclude_below("a"));
}

TEST_CASE("malformed patterns are named") {
  const auto bad = IgnoreList::parse("f", "ok\n[a\n");
  REQUIRE_FALSE(bad);
  CHECK(bad.error().render().find("[a") != std::string::npos);
  CHECK_FALSE(match_glob("[", "x"));
}

TEST_CASE("globs do not cross directories") {
  CHECK(*match_glob("*.go", "a.go"));
  CHECK_FALSE(*match_glob("*.go", "d/a.go"));
  CHECK(*match_glob("[[]0]", "[0]"));
  CHECK(*match_glob("a\\[b", "a[b"));
  CHECK(has_wildcards("a*"));
  CHECK_FALSE(has_wildcards("a\\*"));
  CHECK(unescape_glob("a\\*b") == "a*b");
}
