#include "base/files.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <set>

using namespace lamina;

namespace {

struct Fixture {
  Fixture() : dir(*TempDir::create("/tmp", "lamina-test")) {
    fd = *open_directory(AT_FDCWD, dir.path());
  }
  TempDir dir;
  UniqueFd fd;
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "open_at names the path and sets close-on-exec") {
  auto missing = open_at(fd.get(), "no", O_RDONLY);
  REQUIRE_FALSE(missing);
  CHECK(missing.error().message() == "openat \"no\": ENOENT (No such file or directory)");
  auto made = open_at(fd.get(), "f", O_WRONLY | O_CREAT, 0600);
  REQUIRE(made);
  CHECK((::fcntl(made->get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(open_directory(fd.get(), "f").error().error_number() == ENOTDIR);
}

TEST_CASE_FIXTURE(Fixture, "open_in_root cannot leave the root") {
  REQUIRE(make_directories(fd.get(), "root/etc"));
  REQUIRE(write_file_atomically(fd.get(), "secret", "outside", Durability::kNone));
  REQUIRE(write_file_atomically(fd.get(), "root/secret", "inside", Durability::kNone));
  REQUIRE(::symlinkat("../../../secret", fd.get(), "root/etc/link") == 0);
  REQUIRE(::symlinkat("/secret", fd.get(), "root/etc/absolute") == 0);
  auto root = open_directory(fd.get(), "root");
  REQUIRE(root);
  for (const char* path : {"etc/link", "etc/absolute", "../secret", "/secret", "secret"}) {
    CAPTURE(path);
    auto file = open_in_root(root->get(), path, O_RDONLY);
    REQUIRE(file);
    CHECK(*read_fd(file->get()) == "inside");
  }
  for (const char* path : {"etc/link", "etc/absolute", "../secret", "/secret"}) {
    CAPTURE(path);
    CHECK_FALSE(open_beneath_nofollow(root->get(), path, O_RDONLY).has_value());
  }
  CHECK(open_beneath_nofollow(root->get(), "secret", O_RDONLY).has_value());
  CHECK(open_in_root(root->get(), "etc/new", O_WRONLY | O_CREAT | O_EXCL, 0644).has_value());
}

TEST_CASE_FIXTURE(Fixture, "reading honours the limit") {
  const std::string text(10000, 'x');
  REQUIRE(write_file_atomically(fd.get(), "f", text, Durability::kFsync));
  CHECK(*read_file(fd.get(), "f") == text);
  CHECK(*read_file(fd.get(), "f", 10000) == text);
  auto large = read_file(fd.get(), "f", 9999);
  REQUIRE_FALSE(large);
  CHECK(large.error().kind() == ErrorKind::kCorrupt);
  CHECK(large.error().message() == "\"f\" is larger than 9999 bytes");
  CHECK_FALSE(read_file(fd.get(), "f", 0).has_value());
  CHECK(read_file(AT_FDCWD, "/proc/self/status")->size() > 100);  // st_size is 0
  CHECK(read_file(AT_FDCWD, dir.path()).error().error_number() == EISDIR);
  CHECK(*read_file_if_exists(fd.get(), "none") == std::nullopt);
  CHECK(*read_file_if_exists(fd.get(), "f") == text);
}

TEST_CASE_FIXTURE(Fixture, "a pipe is read to its end") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const std::string text(50000, 'p');
  REQUIRE(write_all(writer.get(), text));
  writer.reset();
  CHECK(*read_fd(reader.get()) == text);
}

TEST_CASE_FIXTURE(Fixture, "write_file_atomically replaces and leaves nothing behind") {
  REQUIRE(write_file_atomically(fd.get(), "f", "old", Durability::kNone));
  REQUIRE(write_file_atomically(fd.get(), "f", "new", Durability::kFsync, 0600));
  CHECK(*read_file(fd.get(), "f") == "new");
  struct stat st {};
  REQUIRE(::fstatat(fd.get(), "f", &st, 0) == 0);
  CHECK((st.st_mode & 07777) == 0600);
  REQUIRE(make_directories(fd.get(), "d"));
  CHECK_FALSE(write_file_atomically(fd.get(), "d", "x", Durability::kNone).has_value());
  CHECK_FALSE(write_file_atomically(fd.get(), "no/f", "x", Durability::kNone).has_value());
  REQUIRE(write_file_atomically(AT_FDCWD, dir.path() + "/g", "x", Durability::kFsync));
  CHECK(*list_directory(fd.get()) == std::vector<std::string>{"d", "f", "g"});
}

TEST_CASE_FIXTURE(Fixture, "make_directories makes what is missing") {
  REQUIRE(make_directories(fd.get(), "a/b//c/", 0700));
  REQUIRE(make_directories(fd.get(), "a/b/c"));
  REQUIRE(make_directories(AT_FDCWD, dir.path() + "/x/y"));
  struct stat st {};
  REQUIRE(::fstatat(fd.get(), "a/b/c", &st, 0) == 0);
  CHECK((st.st_mode & 07777) == 0700);
  REQUIRE(write_file_atomically(fd.get(), "f", "", Durability::kNone));
  CHECK(make_directories(fd.get(), "f").error().error_number() == ENOTDIR);
  CHECK(make_directories(fd.get(), "f/g").error().error_number() == ENOTDIR);
  CHECK_FALSE(make_directories(fd.get(), "").has_value());
}

TEST_CASE_FIXTURE(Fixture, "list_directory sorts by bytes and can be repeated") {
  for (const char* name : {"b", "a", "B", "\xc3\xa9", ".h"}) {
    REQUIRE(write_file_atomically(fd.get(), name, "", Durability::kNone));
  }
  const std::vector<std::string> expected = {".h", "B", "a", "b", "\xc3\xa9"};
  CHECK(*list_directory(fd.get()) == expected);
  CHECK(*list_directory(fd.get()) == expected);
}

TEST_CASE("temporary names differ") {
  std::set<std::string> names;
  for (int i = 0; i < 1000; ++i) names.insert(temporary_name("x"));
  CHECK(names.size() == 1000);
  CHECK(names.begin()->size() == 2 + 16);
}

TEST_CASE("TempDir removes itself unless released") {
  std::string gone, kept;
  {
    TempDir a = *TempDir::create("/tmp", "lamina-test");
    TempDir b = *TempDir::create("/tmp", "lamina-test");
    gone = a.path();
    REQUIRE(make_directories(AT_FDCWD, gone + "/x/y"));
    const TempDir moved = std::move(a);
    CHECK(moved.path() == gone);
    kept = b.release();
  }
  CHECK(::access(gone.c_str(), F_OK) != 0);
  CHECK(::access(kept.c_str(), F_OK) == 0);
  CHECK(remove_tree(AT_FDCWD, kept).has_value());
}

TEST_CASE_FIXTURE(Fixture, "FileLock shares and excludes") {
  using Mode = FileLock::Mode;
  {
    auto first = FileLock::acquire(fd.get(), "lock", Mode::kShared);
    REQUIRE(first);
    CHECK((*FileLock::try_acquire(fd.get(), "lock", Mode::kShared)).has_value());
    CHECK_FALSE((*FileLock::try_acquire(fd.get(), "lock", Mode::kExclusive)).has_value());
    // A removed lock file must not give two owners: the new file is a new lock.
    REQUIRE(::unlinkat(fd.get(), "lock", 0) == 0);
    CHECK((*FileLock::try_acquire(fd.get(), "lock", Mode::kExclusive)).has_value());
  }
  CHECK((*FileLock::try_acquire(fd.get(), "lock", Mode::kExclusive)).has_value());
}
