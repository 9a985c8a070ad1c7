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
}

TEST_CASE("wrong outputs get a suggestion") {
  for (const char* bad : {"", "type=", "type=ocl,dest=x", "type=oci", "type=oci,dets=x", "type=oci,dest=x,compression=lzma", "type=oci,dest=x,tar=maybe"}) {
    const std::string text = bad;
    CAPTURE(text);
    const auto output = parse_output(bad);
    REQUIRE_FALSE(output);
    CHECK(output.error().kind() == ErrorKind::kInvalidInput);
  }
  CHECK(parse_output("type=oci,dets=x").error().render().find("dest") != std::string::npos);
}
