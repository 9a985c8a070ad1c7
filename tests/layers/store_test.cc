#include "layers/store.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <future>
#include <thread>

#include "base/files.h"

using namespace lamina;
using namespace lamina::layers;

namespace {

struct Fixture {
  TempDir dir = std::move(*TempDir::create("/tmp", "store-test"));
  std::unique_ptr<Store> store = open();
  std::unique_ptr<Store> open() const {
    auto opened = Store::open(dir.path() + "/store");
    REQUIRE(opened);
    return std::move(*opened);
  }
};

oci::Descriptor blob_of(std::string_view bytes) {
  oci::Descriptor d;
  d.media_type = oci::media_type::kOciConfig;
  d.digest = oci::Digest::of(bytes);
  d.size = bytes.size();
  return d;
}

Entry file(const std::string& path, const std::string& text) {
  Entry e;
  e.path = path;
  e.mode = 0644;
  e.uid = ::geteuid();
  e.gid = ::getegid();
  e.bytes = std::make_shared<const std::string>(text);
  e.size = text.size();
  return e;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "blobs are kept only when they are what they say") {
  const oci::Descriptor d = blob_of("content");
  REQUIRE(oci::put_blob(*store, d, "content"));
  CHECK(*oci::read_blob(*store, d) == "content");
  const oci::Descriptor other = blob_of("other");
  CHECK(oci::put_blob(*store, other, "wrong").error().kind() == ErrorKind::kCorrupt);
  CHECK_FALSE(store->has_blob(other));
  {
    const auto writer = store->create_blob(other);  // given up half-way
    REQUIRE((*writer)->write(as_bytes("oth")));
  }
  CHECK_FALSE(store->has_blob(other));
  // Damage on the disk is seen by the reader.
  const std::string path = dir.path() + "/store/blobs/sha256/" + d.digest.hex();
  ::chmod(path.c_str(), 0644);
  REQUIRE(write_file_atomically(AT_FDCWD, path, "c0ntent", Durability::kNone));
  CHECK(oci::read_blob(*store, d).error().kind() == ErrorKind::kCorrupt);
}

TEST_CASE_FIXTURE(Fixture, "a layer is the same in every form") {
  ThreadPool pool(2);
  const EntryList entries = {file("a", "1"), file("b", std::string(100000, 'x'))};
  const auto as_tar = store->add_entries(entries, {}, LayerForm::kTar);
  const auto as_snapshot = store->add_entries(entries, {}, LayerForm::kSnapshot);
  REQUIRE(as_tar);
  REQUIRE(as_snapshot);
  CHECK(*store->diff_id(*as_tar) == *store->diff_id(*as_snapshot));
  CHECK(store->tar_descriptor(*as_tar)->digest == store->diff_id(*as_tar)->as_uncompressed_digest());
  const auto one = store->blob(*as_tar, {}, pool);
  const auto two = store->blob(*as_snapshot, {}, pool);
  REQUIRE(one);
  CHECK(one->descriptor.digest == two->descriptor.digest);
  CHECK(store->has_blob(one->descriptor));
  const std::vector<LayerId> stack = {*as_tar};
  const auto snapshots = store->snapshots(stack, pool, nullptr);
  REQUIRE(snapshots);
  CHECK(*read_file(AT_FDCWD, snapshots->at(0) + "/a") == "1");
  // Known to the next process too.
  store.reset();
  store = open();
  CHECK(store->find_layer(oci::DiffId(*store->diff_id(*as_tar))).has_value());
}

TEST_CASE_FIXTURE(Fixture, "many threads ask for one form and get one") {
  ThreadPool pool(2);
  const auto id = store->add_entries({file("a", std::string(1 << 20, 'y'))}, {}, LayerForm::kSnapshot);
  REQUIRE(id);
  std::vector<std::thread> threads;
  std::vector<std::string> digests(6);
  for (size_t i = 0; i < digests.size(); ++i) {
    threads.emplace_back([&, i] { digests[i] = store->blob(*id, {}, pool)->descriptor.digest.hex(); });
  }
  for (std::thread& t : threads) t.join();
  for (const std::string& d : digests) CHECK(d == digests[0]);
}

TEST_CASE_FIXTURE(Fixture, "on ext4 a program's own directory begins in a block group of its own") {
  REQUIRE(store->begin_layer());
  const std::string path = dir.path() + "/store/tmp";
  struct statfs file_system {};
  REQUIRE(::statfs(path.c_str(), &file_system) == 0);
  const auto fd = open_directory(AT_FDCWD, path);
  REQUIRE(fd);
  unsigned int flags = 0;
  if (file_system.f_type != EXT4_SUPER_MAGIC) return;  // others have nothing to say here
  REQUIRE(::ioctl(fd->get(), FS_IOC_GETFLAGS, &flags) == 0);
  CHECK((flags & FS_TOPDIR_FL) != 0);
}

TEST_CASE_FIXTURE(Fixture, "what has the same tar is compressed once") {
  ThreadPool pool(2);
  const auto make = [&](const std::string& content) {
    auto layer = store->begin_layer();
    REQUIRE(layer);
    REQUIRE(write_file_atomically(AT_FDCWD, layer->fs() + "/a", content, Durability::kNone));
    return *store->seal(std::move(*layer), SealOptions{0});
  };
  const LayerId one = make("1"), two = make("1");
  REQUIRE(one != two);
  const auto diff_id = store->diff_id(one);  // this one is found by it
  REQUIRE(*store->diff_id(two) == *diff_id);
  const auto first = store->blob(one, {}, pool);
  REQUIRE(first);
  // Damaged, it could not be compressed.
  REQUIRE(write_file_atomically(AT_FDCWD, dir.path() + "/store/layers/" + two.value + "/fs/a", "2", Durability::kNone));
  const auto second = store->blob(two, {}, pool);
  REQUIRE_MESSAGE(second, second.error().message());
  CHECK(second->descriptor.digest == first->descriptor.digest);
  CompressionOptions other;
  other.level = 1;
  CHECK(store->blob(two, other, pool).error().kind() == ErrorKind::kCorrupt);
}

TEST_CASE_FIXTURE(Fixture, "names and records") {
  const oci::Descriptor d = blob_of("m");
  REQUIRE(store->set_image("docker.io/library/a:1", d));
  REQUIRE(store->set_image("docker.io/library/b:1", d));
  CHECK(store->images()->size() == 2);
  CHECK((*store->image("docker.io/library/a:1"))->descriptor.digest == d.digest);
  CHECK_FALSE(*store->image("docker.io/library/c:1"));
  CHECK(*store->remove_image("docker.io/library/a:1"));
  CHECK_FALSE(*store->remove_image("docker.io/library/a:1"));
  const std::string key(64, 'k');
  CHECK_FALSE(*store->record(key));
  REQUIRE(store->put_record(key, "value"));
  CHECK(**store->record(key) == "value");
}

TEST_CASE_FIXTURE(Fixture, "prune keeps what names need") {
  const auto id = store->add_entries({file("a", "1")}, {}, LayerForm::kTar);
  REQUIRE(id);
  const oci::Descriptor loose = blob_of("loose");
  REQUIRE(oci::put_blob(*store, loose, "loose"));
  const auto nothing = [](std::string_view) { return std::vector<LayerId>{}; };
  PruneOptions everything;
  everything.all = true;
  REQUIRE(store->prune(everything, nothing));
  CHECK_FALSE(store->has_blob(loose));
  CHECK_FALSE(store->layer_info(*id));
  const auto other = open();
  CHECK(store->prune(everything, nothing).error().kind() == ErrorKind::kUnavailable);  // somebody else is at work
}

TEST_CASE_FIXTURE(Fixture, "of two layers of one DiffId the other is found when prune took the one") {
  const auto make = [&] {
    auto layer = store->begin_layer();
    REQUIRE(layer);
    REQUIRE(write_file_atomically(AT_FDCWD, layer->fs() + "/a", "1", Durability::kNone));
    return *store->seal(std::move(*layer), SealOptions{0});
  };
  const LayerId one = make(), two = make();
  const oci::DiffId diff_id = *store->diff_id(one);
  REQUIRE(*store->diff_id(two) == diff_id);
  CHECK(*store->find_layer(diff_id) == one);
  const auto keep_two = [&](std::string_view) { return std::vector<LayerId>{two}; };
  REQUIRE(store->put_record(std::string(64, 'a'), "two"));
  REQUIRE(store->prune({}, keep_two));
  CHECK_FALSE(store->layer_info(one));
  SUBCASE("") {}
  SUBCASE("also when a layer without bytes came between") {
    oci::Descriptor elsewhere = blob_of("elsewhere");
    elsewhere.media_type = oci::media_type::kOciLayerGzip;
    REQUIRE(store->add_pulled(diff_id, elsewhere));
    CHECK_FALSE(*store->find_layer(diff_id) == two);
  }
  REQUIRE(*store->diff_id(two) == diff_id);
  CHECK(*store->find_layer(diff_id) == two);
}

TEST_CASE_FIXTURE(Fixture, "half-made things of dead processes go at the next open") {
  store.reset();
  const std::string left = dir.path() + "/store/tmp/build.dead";
  REQUIRE(make_directories(AT_FDCWD, left + "/fs"));
  REQUIRE(write_file_atomically(AT_FDCWD, left + ".lock", "", Durability::kNone));
  store = open();
  CHECK(::access(left.c_str(), F_OK) != 0);
}

TEST_CASE_FIXTURE(Fixture, "an unknown format version is refused") {
  store.reset();
  REQUIRE(write_file_atomically(AT_FDCWD, dir.path() + "/store/format", "lamina-store 77\n", Durability::kNone));
  const auto opened = Store::open(dir.path() + "/store");
  REQUIRE_FALSE(opened);
  CHECK(opened.error().kind() == ErrorKind::kUnsupported);
}

namespace {

// Gives a blob that breaks off after some bytes, and counts what was asked for.
class BreakingSource : public oci::BlobSource {
 public:
  BreakingSource(std::string bytes, size_t limit) : bytes_(std::move(bytes)), limit_(limit) {}
  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Descriptor& d) override { return open_blob_from(d, 0); }
  Result<std::unique_ptr<ByteSource>> open_blob_from(const oci::Descriptor&, uint64_t offset) override {
    offsets.push_back(offset);
    return std::unique_ptr<ByteSource>(std::make_unique<Stream>(bytes_.substr(offset), limit_));
  }
  std::vector<uint64_t> offsets;

 private:
  class Stream : public ByteSource {
   public:
    Stream(std::string bytes, size_t limit) : inner_(std::move(bytes)), left_(limit) {}
    Result<size_t> read(std::span<std::byte> buffer) override {
      if (left_ == 0) return Error(ErrorKind::kUnavailable, "broken");
      auto n = inner_.read(buffer.first(std::min(left_, buffer.size())));
      if (n) left_ -= *n;
      return n;
    }

   private:
    StringSource inner_;
    size_t left_;
  };
  std::string bytes_;
  size_t limit_;
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a download that breaks off is continued, also by another store object") {
  std::string bytes(3 << 20, 'x');
  for (size_t i = 0; i < bytes.size(); i += 7) bytes[i] = static_cast<char>(i / 7);
  const oci::Descriptor d = blob_of(bytes);
  BreakingSource source(bytes, 1 << 20);
  CHECK(store->fetch_blob(d, source, {}).error().kind() == ErrorKind::kUnavailable);
  CHECK_FALSE(store->has_blob(d));
  store.reset();
  store = open();
  CHECK(store->fetch_blob(d, source, {}).error().kind() == ErrorKind::kUnavailable);
  BreakingSource whole(bytes, SIZE_MAX);
  REQUIRE(store->fetch_blob(d, whole, {}));
  CHECK(source.offsets == std::vector<uint64_t>{0, 1 << 20});
  CHECK(whole.offsets == std::vector<uint64_t>{2 << 20});
  CHECK(*oci::read_blob(*store, d) == bytes);
}

TEST_CASE_FIXTURE(Fixture, "a kept part of another boot counts only as far as it was synced; a wrong one is dropped") {
  const std::string bytes(2 << 20, 'y');
  const oci::Descriptor d = blob_of(bytes);
  const std::string partial = dir.path() + "/store/partial/" + d.digest.hex();
  REQUIRE(make_directories(AT_FDCWD, dir.path() + "/store/partial"));
  const auto keep = [&](const std::string& content, const std::string& state) {
    REQUIRE(write_file_atomically(AT_FDCWD, partial, content, Durability::kNone));
    REQUIRE(write_file_atomically(AT_FDCWD, partial + ".state", state, Durability::kNone));
  };
  BreakingSource source(bytes, SIZE_MAX);
  keep(bytes.substr(0, 1 << 20), "another-boot 4096\n");
  REQUIRE(store->fetch_blob(d, source, {}));
  REQUIRE(store->remove_blob(d.digest));
  keep(bytes.substr(0, 1 << 20), "garbage");
  REQUIRE(store->fetch_blob(d, source, {}));
  REQUIRE(store->remove_blob(d.digest));
  keep(std::string(1 << 20, 'z'), "another-boot 1048576\n");
  REQUIRE(store->fetch_blob(d, source, {}));  // fails its digest, starts again by itself
  CHECK(source.offsets == std::vector<uint64_t>{4096, 0, 1 << 20, 0});
  CHECK(*oci::read_blob(*store, d) == bytes);
  CHECK_FALSE(read_file(AT_FDCWD, partial));
}

namespace {

// As if the machine had been started anew since the layer was made.
void age_meta(const std::string& layer) {
  std::string boot = *read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id");
  boot.pop_back();
  std::string meta = *read_file(AT_FDCWD, layer + "/meta");
  const size_t at = meta.find(boot);
  REQUIRE(at != std::string::npos);
  meta.replace(at, boot.size(), "another-boot");
  REQUIRE(write_file_atomically(AT_FDCWD, layer + "/meta", meta, Durability::kNone));
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "after a reboot one process verifies a layer, and the others take its word") {
  const auto id = store->add_entries({file("a", "1")}, {}, LayerForm::kSnapshot);
  REQUIRE(id);
  REQUIRE(store->diff_id(*id));
  const std::string layer = dir.path() + "/store/layers/" + id->value;
  const std::string sound = *read_file(AT_FDCWD, layer + "/meta");
  age_meta(layer);
  // This is the other process, which is at it already.
  std::optional<FileLock> other = *FileLock::try_acquire(AT_FDCWD, layer + "/verify.lock", FileLock::Mode::kExclusive);
  REQUIRE(other);
  const auto late = open();
  auto looked = std::async(std::launch::async, [&] { return late->layer_info(*id).has_value(); });
  CHECK(looked.wait_for(std::chrono::milliseconds(300)) == std::future_status::timeout);
  REQUIRE(write_file_atomically(AT_FDCWD, layer + "/meta", sound, Durability::kNone));
  for (const char* made : {"/chain-0", "/block-0"}) REQUIRE(make_directories(AT_FDCWD, layer + made));
  other.reset();
  CHECK(looked.get());
  for (const char* stays : {"/chain-0", "/block-0", "/fs/a"}) CHECK(::access((layer + stays).c_str(), F_OK) == 0);
}

TEST_CASE_FIXTURE(Fixture, "after a reboot many look at a layer at once") {
  const auto id = store->add_entries({file("a", std::string(1 << 20, 'x'))}, {}, LayerForm::kSnapshot);
  REQUIRE(id);
  REQUIRE(store->diff_id(*id));
  const std::string layer = dir.path() + "/store/layers/" + id->value;
  REQUIRE(make_directories(AT_FDCWD, layer + "/block-0"));
  age_meta(layer);
  std::vector<std::unique_ptr<Store>> stores;
  for (int i = 0; i < 6; ++i) stores.push_back(open());
  std::vector<std::future<bool>> looked;
  for (const auto& one : stores) {
    looked.push_back(std::async(std::launch::async, [&] {
      if (!one->layer_info(*id)) return false;
      // What is made of a verified layer stays.
      const TempDir made = std::move(*TempDir::create(layer, "chain-"));
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      return ::access(made.path().c_str(), F_OK) == 0;
    }));
  }
  for (auto& one : looked) CHECK(one.get());
  CHECK(::access((layer + "/block-0").c_str(), F_OK) != 0);
  CHECK(::access((layer + "/fs/a").c_str(), F_OK) == 0);
}

TEST_CASE_FIXTURE(Fixture, "fsck finds a blob that is not its name") {
  const oci::Descriptor d = blob_of("content");
  REQUIRE(oci::put_blob(*store, d, "content"));
  CHECK(store->fsck(true)->problems.empty());
  REQUIRE(write_file_atomically(AT_FDCWD, dir.path() + "/store/blobs/sha256/" + d.digest.hex(), "c0ntent", Durability::kNone));
  CHECK(store->fsck(false)->problems.size() == 1);
  CHECK(store->has_blob(d));
  CHECK(store->fsck(true)->problems.size() == 1);
  CHECK_FALSE(store->has_blob(d));
  CHECK(store->fsck(true)->problems.empty());
}

namespace {

bool is_there(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

// A built layer, and hard links to its file where other snapshots have them; then the file changes.
struct DamagedLayer {
  std::string path, chain, block;
  DamagedLayer(Store& store, const LayerId& id, const LayerId& top)
      : path(store.path() + "/layers/" + id.value), chain(path + "/chain-0"), block(store.path() + "/layers/" + top.value + "/block-0") {
    for (const std::string& other : {chain, block}) {
      REQUIRE(make_directories(AT_FDCWD, other));
      REQUIRE(::link((path + "/fs/a").c_str(), (other + "/a").c_str()) == 0);
    }
    const auto fd = open_at(AT_FDCWD, path + "/fs/a", O_WRONLY);
    REQUIRE(fd);
    REQUIRE(write_all(fd->get(), "f1rst"));
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "fsck removes everything that shows a damaged file") {
  ThreadPool pool(1);
  const auto id = store->add_entries({file("a", "first")}, {}, LayerForm::kSnapshot);
  const auto top = store->add_entries({file("b", "second")}, {}, LayerForm::kSnapshot);
  REQUIRE(id);
  REQUIRE(top);
  REQUIRE(store->blob(*id, {}, pool));  // the bytes that the files are made of again
  REQUIRE(store->snapshots(std::vector{*id, *top}, pool, nullptr));
  const DamagedLayer layer(*store, *id, *top);
  CHECK(store->fsck(false)->problems.size() == 1);
  for (const std::string& path : {layer.path + "/fs", layer.chain, layer.block}) CHECK(is_there(path));
  CHECK(store->fsck(true)->problems.size() == 1);
  for (const std::string& path : {layer.path + "/fs", layer.chain, layer.block}) CHECK_FALSE(is_there(path));
  CHECK(is_there(store->path() + "/layers/" + top->value + "/fs/b"));
  REQUIRE(store->snapshots(std::vector{*id, *top}, pool, nullptr));
  CHECK(*read_file(AT_FDCWD, layer.path + "/fs/a") == "first");
  CHECK(store->fsck(true)->problems.empty());
}

TEST_CASE_FIXTURE(Fixture, "fsck does not count on bytes of a built layer that are elsewhere") {
  const auto id = store->add_entries({file("a", "first")}, {}, LayerForm::kSnapshot);
  const auto top = store->add_entries({file("b", "second")}, {}, LayerForm::kSnapshot);
  REQUIRE(id);
  REQUIRE(top);
  // The same layer was seen in a registry, but never fetched.
  oci::Descriptor elsewhere = blob_of("compressed");
  elsewhere.media_type = oci::media_type::kOciLayerGzip;
  REQUIRE(*store->add_pulled(*store->diff_id(*id), elsewhere) == *id);
  const DamagedLayer layer(*store, *id, *top);
  const auto report = store->fsck(true);
  REQUIRE(report->problems.size() == 2);  // and the name of the layer
  CHECK(report->problems[0].done.starts_with("moved to quarantine/"));
  CHECK_FALSE(is_there(layer.path));
  CHECK_FALSE(is_there(layer.block));
  CHECK(store->fsck(true)->problems.empty());
}

TEST_CASE_FIXTURE(Fixture, "prune removes the types that are named and no others") {
  const auto id = store->add_entries({file("a", "1")}, {}, LayerForm::kTar);  // of the record
  const auto loose = store->add_entries({file("b", "2")}, {}, LayerForm::kTar);
  REQUIRE(id);
  REQUIRE(loose);
  const std::string key(64, 'k');
  REQUIRE(store->put_record(key, "value"));
  const std::vector<std::string> rooms = {"partial", "cache-mounts", "git", "quarantine"};
  for (const std::string& room : rooms) {
    REQUIRE(make_directories(AT_FDCWD, store->path() + "/" + room));
    REQUIRE(write_file_atomically(AT_FDCWD, store->path() + "/" + room + "/x", "x", Durability::kNone));
  }
  const auto layers = [&](std::string_view) { return std::vector<LayerId>{*id}; };
  const auto prune = [&](std::set<std::string> types) {
    PruneOptions options;
    options.all = true;
    options.types = std::move(types);
    options.max_bytes = 0;  // no reason to remove other types
    REQUIRE(store->prune(options, layers));
  };
  std::set<std::string> left(rooms.begin(), rooms.end());
  const std::vector<std::pair<std::string, std::string>> types = {{"partial", "partial"}, {"exec.cachemount", "cache-mounts"}, {"source.git", "git"}};
  for (const auto& [type, room] : types) {
    CAPTURE(type);
    prune({type});
    left.erase(room);
    for (const std::string& r : rooms) CHECK(is_there(store->path() + "/" + r) == left.contains(r));
    CHECK(store->layer_info(*id));
    CHECK(store->layer_info(*loose));
    CHECK(*store->record(key));
  }
  prune({"regular"});
  CHECK(is_there(store->path() + "/quarantine"));
  CHECK_FALSE(*store->record(key));
  CHECK_FALSE(store->layer_info(*id));
  prune({});
  CHECK_FALSE(is_there(store->path() + "/quarantine"));
}

TEST_CASE_FIXTURE(Fixture, "a record may be long: the inputs of a step that copied very many files") {
  const std::string key(64, 'a'), text(40 << 20, 'x');
  CHECK_FALSE(store->has_record(key));
  REQUIRE(store->put_record(key, text));
  CHECK(store->has_record(key));
  const auto found = store->record(key);
  REQUIRE(found);
  CHECK(*found == text);
  std::vector<size_t> sizes;
  REQUIRE(store->prune({}, [&](std::string_view record) {
    sizes.push_back(record.size());
    return std::vector<LayerId>();
  }));
  REQUIRE(sizes.size() == 1);
  CHECK(sizes[0] < 1 << 20);
}
