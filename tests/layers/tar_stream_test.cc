#include "layers/internal/tar_stream.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <random>
#include <set>

#include "base/files.h"
#include "base/guarded.h"

using namespace lamina;
using namespace lamina::layers;

namespace {

// Files of a directory; notes what is confirmed, and refuses one file.
class Files : public FileOpener {
 public:
  TempDir dir = std::move(*TempDir::create("/tmp", "tar-stream"));
  std::string refused;
  mutable Guarded<std::map<std::string, std::optional<std::string>>> confirmed;
  mutable Guarded<std::set<std::string>> examined;

  Result<UniqueFd> open_file(const std::string& path) const override { return open_at(AT_FDCWD, dir.path() + "/" + path, O_RDONLY); }
  Result<void> examine(const std::string& path, int) const override {
    examined.lock()->insert(path);
    return {};
  }
  Result<void> confirm(const std::string& path, int fd, std::optional<std::string_view> bytes) const override {
    CHECK(fd >= 0);
    confirmed.lock()->emplace(path, bytes ? std::optional<std::string>(*bytes) : std::nullopt);
    if (path == refused) return Error(ErrorKind::kCorrupt, "refused " + path);
    return {};
  }
  void write(const std::string& name, const std::string& content) {
    REQUIRE(write_file_atomically(AT_FDCWD, dir.path() + "/" + name, content, Durability::kNone, 0644));
  }
};

struct Made {
  std::shared_ptr<Files> files = std::make_shared<Files>();
  EntryList entries, in_memory;
};

// More than a window of small files, long ones among them, directories and empty files.
Made make_files() {
  Made made;
  std::mt19937 random(7);
  for (int i = 0; i < 2500; ++i) {
    Entry entry;
    entry.path = "f" + std::to_string(10000 + i);
    if (i % 100 == 0) {
      entry.type = EntryType::kDirectory;
      made.entries.push_back(entry);
      made.in_memory.push_back(entry);
      continue;
    }
    const size_t size = i % 701 == 0 ? 300'000 + random() % 100'000 : i % 50 == 1 ? 0 : 1 + random() % 9000;
    auto content = std::make_shared<std::string>(size, '\0');
    for (char& c : *content) c = static_cast<char>(random());
    made.files->write(entry.path, *content);
    entry.size = size;
    entry.bytes = content;
    made.in_memory.push_back(entry);
    if (size != 0) {
      entry.bytes.reset();
      entry.opener = made.files;
      entry.source_path = entry.path;
    }
    made.entries.push_back(entry);
  }
  return made;
}

Result<std::string> stream(const EntryList& entries, ThreadPool* pool) {
  StringSink sink;
  TarStream tar(sink, std::nullopt, pool);
  for (const Entry& entry : entries) RETURN_IF_ERROR(tar.add(entry));
  RETURN_IF_ERROR(tar.finish());
  return sink.text;
}

}  // namespace

TEST_CASE("the bytes are the writer's, whatever the number of threads; every file is confirmed with what was read") {
  const Made made = make_files();
  StringSink expected;
  TarWriter writer(expected, std::nullopt);
  for (const Entry& entry : made.in_memory) REQUIRE(writer.add(entry));
  REQUIRE(writer.finish());
  for (const unsigned threads : {0U, 1U, 4U}) {
    made.files->confirmed.lock()->clear();
    made.files->examined.lock()->clear();
    std::unique_ptr<ThreadPool> pool = threads == 0 ? nullptr : std::make_unique<ThreadPool>(threads);
    const auto text = stream(made.entries, pool.get());
    REQUIRE(text);
    CHECK(*text == expected.text);
    auto confirmed = made.files->confirmed.lock();
    auto examined = made.files->examined.lock();
    for (size_t i = 0; i < made.entries.size(); ++i) {
      const Entry& entry = made.entries[i];
      if (entry.type != EntryType::kFile || entry.size == 0) continue;
      REQUIRE(confirmed->contains(entry.path));
      const std::optional<std::string>& bytes = confirmed->at(entry.path);
      CHECK(bytes.has_value() == (entry.size < 300'000));
      if (bytes) CHECK(*bytes == *made.in_memory[i].bytes);
      CHECK(examined->contains(entry.path) == !bytes.has_value());
    }
  }
}

TEST_CASE("a file with other bytes than its entry says, and one that is refused, fail the tar") {
  const Made made = make_files();
  ThreadPool pool(3);
  for (const char* name : {"f10003", "f12402", "f10701"}) {
    const auto good = read_file(AT_FDCWD, made.files->dir.path() + "/" + name);
    REQUIRE(good);
    for (const std::string& content : {*good + "x", good->substr(1), std::string()}) {
      made.files->write(name, content);
      const auto text = stream(made.entries, &pool);
      REQUIRE_FALSE(text);
      CHECK(text.error().kind() == ErrorKind::kCorrupt);
      CHECK(text.error().message().find(name) != std::string::npos);
    }
    made.files->write(name, *good);
    made.files->refused = name;
    const auto text = stream(made.entries, &pool);
    REQUIRE_FALSE(text);
    CHECK(text.error().message() == std::string("refused ") + name);
    made.files->refused.clear();
  }
}

TEST_CASE("a stream that is given up in the middle ends its reading") {
  const Made made = make_files();
  ThreadPool pool(2);
  StringSink sink;
  TarStream tar(sink, std::nullopt, &pool);
  for (size_t i = 0; i < 2000; ++i) REQUIRE(tar.add(made.entries[i]));
}
