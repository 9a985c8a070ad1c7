#include "parser/expand.h"

#include <doctest/doctest.h>

#include <map>

using namespace lamina::parser;

namespace {

const std::map<std::string, std::string, std::less<>> kVariables = {{"a", "1"}, {"empty", ""}, {"path", "/usr/lib/x.tar.gz"}, {"words", "one two"}, {"ünï", "yes"}, {"한국", "서울역"}, {"lines", "a\nb"}, {"10", "ten"}, {"star", "a*b*c"}};

std::optional<std::string> lookup(std::string_view name) {
  const auto it = kVariables.find(name);
  return it == kVariables.end() ? std::nullopt : std::optional(it->second);
}

struct Row {
  const char *text, *expanded;
};

}  // namespace

TEST_CASE("words are expanded as the language says") {
  const Row rows[] = {
      {"plain", "plain"},           {"$a", "1"},                    {"${a}", "1"},
      {"x$a.y", "x1.y"},            {"$nope", ""},                  {"${nope:-d}", "d"},
      {"${empty:-d}", "d"},         {"${empty-d}", ""},             {"${a:+s}", "s"},
      {"${empty:+s}", ""},          {"${empty+s}", "s"},            {"${nope:-${a}}", "1"},
      {"'$a'", "$a"},               {"\"$a\"", "1"},                {"\\$a", "$a"},
      {"\"\\$a\"", "$a"},           {"\"a\\\"b\"", "a\"b"},         {"\"\\n\"", "\\n"},
      {"a\\ b", "a b"},             {"$$", ""},                                {"${path#*/}", "usr/lib/x.tar.gz"},
      {"${path##*/}", "x.tar.gz"},  {"${path%.*}", "/usr/lib/x.tar"}, {"${path%%.*}", "/usr/lib/x"},
      {"${path/lib/LIB}", "/usr/LIB/x.tar.gz"}, {"${path//r/R}", "/usR/lib/x.taR.gz"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const auto e = expand_word(row.text, lookup);
    REQUIRE(e);
    CHECK(e->text == row.expanded);
  }
}

TEST_CASE("names are Unicode letters, digits and _, or one special character") {
  const Row rows[] = {
      {"$ünï!", "yes!"},  {"$한국.", "서울역."}, {"$aé", ""},         {"$a_", ""},      {"$10x", "tenx"}, {"${10}", "ten"}, {"$1", ""},
      {"$@@", "@"},       {"$?x", "x"},          {"$", "$"},          {"$.", "$."},     {"$(x)", "$(x)"}, {"$\"", "error"}, {"$\xFFx", "$\xFFx"},
      {"${a.}", "error"}, {"${é}", ""},          {"${a b}", "error"}, {"${ a}", "error"}, {"${+x}", "error"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const auto e = expand_word(row.text, lookup);
    CHECK((e ? e->text : "error") == row.expanded);
  }
}

TEST_CASE("defaults, alternatives and demands") {
  const Row rows[] = {
      {"${nope:-a b}", "a b"},    {"${nope:-'}'}", "}"},         {"${nope:-\"$a\"}", "1"},   {"${nope:-\\}}", "}"},        {"${nope-}", ""},
      {"${a:+}", ""},             {"${nope+x}", ""},            {"${a?no}", "1"},            {"${empty?no}", ""},          {"${a:?no}", "1"},
      {"${a:#x}", "error"},       {"${a:%x}", "error"},         {"${a:/x/y}", "error"},      {"${a=x}", "error"},          {"${a:=x}", "error"},
      {"${a:-", "error"},         {"${a:", "error"},            {"${a-${b-${nope-c}}}", "1"}, {"${nope-${b-${nope-c}}}", "c"}, {"${a^^}", "error"},
      {"${a:-${nope:?x}}", "error"},  // the word is expanded even when it is not used
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const auto e = expand_word(row.text, lookup);
    CHECK((e ? e->text : "error") == row.expanded);
  }
  CHECK(expand_word("${nope?}", lookup).error().message() == "nope: is not allowed to be unset");
  CHECK(expand_word("${nope:?}", lookup).error().message() == "nope: is not allowed to be unset");
  CHECK(expand_word("${empty:?}", lookup).error().message() == "empty: is not allowed to be empty");
  CHECK(expand_word("${empty:?say $a}", lookup).error().message() == "empty: say 1");
}

TEST_CASE("patterns know *, ? and their escapes") {
  const Row rows[] = {
      {"${path#/usr}", "/lib/x.tar.gz"},   {"${path#usr}", "/usr/lib/x.tar.gz"}, {"${path#/*/}", "lib/x.tar.gz"},    {"${path##/*/}", "x.tar.gz"},
      {"${path%.*}", "/usr/lib/x.tar"},    {"${path%%.*}", "/usr/lib/x"},        {"${path%.?z}", "/usr/lib/x.tar"},  {"${path%x}", "/usr/lib/x.tar.gz"},
      {"${path#*}", "/usr/lib/x.tar.gz"},  {"${path##*}", ""},                   {"${path%*}", "/usr/lib/x.tar.gz"}, {"${path%%*}", ""},
      {"${star#a\\*}", "b*c"},            {"${star%\\*c}", "a*b"},              {"${star#a?}", "b*c"},              {"${star#*\\*}", "b*c"},
      {"${한국#?}", "울역"},               {"${한국%?}", "서울"},                {"${한국/울/x}", "서x역"},          {"${path#[/]}", "/usr/lib/x.tar.gz"},
      {"${path#\"/u\"s}", "r/lib/x.tar.gz"}, {"${path#'*'}", "/usr/lib/x.tar.gz"}, {"${nope#x}", ""},                {"${path#\\u}", "error"},
      {"${path/\\//:}", ":usr/lib/x.tar.gz"}, {"${path//\\//:}", ":usr:lib:x.tar.gz"}, {"${path/r*r/-}", "/us-.gz"}, {"${path//?/x}", "xxxxxxxxxxxxxxxxx"},
      {"${path/none/x}", "/usr/lib/x.tar.gz"}, {"${path/\"\"/x}", "x/usr/lib/x.tar.gz"}, {"${a//\"\"/x}", "x1x"},   {"${empty/*/x}", "x"},
      {"${empty//*/x}", "x"},              {"${path/lib}", "error"},             {"${path/lib/", "error"},           {"${path//./$a}", "/usr/lib/x1tar1gz"},
      {"${path/x/\\}}", "/usr/lib/\\}.tar.gz"},  // the replacement keeps its escapes, as BuildKit has it
      {"${lines#a*}", "\nb"},              {"${lines##*}", "\nb"},                // * stops at a newline
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const auto e = expand_word(row.text, lookup);
    CHECK((e ? e->text : "error") == row.expanded);
  }
}

TEST_CASE("bad substitutions are errors") {
  for (const char* bad : {"${", "${}", "${a", "${a:", "${a:=x}", "${:x}", "'open", "\"open", "${nope:?must be set}", "${nope?}"}) {
    CAPTURE(bad);
    CHECK_FALSE(expand_word(bad, lookup));
  }
  CHECK(expand_word("${nope:?must be set}", lookup).error().message().find("must be set") != std::string::npos);
  std::string deep;
  for (int i = 0; i < 5000; ++i) deep += "${x:-";
  CHECK_FALSE(expand_word(deep, lookup));  // refused, not recursed into
}

TEST_CASE("unset names are reported once each use") {
  const auto e = expand_word("$nope ${other:-x} $a", lookup);
  REQUIRE(e);
  CHECK(e->unset == std::vector<std::string>{"nope"});
}

TEST_CASE("words split at unquoted white space, also from values") {
  CHECK(expand_words("a 'b c' $words", lookup)->words == std::vector<std::string>{"a", "b c", "one", "two"});
  CHECK(expand_words("\"$words\" \"\"", lookup)->words == std::vector<std::string>{"one two"});  // no empty words
}

TEST_CASE("heredoc text keeps quotes, and the escape protects one character") {
  CHECK(expand_raw("\"$a\" 'x'\n", lookup)->text == "\"1\" 'x'\n");
  CHECK(expand_raw("\\\\ \\$a \\\n", lookup)->text == "\\ $a \n");
}

TEST_CASE("the escape character can be a backtick") {
  CHECK(expand_word("C:\\x`$a", lookup, '`')->text == "C:\\x$a");
}
