#include "builder/key.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include "base/files.h"

using namespace lamina;
using namespace lamina::builder;

namespace {

using List = std::vector<std::pair<std::string, std::string>>;

KeyInputs inputs(const List& list) {
  KeyInputs out;
  for (const auto& [name, value] : list) out.add(name, value);
  return out;
}

std::string key_of(const List& list) { return *inputs(list).key(); }

std::string text_of(const KeyInputs& inputs) {
  StringSink sink;
  REQUIRE(copy_stream(*inputs.text(), sink));
  return sink.text;
}

std::string difference(const List& before, const List& now) {
  StringSource before_text(text_of(inputs(before))), now_text(text_of(inputs(now)));
  return *difference_between(before_text, now_text);
}

}  // namespace

TEST_CASE("every name, value and boundary enters the key") {
  const std::string key = key_of({{"a", "1"}, {"b", "2"}});
  // Of the first format: records of older programs stay good.
  CHECK(key == "ea5d37340899eb1e3bcabcade3f016a4c3df981b057fe3c22efe53f33139cd80");
  CHECK(key_of({}) == "43b358e8c102abe3b4a7fb7243deb782e38bf01c91a3bdf63b9771a51c8c8626");
  CHECK(key != key_of({{"b", "2"}, {"a", "1"}}));
  CHECK(key != key_of({{"a", "1"}}));
  CHECK(key != key_of({{"a", "1b"}, {"", "2"}}));
  CHECK(key_of({{"a", "bc"}}) != key_of({{"ab", "c"}}));
  CHECK(key_of({{"a", "1\nb 2"}}) != key_of({{"a", "1"}, {"b", "2"}}));
}

TEST_CASE("many inputs have the key that they had as a list, in little memory") {
  int made = 0;
  KeyInputs many([&] {
    ++made;
    return open_at(AT_FDCWD, "/tmp", O_TMPFILE | O_RDWR, 0600);
  });
  for (int i = 0; i < 30000; ++i) many.add("context:/directory/" + std::to_string(i), std::string(70, 'v') + std::to_string(i));
  CHECK(made == 1);
  CHECK(*many.key() == "1d9ba46fefdb7ab694f00f94802b67719d47f37fed866b00ae45df3ef6de097d");
  const auto copy = many.fork();
  REQUIRE(copy);
  CHECK(*copy->key() == *many.key());
}

TEST_CASE("inputs survive being written") {
  const KeyInputs before = inputs({{"name with blank", "value\nwith line"}, {"empty", ""}, {"b\\n", "\\"}, {"tab\t", "\t"}});
  CHECK(text_of(*before.fork()) == text_of(before));
  CHECK(*before.fork()->key() == *before.key());
}

TEST_CASE("an input of any length is in a copy too, and what follows it") {
  const KeyInputs one = inputs({{"exclude", std::string(3 << 20, 'x')}, {"path", "1"}}), other = inputs({{"exclude", std::string(3 << 20, 'x')}, {"path", "2"}});
  CHECK(*one.fork()->key() == *one.key());
  CHECK(*one.fork()->key() != *other.fork()->key());
}

TEST_CASE("an input after the key, and a full disk, are errors of the key") {
  KeyInputs late = inputs({{"a", "1"}});
  REQUIRE(late.key());
  late.add("b", "2");
  CHECK_FALSE(late.key());
  KeyInputs full([]() -> Result<UniqueFd> { return Error(ErrorKind::kUnavailable, "the disk is full"); });
  for (int i = 0; i < 100000; ++i) full.add("name", std::string(20, 'v'));
  REQUIRE_FALSE(full.key());
  CHECK(full.key().error().message() == "the disk is full");
}

TEST_CASE("differences are named") {
  const List head = {{"instruction", "COPY"}, {"parent", "1"}};
  const auto with = [&](List more) {
    List all = head;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const List old = with({{"source", "src/"}, {"context:/src/a.c", "1"}, {"context:/src/b/x", "1"}, {"context:/src/b.c", "1"}});
  CHECK(difference(old, old) == "nothing differs, but its layer is no longer in the store");
  CHECK(difference(old, with({{"source", "src/"}, {"context:/src/a.c", "2"}, {"context:/src/b/x", "1"}, {"context:/src/b.c", "1"}})) == "src/a.c changed");
  CHECK(difference(old, with({{"source", "src/"}, {"context:/src/a.c", "1"}, {"context:/src/b.c", "1"}})) == "src/b/x is gone");
  CHECK(difference(old, with({{"source", "src/"}, {"context:/src/a.c", "1"}, {"context:/src/b/x", "1"}, {"context:/src/b/y", "1"}, {"context:/src/b.c", "1"}})) == "src/b/y is new");
  CHECK(difference(old, with({{"source", "src/"}})) == "src/a.c is gone; src/b/x is gone; src/b.c is gone");
  CHECK(difference(with({{"source", "src/"}}), old) == "src/a.c is new; src/b/x is new; src/b.c is new");
  CHECK(difference({{"parent", "1"}, {"env.A", "1"}}, {{"parent", "2"}, {"env.A", "2"}, {"env.B", "3"}}) == "variable A changed: \"1\" -> \"2\"; variable B is new; the step before it changed");
  List many = with({{"source", "src/"}});
  for (int i = 0; i < 50; ++i) many.emplace_back("context:/src/" + std::to_string(100 + i), "1");
  CHECK(difference(with({{"source", "src/"}}), many) == "src/100 is new; src/101 is new; src/102 is new; and 47 more");
  // Sections, and what stands behind the files out of their order.
  const List two = with({{"source", "a/ in x"}, {"context:/x/a/1", "1"}, {"context:/x/a/2", "1"}, {"context:/x", "1"}, {"source", "b"}, {"context:/b", "1"}, {"mount[1].type", "0"}});
  List other = two;
  other[5].second = "2";
  CHECK(difference(two, other) == "x changed");
  other = two;
  other.erase(other.begin() + 4);
  CHECK(difference(two, other) == "x/a/2 is gone");
  other = two;
  other[7].second = "2";
  other[8].second = "1";
  CHECK(difference(two, other) == "mount[1].type changed: \"0\" -> \"1\"; b changed");
  CHECK(difference(head, two) == "x is new; mount[1].type is new; source a/ in x is new; and 4 more");
}

TEST_CASE("any text of inputs can be compared") {
  for (const char* text : {"", "\n", "\t\n", "source\t", "source\t\nsource\t\n", "a:/b\t1\n", "no tab\nsource\tx\na:/b\t1\na:/b\t1\na:/a\t"}) {
    for (const char* other : {"", "source\tx\nc:/d\t1\n", "x\ty\n"}) {
      StringSource before{text}, now{other};
      CHECK(difference_between(before, now));
    }
  }
  StringSource endless(std::string(3 << 20, 'x')), now("a\t1\n");
  CHECK(*difference_between(endless, now) == "a is new");
}

TEST_CASE("records are found by key, and void when their layer is gone") {
  const auto dir = TempDir::create("/tmp", "key-test");
  const auto store = layers::Store::open(dir->path());
  REQUIRE(store);
  RecordBook book(**store);
  const KeyInputs one = inputs({{"a", "1"}});
  CHECK_FALSE(book.find(*one.key()));
  REQUIRE(book.put(one, StepRecord{{}, "2024-01-01T00:00:00Z", *one.key()}, "step"));
  REQUIRE(book.find(*one.key()));
  CHECK(book.find(*one.key())->created == "2024-01-01T00:00:00Z");
  CHECK(book.explain_miss(inputs({{"a", "2"}}), "step").find("a") != std::string::npos);
  const KeyInputs gone = inputs({{"a", "3"}});
  REQUIRE(book.put(gone, StepRecord{layers::LayerId{"b.0123456789abcdef"}, "2024-01-01T00:00:00Z", *gone.key()}, "step"));
  CHECK_FALSE(book.find(*gone.key()));
}

TEST_CASE("what was not digested is remembered with all its layers, or not at all") {
  const auto dir = TempDir::create("/tmp", "key-test");
  const auto store = layers::Store::open(dir->path());
  REQUIRE(store);
  RecordBook book(**store);
  const std::string key(64, 'a');
  CHECK_FALSE(book.undigested(key));
  const std::vector<std::vector<layers::LayerId>> sources{{{"b.0123456789abcdef"}, {"l.0123456789abcdef"}}, {}, {{"b.1"}}};
  REQUIRE(book.put_undigested(key, {std::string(64, 'b'), sources}));
  REQUIRE(book.undigested(key));
  CHECK(book.undigested(key)->record_key == std::string(64, 'b'));
  CHECK(book.undigested(key)->sources == sources);
  const std::string whole = **(*store)->record(key);
  for (size_t size = 0; size < whole.size(); ++size) {
    REQUIRE((*store)->put_record(key, whole.substr(0, size)));
    CHECK_FALSE(book.undigested(key));
  }
  REQUIRE(book.put_undigested(key, {}));
  CHECK(book.undigested(key)->sources.empty());
}
