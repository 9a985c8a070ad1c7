#include "parser/tree.h"

#include <doctest/doctest.h>

#include "parser/instructions.h"

using namespace lamina;
using namespace lamina::parser;

TEST_CASE("words know their places across continued lines") {
  const auto parsed = parse_tree("D", "FROM a\nCOPY one \\\n  # between\n  two /x/\n");
  REQUIRE(parsed.diagnostics.empty());
  const Node& copy = parsed.tree.nodes.at(1);
  REQUIRE(copy.args.size() == 3);
  CHECK(copy.args[0].range == SourceRange{2, 6, 2, 9});
  CHECK(copy.args[1].range == SourceRange{4, 3, 4, 6});
  CHECK(copy.range.end_line == 4);
}

TEST_CASE("printing and parsing again gives the same tree") {
  const std::string text =
      "# escape=`\nFROM --platform=linux/amd64 a AS b\nENV A=\"x y\" B='$z'\nRUN [\"a\", \"b\\\"c\"]\nRUN <<EOF cat\n$a\nEOF\nONBUILD COPY --from=b x y\nLABEL a=b `\n  c=d\n";
  const auto first = parse_tree("D", text);
  REQUIRE(first.diagnostics.empty());
  const std::string printed = print(first.tree);
  CAPTURE(printed);
  const auto second = parse_tree("D", printed);
  REQUIRE(second.diagnostics.empty());
  CHECK(dump(first.tree) == dump(second.tree));
}

TEST_CASE("nothing makes the parser crash or hang") {
  std::string everything;
  for (int c = 1; c < 256; ++c) everything += static_cast<char>(c);
  const std::string samples[] = {"", "\n", "\\", "FROM", "FROM a\nRUN \\", "FROM a\nRUN <<EOF\n", "\xef\xbb\xbf""FROM a\n", "FROM a\r\nRUN x\r\n", everything,
                                 "FROM a\nENV " + everything, std::string(1 << 20, 'x'), "FROM a\nRUN " + std::string(100000, '['), "FROM a\nCOPY [" + std::string(200, '[')};
  for (const std::string& sample : samples) CHECK_NOTHROW(parse_dockerfile("D", sample));
}

TEST_CASE("stages and global arguments") {
  const auto parsed = parse_dockerfile("D", "ARG V=1\nFROM a:$V AS One\nRUN x\nFROM one\nCMD y\n");
  REQUIRE_FALSE(has_errors(parsed.diagnostics));
  CHECK(parsed.dockerfile.global_args.size() == 1);
  REQUIRE(parsed.dockerfile.stages.size() == 2);
  CHECK(parsed.dockerfile.stages[0].name == "one");
}
