// dockerfile-language reference 1.2, 1.4, 1.5, 1.6, 1.11: heredocs, JSON form, names and values, stages.
#include <doctest/doctest.h>

#include "base/text.h"
#include "parser/instructions.h"
#include "parser/internal/json_array.h"
#include "parser/internal/typing.h"
#include "tests/parser/outcome.h"

using namespace lamina;
using namespace lamina::parser;

namespace {

// "NAME" for each heredoc, with "-" before it when tabs are taken off and "!" when it is not expanded.
std::string heredocs(const std::string& line) {
  const auto parsed = parse_tree("D", line + "\nE\nE F\n$X\n2\n'\"E\nb\\c\n");
  std::vector<std::string> out;
  for (const Node& node : parsed.tree.nodes) {
    for (const Heredoc& d : (node.child ? *node.child : node).heredocs) out.push_back(std::string(d.chomp ? "-" : "") + (d.expand ? "" : "!") + d.name);
  }
  return join(out, ",");
}

}  // namespace

TEST_CASE("which words announce a heredoc") {
  const std::pair<const char*, const char*> rows[] = {
      {"RUN <<E cat", "E"},
      {"RUN cat <<E", "E"},
      {"RUN 3<<E cat", "E"},
      {"RUN <<-E cat", "-E"},
      {"RUN << E cat", "E"},           // white space behind << belongs to the word
      {"RUN <<- E cat", ""},           // but not behind <<-
      {"RUN <<\vE cat", ""},
      {"RUN <<\"E\" cat", "!E"},
      {"RUN <<'E' cat", "!E"},
      {"RUN <<E'' cat", "!E"},
      {"RUN <<'E F' cat", "!E F"},
      {"RUN <<\\E cat", "E"},          // an escape is no quote
      {"RUN <<E\\ F cat", "E F"},
      {"RUN <<$X cat", "$X"},          // names are not expanded
      {"RUN <<\"b\\c\" cat", "!b\\c"},
      {"RUN a<<E", ""},
      {"RUN <<<E cat", ""},
      {"RUN <<E<F cat", ""},
      {"RUN << cat", "cat"},
      {"RUN cat <<", ""},
      {"RUN <<'' cat", ""},
      {"RUN \"<<E\" cat", ""},
      {"RUN echo it's <<E", ""},       // an open quote: nothing is found
      {"RUN echo ${x^^} <<E", ""},     // nor where the lexer knows no such substitution
      {"RUN echo ${x:-y} <<E", "E"},
      {"RUN echo $((1<<2))", ""},
      {"RUN echo $(( 1 << 2 ))", "2"},
      {"RUN [\"a\", \"<<E\"]", ""},    // never in JSON form
      {"COPY <<E <<-'E F' /x/", "E,-!E F"},
      {"ADD <<E /x", "E"},
      {"ONBUILD RUN <<E cat", "E"},
      {"ONBUILD ONBUILD RUN <<E cat", ""},
      {"CMD <<E cat", ""},
      {"ENV a=<<E", ""},
  };
  for (const auto& [line, names] : rows) {
    CAPTURE(line);
    const std::string found = heredocs(line);
    if (std::string(names) != "cat") CHECK(found == names);
  }
  CHECK(outcome("RUN << cat\nx\ncat\n") == "(run \"<< cat\")");
  CHECK(outcome("RUN <<E\nx\n") == "error: unterminated heredoc");
  CHECK(outcome("# escape=`\nRUN <<E `\n  cat\nx\nE\n") == "(run \"<<E   cat\")");
}

TEST_CASE("the bodies of heredocs are kept byte for byte") {
  const auto parsed = parse_tree("D", "RUN <<A <<-B\n# no comment \\\n\t$x\\\\\r\nA \nA\r\n\t\tb\tc\n \tB\n\tB\nRUN d\n");
  REQUIRE(parsed.tree.nodes.size() == 2);
  const auto& docs = parsed.tree.nodes[0].heredocs;
  REQUIRE(docs.size() == 2);
  CHECK(docs[0].content == "# no comment \\\n\t$x\\\\\r\nA \n");  // "A " is no terminator, "A\r\n" is
  CHECK(docs[1].content == "b\tc\n \tB\n");                        // tabs are taken off, blanks are not
  CHECK(docs[1].raw_content == "\t\tb\tc\n \tB\n");
}

TEST_CASE("a heredoc is a source, never the destination") {
  const auto parsed = parse_dockerfile("D", "FROM a\nCOPY x <<E y << 'F G' /d/\n1\nE\n2\nF G\n");
  REQUIRE_FALSE(has_errors(parsed.diagnostics));
  const auto& copy = std::get<Copy>(parsed.dockerfile.stages[0].instructions[0].body);
  REQUIRE(copy.sources.size() == 2);
  CHECK(copy.sources[0].text == "x");
  CHECK(copy.sources[1].text == "y");
  CHECK(copy.heredocs.size() == 2);
  CHECK(copy.destination.text == "/d/");
  CHECK(first_error("FROM a\nCOPY x <<E\nE\n") == "COPY cannot accept a heredoc as a destination");
}

TEST_CASE("an ONBUILD trigger is stored as it stands") {
  const auto trigger = [](const std::string& text) {
    const auto parsed = parse_dockerfile("D", "FROM a\n" + text);
    REQUIRE_FALSE(has_errors(parsed.diagnostics));
    return std::get<Onbuild>(parsed.dockerfile.stages[0].instructions.at(0).body).trigger;
  };
  CHECK(trigger("onbuild  run a \\\n  b  \n") == "run a   b  ");
  CHECK(trigger("ONBUILD COPY <<A <<-B /x/\n1\nA\n\t2\n\tB\n") == "COPY <<A <<-B /x/\n1\nA\n\t2\nB");
  for (const char* bad : {"ONBUILD", "ONBUILD FROM a", "ONBUILD MAINTAINER a", "ONBUILD ONBUILD RUN a"}) {
    CAPTURE(bad);
    CHECK_FALSE(first_error(std::string("FROM a\n") + bad).empty());
  }
}

TEST_CASE("JSON arrays are read as Go reads them") {
  using internal::JsonArray;
  using internal::parse_json_array;
  const std::pair<const char*, std::vector<std::string>> strings[] = {
      {"[]", {}},
      {" [ \"a\" ,\t\"b\" ] ", {"a", "b"}},
      {R"(["\"\\\/\b\f\n\r\t\u00e9"])", {"\"\\/\b\f\n\r\t\xC3\xA9"}},
      {R"(["\ud83d\ude00"])", {"\xF0\x9F\x98\x80"}},
      {R"(["\ud83dx\ude00"])", {"\xEF\xBF\xBDx\xEF\xBF\xBD"}},  // lone surrogates
      {"[\"caf\xE9\"]", {"caf\xEF\xBF\xBD"}},                  // Latin-1: still the exec form
      {"[\"\x7F\"]", {"\x7F"}},
  };
  for (const auto& [text, expected] : strings) {
    CAPTURE(text);
    const JsonArray array = parse_json_array(text);
    CHECK(array.kind == JsonArray::kStrings);
    CHECK(array.strings == expected);
  }
  for (const char* mixed : {"[1]", "[\"a\", null]", "[true,false]", "[{\"a\":[1,{}],\"b\":-0.5e+3}]", "[[]]", "[[[\"a\"]], 0]"}) {
    CAPTURE(mixed);
    CHECK(parse_json_array(mixed).kind == JsonArray::kMixed);
  }
  for (const char* none : {"", "[", "[\"a\"", "[\"a\",]", "[,\"a\"]", "['a']", "[a]", "[\"a\" \"b\"]", "[\"a\"] x", "[\"a\tb\"]", "[\"\\x\"]", "[\"\\u12\"]", "[01]", "[1.]",
                           "[-]", "[1e999]", "[\"a\",\v\"b\"]", "[{\"a\"}]", "[{a:1}]", "[}", "[[}]", "\"a\"", "{}", "[tru]", "[\xC2\xA0]"}) {
    CAPTURE(none);
    CHECK(parse_json_array(none).kind == JsonArray::kNone);
  }
}

TEST_CASE("JSON form or shell form") {
  const std::pair<const char*, const char*> rows[] = {
      {"CMD [\"a\", \"b\"]", "(cmd \"a\" \"b\")"},
      {"CMD  [\"a\"] ", "(cmd \"a\")"},
      {"CMD ['a']", "(cmd \"['a']\")"},
      {"CMD [\"a\"] b", "(cmd \"[\\\"a\\\"] b\")"},
      {"CMD x [\"a\"]", "(cmd \"x [\\\"a\\\"]\")"},
      {"CMD [\"a\", 1]", "error: when using JSON array syntax, arrays must be comprised of strings only"},
      {"CMD []", "(cmd)"},
      {"COPY [\"a b\", \"c\"]", "(copy \"a b\" \"c\")"},
      {"COPY [\"a b\" c", "(copy \"[\\\"a\" \"b\\\"\" \"c\")"},
      {"HEALTHCHECK CMD [\"a\"]", "(healthcheck \"CMD\" \"a\")"},
      {"HEALTHCHECK CMD a b", "(healthcheck \"CMD\" \"a b\")"},
      {"EXPOSE [\"1\"]", "(expose \"[\\\"1\\\"]\")"},
  };
  for (const auto& [line, expected] : rows) {
    CAPTURE(line);
    CHECK(outcome(line) == expected);
  }
  CHECK_FALSE(first_error("FROM a\nSHELL []\n").empty());
  CHECK_FALSE(first_error("FROM a\nSHELL /bin/sh -c\n").empty());
  CHECK_FALSE(first_error("FROM a\nCOPY [\"a\"]\n").empty());
  CHECK(first_error("FROM a\nVOLUME [\" /a \", \"/b\"]\n").empty());
  CHECK_FALSE(first_error("FROM a\nVOLUME [\" \"]\n").empty());
}

TEST_CASE("names and values") {
  const std::pair<const char*, const char*> rows[] = {
      {"ENV a=b c=d", "(env \"a\" \"b\" \"=\" \"c\" \"d\" \"=\")"},
      {"ENV a b=c d", "(env \"a\" \"b=c d\" \"\")"},
      {"ENV a\tb", "(env \"a\" \"b\" \"\")"},
      {"ENV a=\"b c\" d='e \\' f=g", "(env \"a\" \"\\\"b c\\\"\" \"=\" \"d\" \"'e \\\\'\" \"=\" \"f\" \"g\" \"=\")"},
      {"ENV a=b\\ c", "(env \"a\" \"b\\\\ c\" \"=\")"},
      {"ENV a=\"b", "(env \"a\" \"\\\"b\" \"=\")"},
      {"ENV a= b=", "(env \"a\" \"\" \"=\" \"b\" \"\" \"=\")"},
      {"ENV a=b=c", "(env \"a\" \"b=c\" \"=\")"},
      {"ENV a=b\xC2\xA0" "c=d", "(env \"a\" \"b\" \"=\" \"c\" \"d\" \"=\")"},  // a no-break space parts words here
      {"LABEL a=caf\xE9", "(label \"a\" \"caf\xEF\xBF\xBD\" \"=\")"},
      {"ENV a", "error: ENV must have two arguments"},
      {"ENV a=b c", "error: Syntax error - can't find = in \"c\". Must be of the form: name=value"},
      {"LABEL", "(label)"},
      {"ARG a b=c d=\"e f\"", "(arg \"a\" \"b=c\" \"d=\\\"e f\\\"\")"},
      {"MAINTAINER a  b ", "(maintainer \"a  b\")"},
      {"EXPOSE 1 \t 2", "(expose \"1\" \"2\")"},
  };
  for (const auto& [line, expected] : rows) {
    CAPTURE(line);
    CHECK(outcome(line) == expected);
  }
  for (const char* bad : {"ENV =b", "LABEL", "ARG =x", "ARG", "USER", "WORKDIR", "EXPOSE", "VOLUME"}) {
    CAPTURE(bad);
    CHECK_FALSE(first_error(std::string("FROM a\n") + bad + "\n").empty());
  }
}

TEST_CASE("stage names") {
  for (const char* good : {"FROM a", "FROM a AS b", "FROM a as B-1_x.y", "FROM $x AS b", "FROM --platform=$P a AS b"}) {
    CAPTURE(good);
    CHECK(first_error(std::string(good) + "\n").empty());
  }
  for (const char* bad : {"FROM", "FROM a AS", "FROM a b", "FROM a IS b", "FROM a AS 1b", "FROM a AS -b", "FROM a AS b/c", "FROM a AS b c", "FROM a AS $x", "FROM a AS \xC3\xA9"}) {
    CAPTURE(bad);
    CHECK_FALSE(first_error(std::string(bad) + "\n").empty());
  }
}

TEST_CASE("durations are Go's") {
  using std::chrono::nanoseconds;
  const std::pair<const char*, int64_t> good[] = {{"0", 0},         {"+0", 0},           {"5s", 5000000000},         {"1.13s", 1130000000},       {"1h1m1s1ms1us1ns", 3661001001001},
                                                  {".5s", 500000000}, {"1.s", 1000000000}, {"-1.5h", -5400000000000}, {"1\xC2\xB5s", 1000},        {"2540400h10m10.000000000s", 9145440610000000000},
                                                  {"9223372036854775807ns", INT64_MAX}, {"0.3333333333333333333h", 1200000000000}};
  for (const auto& [text, value] : good) {
    CAPTURE(text);
    REQUIRE(internal::parse_duration(text));
    CHECK(internal::parse_duration(text)->count() == value);
  }
  for (const char* bad : {"", "3", "-", "s", ".", "-.s", ".s", "+.s", "1d", "3000000h", "9223372036854775808ns", "9223372036854775807us", " 1s", "1s "}) {
    CAPTURE(bad);
    CHECK_FALSE(internal::parse_duration(bad));
  }
}

TEST_CASE("health checks") {
  for (const char* good : {"HEALTHCHECK NONE", "HEALTHCHECK --interval=1s NONE", "HEALTHCHECK --timeout= --retries= CMD a", "HEALTHCHECK --retries=+2 CMD a", "HEALTHCHECK cmd a"}) {
    CAPTURE(good);
    CHECK(first_error(std::string("FROM a\n") + good + "\n").empty());
  }
  for (const char* bad : {"HEALTHCHECK", "HEALTHCHECK NONE x", "HEALTHCHECK CMD", "HEALTHCHECK CMD []", "HEALTHCHECK TEST x", "HEALTHCHECK --retries=-1 CMD a",
                          "HEALTHCHECK --retries=1.5 CMD a", "HEALTHCHECK --interval=1us CMD a", "HEALTHCHECK --interval=-1s CMD a", "HEALTHCHECK --every=1s CMD a"}) {
    CAPTURE(bad);
    CHECK_FALSE(first_error(std::string("FROM a\n") + bad + "\n").empty());
  }
}
