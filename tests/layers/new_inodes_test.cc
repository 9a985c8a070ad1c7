#include "layers/internal/new_inodes.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <thread>

using namespace lamina;
using namespace lamina::layers;

namespace {

// A place of two directories, and how long making something in each takes.
struct Disk {
  TempDir dir = *TempDir::create("/tmp", "inodes-test");
  std::string room = dir.path() + "/room", tree = dir.path() + "/tree";
  UniqueFd tree_fd;
  NewInodes inodes{room};
  size_t made_in_tree = 0, made_elsewhere = 0;
  bool slow_in_tree = true, slow_elsewhere = false;

  Disk() {
    REQUIRE(::mkdir(room.c_str(), 0700) == 0);
    REQUIRE(::mkdir(tree.c_str(), 0700) == 0);
    tree_fd = *open_directory(AT_FDCWD, tree);
  }

  bool make(const std::string& name) {
    return inodes.make(tree_fd.get(), name, [&](int at, const char* here) {
      const bool in_tree = at == tree_fd.get();
      if (in_tree ? slow_in_tree : slow_elsewhere) std::this_thread::sleep_for(std::chrono::microseconds(60));
      ++(in_tree ? made_in_tree : made_elsewhere);
      const UniqueFd file(::openat(at, here, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
      return file.valid();
    });
  }
};

}  // namespace

TEST_CASE("new inodes: where making files is slow they are made elsewhere and end in their place") {
  Disk disk;
  for (int i = 0; i < 100; ++i) REQUIRE(disk.make("f" + std::to_string(i)));
  CHECK(disk.made_in_tree == 12);
  CHECK(disk.made_elsewhere == 88);
  const auto names = list_directory(disk.tree_fd.get());
  REQUIRE(names);
  CHECK(names->size() == 100);
}

TEST_CASE("new inodes: what is there stays, and nothing is left elsewhere") {
  Disk disk;
  for (int i = 0; i < 20; ++i) REQUIRE(disk.make("f" + std::to_string(i)));
  REQUIRE(disk.made_elsewhere > 0);
  CHECK_FALSE(disk.make("f3"));
  CHECK(errno == EEXIST);
  CHECK(disk.make("after"));
  disk.inodes = NewInodes("");
  const auto room = open_directory(AT_FDCWD, disk.room);
  REQUIRE(room);
  CHECK(list_directory(room->get())->empty());
}

TEST_CASE("new inodes: a file system that is slow everywhere is left in peace") {
  Disk disk;
  disk.slow_elsewhere = true;
  for (int i = 0; i < 300; ++i) REQUIRE(disk.make("f" + std::to_string(i)));
  CHECK(disk.made_in_tree > 150);
  CHECK(list_directory(disk.tree_fd.get())->size() == 300);
}
