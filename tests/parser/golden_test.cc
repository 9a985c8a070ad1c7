// testdata/parser/*.Dockerfile: NAME.txt beside it holds the parsed instructions, or the diagnostics as a user sees
// them. LAMINA_UPDATE_GOLDENS=1 writes them anew; look at the difference before you commit it.
#include <doctest/doctest.h>
#include <fcntl.h>

#include <cstdlib>

#include "base/files.h"
#include "parser/instructions.h"

using namespace lamina;

TEST_CASE("goldens") {
  const std::string directory = LAMINA_TESTDATA "/parser";
  const auto fd = open_directory(AT_FDCWD, directory);
  REQUIRE(fd);
  const auto names = list_directory(fd->get());
  REQUIRE(names);
  int seen = 0;
  for (const std::string& name : *names) {
    const size_t dot = name.rfind(".Dockerfile");
    if (dot == std::string::npos) continue;
    ++seen;
    CAPTURE(name);
    const std::string text = *read_file(fd->get(), name);
    const auto parsed = parser::parse_dockerfile("Dockerfile", text);
    std::string actual;
    for (const Diagnostic& d : parsed.diagnostics) actual += d.render() + "\n";
    if (!parser::has_errors(parsed.diagnostics)) actual += dump(parser::parse_tree("Dockerfile", text).tree);
    const std::string golden = name.substr(0, dot) + ".txt";
    if (std::getenv("LAMINA_UPDATE_GOLDENS") != nullptr) REQUIRE(write_file_atomically(fd->get(), golden, actual, Durability::kNone));
    const auto expected = read_file(fd->get(), golden);
    REQUIRE(expected);
    CHECK(actual == *expected);
  }
  CHECK(seen >= 8);
}
