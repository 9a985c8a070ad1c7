// The corpus of real Dockerfiles in ../shared/cases/corpus: BuildKit's verdict and tree for each of them.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "base/child_process.h"
#include "base/text.h"
#include "conformance/shared_cases.h"
#include "parser/instructions.h"
#include "parser/tree.h"
#include "tests/parser/print_property.h"

using namespace lamina;
using namespace lamina::conformance;

namespace {

constexpr const char* kArchive = "corpus/dockerfiles.tar.zst";

struct File {
  std::string name, text, dump;
  bool accepted = false;
};

// The archive unpacked and read; empty when the material is missing.
const std::vector<File>& corpus() {
  static const std::vector<File> files = [] {
    std::vector<File> out;
    auto directory = TempDir::create("/tmp", "corpus");
    REQUIRE(directory);
    SpawnOptions untar;
    untar.argv = {"tar", "--zstd", "-C", directory->path(), "-xf", shared_cases() + "/" + kArchive};
    const auto tar = run_and_capture(untar);
    REQUIRE_MESSAGE(tar.has_value(), tar.error().render());
    for (const std::string& line : split(content(directory->path() + "/manifest.tsv"), '\n')) {
      const std::vector<std::string> fields = split(line, '\t');
      if (fields.size() < 2 || fields[0] == "name") continue;
      File file{fields[0], content(directory->path() + "/files/" + fields[0] + ".Dockerfile"), "", fields[1] == "accept"};
      if (file.accepted) file.dump = content(directory->path() + "/ast/" + fields[0] + ".ast");
      out.push_back(std::move(file));
    }
    return out;
  }();
  return files;
}

std::vector<std::string> stripped_lines(const std::string& text) {
  std::vector<std::string> out;
  for (const std::string& line : split(trim(text), '\n')) out.emplace_back(trim(line));
  return out;
}

}  // namespace

TEST_CASE("corpus: verdicts and trees" * doctest::skip(!available(kArchive))) {
  REQUIRE(corpus().size() == 1804);
  for (const File& file : corpus()) {
    CAPTURE(file.name);
    const auto parsed = parser::parse_tree("Dockerfile", file.text);
    CHECK(!parser::has_errors(parsed.diagnostics) == file.accepted);
    if (file.accepted) CHECK(stripped_lines(dump(parsed.tree)) == stripped_lines(file.dump));
  }
}

TEST_CASE("corpus: time of the whole" * doctest::skip(!available(kArchive))) {
  size_t bytes = 0, instructions = 0;
  REQUIRE_FALSE(corpus().empty());
  const auto start = std::chrono::steady_clock::now();
  for (const File& file : corpus()) {
    const auto parsed = parser::parse_dockerfile("Dockerfile", file.text);
    for (const auto& stage : parsed.dockerfile.stages) instructions += 1 + stage.instructions.size();
    bytes += file.text.size();
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  MESSAGE(fmt::format("{} Dockerfiles, {} bytes, {} instructions parsed, typed and checked in {:.0f} ms (the bound is 2000)", corpus().size(), bytes, instructions, took.count()));
}

TEST_CASE("corpus: printed trees parse to themselves" * doctest::skip(!available(kArchive))) {
  size_t checked = 0;
  for (const File& file : corpus()) {
    CAPTURE(file.name);
    checked += parser::check_print_property(file.text) ? 1 : 0;
  }
  CHECK(checked == 1803);
}

TEST_CASE("corpus: printed trees of damaged files parse to themselves" * doctest::skip(!available(kArchive))) {
  const char* given = std::getenv("LAMINA_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  MESSAGE(fmt::format("LAMINA_TEST_SEED={}", seed));
  std::mt19937_64 random(seed);
  size_t checked = 0;
  for (const File& file : corpus()) {
    const std::string text = parser::mutate(file.text, corpus()[random() % corpus().size()].text, random);
    CAPTURE(file.name);
    CAPTURE(seed);
    checked += parser::check_print_property(text) ? 1 : 0;
    static_cast<void>(parser::parse_dockerfile("Dockerfile", text));
  }
  MESSAGE(fmt::format("{} damaged files were accepted", checked));
  CHECK(checked > corpus().size() / 4);
}
