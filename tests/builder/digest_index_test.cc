#include "builder/digest_index.h"

#include <doctest/doctest.h>
#include <fcntl.h>

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
    REQUIRE(index.save(*store, [&](const std::string& path) { return path != missing; }));
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

TEST_CASE_FIXTURE(Fixture, "the files of a directory are found in any order") {
  const auto first = load();
  for (const char* path : {"d/1", "d/2", "d/3"}) first->put(path, kStat, found_of(path), kRead);
  save(*first);
  const auto index = load();
  DigestIndex::Directory directory = index->directory("d");
  for (const char* name : {"3", "1", "2", "2", "0", "3", "4", "1"}) {
    DigestIndex::Found found;
    const bool there = std::string_view("123").find(name[0]) != std::string_view::npos;
    CAPTURE(name);
    CHECK(directory.find(name, kStat, found) == there);
    if (there) CHECK(found.digest == sha256(std::string("d/") + name));
  }
}

TEST_CASE_FIXTURE(Fixture, "a damaged or foreign index counts as empty, or as what is whole of it") {
  const auto first = load();
  for (const char* path : {"a", "d/1"}) first->put(path, kStat, found_of(path), kRead);
  save(*first);
  const std::string whole = **store->index("test");
  for (size_t size = 0; size < whole.size(); ++size) {
    REQUIRE(store->put_index("test", whole.substr(0, size)));
    CHECK_FALSE(knows(*load(), "d/1"));
  }
  REQUIRE(store->put_index("test", "lamina-digests 1\nwhatever"));
  CHECK_FALSE(knows(*load(), "a"));
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
