// Hostile sizes: what a quadratic step would turn into minutes ends in seconds, and no nesting uses up the stack. The bounds
// are far above what is measured (under a second), so that builds with sanitizers keep them.
#include <doctest/doctest.h>

#include <ctime>

#include "parser/expand.h"
#include "parser/instructions.h"
#include "parser/mount.h"
#include "parser/patterns.h"

using namespace lamina;
using namespace lamina::parser;

namespace {

// The processor's time, so that a busy machine is no finding.
class Clock {
 public:
  double seconds() const { return static_cast<double>(std::clock() - start_) / CLOCKS_PER_SEC; }

 private:
  std::clock_t start_ = std::clock();
};

constexpr double kBound = 30;

std::string repeat(const std::string& piece, size_t count) {
  std::string out;
  out.reserve(piece.size() * count);
  for (size_t i = 0; i < count; ++i) out += piece;
  return out;
}

std::optional<std::string> nothing(std::string_view) { return std::nullopt; }

}  // namespace

TEST_CASE("large Dockerfiles are parsed in linear time") {
  const std::pair<std::string, std::string> files[] = {
      {"a million empty lines", "FROM a\n" + std::string(1000000, '\n')},
      {"200,000 stages", repeat("FROM a AS b\n", 200000)},
      {"200,000 wrong instructions", "FROM a\n" + repeat("FOOO x\n", 200000)},
      {"200,000 warnings", "FROM a\n" + repeat("USER a #\n", 200000)},
      {"16 MiB of RUN", "FROM a\n" + repeat("RUN " + std::string(16379, 'x') + "\n", 1024)},
      {"one instruction of a million lines", "FROM a\nRUN x \\\n" + repeat("  y \\\n", 1000000) + "z\n"},
      {"the same with empty lines and comments", "FROM a\nRUN x \\\n" + repeat("\n# c\n", 200000) + "z\n"},
      {"100,000 flags", "FROM a\nCOPY \\\n" + repeat("--exclude=x \\\n", 100000) + "a b\n"},
      {"100,000 unknown flags", "FROM a\nCOPY \\\n" + repeat("--exclud=x \\\n", 100000) + "a b\n"},
      {"100,000 values", "FROM a\nENV \\\n" + repeat("k=v \\\n", 100000) + "a=b\n"},
      {"100,000 heredocs", "FROM a\nCOPY \\\n" + repeat("<<E \\\n", 100000) + "/x/\n" + repeat("E\n", 100000)},
      {"heredocs that never end", "FROM a\nCOPY \\\n" + repeat("<<E \\\n", 100000) + "/x/\n" + repeat("x\n", 100000)},
      {"a JSON array of 200,000", "FROM a\nRUN [\\\n" + repeat("\"a\",\\\n", 200000) + "\"b\"]\n"},
      {"brackets", "FROM a\n" + repeat("RUN " + std::string(60000, '[') + "\n", 100)},
      {"objects", "FROM a\nRUN [" + repeat("{\"a\":", 12000) + "\n"},
      {"ONBUILD ONBUILD …", "FROM a\n" + repeat("ONBUILD \\\n", 1000000) + "RUN x\n"},
      {"200,000 ports", "FROM a\nEXPOSE \\\n" + repeat("0-65535 \\\n", 200000) + "1\n"},
  };
  for (const auto& [what, text] : files) {
    CAPTURE(what);
    const Clock clock;
    const auto parsed = parse_dockerfile("D", text);
    CHECK(parsed.diagnostics.size() <= 4 * kMaxDiagnostics);
    const std::string printed = print(parse_tree("D", text).tree);
    CHECK(clock.seconds() < kBound);
  }
}

TEST_CASE("errors are not lost behind a thousand warnings") {
  const auto parsed = parse_dockerfile("D", "FROM a\n" + repeat("USER a #\n", 2000) + "FOO\n");
  CHECK(has_errors(parsed.diagnostics));
  CHECK(parsed.diagnostics.size() <= 2 * kMaxDiagnostics + 1);
}

TEST_CASE("expansion is limited in depth, size and time") {
  const Clock clock;
  CHECK_FALSE(expand_word(repeat("${a:-", 100000) + "x" + repeat("}", 100000), nothing));
  CHECK_FALSE(expand_word(repeat("\"${a:-", 100000), nothing));
  CHECK_FALSE(expand_word(repeat("${a#", 100000), nothing));
  CHECK_FALSE(expand_word(repeat("${a/", 100000), nothing));
  CHECK(expand_word(repeat("${a:-", 50) + "x" + repeat("}", 50), nothing)->text == "x");
  const std::string big(1 << 20, 'a');
  const Lookup value = [&](std::string_view) { return std::optional(big); };
  CHECK_FALSE(expand_word(repeat("$a", 20000), value));
  CHECK_FALSE(expand_word("\"" + repeat("$a", 20000) + "\"", value));
  CHECK_FALSE(expand_word("${a//a/" + std::string(1000, 'b') + "}", value));
  for (const char* pattern : {"${a#*a*a*a*a*a*b}", "${a##*a*a*a*a*a*b}", "${a%%b*a*a*a*a*a*}", "${a//*a*a*a*a*b/x}", "${a//?/bb}", "${a//aaaaaaaab/x}"}) {
    CAPTURE(pattern);
    CHECK(expand_word(pattern, value));
  }
  CHECK(expand_words(repeat("a ", 1000000), nothing)->words.size() == 1000000);
  CHECK_FALSE(expand_word("${a#" + repeat("?*", 1000000) + "}", value));  // too long for a pattern
  CHECK(clock.seconds() < kBound);
}

TEST_CASE("ignore files and patterns") {
  const Clock clock;
  const std::string name(4000, 'a');
  for (const std::string& pattern : {repeat("*a", 2000) + "b", repeat("**/a", 1000) + "b", repeat("?", 3999) + "*b", repeat("[a-z]*", 500) + "b", repeat("\\a*", 500) + "b"}) {
    CAPTURE(pattern.substr(0, 20));
    CHECK_FALSE(*match_glob(pattern, name));
    const auto list = IgnoreList::from_patterns({pattern});
    REQUIRE(list);
    CHECK_FALSE(list->ignored(name));
  }
  const auto many = IgnoreList::parse("f", repeat("some/dir/file\nother/**\n**/deep\n!kept\n", 50000));
  REQUIRE(many);
  for (int i = 0; i < 50; ++i) CHECK_FALSE(many->ignored("a/b/c"));
  const auto wild = IgnoreList::parse("f", repeat("src/*.o\n**/x?.[ch]\n", 5000));
  REQUIRE(wild);
  for (int i = 0; i < 50; ++i) CHECK(wild->ignored("src/main.o"));
  CHECK(IgnoreList::parse("f", std::string(1 << 20, 'a')));
  for (const std::string& pattern : {std::string(1 << 20, '*'), repeat("a*", 1 << 20), repeat("?*", 10000)}) {
    const auto list = IgnoreList::parse("f", pattern);
    REQUIRE_FALSE(list);
    CHECK(list.error().message().find("too long") != std::string::npos);
  }
  CHECK(clock.seconds() < kBound);
}

TEST_CASE("mounts and ports") {
  const Clock clock;
  CHECK_FALSE(parse_mount(repeat("a,", 1000000), nothing));
  CHECK_FALSE(parse_mount(repeat("\"", 1000000), nothing));
  CHECK(parse_ports(std::vector<std::string>(200000, "0-65535/udp"))->ports.size() == 65536);
  CHECK(clock.seconds() < kBound);
}
