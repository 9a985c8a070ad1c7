#include <doctest/doctest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/scope_exit.h"

using namespace lamina;

namespace {

struct Fixture {
  Fixture() : dir(*TempDir::create("/tmp", "lamina-test")) {
    fd = *open_directory(AT_FDCWD, dir.path());
  }
  bool exists(const char* path) const {
    struct stat st {};
    return ::fstatat(fd.get(), path, &st, AT_SYMLINK_NOFOLLOW) == 0;
  }
  void write(const char* path) const {
    REQUIRE(write_file_atomically(fd.get(), path, "x", Durability::kNone));
  }
  TempDir dir;
  UniqueFd fd;
};

// In a container root may lack the right to mount.
bool mounts_available() {
  const TempDir dir = *TempDir::create("/tmp", "lamina-test");
  const char* const path = dir.path().c_str();
  if (::mount(path, path, nullptr, MS_BIND, nullptr) != 0) return false;
  return ::umount2(path, MNT_DETACH) == 0;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "remove_tree takes files, trees, links and nothing") {
  write("file");
  REQUIRE(make_directories(fd.get(), "tree/a/b"));
  write("tree/a/f");
  write("tree/a/b/g");
  REQUIRE(make_directories(fd.get(), "outside"));
  write("outside/kept");
  REQUIRE(::symlinkat("../outside", fd.get(), "tree/link") == 0);
  REQUIRE(::symlinkat("outside", fd.get(), "link") == 0);
  REQUIRE(::mkfifoat(fd.get(), "tree/fifo", 0600) == 0);

  CHECK(remove_tree(fd.get(), "file").has_value());
  CHECK(remove_tree(fd.get(), "tree/").has_value());
  CHECK(remove_tree(fd.get(), "link").has_value());
  CHECK(remove_tree(fd.get(), "missing").has_value());
  CHECK(remove_tree(fd.get(), "outside/kept/below").has_value());
  CHECK(exists("outside/kept"));
  CHECK(*list_directory(fd.get()) == std::vector<std::string>{"outside"});
}

TEST_CASE_FIXTURE(Fixture, "remove_tree opens directories without permissions") {
  REQUIRE(make_directories(fd.get(), "tree/locked/below"));
  write("tree/locked/below/f");
  REQUIRE(::fchmodat(fd.get(), "tree/locked/below", 0, 0) == 0);
  REQUIRE(::fchmodat(fd.get(), "tree/locked", 0500, 0) == 0);
  CHECK(remove_tree(fd.get(), "tree").has_value());
  CHECK_FALSE(exists("tree"));
}

TEST_CASE_FIXTURE(Fixture, "remove_tree needs neither stack nor descriptors for depth") {
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit small{256, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &small) == 0);
  const ScopeExit restore([&] { ::setrlimit(RLIMIT_NOFILE, &before); });

  // In memory: ten thousand directories cost a disk half a minute.
  const TempDir memory = *TempDir::create("/dev/shm", "lamina-test");
  const UniqueFd top = *open_directory(AT_FDCWD, memory.path());
  constexpr int kDepth = 5000;
  UniqueFd at = *open_directory(top.get(), ".");
  REQUIRE(::mkdirat(at.get(), "deep", 0755) == 0);
  at = *open_directory(at.get(), "deep");
  for (int i = 0; i < kDepth; ++i) {
    REQUIRE(::mkdirat(at.get(), "d", 0755) == 0);
    // A sibling at every level: after coming up again the walk goes down once more.
    REQUIRE(::mkdirat(at.get(), "e", 0755) == 0);
    at = *open_directory(at.get(), "d");
  }
  CHECK(remove_tree(top.get(), "deep").has_value());
  CHECK(list_directory(top.get())->empty());
}

TEST_CASE_FIXTURE(Fixture, "remove_tree leaves mounts alone and removes the rest" *
                               doctest::skip(!mounts_available())) {
  REQUIRE(make_directories(fd.get(), "tree/mnt"));
  REQUIRE(make_directories(fd.get(), "tree/other"));
  REQUIRE(make_directories(fd.get(), "source"));
  write("source/kept");
  const std::string target = dir.path() + "/tree/mnt";
  const std::string source = dir.path() + "/source";
  REQUIRE(::mount(source.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) == 0);
  const auto removed = remove_tree(fd.get(), "tree");
  CHECK(exists("source/kept"));
  CHECK(exists("tree/mnt/kept"));
  CHECK_FALSE(exists("tree/other"));
  REQUIRE(::umount2(target.c_str(), MNT_DETACH) == 0);
  REQUIRE_FALSE(removed);
  CHECK(removed.error().message() == "cannot remove \"tree/mnt\": is a mount point");
}
