#include "builder/digest_index.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <algorithm>
#include <map>
#include <random>

#include "base/files.h"
#include "builder/source_tree.h"

using namespace lamina;
using namespace lamina::builder;

namespace {

struct Fixture {
  TempDir dir = std::move(*TempDir::create("/tmp", "index-test"));
  std::unique_ptr<layers::Store> store = std::move(*layers::Store::open(dir.path() + "/store"));

  std::shared_ptr<DigestIndex> load() { return DigestIndex::load(*store, "test"); }
  void save(DigestIndex& index, const std::string& missing = "-") {
    REQUIRE(index.save([&](const std::string& path) { return path != missing; }));
  }
};

constexpr int64_t kSecond = 1'000'000'000;
// Changed at second 100, read at second 200: clearly older.
const DigestIndex::Stat kStat{1, 2, 3, 100, 5, 100, 7};
constexpr int64_t kRead = 200 * kSecond;

DigestIndex::Found found_of(const std::string& text, bool no_xattrs = false) { return {sha256(text), no_xattrs}; }

bool knows(const DigestIndex& index, const std::string& path, const DigestIndex::Stat& stat = kStat) {
  DigestIndex::Found found;
  if (!index.find(path, stat, found)) return false;
  CHECK(found.digest == sha256(path));
  return true;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "what was put is found by the next build, and only with the same stat data") {
  const auto first = load();
  for (const char* path : {"b/z", "top", "b/a", "a", "b.c/x"}) first->put(path, kStat, found_of(path), kRead);
  save(*first);
  const auto index = load();
  for (const char* path : {"b/z", "top", "b/a", "a", "b.c/x"}) CHECK(knows(*index, path));
  for (const char* path : {"b", "b/", "b/b", "b/zz", "", "c/a"}) CHECK_FALSE(knows(*index, path));
  for (size_t field = 0; field < 7; ++field) {
    DigestIndex::Stat other = kStat;
    if (field == 0) ++other.device;
    if (field == 1) ++other.inode;
    if (field == 2) ++other.size;
    if (field == 3) ++other.mtime_s;
    if (field == 4) ++other.mtime_ns;
    if (field == 5) --other.ctime_s;
    if (field == 6) ++other.ctime_ns;
    CAPTURE(field);
    CHECK_FALSE(knows(*index, "a", other));
  }
}

TEST_CASE_FIXTURE(Fixture, "a file that changed when it was read is read again") {
  struct Case {
    int64_t read_at;
    bool trusted;
  };
  for (const Case& c : {Case{100 * kSecond, false}, Case{100 * kSecond + 7, false}, Case{100 * kSecond + 15'000'000, false},
                        Case{99 * kSecond, false}, Case{101 * kSecond, true}}) {
    const auto index = load();
    index->put("a", kStat, found_of("a"), c.read_at);
    save(*index);
    CAPTURE(c.read_at);
    CHECK(knows(*load(), "a") == c.trusted);
  }
}

TEST_CASE_FIXTURE(Fixture, "new records join the old ones; those of removed files go") {
  const auto first = load();
  for (const char* path : {"d/1", "d/3", "e/1", "f/1"}) first->put(path, kStat, found_of(path, true), kRead);
  save(*first);
  const auto second = load();
  for (const char* path : {"d/2", "d/3", "c/1"}) second->put(path, kStat, found_of(path), kRead);
  save(*second, "d/1");
  const auto index = load();
  CHECK_FALSE(knows(*index, "d/1"));
  for (const char* path : {"c/1", "d/2", "d/3", "e/1", "f/1"}) CHECK(knows(*index, path));
  DigestIndex::Found found;
  CHECK(index->find("e/1", kStat, found));
  CHECK(found.no_xattrs);
  CHECK(index->find("d/3", kStat, found));
  CHECK_FALSE(found.no_xattrs);
}

TEST_CASE_FIXTURE(Fixture, "files are found in any order") {
  const auto first = load();
  for (const char* path : {"d/1", "d/2", "d/3"}) first->put(path, kStat, found_of(path), kRead);
  save(*first);
  const auto index = load();
  DigestIndex::Cursor cursor(*index);
  for (const char* path : {"d/3", "d/1", "d/2", "d/2", "d/0", "d/3", "d/4", "d/4", "d/3", "d/1", "d", "e", "", "d/1"}) {
    DigestIndex::Found found;
    const bool there = std::string_view(path).size() == 3 && std::string_view("123").find(path[2]) != std::string_view::npos;
    CAPTURE(path);
    CHECK(cursor.find(path, kStat, found) == there);
    if (there) CHECK(found.digest == sha256(path));
  }
}

TEST_CASE_FIXTURE(Fixture, "an index of many files, changed again and again, is what a map would be") {
  std::mt19937 random(7);
  const auto below = [&](size_t bound) { return random() % bound; };
  const auto some_path = [&] {
    std::string path = std::string(1, static_cast<char>('a' + below(3)));
    for (size_t i = below(4); i > 0; --i) path += std::string(below(3) == 0 ? "." : "/") + std::string(1, static_cast<char>('a' + below(20))) + std::string(below(40) == 0 ? 500 : 0, 'n');
    return path;
  };
  std::map<std::string, DigestIndex::Stat> model;
  for (const size_t count : {1, 10, 1000, 18000, 10, 3}) {
    const auto index = load();
    for (size_t i = 0; i < count; ++i) {
      const std::string path = some_path();
      DigestIndex::Stat stat = kStat;
      stat.inode = random();
      index->put(path, stat, found_of(path, stat.inode % 2 == 0), kRead);
      model[path] = stat;
    }
    save(*index);
    const auto saved = load();
    std::vector<std::string> paths;
    for (const auto& [path, stat] : model) paths.push_back(path);
    for (int i = 0; i < 200; ++i) paths.push_back(some_path());
    for (const bool in_order : {true, false}) {
      if (in_order) std::sort(paths.begin(), paths.end(), layers::path_less);
      if (!in_order) std::shuffle(paths.begin(), paths.end(), random);
      DigestIndex::Cursor cursor(*saved);
      for (const std::string& path : paths) {
        const auto known = model.find(path);
        DigestIndex::Found found;
        REQUIRE(cursor.find(path, known == model.end() ? kStat : known->second, found) == (known != model.end()));
        if (known == model.end()) continue;
        REQUIRE(found.digest == sha256(path));
        REQUIRE(found.no_xattrs == (known->second.inode % 2 == 0));
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a damaged or foreign index counts as empty, or as what is whole of it") {
  const std::string place = store->path() + "/indexes/test";
  const auto put = [&](const std::string& bytes) { REQUIRE(write_file_atomically(AT_FDCWD, place, bytes, Durability::kNone)); };
  const auto first = load();
  for (const char* path : {"a", "d/1"}) first->put(path, kStat, found_of(path), kRead);
  save(*first);
  const std::string whole = *read_file(AT_FDCWD, place);
  for (size_t size = 0; size < whole.size(); ++size) {
    put(whole.substr(0, size));
    CHECK_FALSE(knows(*load(), "d/1"));
    std::string changed = whole;
    changed[size] = static_cast<char>(changed[size] ^ 0x21);
    put(changed);
    CHECK_FALSE(knows(*load(), "d/1"));
    save(*load());
  }
  put("lamina-digests 2\nwhatever, and long enough to have had a trailer");
  CHECK_FALSE(knows(*load(), "a"));
  // A damaged block takes only its own records along.
  const auto many = load();
  for (int i = 0; i < 3000; ++i) many->put("f" + std::to_string(i), kStat, found_of("f" + std::to_string(i)), kRead);
  save(*many);
  std::string bytes = *read_file(AT_FDCWD, place);
  bytes[100] = static_cast<char>(bytes[100] ^ 1);
  put(bytes);
  CHECK_FALSE(knows(*load(), "f0"));
  CHECK(knows(*load(), "f999"));
  const auto again = load();
  again->put("f0", kStat, found_of("f0"), kRead);
  save(*again);
  CHECK(knows(*load(), "f0"));
  CHECK(knows(*load(), "f999"));
  CHECK_FALSE(knows(*load(), "f1"));
}

TEST_CASE_FIXTURE(Fixture, "a content digest does not depend on who computes it") {
  std::string text(kDigestPiece * 2 + 12345, 'x');
  for (size_t i = 0; i < text.size(); i += 997) text[i] = static_cast<char>(i);
  ThreadPool one(1), many(8);
  const std::string path = dir.path() + "/file";
  for (const uint64_t size : {uint64_t{0}, uint64_t{5}, kDigestPiece, kDigestPiece + 1, uint64_t{text.size()}}) {
    CAPTURE(size);
    const std::string_view content = std::string_view(text).substr(0, size);
    REQUIRE(write_file_atomically(AT_FDCWD, path, content, Durability::kNone));
    const UniqueFd fd = std::move(*open_at(AT_FDCWD, path, O_RDONLY));
    const Sha256Bytes digest = *content_digest(fd.get(), size, nullptr);
    CHECK(digest == *content_digest(fd.get(), size, &one));
    CHECK(digest == *content_digest(fd.get(), size, &many));
    CHECK((digest == sha256(content)) == (size <= kDigestPiece));
    if (size > kDigestPiece) CHECK(content_digest(fd.get(), size + 1, &many).error().kind() == ErrorKind::kCorrupt);
  }
}
