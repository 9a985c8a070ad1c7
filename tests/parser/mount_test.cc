#include "parser/mount.h"

#include <doctest/doctest.h>

using namespace lamina::parser;

namespace {
std::optional<std::string> lookup(std::string_view name) { return name == "dir" ? std::optional<std::string>("/d") : std::nullopt; }
}  // namespace

TEST_CASE("mounts have the language's defaults") {
  const auto bind = parse_mount("target=/t", lookup);
  REQUIRE(bind);
  CHECK(bind->type == MountType::kBind);
  CHECK(bind->read_only);
  const auto cache = parse_mount("type=cache,target=$dir,sharing=locked,mode=0700,uid=5", lookup);
  REQUIRE(cache);
  CHECK(cache->target == "/d");
  CHECK(cache->sharing == CacheSharing::kLocked);
  CHECK_FALSE(cache->read_only);
  CHECK(*cache->mode == 0700);
  CHECK(*cache->uid == 5);
  const auto tmpfs = parse_mount("type=tmpfs,dst=/t,size=128m", lookup);
  REQUIRE(tmpfs);
  CHECK(*tmpfs->size_bytes == 128u << 20);
  CHECK(parse_mount("type=secret,id=s,env=TOKEN", lookup)->env == "TOKEN");
  CHECK(*mount_from("type=bind,from=build,target=/x") == "build");
  CHECK_FALSE(mount_from("type=cache,target=/x"));
}

TEST_CASE("wrong mounts say what is wrong") {
  for (const char* bad : {"type=bnd,target=/x", "type=cache", "type=cache,target=/x,sharing=none", "tagret=/x", "type=tmpfs,target=/x,size=lots", "type=cache,target=/x,mode=9"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_mount(bad, lookup));
  }
  CHECK(parse_mount("type=bind,tagret=/x", lookup).error().render().find("target") != std::string::npos);
}

TEST_CASE("a mount is a CSV record") {
  const auto mount = parse_mount("\"target=/a,b\",\"source=q\"\"a b\"\"q\"", lookup);
  REQUIRE(mount);
  CHECK(mount->target == "/a,b");
  CHECK(mount->source == "qa bq");  // "" is a quote, which the expansion of the value takes off
  for (const char* bad : {"target=\"/a\"", "\"target=/a", "\"target=/a\"b", "target=/a,"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_mount(bad, lookup));
  }
}

TEST_CASE("the graph sees the same from as the step") {
  CHECK(*mount_from("From=a,target=/x") == "a");
  CHECK(*mount_from("from=a,target=/x,from=b") == "b");
  CHECK(*mount_from("\"from=a,b\",target=/x") == "a,b");
  CHECK(parse_mount("from=a,target=/x,FROM=b", lookup)->from == "b");
}

TEST_CASE("ports") {
  CHECK(parse_ports({"80", "53/udp", "8000-8002"})->ports == std::vector<std::string>{"53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"});
  for (const char* bad : {"70000", "x", "80/icmp", "9-8"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_ports({bad}));
  }
}

TEST_CASE("modes, octal and symbolic") {
  CHECK(ModeChange::parse("4755")->apply(0600, false) == 04755);
  CHECK(ModeChange::parse("u=rwX,go=rX")->apply(0600, false) == 0644);
  CHECK(ModeChange::parse("u=rwX,go=rX")->apply(0600, true) == 0755);
  CHECK(ModeChange::parse("a+x")->apply(0640, false) == 0751);
  for (const char* bad : {"", "8", "99999", "u=q", "x"}) CHECK_FALSE(ModeChange::parse(bad));
}

TEST_CASE("signals") {
  for (const char* good : {"SIGTERM", "TERM", "9", "SIGRTMIN+3", "sigint"}) CHECK(valid_signal(good));
  for (const char* bad : {"", "SIGNOPE", "-1", "1000"}) CHECK_FALSE(valid_signal(bad));
}

TEST_CASE("devices") {
  struct Case {
    const char* text;
    const char* name;  // null: an error
    bool required = false;
  };
  const Case cases[] = {{"vendor.com/class=foo", "vendor.com/class=foo"},
                        {"vendor.com/class", "vendor.com/class"},
                        {"vendor.com/class=*,required", "vendor.com/class=*", true},
                        {"required,gpu", "gpu", true},
                        {"name=vendor.com/class=foo,required=false", "vendor.com/class=foo"},
                        {"gpu,required=1", "gpu", true},
                        {"", nullptr},
                        {"required", nullptr},
                        {"gpu,name=other", nullptr},
                        {"gpu,other", nullptr},
                        {"gpu,required=maybe", nullptr},
                        {"gpu,requierd=true", nullptr}};
  for (const Case& c : cases) {
    const std::string text = c.text;
    CAPTURE(text);
    const auto device = parse_device(c.text);
    CHECK(device.has_value() == (c.name != nullptr));
    if (!device || c.name == nullptr) continue;
    CHECK(device->name == c.name);
    CHECK(device->required == c.required);
  }
  CHECK(parse_device("gpu,requierd=true").error().render().find("did you mean required?") != std::string::npos);
}
