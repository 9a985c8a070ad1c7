#include "registry/internal/registries_conf.h"

#include <doctest/doctest.h>

#include "registry/internal/api.h"

using namespace lamina;
using namespace lamina::registry::internal;

namespace {

oci::Reference name(const char* text) { return *oci::Reference::parse(text); }

// "[mirror ][insecure ]name" of each place, in order.
std::vector<std::string> places(const RegistriesConf& conf, const char* image) {
  const auto endpoints = conf.for_pull(name(image));
  if (!endpoints) return {endpoints.error().message()};
  std::vector<std::string> out;
  for (const Endpoint& e : *endpoints) out.push_back(std::string(e.mirror ? "mirror " : "") + (e.insecure ? "insecure " : "") + e.reference.canonical());
  return out;
}

using Places = std::vector<std::string>;

constexpr const char* kConf = R"(
[[registry]]
prefix = "apps.test"
location = "store.test:5000/all"
insecure = true
[[registry.mirror]]
location = "near.test/m"
[[registry.mirror]]
location = "digests.test"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "apps.test/team"
[[registry]]
prefix = "*.wild.test"
blocked = true
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "localhost:5000"
insecure = true
)";

}  // namespace

TEST_CASE("the longest prefix decides, mirrors come first") {
  RegistriesConf conf;
  REQUIRE(conf.add(kConf, "f.conf"));
  CHECK(places(conf, "other.test/a") == Places{"other.test/a:latest"});
  CHECK(places(conf, "apps.test/a:1") == Places{"mirror near.test/m/a:1", "insecure store.test:5000/all/a:1"});
  CHECK(places(conf, "apps.test/team/a:1") == Places{"apps.test/team/a:1"});
  CHECK(places(conf, "apps.test/teams/a:1") == Places{"mirror near.test/m/teams/a:1", "insecure store.test:5000/all/teams/a:1"});
  CHECK(places(conf, "debian:12") == Places{"mirror insecure localhost:5000/library/debian:12", "docker.io/library/debian:12"});
  const std::string digest = "@sha256:" + std::string(64, 'a');
  CHECK(places(conf, ("apps.test/a" + digest).c_str()) == Places{"mirror near.test/m/a" + digest, "mirror digests.test/a" + digest, "insecure store.test:5000/all/a" + digest});
}

TEST_CASE("blocked places are refused in both directions") {
  RegistriesConf conf;
  REQUIRE(conf.add(kConf, "f.conf"));
  CHECK(places(conf, "x.wild.test/a") == Places{"*.wild.test is blocked by f.conf"});
  CHECK(places(conf, "wild.test/a") == Places{"wild.test/a:latest"});
  CHECK(conf.for_push(name("x.y.wild.test/a")).error().kind() == ErrorKind::kDenied);
}

TEST_CASE("what is pushed is not rewritten") {
  RegistriesConf conf;
  REQUIRE(conf.add(kConf, "f.conf"));
  const auto endpoint = conf.for_push(name("apps.test/a:1"));
  REQUIRE(endpoint);
  CHECK(endpoint->reference.canonical() == "apps.test/a:1");
  CHECK_FALSE(endpoint->insecure);  // that is said of the other host
}

TEST_CASE("a later file replaces an entry; version 1 lists are read") {
  RegistriesConf conf;
  REQUIRE(conf.add("[[registry]]\nlocation = \"a.test\"\nblocked = true\n", "one"));
  REQUIRE(conf.add("[[registry]]\nlocation = \"a.test\"\ninsecure = true\n", "two"));
  CHECK(places(conf, "a.test/x") == Places{"insecure a.test/x:latest"});
  REQUIRE(conf.add("[registries.insecure]\nregistries = [\"b.test:80\"]\n[registries.block]\nregistries = ['c.test']\n", "old"));
  CHECK(places(conf, "b.test:80/x") == Places{"insecure b.test:80/x:latest"});
  CHECK(places(conf, "c.test/x") == Places{"c.test is blocked by old"});
  CHECK(conf.add("unqualified-search-registries = ['docker.io']\n[aliases]\n'x' = 'docker.io/library/x'\n", "names"));
}

TEST_CASE("mistakes are told with their line") {
  struct Case {
    const char *text, *message;
  };
  for (const Case& c : {Case{"[[registry]]\nlocation = 1\n", "f:2: location is not a text"}, Case{"x = [[registry\n", "f:1:"}, Case{"[[registry]]\nblocked = true\n", "f:1: a registry has neither prefix nor location"},
                        Case{"[[registry]]\nlocation='https://a.test'\n", "f:1: prefix and location are written without a scheme"},
                        Case{"[[registry]]\nlocation='a.test'\n[[registry.mirror]]\n", "f:3: a mirror has no location"}}) {
    CAPTURE(c.text);
    RegistriesConf conf;
    const auto added = conf.add(c.text, "f");
    REQUIRE_FALSE(added);
    CHECK(added.error().kind() == ErrorKind::kInvalidInput);
    CHECK(added.error().message().find(c.message) == 0);
  }
}

TEST_CASE("locations of uploads and links are made absolute") {
  const std::string request = "https://a.test:5000/v2/x/blobs/uploads/?mount=y";
  CHECK(resolve_url(request, "/v2/u?s=1") == "https://a.test:5000/v2/u?s=1");
  CHECK(resolve_url(request, "https://b.test/u") == "https://b.test/u");
  CHECK(resolve_url(request, "//b.test/u") == "https://b.test/u");
  CHECK(resolve_url(request, "uuid?s=1") == "https://a.test:5000/v2/x/blobs/uploads/uuid?s=1");
  // A proxy that ends TLS before the registry; another host stays what it is.
  CHECK(resolve_url(request, "http://a.test:5000/u?s=1") == "https://a.test:5000/u?s=1");
  CHECK(resolve_url(request, "http://b.test/u") == "http://b.test/u");
  CHECK(resolve_url(request, "http://a.test:5000") == "https://a.test:5000");
  CHECK(resolve_url(request, "http://a.test:5001/u") == "http://a.test:5001/u");
  // Ports that the schemes have anyway.
  for (const char* usual : {"https://a.test/v2/", "https://a.test:443/v2/"}) {
    CHECK(resolve_url(usual, "/v2/u") == "https://a.test/v2/u");
    for (const char* plain : {"http://a.test/u?s=1", "http://a.test:80/u?s=1", "http://a.test:443/u?s=1"}) CHECK(resolve_url(usual, plain) == "https://a.test/u?s=1");
    CHECK(resolve_url(usual, "http://a.test:8080/u") == "http://a.test:8080/u");
  }
}

TEST_CASE("pauses") {
  net::HttpResponse response;
  CHECK_FALSE(retry_after(response));
  response.headers["retry-after"] = "7";
  CHECK(retry_after(response) == std::chrono::seconds(7));
  response.headers["retry-after"] = "Wed, 21 Oct 2015 07:28:00 GMT";
  CHECK(retry_after(response) == std::chrono::seconds(0));
  response.headers["retry-after"] = "Sun, 21 Oct 2035 07:28:00 GMT";
  CHECK(retry_after(response) == std::chrono::hours(24));
  response.headers["retry-after"] = "soon";
  CHECK_FALSE(retry_after(response));
  for (unsigned attempt : {0u, 3u, 6u, 40u}) {
    const auto whole = std::min(std::chrono::milliseconds(30000), std::chrono::milliseconds(500) * (1u << std::min(attempt, 6u)));
    for (int i = 0; i < 100; ++i) {
      const auto pause = jittered_pause(attempt);
      CHECK(pause <= whole);
      CHECK(pause >= whole / 2);
    }
  }
}
