#include "oci/manifest.h"

#include <doctest/doctest.h>

using namespace lamina;
using namespace lamina::oci;

namespace {

const std::string kDigest = "sha256:" + std::string(64, '0');

Descriptor for_platform(const std::string& platform, char fill) {
  Descriptor d;
  d.media_type = media_type::kOciManifest;
  d.digest = *Digest::parse("sha256:" + std::string(64, fill));
  d.size = 1;
  d.platform = *Platform::parse(platform);
  return d;
}

}  // namespace

TEST_CASE("a manifest is written canonically and read back") {
  Manifest m;
  m.config = {std::string(media_type::kOciConfig), *Digest::parse(kDigest), 7, {}, {}, {}, {}};
  m.layers.push_back({std::string(media_type::kOciLayerGzip), *Digest::parse(kDigest), 9, {{"b", "2"}, {"a", "1"}}, {}, {}, {}});
  const std::string json = m.to_json();
  CHECK(json == R"({"config":{"digest":")" + kDigest + R"(","mediaType":"application/vnd.oci.image.config.v1+json","size":7},"layers":[{"annotations":{"a":"1","b":"2"},"digest":")" + kDigest +
                    R"(","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":9}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2})");
  const auto again = Manifest::parse(json);
  REQUIRE(again);
  CHECK(again->to_json() == json);
}

TEST_CASE("no layers are an empty list") {
  Manifest m;
  m.config = {std::string(media_type::kOciConfig), *Digest::parse(kDigest), 7, {}, {}, {}, {}};
  CHECK(m.to_json().find("\"layers\":[]") != std::string::npos);
  CHECK(Manifest::parse(R"({"schemaVersion":2,"config":{"mediaType":"x","digest":")" + kDigest + R"(","size":1},"layers":null})"));
}

TEST_CASE("what is no manifest is corrupt, never a crash") {
  const std::string deep(100000, '[');
  for (const std::string& bad : {std::string(), std::string("null"), std::string("[]"), std::string("{}"), std::string("{"), deep, std::string(R"({"config":{"digest":"sha256:zz","size":1},"layers":[]})"),
                                std::string(R"({"config":{"digest":")") + kDigest + R"(","size":-1},"layers":[]})", std::string(R"({"config":7,"layers":"x"})")}) {
    CAPTURE(bad.substr(0, 60));
    const auto m = Manifest::parse(bad);
    REQUIRE_FALSE(m);
    CHECK(m.error().kind() == ErrorKind::kCorrupt);
  }
}

TEST_CASE("an index gives the best platform") {
  Index index;
  index.manifests = {for_platform("linux/arm/v6", '1'), for_platform("linux/arm/v7", '2'), for_platform("linux/amd64", '3'), for_platform("linux/arm64", '4')};
  CHECK(index.select(*Platform::parse("linux/arm/v7"))->digest.hex()[0] == '2');
  CHECK(index.select(*Platform::parse("linux/amd64"))->digest.hex()[0] == '3');
  CHECK(index.select(*Platform::parse("linux/arm64"))->digest.hex()[0] == '4');
  const auto none = index.select(*Platform::parse("linux/s390x"));
  REQUIRE_FALSE(none);
  CHECK(none.error().kind() == ErrorKind::kNotFound);
  CHECK(none.error().render().find("linux/arm/v7") != std::string::npos);
}

TEST_CASE("platforms have synonyms and compatible variants") {
  CHECK(Platform::parse("x86_64")->text() == "linux/amd64");
  CHECK(Platform::parse("linux/aarch64")->architecture == "arm64");
  CHECK_FALSE(Platform::parse("linux/"));
  CHECK_FALSE(Platform::parse("a/b/c/d"));
  CHECK(match_score(*Platform::parse("linux/arm/v7"), *Platform::parse("linux/arm/v6")) > 0);
  CHECK(match_score(*Platform::parse("linux/arm/v6"), *Platform::parse("linux/arm/v7")) == 0);
  CHECK(match_score(*Platform::parse("linux/amd64"), *Platform::parse("linux/arm64")) == 0);
}
