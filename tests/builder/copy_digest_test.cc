#include <doctest/doctest.h>
#include <fcntl.h>

#include "base/files.h"
#include "builder/context.h"
#include "builder/copy.h"

using namespace lamina;
using namespace lamina::builder;

namespace {

const std::string kLong(6 << 20, 'l');  // more than a piece

struct Fixture {
  TempDir dir = std::move(*TempDir::create("/tmp", "copy-digest"));
  std::unique_ptr<layers::Store> store = std::move(*layers::Store::open(dir.path() + "/store"));
  std::shared_ptr<DigestIndex> index = DigestIndex::load(*store, "test");
  ThreadPool pool{2};
  std::shared_ptr<const SourceTree> tree;

  Fixture() {
    REQUIRE(make_directories(AT_FDCWD, dir.path() + "/context/sub"));
    write("sub/a", "first");
    write("sub/empty", "");
    write("long", kLong);
    tree = *open_context(dir.path() + "/context", "context", {}, index);
  }
  // In place: the inode stays.
  void write(const std::string& name, const std::string& content) {
    const UniqueFd fd = *open_at(AT_FDCWD, dir.path() + "/context/" + name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    REQUIRE(write_all(fd.get(), content));
  }
  Selection select() {
    CopyStep copy;
    copy.sources.push_back(literal_path("/", {}));
    auto selection = select_sources(copy, Step{}, tree, pool, store->temporary_files());
    REQUIRE(selection);
    return *std::move(selection);
  }
  Result<layers::LayerId> make_layer(Selection& selection, layers::LayerForm form = layers::LayerForm::kTar) {
    CopyStep copy;
    copy.destination = "/";
    const auto nothing = layers::RootfsView::open({});
    const Placement placement;
    auto entries = place_sources(selection, copy, placement, **nothing);
    REQUIRE(entries);
    return store->add_entries(**entries, {}, form, &pool);
  }
  static std::map<std::string, std::string> digests(const Selection& selection) {
    std::map<std::string, std::string> found;
    const FileList& files = *selection.sources.front().files;
    FileList::Cursor cursor(files);
    SelectedFile file;
    while (*cursor.next(file)) {
      if (file.info.type == EntryType::kFile) found[files.path_of(file)] = file.digest ? to_hex(*file.digest) : "";
    }
    return found;
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "digests taken on the way into a layer are those of reading the files") {
  Selection read_before = select();
  REQUIRE(digest_selection(read_before, pool));
  for (const auto form : {layers::LayerForm::kTar, layers::LayerForm::kSnapshot}) {
    Selection on_the_way = select();
    if (form == layers::LayerForm::kSnapshot) REQUIRE(digest_selection(on_the_way, pool, kCopyBufferSize));
    watch_reading(on_the_way);
    REQUIRE(make_layer(on_the_way, form));
    CHECK_FALSE(digests(on_the_way).at("sub/a").empty());
    CHECK_FALSE(digests(on_the_way).at("long").empty());
    REQUIRE(digest_selection(on_the_way, pool));  // the empty file is never opened
    CHECK(digests(on_the_way) == digests(read_before));
  }
}

TEST_CASE_FIXTURE(Fixture, "a small file that changes before it is copied: the digest is of what is in the layer, or the copy fails") {
  Selection on_the_way = select();
  watch_reading(on_the_way);
  write("sub/a", "other");
  REQUIRE(make_layer(on_the_way));
  CHECK(digests(on_the_way).at("sub/a") == sha256_hex("other"));

  Selection digested = select();
  REQUIRE(digest_selection(digested, pool));
  watch_reading(digested);
  write("sub/a", "third");
  const auto made = make_layer(digested);
  REQUIRE_FALSE(made);
  CHECK(made.error().message() == "sub/a changed while it was copied");
  // Written to, but to the same effect.
  write("sub/a", "other");
  CHECK(make_layer(digested));
}

TEST_CASE_FIXTURE(Fixture, "a long file that is written to is not copied") {
  for (const bool digest_first : {false, true}) {
    Selection selection = select();
    if (digest_first) REQUIRE(digest_selection(selection, pool));
    watch_reading(selection);
    write("long", std::string(kLong.size(), digest_first ? 'm' : 'k'));
    const auto made = make_layer(selection);
    REQUIRE_FALSE(made);
    CHECK(made.error().message() == "long changed while it was copied");
  }
}
