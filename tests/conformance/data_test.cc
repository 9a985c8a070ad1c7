// The tables of ../shared/cases/data (its README has the formats), recorded from BuildKit's own tests.
#include <doctest/doctest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "conformance/shared_cases.h"
#include "parser/expand.h"
#include "parser/instructions.h"
#include "parser/patterns.h"
#include "parser/tree.h"

using namespace lamina;
using namespace lamina::conformance;

namespace {

std::vector<std::string> names_in(const std::string& path) {
  const auto fd = open_directory(AT_FDCWD, shared_cases() + "/" + path);
  REQUIRE(fd);
  auto names = list_directory(fd->get());
  REQUIRE(names);
  return std::move(*names);
}

using Variables = std::map<std::string, std::string, std::less<>>;

parser::Lookup lookup_in(const Variables& variables) {
  return [&variables](std::string_view name) {
    const auto it = variables.find(name);
    return it == variables.end() ? std::nullopt : std::optional(it->second);
  };
}

std::string dumped(const std::string& text) {
  const auto parsed = parser::parse_tree("Dockerfile", text);
  CHECK_FALSE(parser::has_errors(parsed.diagnostics));
  return std::string(trim(dump(parsed.tree)));
}

}  // namespace

TEST_CASE("parser dumps" * doctest::skip(!available("data/parser"))) {
  const auto names = names_in("data/parser");
  for (const std::string& name : names) {
    CAPTURE(name);
    CHECK(dumped(content("data/parser/" + name + "/Dockerfile")) == trim(content("data/parser/" + name + "/result")));
  }
  CHECK(names.size() == 20);
}

TEST_CASE("refused files" * doctest::skip(!available("data/parser-refused"))) {
  const auto names = names_in("data/parser-refused");
  for (const std::string& name : names) {
    CAPTURE(name);
    const auto parsed = parser::parse_tree("Dockerfile", content("data/parser-refused/" + name + "/Dockerfile"));
    CHECK(parser::has_errors(parsed.diagnostics));
  }
  CHECK(names.size() == 3);
}

TEST_CASE("expansion of one word" * doctest::skip(!available("data/shell/envVarTest"))) {
  const Variables variables = {{"PWD", "/home"}, {"SHELL", "bash"}, {"KOREAN", "한국어"}, {"NULL", ""}};
  int rows = 0;
  for (const std::string& line : split(content("data/shell/envVarTest"), '\n')) {
    const std::vector<std::string> fields = split(line, '|');
    if (fields.size() != 3 || line[0] == '#') continue;
    ++rows;
    if (trim(fields[0]) == "W") continue;  // Windows only
    CAPTURE(line);
    const auto expanded = parser::expand_word(trim(fields[1]), lookup_in(variables));
    const std::string_view expected = trim(fields[2]);
    CHECK(expanded.has_value() == (expected != "error"));
    if (expanded) CHECK(expanded->text == expected);
  }
  CHECK(rows == 152);
}

TEST_CASE("expansion into words" * doctest::skip(!available("data/shell/wordsTest"))) {
  Variables variables;
  int rows = 0;
  for (const std::string& line : split(content("data/shell/wordsTest"), '\n')) {
    CAPTURE(line);
    if (line.starts_with("ENV ")) {
      const size_t eq = line.find('=');
      variables[line.substr(4, eq - 4)] = line.substr(eq + 1);
      continue;
    }
    const size_t bar = line.find('|');
    if (bar == std::string::npos || line[0] == '#') continue;
    ++rows;
    const auto words = parser::expand_words(trim(line.substr(0, bar)), lookup_in(variables));
    std::string expected = line.substr(bar + 1);
    expected.erase(0, expected.find_first_not_of(' '));
    CHECK(words.has_value() == (expected != "error"));
    if (words) CHECK(join(words->words, ",") == expected);
  }
  CHECK(rows == 12);
}

TEST_CASE("ignore patterns" * doctest::skip(!available("data/ignore"))) {
  for (const char* file : {"matches.json", "single.json"}) {
    const auto rows = nlohmann::json::parse(content(std::string("data/ignore/") + file));
    for (const auto& row : rows) {
      CAPTURE(row.dump());
      const auto patterns = row.contains("pattern") ? std::vector<std::string>{row["pattern"]} : row["patterns"].get<std::vector<std::string>>();
      const auto list = parser::IgnoreList::from_patterns(patterns);
      CHECK(list.has_value() == !row.value("error", false));
      if (list) CHECK(list->ignored(clean_path(row["path"].get<std::string>())) == row["match"].get<bool>());
    }
    CHECK(rows.size() == (std::string(file) == "matches.json" ? 49 : 23));
  }
}
