#include "layers/listing.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <algorithm>
#include <random>

#include "base/files.h"
#include "layers/rootfs_view.h"
#include "layers/snapshot.h"
#include "tests/layers/make_entry.h"

using namespace lamina;
using namespace lamina::layers;

namespace {

using Random = std::mt19937;

EntryType some_type(Random& random) {
  static constexpr EntryType kTypes[] = {EntryType::kFile,    EntryType::kFile,     EntryType::kDirectory, EntryType::kDirectory, EntryType::kDirectory,
                                         EntryType::kSymlink, EntryType::kSymlink, EntryType::kFifo,      EntryType::kWhiteout};
  return kTypes[random() % std::size(kTypes)];
}

Entry some_entry(const std::string& path, EntryType type, Random& random) {
  static const char* const kTargets[] = {"a", "../b", "/c/a", "a/b/c", "/", ".", "..", "/a/../b/a", "nowhere", "b/a"};
  Entry entry = make_entry(path, type, type == EntryType::kSymlink ? kTargets[random() % std::size(kTargets)] : path + std::to_string(random()));
  if (type != EntryType::kSymlink) entry.link_target.clear();
  if (type == EntryType::kDirectory || type == EntryType::kFile) {
    entry.mode = 0700 | (random() % 0100);
    if (random() % 4 == 0) entry.xattrs["user.x"] = std::to_string(random());
  }
  entry.mtime = {static_cast<int64_t>(random() % 1'000'000'000), static_cast<uint32_t>(random() % 1'000'000'000)};
  return entry;
}

// Random things at and below `directory`, parents first.
void fill(EntryList& layer, const std::string& directory, int depth, Random& random) {
  for (const char* name : {"a", "a-", "a.b", "b", "c"}) {
    if (random() % 5 < 2) continue;
    const std::string path = directory.empty() ? name : directory + "/" + name;
    const EntryType type = some_type(random);
    if (type == EntryType::kFile && random() % 3 == 0) {
      const auto file = std::find_if(layer.begin(), layer.end(), [](const Entry& e) { return e.type == EntryType::kFile; });
      if (file != layer.end() && path_less(file->path, path)) {
        Entry link = make_entry(path, EntryType::kHardlink, file->path);
        layer.push_back(std::move(link));
        continue;
      }
    }
    layer.push_back(some_entry(path, type, random));
    if (type != EntryType::kDirectory) continue;
    if (random() % 4 == 0) layer.push_back(make_entry(path, EntryType::kOpaqueWhiteout));
    if (depth > 0) fill(layer, path, depth - 1, random);
  }
}

EntryList some_layer(Random& random) {
  EntryList layer;
  fill(layer, "", 2, random);
  std::stable_sort(layer.begin(), layer.end(), [](const Entry& a, const Entry& b) { return path_less(a.path, b.path); });
  return layer;
}

TempDir snapshot_of(const EntryList& layer) {
  auto dir = TempDir::create("/tmp", "listing-test");
  REQUIRE(dir);
  const auto fd = open_directory(AT_FDCWD, dir->path());
  REQUIRE(fd);
  ListedEntries entries(layer);
  REQUIRE(SnapshotWriter(fd->get(), nullptr).add_all(entries));
  return std::move(*dir);
}

template <typename T>
bool same_kind(const Result<T>& a, const Result<T>& b) {
  return a.has_value() == b.has_value() && (a || a.error().kind() == b.error().kind());
}

void compare_path(const RootfsView& files, const RootfsView& listed, const std::string& path) {
  CAPTURE(path);
  const auto a = files.lstat(path), b = listed.lstat(path);
  REQUIRE(a);
  REQUIRE(b);
  REQUIRE(a->has_value() == b->has_value());
  if (*a && !path.empty()) {
    CHECK((*a)->type == (*b)->type);
    CHECK((*a)->mode == (*b)->mode);
    CHECK((*a)->uid == (*b)->uid);
    CHECK((*a)->gid == (*b)->gid);
    CHECK((*a)->mtime.seconds == (*b)->mtime.seconds);
    CHECK((*a)->mtime.nanoseconds == (*b)->mtime.nanoseconds);
    CHECK((*a)->size == (*b)->size);
  }
  for (const bool follow : {false, true}) {
    const auto x = files.resolve(path, follow), y = listed.resolve(path, follow);
    REQUIRE(same_kind(x, y));
    if (x) CHECK(*x == *y);
  }
  const auto link_a = files.read_link(path), link_b = listed.read_link(path);
  REQUIRE(same_kind(link_a, link_b));
  if (link_a) CHECK(*link_a == *link_b);
  const auto attributes_a = files.xattrs(path), attributes_b = listed.xattrs(path);
  REQUIRE(same_kind(attributes_a, attributes_b));
  if (attributes_a) CHECK(*attributes_a == *attributes_b);
  const auto list_a = files.list(path), list_b = listed.list(path);
  REQUIRE(same_kind(list_a, list_b));
  if (list_a) {
    CHECK(std::equal(list_a->begin(), list_a->end(), list_b->begin(), list_b->end(), [](const DirectoryEntry& x, const DirectoryEntry& y) { return x.name == y.name && x.type == y.type; }));
  }
  if (*a && (*a)->type == EntryType::kFile) {
    const auto text_a = files.read_text(path), text_b = listed.read_text(path);
    REQUIRE(same_kind(text_a, text_b));  // with ".." behind a symlink it is another file
    if (text_a) CHECK(*text_a == *text_b);
  }
}

}  // namespace

TEST_CASE("a view of listings shows what the view of their snapshots shows") {
  const unsigned seed = std::random_device()();
  CAPTURE(seed);
  Random random(seed);
  size_t compared = 0;
  for (int round = 0; round < 30; ++round) {
    std::vector<EntryList> layers(1 + random() % 4);
    std::vector<TempDir> dirs;
    std::vector<std::string> snapshots;
    for (EntryList& layer : layers) {
      layer = some_layer(random);
      dirs.push_back(snapshot_of(layer));
      snapshots.push_back(dirs.back().path());
    }
    const size_t split = random() % layers.size();
    std::vector<std::shared_ptr<const Listing>> listings;
    for (size_t i = split; i < layers.size(); ++i) {
      listings.push_back(Listing::make(layers[i]));
      REQUIRE(listings.back());
    }
    const auto files = RootfsView::open(snapshots);
    const auto listed = RootfsView::open({snapshots.begin(), snapshots.begin() + static_cast<ptrdiff_t>(split)}, listings);
    REQUIRE(files);
    REQUIRE(listed);
    for (const EntryList& layer : layers) {
      for (const Entry& entry : layer) compare_path(**files, **listed, entry.path);
      compared += layer.size();
    }
    for (const char* path : {"", "a/a/a/a", "b/nothing", "a-/a", "c/../b"}) compare_path(**files, **listed, path);
  }
  CHECK(compared > 200);
}

TEST_CASE("a listing is refused where it would not tell the truth") {
  CHECK(Listing::make({}));
  CHECK_FALSE(Listing::make({make_entry("a/b", EntryType::kFile, "x")}));
  CHECK_FALSE(Listing::make({make_entry("a", EntryType::kFile, "x"), make_entry("a/b", EntryType::kFile, "x")}));
  CHECK_FALSE(Listing::make({make_entry("a", EntryType::kHardlink, "b")}));
  CHECK_FALSE(Listing::make(EntryList(Listing::kMaxEntries + 1, make_entry("a", EntryType::kFile, "x"))));
}

TEST_CASE("a file whose bytes are not in the listing is unavailable, not empty") {
  Entry file = make_entry("passwd", EntryType::kFile, "root:x:0:0\n");
  file.bytes.reset();
  const auto view = RootfsView::open({}, {Listing::make({file, make_entry("to", EntryType::kSymlink, "passwd")})});
  REQUIRE(view);
  const auto text = (*view)->read_text("/to");
  REQUIRE_FALSE(text);
  CHECK(text.error().kind() == ErrorKind::kUnavailable);
  CHECK_FALSE((*view)->open_file("passwd"));
  CHECK((*view)->read_text("/other").value() == std::nullopt);
}
