#include "builder/internal/squash.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <random>

#include "base/files.h"
#include "layers/snapshot.h"
#include "tests/layers/make_entry.h"

using namespace lamina;
using namespace lamina::builder;
using layers::Entry;
using layers::EntryType;
using layers::make_entry;

namespace {

class Stack {
 public:
  Result<void> add(const layers::EntryList& entries) {
    auto dir = TempDir::create("/tmp", "squash-test");
    REQUIRE(dir);
    const auto fd = open_directory(AT_FDCWD, dir->path());
    REQUIRE(fd);
    layers::SnapshotWriter writer(fd->get(), nullptr);
    for (const Entry& e : entries) RETURN_IF_ERROR(writer.add(e, nullptr));
    RETURN_IF_ERROR(writer.finish());
    directories.push_back(dir->path());
    kept_.push_back(std::move(*dir));
    return {};
  }
  std::vector<std::string> directories;  // bottom first

 private:
  std::vector<TempDir> kept_;
};

layers::EntryList squashed_list(const std::vector<std::string>& snapshots, const layers::RootfsView& below) {
  const auto source = internal::squash(snapshots, below);
  REQUIRE(source);
  layers::EntryList out;
  while (true) {
    auto entry = (*source)->next();
    REQUIRE(entry);
    if (!*entry) return out;
    out.push_back(**std::move(entry));
  }
}

using Inode = std::pair<uint64_t, uint64_t>;

// path → what is there, of everything in a view; of one file with several names the first.
void describe(const layers::RootfsView& view, const std::string& path, std::map<std::string, std::string>& out, std::map<Inode, std::string>& firsts) {
  const auto list = view.list(path);
  REQUIRE(list);
  for (const auto& item : *list) {
    const std::string child = path.empty() ? item.name : path + "/" + item.name;
    const auto info = view.lstat(child);
    REQUIRE(info);
    REQUIRE(*info);
    std::string text = std::to_string(static_cast<int>((*info)->type)) + " " + std::to_string((*info)->mode);
    if ((*info)->type == EntryType::kFile) text += " " + **view.read_text(child);
    if ((*info)->type == EntryType::kFile) text += " " + firsts.emplace(Inode((*info)->device, (*info)->inode), child).first->second;
    out[child] = text;
    if ((*info)->type == EntryType::kDirectory) describe(view, child, out, firsts);
  }
}

std::map<std::string, std::string> contents(const std::vector<std::string>& directories) {
  const auto view = layers::RootfsView::open(directories);
  REQUIRE(view);
  std::map<std::string, std::string> out;
  std::map<Inode, std::string> firsts;
  describe(**view, "", out, firsts);
  return out;
}

// A layer that somebody could have made on top of `below`: few names, so that they meet often.
layers::EntryList random_layer(std::mt19937& random, const std::vector<std::string>& below, int number) {
  layers::EntryList out;
  const auto view = layers::RootfsView::open(below);
  REQUIRE(view);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const auto exists = [&](const std::string& p) { const auto i = (*view)->lstat(p); return i && *i; };
  const auto is_dir = [&](const std::string& p) { const auto i = (*view)->lstat(p); return i && *i && (*i)->type == EntryType::kDirectory; };
  for (const std::string top : {"a", "b", "c"}) {
    const int what = pick(6);
    if (what == 0 && exists(top)) out.push_back(make_entry(top, EntryType::kWhiteout));
    if (what == 1) out.push_back(make_entry(top, EntryType::kFile, "layer " + std::to_string(number)));
    if (what < 2) continue;
    if (what == 5) continue;
    out.push_back(make_entry(top, EntryType::kDirectory));
    out.back().mode = 0700 + static_cast<uint32_t>(pick(8));
    const bool opaque = what == 4 || (exists(top) && !is_dir(top));
    if (opaque) out.push_back(make_entry(top, EntryType::kOpaqueWhiteout));
    for (const std::string name : {"x", "y", "z"}) {
      const std::string path = top + "/" + name;
      const int inner = pick(4);
      if (inner == 0 && !opaque && exists(path)) out.push_back(make_entry(path, EntryType::kWhiteout));
      const auto file = std::find_if(out.begin(), out.end(), [](const Entry& e) { return e.type == EntryType::kFile; });
      if (inner == 1 && file != out.end() && pick(2) == 0) {
        out.push_back(make_entry(path, EntryType::kHardlink, file->path));
      } else if (inner == 1) {
        out.push_back(make_entry(path, EntryType::kFile, path + std::to_string(number)));
      }
      if (inner == 2 && (opaque || !exists(path) || is_dir(path))) {
        out.push_back(make_entry(path, EntryType::kDirectory));
        if (pick(2) == 0) out.push_back(make_entry(path + "/deep", EntryType::kFile, "deep " + std::to_string(number)));
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("one layer does what several did, on any base") {
  for (unsigned seed = 1; seed <= 150; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Stack stack;
    const size_t base = 1 + seed % 2;
    for (int i = 0; i < 5; ++i) REQUIRE(stack.add(random_layer(random, stack.directories, i)));
    const std::vector<std::string> below(stack.directories.begin(), stack.directories.begin() + static_cast<ptrdiff_t>(base));
    const auto view = layers::RootfsView::open(below);
    REQUIRE(view);
    const auto squashed = squashed_list({stack.directories.begin() + static_cast<ptrdiff_t>(base), stack.directories.end()}, **view);
    CHECK(std::is_sorted(squashed.begin(), squashed.end(), [](const Entry& a, const Entry& b) { return layers::path_less(a.path, b.path); }));
    for (const Entry& e : squashed) {
      if (e.type != EntryType::kWhiteout) continue;
      const auto hidden = (*view)->lstat(e.path);
      CHECK(hidden);
      CHECK(hidden->has_value());  // nothing else needs a whiteout
    }
    Stack result;
    REQUIRE(result.add(squashed));
    std::vector<std::string> together = below;
    together.push_back(result.directories.front());
    CHECK(contents(together) == contents(stack.directories));
  }
}

TEST_CASE("hard links that are left stay together when the first name goes") {
  Stack stack;
  Entry second = make_entry("m", EntryType::kHardlink, "a"), third = make_entry("z", EntryType::kHardlink, "a");
  REQUIRE(stack.add({make_entry("a", EntryType::kFile, "bytes"), second, third}));
  REQUIRE(stack.add({make_entry("a", EntryType::kWhiteout), make_entry("b", EntryType::kFile, "other")}));
  const auto nothing = layers::RootfsView::open({});
  const auto squashed = squashed_list(stack.directories, **nothing);
  REQUIRE(squashed.size() == 3);
  CHECK(squashed[0].path == "b");
  CHECK(squashed[1].path == "m");
  CHECK(squashed[1].type == EntryType::kFile);
  CHECK(squashed[1].size == 5);
  CHECK(squashed[2].type == EntryType::kHardlink);
  CHECK(squashed[2].link_target == "m");
  Stack result;
  REQUIRE(result.add(squashed));
  CHECK(contents(result.directories).at("z").find("bytes") != std::string::npos);
}
