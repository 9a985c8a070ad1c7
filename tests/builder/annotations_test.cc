#include <doctest/doctest.h>

#include "builder/build.h"

using namespace lamina;
using namespace lamina::builder;
using Level = AnnotationSpec::Level;

TEST_CASE("annotations name their level and platform") {
  const auto plain = parse_annotation("a.b=c=d:e");
  REQUIRE(plain);
  REQUIRE(plain->size() == 1);
  CHECK((*plain)[0].level == Level::kManifest);
  CHECK((*plain)[0].name == "a.b");
  CHECK((*plain)[0].value == "c=d:e");
  const auto two = parse_annotation("index,manifest-descriptor:k=");
  REQUIRE(two);
  REQUIRE(two->size() == 2);
  CHECK((*two)[0].level == Level::kIndex);
  CHECK((*two)[1].level == Level::kManifestDescriptor);
  const auto platform = parse_annotation("manifest[linux/arm64]:k=v");
  REQUIRE(platform);
  CHECK((*platform)[0].platform->architecture == "arm64");
  CHECK(annotations_of(*platform, Level::kManifest, oci::Platform::parse("linux/amd64").value()).empty());
  CHECK(annotations_of(*platform, Level::kManifest, oci::Platform::parse("linux/arm64").value()).at("k") == "v");
  CHECK(annotations_of(*platform, Level::kIndex, std::nullopt).empty());
}

TEST_CASE("wrong annotations") {
  for (const char* bad : {"", "x", "=v", "manifest:=v", "nolevel:k=v", "index[linux/amd64]:k=v", "manifest[nowhere/]:k=v", ":k=v"}) {
    CAPTURE(bad);
    const auto parsed = parse_annotation(bad);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().kind() == ErrorKind::kInvalidInput);
  }
}
