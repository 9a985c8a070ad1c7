#include "registry/layout.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include "base/files.h"
#include "registry/client.h"

using namespace lamina;
using namespace lamina::registry;

namespace {

class MapSource : public oci::BlobSource {
 public:
  std::map<oci::Digest, std::string> blobs;
  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Descriptor& d) override {
    const auto it = blobs.find(d.digest);
    if (it == blobs.end()) return Error(ErrorKind::kNotFound, "no such blob");
    return std::unique_ptr<ByteSource>(std::make_unique<StringSource>(it->second));
  }
  oci::Descriptor put(std::string_view type, std::string text) {
    oci::Descriptor d;
    d.media_type = std::string(type);
    d.digest = oci::Digest::of(text);
    d.size = text.size();
    blobs[d.digest] = std::move(text);
    return d;
  }
};

struct Fixture {
  TempDir dir = std::move(*TempDir::create("/tmp", "layout-test"));
  MapSource source;
  oci::Image image;
  std::vector<oci::Reference> names = {*oci::Reference::parse("app:v1"), *oci::Reference::parse("localhost:5000/b:v2")};

  Fixture() {
    image.config_json = R"({"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}})";
    image.manifest.config = source.put(oci::media_type::kOciConfig, image.config_json);
    image.manifest.layers = {source.put(oci::media_type::kOciLayer, std::string(3000, 'l'))};
    image.manifest.layers.push_back(image.manifest.layers[0]);  // the same layer twice is one blob
    image.manifest_json = image.manifest.to_json();
    image.descriptor = source.put(oci::media_type::kOciManifest, image.manifest_json);
  }
  void check_readable(const std::string& path) {
    auto file = ImageFile::open(path);
    REQUIRE(file);
    const auto top = (*file)->find("v2", {});
    REQUIRE(top);
    const auto loaded = load_image(**file, *top, oci::Platform::host());
    REQUIRE(loaded);
    CHECK(loaded->image.config_json == image.config_json);
    CHECK(oci::read_blob(**file, loaded->image.manifest.layers.at(0))->size() == 3000);
    CHECK_FALSE((*file)->find("v3", {}));
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a layout directory is written whole and read back") {
  const std::string path = dir.path() + "/layout";
  REQUIRE(write_layout_directory(path, {&image, names}, source));
  check_readable(path);
  CHECK((*ImageFile::open(path))->find({}, {})->digest == image.descriptor.digest);
  CHECK((*ImageFile::open(path))->find({}, image.descriptor.digest));
  // A source that fails leaves the old layout as it is.
  source.blobs.erase(image.manifest.layers[0].digest);
  CHECK_FALSE(write_layout_directory(path, {&image, names}, source));
  source.put(oci::media_type::kOciLayer, std::string(3000, 'l'));
  check_readable(path);
  CHECK(list_directory(open_directory(AT_FDCWD, dir.path())->get())->size() == 1);
}

TEST_CASE_FIXTURE(Fixture, "tars are the same every time and read back") {
  for (const bool docker : {false, true}) {
    StringSink one, two;
    const auto write = docker ? &write_docker_archive : &write_layout_tar;
    REQUIRE(write(one, {&image, names}, source));
    REQUIRE(write(two, {&image, names}, source));
    CHECK(one.text == two.text);
    const std::string path = dir.path() + "/archive.tar";
    REQUIRE(write_file_atomically(AT_FDCWD, path, one.text, Durability::kNone));
    check_readable(path);
  }
}

TEST_CASE_FIXTURE(Fixture, "blobs are checked while they are read") {
  const std::string path = dir.path() + "/layout";
  REQUIRE(write_layout_directory(path, {&image, names}, source));
  REQUIRE(write_file_atomically(AT_FDCWD, path + "/blobs/sha256/" + image.manifest.layers[0].digest.hex(), std::string(3000, 'x'), Durability::kNone));
  const auto file = ImageFile::open(path);
  CHECK(oci::read_blob(**file, image.manifest.layers[0]).error().kind() == ErrorKind::kCorrupt);
}

TEST_CASE_FIXTURE(Fixture, "what is no image file is refused") {
  REQUIRE(write_file_atomically(AT_FDCWD, dir.path() + "/x", "not an archive at all", Durability::kNone));
  CHECK_FALSE(ImageFile::open(dir.path() + "/x"));
  CHECK_FALSE(ImageFile::open(dir.path()));
  CHECK_FALSE(ImageFile::open(dir.path() + "/missing"));
  image.manifest.layers[0].media_type = oci::media_type::kOciLayerZstd;
  StringSink sink;
  CHECK(write_docker_archive(sink, {&image, names}, source).error().kind() == ErrorKind::kUnsupported);
}
