// Placement against a model that does one thing after the other.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "base/files.h"
#include "builder/context.h"
#include "builder/copy.h"
#include "builder/internal/paths.h"
#include "layers/snapshot.h"

using namespace lamina;
using namespace lamina::builder;
using internal::child_of;
using internal::parent_of;
using layers::Entry;

namespace {

struct Thing {
  EntryType type = EntryType::kFile;
  uint32_t mode = 0;
  int64_t seconds = 0;  // -1: of no interest
  std::string target;   // of a link of either kind
  bool operator==(const Thing&) const = default;
};
using Things = std::map<std::string, Thing>;

// What a source holds, by path below it ("" is itself).
struct ModelSource {
  std::string name;
  bool archive = false;
  std::map<std::string, Thing> files;
  std::map<std::string, uint64_t> inodes;  // of files with several names
};

class Model {
 public:
  Model(const Things& below, bool link) : below_(below), link_(link) {}

  // False for an error.
  bool place(const ModelSource& source, const std::string& destination, bool slash) {
    if (source.files.at("").type != EntryType::kDirectory) {
      const std::string target = slash || type_at(destination) == EntryType::kDirectory ? child_of(destination, source.name) : destination;
      return make(parent_of(target)) && put(target, source, "");
    }
    if (!make(destination)) return false;
    if (!destination.empty() && !source.archive) made_.at(destination).seconds = source.files.at("").seconds;
    for (const auto& [below, thing] : source.files) {
      const std::string target = child_of(destination, below);
      if (below.empty() || (thing.type != EntryType::kDirectory && !make(parent_of(target)))) {
        if (below.empty()) continue;
        return false;
      }
      if (!put(target, source, below)) return false;
    }
    return true;
  }

  Things finish() {
    std::map<uint64_t, std::string> first;
    std::vector<std::string> order;
    for (const auto& [path, thing] : made_) order.push_back(path);
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return layers::path_less(a, b); });
    for (const std::string& path : order) {
      const auto inode = inodes_.find(path);
      if (inode == inodes_.end() || made_.at(path).type != EntryType::kFile) continue;
      const auto [it, fresh] = first.emplace(inode->second, path);
      if (fresh) continue;
      made_.at(path).type = EntryType::kHardlink;
      made_.at(path).target = it->second;
    }
    return made_;
  }

 private:
  std::optional<EntryType> type_at(const std::string& path) const {
    if (path.empty()) return EntryType::kDirectory;
    if (const auto it = made_.find(path); it != made_.end()) return it->second.type;
    const Thing* thing = seen_below(path);
    return thing == nullptr ? std::nullopt : std::optional(thing->type);
  }
  const Thing* seen_below(const std::string& path) const {
    if (link_) return nullptr;
    for (std::string at = parent_of(path); !at.empty(); at = parent_of(at)) {
      if (replaced_.contains(at)) return nullptr;
    }
    const auto it = below_.find(path);
    return it == below_.end() ? nullptr : &it->second;
  }
  bool make(const std::string& path) {
    if (path.empty()) return true;
    if (const auto it = made_.find(path); it != made_.end()) return it->second.type == EntryType::kDirectory;
    if (!make(parent_of(path))) return false;
    const Thing* thing = seen_below(path);
    if (thing != nullptr && thing->type != EntryType::kDirectory) return false;
    made_[path] = thing != nullptr ? *thing : Thing{EntryType::kDirectory, 0755, 77, ""};
    return true;
  }
  void forget(const std::string& path) {
    const auto inside = [&](const auto& item) { return item.first == path || item.first.starts_with(path + "/"); };
    std::erase_if(made_, inside);
    std::erase_if(inodes_, inside);
    replaced_.insert(path);
  }
  bool put(const std::string& target, const ModelSource& source, const std::string& below) {
    const Thing& thing = source.files.at(below);
    const auto type = type_at(target);
    const bool directory = thing.type == EntryType::kDirectory;
    if (type && (*type == EntryType::kDirectory) != directory) {
      if (directory || *type == EntryType::kDirectory) {
        if (!source.archive) return false;
        forget(target);
      }
    }
    if (directory && !make(parent_of(target))) return false;
    made_[target] = thing;
    inodes_.erase(target);
    if (const auto inode = source.inodes.find(below); inode != source.inodes.end()) inodes_[target] = inode->second;
    return true;
  }

  const Things& below_;
  const bool link_;
  Things made_;
  std::map<std::string, uint64_t> inodes_;
  std::set<std::string> replaced_;
};

class Trees {
 public:
  explicit Trees(unsigned seed) : random_(seed) {}
  unsigned below(unsigned bound) { return static_cast<unsigned>(random_() % bound); }
  std::string name() { return std::string(1, "abc"[below(3)]) + (below(4) == 0 ? "." : ""); }

  // A random tree on the disk below `directory`.
  void make(const std::string& directory, int depth, std::vector<std::string>& files) {
    for (unsigned i = below(5); i > 0; --i) {
      const std::string path = directory + "/" + name();
      struct stat st {};
      if (::lstat(path.c_str(), &st) == 0) continue;
      const unsigned kind = below(8);
      if (kind < 3 && depth > 0) {
        REQUIRE(::mkdir(path.c_str(), below(2) == 0 ? 0700 : 0755) == 0);
        make(path, depth - 1, files);
      } else if (kind == 3) {
        REQUIRE(::symlink("somewhere", path.c_str()) == 0);
      } else if (kind == 4 && !files.empty()) {
        REQUIRE(::link(files[below(static_cast<unsigned>(files.size()))].c_str(), path.c_str()) == 0);
      } else {
        REQUIRE(write_file_atomically(AT_FDCWD, path, below(3) == 0 ? "" : "x", Durability::kNone, 0640));
        files.push_back(path);
      }
      const timespec times[2] = {{1000 + below(50), 0}, {1000 + below(50), 0}};
      REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) == 0);
    }
  }

 private:
  std::mt19937 random_;
};

Thing thing_of(const FileInfo& info, std::string target) {
  return {info.type, info.type == EntryType::kSymlink ? 0 : info.mode, info.mtime.seconds, std::move(target)};
}

ModelSource model_of(const SelectedSource& source) {
  ModelSource model{source.base_name, source.archive, {}, {}};
  FileList::Cursor cursor(*source.files);
  SelectedFile file;
  while (*cursor.next(file)) {
    model.files[file.relative] = thing_of(file.info, file.link_target);
    if (file.info.type == EntryType::kFile && file.info.nlink > 1) model.inodes[file.relative] = file.info.inode;
  }
  return model;
}

Things all_below(const SourceTree& tree) {
  Things things;
  const auto whole = select_whole_tree({&tree, [](const SourceTree*) {}}, "/", {});
  REQUIRE(whole);
  for (const auto& [path, thing] : model_of(*whole).files) things[path] = thing;
  return things;
}

}  // namespace

TEST_CASE("sources are placed as if one thing was done after the other") {
  const TempDir dir = *TempDir::create("/tmp", "copy-place");
  ThreadPool pool(2);
  int errors = 0, placed = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    Trees random(seed);
    const std::string context = dir.path() + "/context" + std::to_string(seed), root = dir.path() + "/root" + std::to_string(seed);
    std::vector<std::string> files, root_files;
    REQUIRE(make_directories(AT_FDCWD, context));
    REQUIRE(make_directories(AT_FDCWD, root));
    random.make(context, 3, files);
    random.make(root, 2, root_files);
    const auto tree = *open_context(context, "context", {}, nullptr);
    auto names = *tree->list("");
    std::erase_if(names, [](const DirectoryEntry& e) { return e.type == EntryType::kSymlink; });  // would be followed
    if (names.empty()) continue;
    CopyStep copy;
    for (unsigned i = 1 + random.below(3); i > 0; --i) copy.sources.push_back(literal_path("/" + names[random.below(static_cast<unsigned>(names.size()))].name, {}));
    copy.link = random.below(4) == 0;
    for (unsigned i = random.below(3); i > 0; --i) copy.destination += "/" + random.name();
    if (copy.destination.empty() || random.below(2) == 0) copy.destination += "/";
    const auto view = *layers::RootfsView::open({root});
    const Things below = all_below(*tree_of_view(view, "below"));
    auto selection = select_sources(copy, Step{}, tree, pool, {});
    REQUIRE(selection);
    for (SelectedSource& source : selection->sources) source.archive = source.directory && random.below(3) == 0;

    std::string destination = copy.destination.substr(1);
    const bool slash = destination.empty() || destination.back() == '/';
    if (!destination.empty() && slash) destination.pop_back();
    if (!copy.link) destination = *view->resolve(destination, true);
    Model model(below, copy.link);
    const auto plain = std::count_if(selection->sources.begin(), selection->sources.end(), [](const auto& s) { return !s.directory; });
    const auto there = below.find(destination);
    bool possible = plain < 2 || slash || (!copy.link && (destination.empty() || (there != below.end() && there->second.type == EntryType::kDirectory)));
    for (const SelectedSource& source : selection->sources) possible = possible && model.place(model_of(source), destination, slash);

    Placement placement;
    placement.created_time = {77, 0};
    Things things;
    const auto place = [&]() -> Result<void> {
      ASSIGN_OR_RETURN(const auto entries, place_sources(*selection, copy, placement, *view));
      std::string before;
      while (true) {
        ASSIGN_OR_RETURN(const std::optional<Entry> entry, entries->next());
        if (!entry) return {};
        CHECK((things.empty() || layers::path_less(before, entry->path)));
        before = entry->path;
        things[entry->path] = {entry->type, entry->type == EntryType::kSymlink ? 0 : entry->mode, entry->mtime.seconds, entry->link_target};
      }
    };
    const auto result = place();
    CAPTURE(seed);
    REQUIRE(result.has_value() == possible);
    ++(possible ? placed : errors);
    if (!possible) continue;
    const Things expected = model.finish();
    for (const auto& [path, thing] : expected) {
      CAPTURE(path);
      REQUIRE(things.contains(path));
      CHECK(things.at(path).type == thing.type);
      CHECK(things.at(path).mode == thing.mode);
      CHECK(things.at(path).seconds == thing.seconds);
      CHECK(things.at(path).target == thing.target);
    }
    CHECK(things.size() == expected.size());
  }
  CHECK(placed > 50);
  CHECK(errors > 10);
}

TEST_CASE("excluded directories are made for what was re-included below them") {
  const TempDir dir = *TempDir::create("/tmp", "copy-place");
  for (const char* path : {"d/e/keep", "d/e/drop", "d/f/drop", "g/keep"}) {
    REQUIRE(make_directories(AT_FDCWD, dir.path() + "/" + parent_of(path)));
    REQUIRE(write_file_atomically(AT_FDCWD, dir.path() + "/" + path, "x", Durability::kNone));
  }
  CopyStep copy;
  copy.sources.push_back(literal_path("/", {}));
  copy.destination = "/to/";
  copy.excludes = {"**", "!**/keep"};
  ThreadPool pool(2);
  const auto selection = *select_sources(copy, Step{}, *open_context(dir.path(), "context", {}, nullptr), pool, {});
  const auto nothing = *layers::RootfsView::open({});
  const Placement placement;
  const auto entries = *place_sources(selection, copy, placement, *nothing);
  std::vector<std::string> paths;
  while (auto entry = *entries->next()) paths.push_back(entry->path);
  CHECK(paths == std::vector<std::string>{"to", "to/d", "to/d/e", "to/d/e/keep", "to/g", "to/g/keep"});
}

TEST_CASE("files that a pattern matches are known by the same key as files that are named") {
  const auto dir = TempDir::create("/tmp", "copy-place");
  for (const char* name : {"a.txt", "b.txt", "z.txt", "d/in.txt", "d/on.txt"}) {
    REQUIRE(make_directories(AT_FDCWD, dir->path() + "/d"));
    REQUIRE(write_file_atomically(AT_FDCWD, dir->path() + "/" + name, name, Durability::kNone));
  }
  REQUIRE(::symlink("d", (dir->path() + "/l").c_str()) == 0);
  REQUIRE(::symlink("z.txt", (dir->path() + "/c.txt").c_str()) == 0);
  ThreadPool pool(2);
  const auto key = [&](std::vector<std::string> sources) {
    CopyStep copy;
    for (std::string& source : sources) copy.sources.push_back({std::move(source), {}});
    const auto selection = select_sources(copy, Step{}, *open_context(dir->path(), "context", {}, nullptr), pool, {});
    REQUIRE(selection);
    REQUIRE(digest_selection(*selection, pool));
    KeyInputs inputs;
    REQUIRE(add_selection_inputs(*selection, inputs));
    return *inputs.key();
  };
  CHECK(key({"[ab].txt"}) == key({"a.txt", "b.txt"}));
  CHECK(key({"*.txt"}) == key({"a.txt", "b.txt", "c.txt", "z.txt"}));
  CHECK(key({"[a-d]*"}) == key({"a.txt", "b.txt", "c.txt", "d"}));
  CHECK(key({"l/*", "?.txt"}) == key({"l/in.txt", "l/on.txt", "a.txt", "b.txt", "c.txt", "z.txt"}));
  CHECK(key({"[ld]/*"}) == key({"d/in.txt", "d/on.txt", "l/in.txt", "l/on.txt"}));
  CHECK(key({"[ab].txt"}) != key({"b.txt", "a.txt"}));
}
