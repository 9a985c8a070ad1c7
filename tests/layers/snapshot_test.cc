#include "layers/snapshot.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "layers/rootfs_view.h"
#include "tests/layers/make_entry.h"

using namespace lamina;
using namespace lamina::layers;

namespace {

struct Made {
  TempDir dir;
  Result<void> result;
};

Made write(const EntryList& entries) {
  auto dir = TempDir::create("/tmp", "snapshot-test");
  REQUIRE(dir);
  const auto fd = open_directory(AT_FDCWD, dir->path());
  REQUIRE(fd);
  ListedEntries listed(entries);
  auto result = SnapshotWriter(fd->get(), nullptr).add_all(listed);
  return {std::move(*dir), std::move(result)};
}

std::vector<std::string> paths_in(const std::string& directory) {
  const auto reader = SnapshotReader::open(directory);
  REQUIRE(reader);
  std::vector<std::string> out;
  while (true) {
    const auto e = (*reader)->next();
    REQUIRE(e);
    if (!*e) return out;
    out.push_back((*e)->path);
  }
}

}  // namespace

TEST_CASE("entries are written and read back in order") {
  const Made made = write({make_entry("b", EntryType::kFile, "1"), make_entry("a", EntryType::kDirectory), make_entry("a/x", EntryType::kFile, "2"), make_entry("a/h", EntryType::kHardlink, "a/x"), make_entry("a-", EntryType::kSymlink, "b")});
  REQUIRE(made.result);
  CHECK(paths_in(made.dir.path()) == std::vector<std::string>{"a", "a/h", "a/x", "a-", "b"});
  CHECK(*read_file(AT_FDCWD, made.dir.path() + "/a/h") == "2");
}

TEST_CASE("a symlink never leads out") {
  auto outside = TempDir::create("/tmp", "snapshot-outside");
  REQUIRE(outside);
  const Made made = write({make_entry("l", EntryType::kSymlink, outside->path()), make_entry("l/x", EntryType::kFile, "1"), make_entry("up", EntryType::kSymlink, "../../../../../tmp"), make_entry("up/y", EntryType::kFile, "1")});
  CHECK(::access((outside->path() + "/x").c_str(), F_OK) != 0);
  CHECK(::access("/tmp/y", F_OK) != 0);
  if (made.result) CHECK(::access((made.dir.path() + outside->path() + "/x").c_str(), F_OK) == 0);
}

TEST_CASE("loops, links to nothing and parents that are files are corrupt") {
  CHECK(write({make_entry("a", EntryType::kSymlink, "b"), make_entry("b", EntryType::kSymlink, "a"), make_entry("a/x", EntryType::kFile, "1")}).result.error().kind() == ErrorKind::kCorrupt);
  CHECK(write({make_entry("h", EntryType::kHardlink, "nothing")}).result.error().kind() == ErrorKind::kCorrupt);
  CHECK(write({make_entry("f", EntryType::kFile, "1"), make_entry("f/x", EntryType::kFile, "1")}).result.error().kind() == ErrorKind::kCorrupt);
}

TEST_CASE("emptiness") {
  CHECK(*snapshot_is_empty(write({}).dir.path()));
  CHECK_FALSE(*snapshot_is_empty(write({make_entry("d", EntryType::kDirectory)}).dir.path()));
}
