// Deep stacks show the same files merged as layer by layer.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <random>

#include "base/files.h"
#include "base/stream.h"
#include "layers/rootfs_view.h"
#include "layers/store.h"

using namespace lamina;
using namespace lamina::layers;

namespace {

Entry entry_of(EntryType type, std::string path, std::mt19937& random) {
  Entry e;
  e.path = std::move(path);
  e.type = type;
  e.uid = ::geteuid();
  e.gid = ::getegid();
  e.mode = type == EntryType::kDirectory ? 0700 + random() % 64 : 0600 + random() % 64;
  e.mtime = {static_cast<int64_t>(1'000'000 + random() % 1'000'000), 0};
  if (type == EntryType::kFile) {
    e.bytes = std::make_shared<const std::string>(fmt::format("{} {}", e.path, random()));
    e.size = e.bytes->size();
  }
  if (type == EntryType::kSymlink) e.link_target = fmt::format("to-{}", random() % 100);
  if (type == EntryType::kDirectory && random() % 4 == 0) e.xattrs["user.colour"] = std::to_string(random() % 3);
  return e;
}

// Few names, so that layers replace, hide and bring back what others have.
EntryList random_layer(std::mt19937& random, const RootfsView& below) {
  std::map<std::string, Entry, decltype(&path_less)> entries(path_less);
  std::vector<Entry> opaque;
  const auto add_directory = [&](const std::string& path) {
    if (entries.contains(path)) return entries.at(path).type == EntryType::kDirectory;
    entries[path] = entry_of(EntryType::kDirectory, path, random);
    if (random() % 8 == 0) {
      Entry o;
      o.path = path;
      o.type = EntryType::kOpaqueWhiteout;
      opaque.push_back(std::move(o));
    }
    return true;
  };
  for (size_t i = 0; i < 1 + random() % 4; ++i) {
    const std::string top = fmt::format("d{}", random() % 3);
    if (!add_directory(top)) continue;
    std::string parent = top;
    if (random() % 2 == 0) {
      parent += fmt::format("/e{}", random() % 3);
      if (!add_directory(parent)) continue;
    }
    // Names of directories too, so that types change.
    const std::string path = parent + (random() % 3 == 0 ? "/e" : "/f") + std::to_string(random() % 3);
    if (entries.contains(path)) continue;
    const unsigned kind = random() % 4;
    const auto info = below.lstat(path);
    if (kind == 0 && info && *info) {
      entries[path].path = path;
      entries[path].type = EntryType::kWhiteout;
    } else {
      entries[path] = entry_of(kind == 1 ? EntryType::kSymlink : EntryType::kFile, path, random);
    }
  }
  EntryList list;
  for (auto& [path, entry] : entries) {
    list.push_back(entry);
    for (const Entry& o : opaque) {
      if (o.path == path) list.push_back(o);
    }
  }
  return list;
}

// Everything that can be seen, as text.
std::string shown(const RootfsView& view, const std::string& path = "") {
  std::string out;
  const auto info = view.lstat(path);
  REQUIRE(info);
  REQUIRE(*info);
  out += fmt::format("{} {} {:o} {}", path, static_cast<int>((*info)->type), (*info)->mode, (*info)->mtime.seconds);
  const auto xattrs = view.xattrs(path);
  for (const auto& [name, value] : *xattrs) out += fmt::format(" {}={}", name, value);
  if ((*info)->type == EntryType::kSymlink) out += " -> " + *view.read_link(path);
  if ((*info)->type == EntryType::kFile) out += " " + *read_fd(view.open_file(path)->get());
  out += "\n";
  if ((*info)->type != EntryType::kDirectory) return out;
  const auto children = view.list(path);
  for (const DirectoryEntry& child : *children) out += shown(view, path.empty() ? child.name : path + "/" + child.name);
  return out;
}

}  // namespace

TEST_CASE("a deep stack shows the same files in fewer snapshots") {
  const unsigned seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 random(seed);
  const TempDir dir = std::move(*TempDir::create("/var/tmp", "merge-test"));
  const auto store = std::move(*Store::open(dir.path() + "/store"));
  ThreadPool pool(2);
  constexpr size_t kLayers = 300;
  std::vector<LayerId> stack;
  std::vector<std::string> plain;
  for (size_t i = 0; i < kLayers; ++i) {
    const auto below = std::move(*RootfsView::open(plain));
    const auto id = store->add_entries(random_layer(random, *below), {}, LayerForm::kSnapshot);
    REQUIRE(id);
    stack.push_back(*id);
    plain.push_back(store->snapshots(std::span(&*id, 1), pool, nullptr)->front());
  }
  const std::string expected = shown(*std::move(*RootfsView::open(plain)));
  for (int attempt = 0; attempt < 2; ++attempt) {  // made, and found
    const auto merged = store->snapshots(stack, pool, nullptr);
    REQUIRE(merged);
    CHECK(merged->size() == kLayers / 64 + kLayers % 64);
    CHECK(shown(*std::move(*RootfsView::open(*merged))) == expected);
  }
  // A stack that is not deep stays as it is.
  CHECK(store->snapshots(std::span(stack).first(100), pool, nullptr)->size() == 100);
}
