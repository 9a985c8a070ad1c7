// parse(print(tree)) == tree over this repository's own samples and over damaged copies of them.
#include <fcntl.h>
#include <fmt/format.h>

#include <cstdlib>

#include "base/files.h"
#include "tests/parser/print_property.h"

using namespace lamina;

namespace {

std::vector<std::string> samples() {
  std::vector<std::string> out;
  for (const char* directory : {LAMINA_TESTDATA "/parser", LAMINA_TESTDATA "/fuzz/dockerfile"}) {
    const auto fd = open_directory(AT_FDCWD, directory);
    REQUIRE(fd);
    const auto names = list_directory(fd->get());
    REQUIRE(names);
    for (const std::string& name : *names) {
      auto text = read_file(fd->get(), name);
      REQUIRE(text);
      out.push_back(std::move(*text));
    }
  }
  return out;
}

}  // namespace

TEST_CASE("a printed tree parses to itself") {
  size_t checked = 0;
  for (const std::string& text : samples()) checked += parser::check_print_property(text) ? 1 : 0;
  CHECK(checked > 5);
}

TEST_CASE("a printed tree of a damaged file parses to itself") {
  const char* given = std::getenv("LAMINA_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  MESSAGE(fmt::format("LAMINA_TEST_SEED={}", seed));
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const std::vector<std::string> texts = samples();
  size_t checked = 0;
  for (int round = 0; round < 100; ++round) {
    for (const std::string& text : texts) checked += parser::check_print_property(parser::mutate(text, texts[random() % texts.size()], random)) ? 1 : 0;
  }
  CHECK(checked > 100);
}

TEST_CASE("texts whose print is not obvious") {
  const std::string texts[] = {
      "FROM a\nRUN x \\\v",                            // ends like a continued line once it is trimmed
      "FROM a\nRUN -- --x",                            // a text that begins like a flag
      "FROM a\nHEALTHCHECK -- --x [\"a\"]",            // also before JSON
      "FROM a\nONBUILD -- --x",                        // also where it is an instruction
      "FROM a\nENV a\\  b=c",                           // the escape takes in a blank, but not both
      "FROM --platform=\"b \\\r\\",                      // white space in a quote that is never closed
      "FROM a\nCOPY [\"a\tb\"] c",                     // no JSON: a tab inside a string
      "FROM a\nCOPY <<\vE /x",                         // no heredoc: a vertical tab is no white space there
      "FROM a\nCOPY --chown='${x' <<E /x\nb\nE\n",     // the flag may not disturb the search for heredocs
      "# escape=`\nFROM a\nCOPY --chown='`'' <<E /x\nb\nE\n",
      "#\n# escape=`\nFROM a\\\n AS b\n",              // a comment that looks like a directive
      "\xEF\xBB\xBF\xEF\xBB\xBF" "FROM a\n",           // only the first byte-order mark is one
      "FROM a\n\\\n",                                  // an instruction without anything
      "FROM a\nHEALTHCHECK CMD []\nVOLUME []\nCMD []\n",
      "FROM a\nRUN " + std::string(50000, 'x') + "\\\n#\n  " + std::string(50000, 'y') + "\\\n   #z" + "\n",
  };
  for (const std::string& text : texts) CHECK(parser::check_print_property(text));
}
