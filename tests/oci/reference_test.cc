#include "oci/reference.h"

#include <doctest/doctest.h>

using namespace lamina::oci;

TEST_CASE("names get Docker's defaults") {
  struct Row {
    const char *text, *canonical, *familiar;
  };
  const Row rows[] = {
      {"app", "docker.io/library/app:latest", "app:latest"},
      {"app:v1", "docker.io/library/app:v1", "app:v1"},
      {"team/app", "docker.io/team/app:latest", "team/app:latest"},
      {"docker.io/library/app:v1", "docker.io/library/app:v1", "app:v1"},
      {"index.docker.io/app", "docker.io/library/app:latest", "app:latest"},
      {"localhost/app", "localhost/app:latest", "localhost/app:latest"},
      {"localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"},
      {"127.0.0.1:5000/debian:bookworm", "127.0.0.1:5000/debian:bookworm", "127.0.0.1:5000/debian:bookworm"},
      {"[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"},
      {"a_b/c__d/e-f.g", "docker.io/a_b/c__d/e-f.g:latest", "a_b/c__d/e-f.g:latest"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const auto r = Reference::parse(row.text);
    REQUIRE(r);
    CHECK(r->canonical() == row.canonical);
    CHECK(r->familiar() == row.familiar);
  }
}

TEST_CASE("bad names are refused and say what is wrong") {
  for (const char* bad : {"", "App", "a//b", "a/", "/a", "a:", "a:-x", "a@sha256:12", "a b", "a:b:c", "-a", "a..b", "host:port/x", "a/b@", "a:\x01"}) {
    CAPTURE(bad);
    const auto r = Reference::parse(bad);
    REQUIRE_FALSE(r);
    CHECK(r.error().kind() == lamina::ErrorKind::kInvalidInput);
    CHECK_FALSE(r.error().message().empty());
  }
  const auto upper = Reference::parse("team/App:V1");
  REQUIRE_FALSE(upper);
  CHECK(upper.error().render().find("team/app") != std::string::npos);
}

TEST_CASE("tag and digest") {
  const std::string digest = "sha256:" + std::string(64, 'd');
  const auto r = Reference::parse("app:v1@" + digest);
  REQUIRE(r);
  CHECK(*r->tag() == "v1");
  CHECK(r->manifest_reference() == digest);
  CHECK(Reference::parse("app@" + digest)->tag_or_latest().empty());
  CHECK(Reference::parse("app")->api_host() == "registry-1.docker.io");
  CHECK(Reference::parse("127.0.0.9:1/a")->is_loopback());
  CHECK(Reference::parse("localhost:1/a")->is_loopback());
  CHECK_FALSE(Reference::parse("localhost.example:1/a")->is_loopback());
}
