#include "oci/digest.h"

#include <doctest/doctest.h>

#include "oci/blob.h"

using namespace lamina;
using namespace lamina::oci;

TEST_CASE("digests are parsed strictly") {
  const std::string hex(64, 'a');
  CHECK(Digest::parse("sha256:" + hex)->text() == "sha256:" + hex);
  for (const char* bad : {"", "sha256:", "sha256:abc", "md5:abc", hex.c_str(), "SHA256:x"}) CHECK_FALSE(Digest::parse(bad));
  CHECK_FALSE(Digest::parse("sha256:" + std::string(64, 'A')));  // upper case is another name
  CHECK_FALSE(Digest::parse("sha256:" + std::string(63, 'a') + "g"));
  CHECK(Digest::parse("sha512:" + std::string(128, 'a')).error().kind() == ErrorKind::kUnsupported);
}

TEST_CASE("chain ids follow image-spec config.md") {
  const auto a = DiffId::parse("sha256:" + std::string(64, '1'));
  const auto b = DiffId::parse("sha256:" + std::string(64, '2'));
  CHECK(chain_id({}).empty());
  CHECK(chain_id({*a}) == a->hex());
  CHECK(chain_id({*a, *b}) == sha256_hex(a->text() + " " + b->text()));
}

TEST_CASE("a verified stream refuses other bytes, too many and too few") {
  Descriptor d;
  d.digest = Digest::of("hello");
  d.size = 5;
  const auto read = [&](std::string text) {
    const auto stream = verify_stream(std::make_unique<StringSource>(std::move(text)), d);
    return read_to_string(*stream, 100);
  };
  CHECK(*read("hello") == "hello");
  for (const char* bad : {"hellp", "hell", "hello!", ""}) {
    const auto result = read(bad);
    REQUIRE_FALSE(result);
    CHECK(result.error().kind() == ErrorKind::kCorrupt);
    CHECK(result.error().message().find(d.digest.text()) != std::string::npos);
  }
}
