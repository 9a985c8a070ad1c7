#include "builder/user.h"

#include <doctest/doctest.h>

using namespace lamina;
using namespace lamina::builder;

namespace {

Result<std::optional<std::string>> files(const std::string& path) {
  if (path == "/etc/passwd") return std::optional<std::string>("root:x:0:0::/root:/bin/sh\nbroken\njoe:x:1000:100::/home/joe:/bin/sh\n12:x:5:6::/:\n");
  if (path == "/etc/group") return std::optional<std::string>("root:x:0:\nusers:x:100:\nextra:x:2000:joe,ann\n");
  return std::optional<std::string>();
}
Result<std::optional<std::string>> no_files(const std::string&) { return std::optional<std::string>(); }

}  // namespace

TEST_CASE("USER is resolved by the files of the image") {
  const auto joe = resolve_user("joe", files);
  REQUIRE(joe);
  CHECK(joe->uid == 1000);
  CHECK(joe->gid == 100);
  CHECK(joe->home == "/home/joe");
  CHECK(joe->groups == std::vector<uint32_t>{100, 2000});
  CHECK(resolve_user("1000", files)->gid == 100);
  CHECK(resolve_user("4242", files)->gid == 0);
  CHECK(resolve_user("joe:extra", files)->gid == 2000);
  CHECK(resolve_user("joe:extra", files)->groups == std::vector<uint32_t>{2000});
  CHECK(resolve_user("7:8", files)->gid == 8);
  CHECK(resolve_user("", files)->uid == 0);
  CHECK(resolve_user("12", files)->uid == 5);  // a name that looks like a number is a name
}

TEST_CASE("without files only root and numbers are known") {
  CHECK(resolve_user("root", no_files)->uid == 0);
  CHECK(resolve_user("9", no_files)->uid == 9);
  CHECK_FALSE(resolve_user("joe", no_files));
  CHECK_FALSE(resolve_user("0:users", no_files));
}

TEST_CASE("owners of --chown") {
  CHECK(resolve_owner("joe", files)->gid == 100);
  CHECK(resolve_owner("9", files)->gid == 9);
  CHECK(resolve_owner("joe:extra", files)->gid == 2000);
  CHECK(resolve_owner("jo:nobody-knows", files, true)->uid == 0);
  CHECK(resolve_owner("joe:nobody-knows", files, true)->gid == 0);
  CHECK_FALSE(resolve_owner("joe:nobody-knows", files));
  const auto wrong = resolve_owner("jo", files);
  REQUIRE_FALSE(wrong);
  CHECK(wrong.error().render().find("joe") != std::string::npos);
  CHECK_FALSE(resolve_owner("99999999999", files));
}
