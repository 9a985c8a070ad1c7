#include "builder/file_list.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fcntl.h>

#include <random>

#include "base/files.h"
#include "base/thread_pool.h"

using namespace lamina;
using namespace lamina::builder;

namespace {

TemporaryFile in_tmp(int& made) {
  return [&made] {
    ++made;
    return open_at(AT_FDCWD, "/tmp", O_TMPFILE | O_RDWR, 0600);
  };
}

SelectedFile file_number(size_t i) {
  SelectedFile file;
  file.relative = fmt::format("directory/{:06}{}", i, std::string(i % 50, 'n'));
  file.info.size = i;
  file.info.inode = i * 7;
  if (i % 5 == 1) {
    file.info.type = EntryType::kSymlink;
    file.link_target = "../" + std::to_string(i);
  }
  if (i % 7 == 2) file.xattrs = {{"user.a", std::string(i % 100, '\0')}, {"user.b", "2"}};
  if (i % 3 == 0) file.digest = sha256(std::to_string(i));
  return file;
}

void check_all(const FileList& list, size_t count) {
  FileList::Cursor cursor(list);
  SelectedFile file;
  for (size_t i = 0; i < count; ++i) {
    REQUIRE(cursor.next(file).value());
    const SelectedFile expected = file_number(i);
    REQUIRE(cursor.index() == i);
    REQUIRE(file.relative == expected.relative);
    REQUIRE(file.info.size == expected.info.size);
    REQUIRE(file.info.inode == expected.info.inode);
    REQUIRE(file.info.type == expected.info.type);
    REQUIRE(file.link_target == expected.link_target);
    REQUIRE(file.xattrs == expected.xattrs);
    REQUIRE(file.digest == sha256(std::to_string(i)));
  }
  CHECK_FALSE(cursor.next(file).value());
}

}  // namespace

TEST_CASE("a list of any length gives back its files and the digests that were set") {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{511}, size_t{512}, size_t{513}, size_t{12000}}) {
    int made = 0;
    FileList list("root", in_tmp(made));
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; ++i) {
      const SelectedFile file = file_number(i);
      REQUIRE(list.append(file));
      if (file.info.type == EntryType::kFile) bytes += file.info.size;
    }
    CHECK(made == (count > 10000 ? 1 : 0));
    CHECK(list.size() == count);
    CHECK(list.content_bytes() == bytes);
    // In any order, by several threads, while others read.
    ThreadPool pool(3);
    std::vector<size_t> order(count);
    for (size_t i = 0; i < count; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937(count));
    std::vector<size_t> failures(4, 0);
    parallel_for(pool, 4, [&](size_t part) {
      if (part == 3) {
        FileList::Cursor cursor(list);
        SelectedFile file;
        for (size_t i = 0; i < count; ++i) {
          if (!cursor.next(file) || file.relative != file_number(i).relative) ++failures[part];
        }
        return;
      }
      for (size_t i = part; i < count; i += 3) {
        if (!list.set_digest(order[i], sha256(std::to_string(order[i])))) ++failures[part];
      }
    });
    CHECK(failures == std::vector<size_t>(4, 0));
    check_all(list, count);
    check_all(list, count);
    if (count > 0) CHECK(list.front().value().relative == "directory/000000");
  }
}

TEST_CASE("paths in the tree") {
  FileList whole("", {}), part("a/b", {});
  SelectedFile file;
  CHECK(whole.path_of(file) == "");
  CHECK(part.path_of(file) == "a/b");
  file.relative = "c/d";
  CHECK(whole.path_of(file) == "c/d");
  CHECK(part.path_of(file) == "a/b/c/d");
}

TEST_CASE("a list says when there is no place for its pages") {
  FileList list("", []() -> Result<UniqueFd> { return Error(ErrorKind::kUnavailable, "the disk is full"); });
  Result<void> appended;
  for (size_t i = 0; i < 10000 && appended; ++i) appended = list.append(file_number(i));
  REQUIRE_FALSE(appended);
  CHECK(appended.error().message() == "the disk is full");
}

TEST_CASE("files come in the order of a layer") {
  FileList list("", {});
  REQUIRE(list.append(file_number(2)));
  CHECK(list.append(file_number(1)).error().kind() == ErrorKind::kInternal);
  CHECK(list.append(file_number(2)).error().kind() == ErrorKind::kInternal);
  REQUIRE(list.append(file_number(3)));
}
