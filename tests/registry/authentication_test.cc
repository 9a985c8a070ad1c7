#include "registry/internal/authentication.h"

#include <doctest/doctest.h>

using namespace lamina::registry::internal;

TEST_CASE("challenges are read") {
  const auto bearer = parse_challenge(R"(Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull,push")");
  REQUIRE(bearer);
  CHECK(bearer->scheme == Challenge::Scheme::kBearer);
  CHECK(bearer->realm == "https://auth.test/token");
  CHECK(bearer->service == "registry.test");
  CHECK(bearer->scope == "repository:a/b:pull,push");
  CHECK(parse_challenge("Basic realm=\"x\"")->scheme == Challenge::Scheme::kBasic);
  CHECK(parse_challenge("Basic")->scheme == Challenge::Scheme::kBasic);
  // Several in one header, or in several headers joined.
  CHECK(parse_challenge(R"(Basic realm="x", Bearer realm="https://t/",service=s)")->scheme == Challenge::Scheme::kBearer);
  CHECK(parse_challenge(R"(bearer realm=https://t/, Basic realm="x")")->realm == "https://t/");
  CHECK(parse_challenge(R"(Bearer realm="a\"b")")->realm == "a\"b");
}

TEST_CASE("other and broken challenges give nothing") {
  for (const char* bad : {"", "Negotiate", "Bearer", "Bearer service=\"x\"", "BearerX realm=\"a\"", "=", "Bearer realm="}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_challenge(bad));
  }
}

TEST_CASE("query values are escaped") {
  CHECK(url_escape("repository:a/b:pull,push") == "repository%3Aa%2Fb%3Apull%2Cpush");
  CHECK(url_escape("a-b.c_d~e") == "a-b.c_d~e");
  CHECK(url_escape("ü &") == "%C3%BC%20%26");
}
