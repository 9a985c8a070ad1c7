#include <doctest/doctest.h>

#include "builder/build.h"

using namespace lamina;
using namespace lamina::builder;

TEST_CASE("outputs are parsed") {
  CHECK(parse_output("-")->type == OutputSpec::Type::kTar);
  CHECK(parse_output("out")->type == OutputSpec::Type::kLocal);
  const auto oci = parse_output("type=oci,dest=a.tar,compression=zstd,compression-level=9");
  REQUIRE(oci);
  CHECK(oci->tar);
  CHECK(oci->compression.type == oci::Compression::kZstd);
  CHECK(*oci->compression.level == 9);
  CHECK_FALSE(parse_output("type=oci,dest=dir/")->tar);
  CHECK_FALSE(parse_output("type=oci,dest=dir,tar=false")->tar);
  CHECK(parse_output("type=image,name=a:1,push=true")->push);
  CHECK(parse_output("type=docker,dest=-")->dest == "-");
  CHECK(parse_output("type=docker")->dest.empty());  // loads
  CHECK(parse_output("type=image,name=a,push=true,push-by-digest=true")->by_digest);
  CHECK(parse_output("type=oci,dest=x,rewrite-timestamp=false")->rewrite_timestamp == false);
  CHECK_FALSE(parse_output("type=oci,dest=x")->rewrite_timestamp.has_value());
}

TEST_CASE("compressions by name") {
  for (const std::string& name : layers::compression_names()) {
    CAPTURE(name);
    const auto output = parse_output("type=oci,dest=x,compression=" + name);
    REQUIRE(output);
    CHECK(layers::name_of(output->compression) == name);
  }
  CHECK(parse_output("type=oci,dest=x,compression=estargz")->compression.indexed);
  CHECK_FALSE(parse_output("type=oci,dest=x,compression=gzip")->compression.indexed);
  CHECK(parse_output("type=oci,dest=x,compression=zstd-chunked").error().render().find("did you mean zstd:chunked?") != std::string::npos);
  CHECK_FALSE(parse_output("type=oci,dest=x,compression=estargz,compression-level=10"));
  CHECK_FALSE(parse_output("type=image,compression=estargz,oci-mediatypes=false"));
  CHECK_FALSE(parse_output("type=docker,dest=x,compression=zstd"));
  CHECK(parse_output("type=docker,dest=x,compression=estargz"));
}

TEST_CASE("wrong outputs get a suggestion") {
  for (const char* bad : {"", "type=", "type=ocl,dest=x", "type=oci", "type=oci,dets=x", "type=oci,dest=x,compression=lzma", "type=oci,dest=x,tar=maybe", "type=image,dest=x", "type=tar,dest=x,push=true", "type=local,dest=-",
                          "type=local,dest=x,compression=gzip", "type=docker,tar=false", "type=image,name=a,push-by-digest=true"}) {
    const std::string text = bad;
    CAPTURE(text);
    const auto output = parse_output(bad);
    REQUIRE_FALSE(output);
    CHECK(output.error().kind() == ErrorKind::kInvalidInput);
  }
  CHECK(parse_output("type=oci,dets=x").error().render().find("dest") != std::string::npos);
}

TEST_CASE("cache filters name stages and lines") {
  struct Case {
    const char* text;
    const char* stage;
    uint32_t first, last;
  };
  for (const Case& c : {Case{"build", "build", 0, UINT32_MAX}, Case{"build:12", "build", 12, 12}, Case{"2:12-20", "2", 12, 20}, Case{":12-", "", 12, UINT32_MAX}, Case{":-20", "", 0, 20}}) {
    const std::string text = c.text;
    CAPTURE(text);
    const auto filters = parse_cache_filter(c.text);
    REQUIRE(filters);
    REQUIRE(filters->size() == 1);
    CHECK(filters->front().stage == c.stage);
    CHECK(filters->front().first_line == c.first);
    CHECK(filters->front().last_line == c.last);
  }
  CHECK(parse_cache_filter("a,b:1,:2-3")->size() == 3);
  for (const char* bad : {"", ":", "a:", ":x", ":1-x", ":0", ":3-2", "a,,b", ":-"}) {
    const std::string text = bad;
    CAPTURE(text);
    const auto filters = parse_cache_filter(bad);
    REQUIRE_FALSE(filters);
    CHECK(filters.error().kind() == ErrorKind::kInvalidInput);
  }
}
