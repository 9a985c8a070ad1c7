// dockerfile-language reference 1.1: lines, comments, continuation, directives, flags.
#include <doctest/doctest.h>

#include "base/text.h"
#include "parser/instructions.h"
#include "parser/tree.h"
#include "tests/parser/outcome.h"

using namespace lamina;
using namespace lamina::parser;

namespace {

struct Row {
  const char* what;
  std::string text, outcome;
};

}  // namespace

TEST_CASE("lines become instructions") {
  const Row rows[] = {
      {"byte-order mark", "\xEF\xBB\xBF" "FROM a", "(from \"a\")"},
      {"a mark is one only once", "\xEF\xBB\xBF\xEF\xBB\xBF" "FROM a", "(\xEF\xBB\xBF" "from \"\")"},
      {"#! is a comment", "#!/usr/bin/build\nFROM a", "(from \"a\")"},
      {"leading white space, a no-break space too", " \t\xC2\xA0" "FROM a", "(from \"a\")"},
      {"a no-break space does not end the keyword", "FROM\xC2\xA0" "a", "(from\xC2\xA0" "a \"\")"},
      {"an indented comment", "FROM a\n  # x\nRUN b", "(from \"a\")\n(run \"b\")"},
      {"# later in the line is text", "RUN a # b", "(run \"a # b\")"},
      {"CR LF", "FROM a\r\nRUN b \\\r\n c\r\n", "(from \"a\")\n(run \"b  c\")"},
      {"no newline at the end", "FROM a\nRUN b", "(from \"a\")\n(run \"b\")"},
      {"case of the instruction", "fRoM a", "(from \"a\")"},
      {"empty", "", "error: the Dockerfile cannot be empty"},
      {"blank", "\n \n", "error: file with no instructions"},
      {"comments only", "# a\n#b", "error: file with no instructions"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CHECK(outcome(row.text) == row.outcome);
  }
}

// ([^\\])\\[ \t]*$|^\\[ \t]*$
TEST_CASE("the continuation mark, bit for bit") {
  const Row rows[] = {
      {"plain", "RUN a\\\nb", "(run \"ab\")"},
      {"blanks behind it", "RUN a \\ \t\nb", "(run \"a b\")"},
      {"a vertical tab behind it is none", "RUN a \\\v\nRUN b", "(run \"a \\\\\")\n(run \"b\")"},
      {"two marks are none", "RUN a\\\\\nRUN b", "(run \"a\\\\\\\\\")\n(run \"b\")"},
      {"three marks are none: a known defect that files rely on", "RUN a\\\\\\\nRUN b", "(run \"a\\\\\\\\\\\\\")\n(run \"b\")"},
      {"a blank between marks", "RUN a\\ \\\nb", "(run \"a\\\\ b\")"},
      {"alone on its line", "RUN a \\\n\\\nb", "(run \"a b\")"},
      {"alone, with blanks before it", "RUN a\\\n  \\\nb", "(run \"a  b\")"},
      {"alone on the first line", "\\\nRUN a", "(run \"a\")"},
      {"white space of the next line is kept", "RUN a\\\n   b", "(run \"a   b\")"},
      {"comments inside are dropped", "RUN a \\\n # c \\\nb", "(run \"a b\")"},
      {"empty lines inside are dropped", "RUN a \\\n\n \t\nb", "(run \"a b\")"},
      {"a continued word", "RU\\\nN a", "(run \"a\")"},
      {"at the end of the file", "RUN a \\", "(run \"a\")"},
      {"nothing behind it", "FROM a\n\\\n", "(from \"a\")\n(\"\")"},
      {"backtick", "# escape=`\nRUN a`\nb\\\nRUN c``\nRUN d", "(run \"ab\\\\\")\n(run \"c``\")\n(run \"d\")"},
      {"the next line may look like a comment only at its start", "RUN a \\\nb # c", "(run \"a b # c\")"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CHECK(outcome(row.text) == row.outcome);
  }
  CHECK(first_error("FROM a\n\\\n") == "there is no instruction behind the continuation mark");
}

TEST_CASE("an empty line inside a continuation is a warning") {
  const auto parsed = parse_tree("D", "FROM a\nRUN b \\\n\n c\n");
  REQUIRE(parsed.diagnostics.size() == 1);
  CHECK(parsed.diagnostics[0].severity == Severity::kWarning);
  CHECK(parsed.diagnostics[0].rule == "NoEmptyContinuation");
}

TEST_CASE("physical lines are limited, the newline not counted") {
  const auto run = [](size_t length) { return "RUN " + std::string(length - 4, 'x'); };
  const std::string refused = "error: dockerfile line greater than max allowed size of 65535";
  CHECK(outcome(run(65535) + "\n").starts_with("(run"));
  CHECK(outcome(run(65535)).starts_with("(run"));
  CHECK(outcome(run(65536) + "\n") == refused);
  CHECK(outcome(run(65536)) == refused);
  CHECK(outcome(run(65535) + "\r\n") == refused);  // the carriage return is counted
  CHECK(outcome("RUN a \\\n" + std::string(65536, 'x')) == refused);
  CHECK(outcome("# " + std::string(65536, 'x') + "\nFROM a") == refused);
  CHECK(outcome("RUN <<E\n" + std::string(65536, 'x') + "\nE\n") == refused);
  CHECK(outcome(run(60000) + "\\\n" + std::string(60000, 'y')).starts_with("(run"));
}

TEST_CASE("directives end at the first line that is none") {
  struct Case {
    const char *what, *text;
    char escape;
    const char *syntax, *check;  // nullptr: none
  };
  const Case cases[] = {
      {"all, any case and blanks", "#Escape = `\n# SYNTAX= a/b:1 \n#check=skip=all\nFROM a", '`', "a/b:1", "skip=all"},
      {"behind a comment", "# x\n# escape=`\nFROM a", '\\', nullptr, nullptr},
      {"behind an unknown one", "# foo=bar\n# escape=`\nFROM a", '\\', nullptr, nullptr},
      {"behind an empty line", "\n# escape=`\nFROM a", '\\', nullptr, nullptr},
      {"behind an instruction", "FROM a\n# escape=`\nRUN b", '\\', nullptr, nullptr},
      {"a syntax with options", "# syntax=a/b opt\nFROM a", '\\', "a/b", nullptr},
      {"indented: known to the parser, not to the detection of the frontend", " # escape=`\n # syntax=x\nFROM a", '`', nullptr, nullptr},
      {"behind #!: known to the detection, not to the parser", "#!/x\n# syntax=a/b\n# escape=`\n# check=error=true\nFROM a", '\\', "a/b", "error=true"},
      {"//", "// syntax=a/b\nFROM a", '\\', "a/b", nullptr},
      {"// has no escape", "// escape=`\nFROM a", '\\', nullptr, nullptr},
      {"JSON", "{\"a\": [1],\n \"syntax\": \"a/b\"}", '\\', "a/b", nullptr},
      {"JSON that is none", "{\"syntax\": \"a/b\"", '\\', nullptr, nullptr},
      {"no value", "# escape=\nFROM a", '\\', nullptr, nullptr},
      {"no key", "# =x\nFROM a", '\\', nullptr, nullptr},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    const Directives d = parse_tree("D", c.text).tree.directives;
    CHECK(d.escape == c.escape);
    CHECK((d.syntax ? d.syntax->text : "-") == std::string(c.syntax ? c.syntax : "-"));
    CHECK((d.check ? d.check->text : "-") == std::string(c.check ? c.check : "-"));
  }
  CHECK(outcome("# escape=x\nFROM a") == "error: invalid escape token \"x\": it is \\ or `");
  CHECK(outcome("# escape=``\nFROM a") == "error: invalid escape token \"``\": it is \\ or `");
  CHECK(outcome("# escape=`\n# ESCAPE=`\nFROM a") == "error: only one escape parser directive can be used");
  CHECK(outcome("# syntax=a\n# syntax=b\nFROM a") == "error: only one syntax parser directive can be used");
}

TEST_CASE("only the built-in frontend is accepted") {
  for (const char* good : {"docker/dockerfile:1", "docker/dockerfile", "docker/dockerfile-upstream:master", "docker.io/docker/dockerfile:1.27", "dockerfile.v0"}) {
    CAPTURE(good);
    CHECK(first_error(std::string("# syntax=") + good + "\nFROM a\n").empty());
  }
  for (const char* text : {"# syntax=some/frontend\nFROM a\n", "// syntax=some/frontend\n", "{\"syntax\": \"some/frontend\"}\n"}) {
    CAPTURE(text);
    CHECK(first_error(text) == "the frontend some/frontend cannot be used");
  }
}

TEST_CASE("comments belong to the instruction directly below") {
  const auto parsed = parse_tree("D", "# one\n# two \nFROM a\n# lost\n\n# three\nRUN b\n# lost\n#\n  # four\nRUN c\n");
  REQUIRE(parsed.tree.nodes.size() == 3);
  CHECK(parsed.tree.nodes[0].comments == std::vector<std::string>{"one", "two"});
  CHECK(parsed.tree.nodes[1].comments == std::vector<std::string>{"three"});
  CHECK(parsed.tree.nodes[2].comments == std::vector<std::string>{"four"});
}

TEST_CASE("flags stand between the instruction and its first argument") {
  const Row rows[] = {
      {"several", "COPY --a=b  --c d e", "(copy [\"--a=b\" \"--c\"] \"d\" \"e\")"},
      {"behind an argument it is one", "COPY a --b=c", "(copy \"a\" \"--b=c\")"},
      {"one dash", "COPY -a b", "(copy \"-a\" \"b\")"},
      {"-- ends them", "RUN --a -- --b c", "(run [\"--a\"] \"--b c\")"},
      {"-- at the end", "RUN --a --", "(run [\"--a\"])"},
      {"-- in quotes is the same", "RUN --\"\" --b", "(run \"--b\")"},
      {"quotes", "RUN --a=\"b c\"'d \\' e'f x", "(run [\"--a=b cd ' ef\"] \"x\")"},
      {"an escape", "RUN --a=b\\ c\\\\ x", "(run [\"--a=b c\\\\\"] \"x\")"},
      {"an escape at the end", "RUN --a\\\v", "(run [\"--a\"])"},
      {"an open quote takes all", "RUN --a=\"b c", "(run [\"--a=b c\"])"},
      {"the file's escape", "# escape=`\nRUN --a=b` c --d=\\e x", "(run [\"--a=b c\" \"--d=\\\\e\"] \"x\")"},
      {"not only ASCII", "RUN --a=\xC3\xA0 x", "(run [\"--a=\xC3\xA0\"] \"x\")"},
      {"before JSON", "CMD --a [\"b\"]", "(cmd [\"--a\"] \"b\")"},
      {"under ONBUILD", "ONBUILD --x COPY --a=b c d", "(onbuild [\"--x\"] (copy [\"--a=b\"] \"c\" \"d\"))"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CHECK(outcome(row.text) == row.outcome);
  }
}

TEST_CASE("flags are checked") {
  const Row rows[] = {
      {"known", "COPY --link --parents=FALSE --exclude=a --exclude=b --from=c d e", ""},
      {"unknown", "COPY --form=a b c", "unknown flag --form for COPY"},
      {"twice", "COPY --from=a --from=b c d", "duplicate flag specified: --from"},
      {"a boolean twice", "COPY --link --link=false c d", "duplicate flag specified: --link"},
      {"an empty boolean", "COPY --link= c d", "expecting boolean value for flag --link, not: "},
      {"no boolean", "COPY --link=1 c d", "expecting boolean value for flag --link, not: 1"},
      {"a text without =", "COPY --from c d", "missing a value on flag: --from"},
      {"on an instruction that has none", "USER --x y", "unknown flag --x for USER"},
      {"case counts", "COPY --Link a b", "unknown flag --Link for COPY"},
      {"a stage's platform", "FROM --platform=x a", ""},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CHECK(first_error("FROM scratch\n" + row.text + "\n") == row.outcome);
  }
}

TEST_CASE("unknown instructions get a suggestion") {
  const auto message = [](const char* text) { return parse_dockerfile("D", text).diagnostics.at(0).render(); };
  CHECK(message("FROM a\nCOPPY a b\n").find("did you mean COPY?") != std::string::npos);
  const std::string special = message("FROM a\nRUN\xC2\xA0" "ls\n");
  CHECK(special.find("special space") != std::string::npos);
  CHECK(special.find("did you mean RUN?") != std::string::npos);
}

TEST_CASE("a file needs a stage") {
  CHECK(first_error("ARG a=1\n") == "dockerfile contains no stages to build");
  CHECK(first_error("RUN a\nFROM b\n") == "no build stage in current context: RUN stands before the first FROM");
  CHECK(first_error("ARG a\nFROM b\nRUN c\n").empty());
}
