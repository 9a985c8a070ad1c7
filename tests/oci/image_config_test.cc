#include "oci/image_config.h"

#include <doctest/doctest.h>

using namespace lamina::oci;

namespace {
const std::string kConfig =
    R"({"architecture":"amd64","config":{"Cmd":["sh"],"Env":["A=1","B=2"],"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":3},)"
    R"("Labels":{"k":"v"},"StrangeField":{"x":[1,2]},"Volumes":{"/data":{}}},"created":"2024-01-02T03:04:05Z","history":[{"created_by":"base","empty_layer":true}],)"
    R"("moby.buildkit.cache.v0":"opaque","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}})";
}

TEST_CASE("fields are read") {
  const auto c = ImageConfig::parse(kConfig);
  REQUIRE(c);
  CHECK(c->env == std::vector<std::string>{"A=1", "B=2"});
  CHECK(c->cmd == std::vector<std::string>{"sh"});
  CHECK(c->exposed_ports.count("80/tcp") == 1);
  CHECK(c->volumes.count("/data") == 1);
  CHECK(c->healthcheck->retries == 3);
  CHECK(c->healthcheck->interval == std::chrono::seconds(5));
  CHECK(c->diff_ids.size() == 1);
  CHECK(c->history.at(0).empty_layer);
}

TEST_CASE("what is not known is written back") {
  const std::string out = ImageConfig::parse(kConfig)->to_json();
  CHECK(out.find(R"("StrangeField":{"x":[1,2]})") != std::string::npos);
  CHECK(out.find(R"("moby.buildkit.cache.v0":"opaque")") != std::string::npos);
  CHECK(ImageConfig::parse(out)->to_json() == out);  // canonical: writing is a fixed point
}

TEST_CASE("a value of another type is named") {
  const auto bad = ImageConfig::parse(R"({"architecture":"amd64","os":"linux","config":{"Env":"A=1"},"rootfs":{"type":"layers","diff_ids":[]}})");
  REQUIRE_FALSE(bad);
  CHECK(bad.error().message().find("Env") != std::string::npos);
}
