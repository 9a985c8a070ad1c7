#include "builder/devices.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include "base/files.h"

using namespace lamina;
using namespace lamina::builder;

namespace {

struct Described {
  TempDir dir;
  std::string put(const std::string& name, const std::string& text) {
    REQUIRE(make_directories(AT_FDCWD, dir.path() + "/" + name.substr(0, name.rfind('/'))));
    REQUIRE(write_file_atomically(AT_FDCWD, dir.path() + "/" + name, text, Durability::kNone));
    return dir.path() + "/" + name.substr(0, name.rfind('/'));
  }
};

Described describe() {
  auto dir = TempDir::create("/tmp", "devices-test");
  REQUIRE(dir);
  return {std::move(*dir)};
}

const std::vector<std::string> kAll = {"device"};

}  // namespace

TEST_CASE("a description in YAML, by class, first, all and name") {
  Described d = describe();
  d.put("a/x.yaml", R"(
cdiVersion: 0.6.0
kind: v.test/c
containerEdits: {env: [A=file], additionalGids: [44]}
devices:
  - name: "1"
    containerEdits:
      env: ["B=one"]
      deviceNodes: [{path: /dev/n, hostPath: /dev/null, fileMode: 0620, gid: 5}]
  - name: two
    annotations: {org.mobyproject.buildkit.device.class: nice}
)");
  const auto registry = DeviceRegistry::load({d.dir.path() + "/a", d.dir.path() + "/missing"});
  REQUIRE(registry);
  const auto one = registry->find({"v.test/c=1", true}, kAll);
  REQUIRE(one);
  CHECK(one->env == std::vector<std::pair<std::string, std::string>>{{"A", "file"}, {"B", "one"}});
  CHECK(one->groups == std::vector<uint32_t>{44});
  REQUIRE(one->nodes.size() == 1);
  CHECK(one->nodes[0].path == "/dev/n");
  CHECK_FALSE(one->nodes[0].block);
  CHECK(one->nodes[0].major == 1);
  CHECK(one->nodes[0].minor == 3);
  CHECK(*one->nodes[0].mode == 0620);
  CHECK(*one->nodes[0].gid == 5);
  CHECK(registry->find({"v.test/c", false}, kAll)->names == std::vector<std::string>{"v.test/c=1"});
  CHECK(registry->find({"v.test/c=*", false}, kAll)->names.size() == 2);
  CHECK(registry->find({"nice", false}, kAll)->names == std::vector<std::string>{"v.test/c=two"});
  CHECK(registry->find({"v.test/other", false}, kAll)->names.empty());
  CHECK(registry->find({"v.test/other", true}, kAll).error().kind() == ErrorKind::kNotFound);
}

TEST_CASE("who allows a device") {
  Described d = describe();
  const std::string where = d.put("1/x.json", R"({"cdiVersion":"0.6.0","kind":"v.test/c","devices":[{"name":"a","containerEdits":{}},
    {"name":"b","annotations":{"org.mobyproject.buildkit.device.autoallow":"true"},"containerEdits":{}}]})");
  const auto registry = DeviceRegistry::load({where});
  REQUIRE(registry);
  CHECK(registry->find({"v.test/c=a", false}, {}).error().kind() == ErrorKind::kDenied);
  CHECK(registry->find({"v.test/c=a", false}, {"device=v.test/c=b", "security.insecure"}).error().kind() == ErrorKind::kDenied);
  for (const char* allow : {"device", "device=v.test/c=a", "device=v.test/c"}) CHECK(registry->find({"v.test/c=a", false}, {allow}));
  CHECK(registry->find({"v.test/c=b", false}, {}));
}

TEST_CASE("a later directory wins, a broken file is told when its device is missed") {
  Described d = describe();
  const std::string text = R"({"cdiVersion":"0.6.0","kind":"v.test/c","devices":[{"name":"a","containerEdits":{"env":["W=)";
  d.put("1/x.json", text + "one\"]}}]}");
  d.put("2/x.json", text + "two\"]}}]}");
  struct Case {
    const char* text;
    const char* told;
  };
  const Case broken[] = {{"{", "line"},
                         {"", "empty"},
                         {"[1]", "no object"},
                         {"kind: v.test/c", "cdiVersion"},
                         {"cdiVersion: '1'\nkind: nothing", "kind"},
                         {"cdiVersion: '1'\nkind: a/b\ndevices: [{name: x, containerEdits: {env: [NOVALUE]}}]", "NAME=value"},
                         {"cdiVersion: '1'\nkind: a/b\ndevices: [{name: x, containerEdits: {deviceNodes: [{path: /dev/none-such}]}}]", "ENOENT"},
                         {"cdiVersion: '1'\nkind: a/b\ndevices: [{name: x, containerEdits: {deviceNodes: [{path: /etc/passwd}]}}]", "no device"},
                         {"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]", "too large"}};
  for (const Case& c : broken) {
    const std::string shown = c.text;
    CAPTURE(shown);
    d.put("3/x.yaml", c.text);
    const auto registry = DeviceRegistry::load({d.dir.path() + "/1", d.dir.path() + "/2", d.dir.path() + "/3"});
    REQUIRE(registry);
    CHECK(registry->find({"v.test/c=a", true}, kAll)->env.front().second == "two");
    const std::string told = registry->find({"a/b=x", true}, kAll).error().render();
    CHECK(told.find("3/x.yaml was not used: ") != std::string::npos);
    CHECK(told.find(c.told) != std::string::npos);
  }
}

TEST_CASE("what cannot be done is refused") {
  for (const char* edits : {R"("hooks":[{"hookName":"createContainer","path":"/bin/x"}])", R"("intelRdt":{"closID":"x"})", R"("mounts":[{"hostPath":"/a","containerPath":"/b","type":"tmpfs"}])"}) {
    Described d = describe();
    const std::string where = d.put("1/x.json", R"({"cdiVersion":"0.6.0","kind":"v.test/c","devices":[{"name":"a","containerEdits":{)" + std::string(edits) + "}}]}");
    const auto registry = DeviceRegistry::load({where});
    REQUIRE(registry);
    CHECK(registry->find({"v.test/c=a", false}, kAll).error().kind() == ErrorKind::kUnsupported);
  }
}
