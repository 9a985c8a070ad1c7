#include "builder/key.h"

#include <doctest/doctest.h>

#include "base/files.h"

using namespace lamina;
using namespace lamina::builder;

namespace {

KeyInputs inputs(std::initializer_list<std::pair<const char*, const char*>> list) {
  KeyInputs out;
  for (const auto& [name, value] : list) out.add(name, value);
  return out;
}

}  // namespace

TEST_CASE("every name, value and boundary enters the key") {
  const std::string key = inputs({{"a", "1"}, {"b", "2"}}).key();
  CHECK(key.size() == 64);
  CHECK(key == inputs({{"a", "1"}, {"b", "2"}}).key());
  CHECK(key != inputs({{"b", "2"}, {"a", "1"}}).key());
  CHECK(key != inputs({{"a", "1"}}).key());
  CHECK(key != inputs({{"a", "1b"}, {"", "2"}}).key());
  CHECK(inputs({{"a", "bc"}}).key() != inputs({{"ab", "c"}}).key());
  CHECK(inputs({{"a", "1\nb 2"}}).key() != inputs({{"a", "1"}, {"b", "2"}}).key());
}

TEST_CASE("inputs survive being written") {
  const KeyInputs before = inputs({{"name with blank", "value\nwith line"}, {"empty", ""}, {"b\\n", "\\"}});
  CHECK(KeyInputs::deserialise(before.serialise()).all() == before.all());
}

TEST_CASE("differences are named") {
  const KeyInputs old = inputs({{"instruction", "COPY"}, {"context:/src/a.c", "1"}, {"context:/src/b.c", "1"}});
  CHECK(inputs({{"instruction", "COPY"}, {"context:/src/a.c", "2"}, {"context:/src/b.c", "1"}}).difference_to(old).find("src/a.c") != std::string::npos);
  CHECK(inputs({{"instruction", "COPY"}, {"context:/src/a.c", "1"}}).difference_to(old).find("src/b.c") != std::string::npos);
}

TEST_CASE("records are found by key, and void when their layer is gone") {
  const auto dir = TempDir::create("/tmp", "key-test");
  const auto store = layers::Store::open(dir->path());
  REQUIRE(store);
  RecordBook book(**store);
  const KeyInputs one = inputs({{"a", "1"}});
  CHECK_FALSE(book.find(one.key()));
  REQUIRE(book.put(one, StepRecord{{}, "2024-01-01T00:00:00Z", one.key()}, "step"));
  REQUIRE(book.find(one.key()));
  CHECK(book.find(one.key())->created == "2024-01-01T00:00:00Z");
  CHECK(book.explain_miss(inputs({{"a", "2"}}), "step").find("a") != std::string::npos);
  const KeyInputs gone = inputs({{"a", "3"}});
  REQUIRE(book.put(gone, StepRecord{layers::LayerId{"b.0123456789abcdef"}, "2024-01-01T00:00:00Z", gone.key()}, "step"));
  CHECK_FALSE(book.find(gone.key()));
}
