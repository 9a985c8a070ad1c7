#include "builder/tree_walk.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <algorithm>
#include <random>

#include "base/files.h"
#include "builder/context.h"
#include "builder/internal/paths.h"

using namespace lamina;
using namespace lamina::builder;

namespace {

std::vector<std::string> walked(const SourceTree& tree, const std::vector<std::string>& excludes, ThreadPool* pool) {
  const auto patterns = *parser::IgnoreList::from_patterns(excludes);
  std::vector<std::string> paths;
  TreeWalk walk(tree, patterns, "", pool, [&](const std::string& relative, TreeEntry& file) -> Result<void> {
    CHECK(file.name == relative.substr(relative.rfind('/') + 1));
    paths.push_back(relative);
    return {};
  });
  REQUIRE(walk.run("", patterns.walk_root()));
  return paths;
}

struct Made {
  TempDir dir = *TempDir::create("/tmp", "tree-walk");
  std::vector<std::string> paths;

  void directory(const std::string& path) {
    REQUIRE(make_directories(AT_FDCWD, dir.path() + "/" + path));
    paths.push_back(path);
  }
  void file(const std::string& path) {
    REQUIRE(open_at(AT_FDCWD, dir.path() + "/" + path, O_CREAT | O_WRONLY, 0600));
    paths.push_back(path);
  }
};

}  // namespace

TEST_CASE("a walk gives every file in the order of a layer, with and without threads") {
  Made made;
  // Several batches of members, with directories among them, and more directories than are looked at ahead.
  for (int i = 0; i < 1700; ++i) made.file("f" + std::to_string(i));
  for (int i = 0; i < 150; ++i) {
    const std::string name = (i % 2 == 0 ? "d" : "f1.") + std::to_string(i);
    made.directory(name);
    for (int k = 0; k < i % 4; ++k) {
      made.directory(name + "/" + std::to_string(k));
      made.file(name + "/" + std::to_string(k) + "/x");
      made.file(name + "/" + std::to_string(k) + ".y");
    }
  }
  std::string deep = "deep";
  for (int i = 0; i < 300; ++i, deep += "/d") made.directory(deep);
  const auto tree = *open_context(made.dir.path(), "context", {}, nullptr);
  std::sort(made.paths.begin(), made.paths.end(), layers::path_less);
  ThreadPool pool(4);
  CHECK((walked(*tree, {}, nullptr) == made.paths));
  CHECK((walked(*tree, {}, &pool) == made.paths));

  const std::vector<std::string> excludes = {"**", "!d*/1/x", "!f17*"};
  std::vector<std::string> expected;
  for (const std::string& path : made.paths) {
    const bool shown = path.ends_with("/1/x") && path.starts_with("d");
    const bool leads = std::any_of(made.paths.begin(), made.paths.end(), [&](const std::string& p) { return p.starts_with(path + "/") && p.starts_with("d") && p.ends_with("/1/x"); });
    if (shown || leads || path.starts_with("f17")) expected.push_back(path);
  }
  CHECK((walked(*tree, excludes, nullptr) == expected));
  CHECK((walked(*tree, excludes, &pool) == expected));
}

TEST_CASE("a walk ends with what a visit says, whatever is looked at ahead") {
  Made made;
  for (int i = 0; i < 200; ++i) {
    made.directory("d" + std::to_string(i));
    made.file("d" + std::to_string(i) + "/x");
  }
  const auto tree = *open_context(made.dir.path(), "context", {}, nullptr);
  const auto nothing = *parser::IgnoreList::from_patterns({});
  ThreadPool pool(4);
  for (size_t last = 1; last < 150; last += 13) {
    size_t count = 0;
    TreeWalk walk(*tree, nothing, "", &pool, [&](const std::string&, TreeEntry&) -> Result<void> {
      if (++count == last) return Error(ErrorKind::kCancelled, "enough");
      return {};
    });
    const auto result = walk.run("", nothing.walk_root());
    REQUIRE_FALSE(result);
    CHECK(result.error().message() == "enough");
    CHECK(count == last);
  }
}
