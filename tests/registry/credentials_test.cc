#include "registry/credentials.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cstdlib>

#include "base/files.h"

using namespace lamina;
using namespace lamina::registry;

namespace {

struct Fixture {
  TempDir dir = std::move(*TempDir::create("/tmp", "credentials-test"));
  std::string path = dir.path() + "/config.json";
  std::optional<Credentials> find(const std::string& text, const std::string& image) {
    REQUIRE(write_file_atomically(AT_FDCWD, path, text, Durability::kNone));
    auto found = find_credentials(path, *oci::Reference::parse(image));
    REQUIRE(found);
    return std::move(*found);
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "entries are found under the names that tools use") {
  const std::string entry = R"({"auth":"am9lOnA6dw=="})";  // joe:p:w
  for (const char* key : {"localhost:5000", "https://localhost:5000", "http://localhost:5000", "https://localhost:5000/v2/"}) {
    CAPTURE(key);
    const auto found = find(R"({"auths":{")" + std::string(key) + R"(":)" + entry + "}}", "localhost:5000/a/b");
    REQUIRE(found);
    CHECK(found->username == "joe");
    CHECK(found->password == "p:w");
  }
  CHECK(find(R"({"auths":{"https://index.docker.io/v1/":)" + entry + "}}", "debian"));
  CHECK_FALSE(find(R"({"auths":{"localhost:5001":)" + entry + "}}", "localhost:5000/a"));
  CHECK_FALSE(find("{}", "localhost:5000/a"));
  CHECK_FALSE(find("", "localhost:5000/a"));
}

TEST_CASE_FIXTURE(Fixture, "a repository's own entry comes first") {
  const auto found = find(R"({"auths":{"localhost:1":{"auth":"YTpi"},"localhost:1/team":{"auth":"YzpkCg=="}}})", "localhost:1/team/app");
  REQUIRE(found);
  CHECK(found->username == "c");
  CHECK(find(R"({"auths":{"localhost:1":{"identitytoken":"tok"}}})", "localhost:1/x")->identity_token == "tok");
}

TEST_CASE_FIXTURE(Fixture, "broken files are errors that name the file and never the secret") {
  for (const char* bad : {"{", "[]", R"({"auths":{"localhost:1":{"auth":"%%%"}}})", R"({"auths":{"localhost:1":{"auth":"bm9jb2xvbg=="}}})", R"({"auths":7})"}) {
    CAPTURE(bad);
    REQUIRE(write_file_atomically(AT_FDCWD, path, bad, Durability::kNone));
    const auto found = find_credentials(path, *oci::Reference::parse("localhost:1/x"));
    REQUIRE_FALSE(found);
    CHECK(found.error().render().find(path) != std::string::npos);
    CHECK(found.error().render().find("nocolon") == std::string::npos);
  }
  CHECK_FALSE(find_credentials(dir.path() + "/missing", *oci::Reference::parse("localhost:1/x")));
}

TEST_CASE_FIXTURE(Fixture, "a helper program is asked") {
  const std::string helper = dir.path() + "/docker-credential-test";
  REQUIRE(write_file_atomically(AT_FDCWD, helper, "#!/bin/sh\nread -r server\n[ \"$server\" = localhost:1 ] || { echo 'credentials not found'; exit 1; }\necho '{\"Username\":\"u\",\"Secret\":\"s\"}'\n", Durability::kNone, 0755));
  const std::string path_before = std::getenv("PATH");
  ::setenv("PATH", (dir.path() + ":" + path_before).c_str(), 1);
  CHECK(find(R"({"credHelpers":{"localhost:1":"test"}})", "localhost:1/x")->password == "s");
  CHECK(find(R"({"credsStore":"test"})", "localhost:1/x")->username == "u");
  CHECK_FALSE(find(R"({"credsStore":"test"})", "localhost:2/x"));
  ::setenv("PATH", path_before.c_str(), 1);
}

TEST_CASE_FIXTURE(Fixture, "login keeps the rest of the file and is private") {
  REQUIRE(write_file_atomically(AT_FDCWD, path, R"({"proxies":{"x":1},"auths":{"other":{"auth":"YTpi"}}})", Durability::kNone));
  REQUIRE(store_credentials(path, "localhost:1", {"joe", "pw", ""}));
  struct stat st {};
  REQUIRE(::stat(path.c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  CHECK((*find_credentials(path, *oci::Reference::parse("localhost:1/x")))->password == "pw");
  CHECK(read_file(AT_FDCWD, path)->find("proxies") != std::string::npos);
  CHECK(*erase_credentials(path, "localhost:1"));
  CHECK_FALSE(*erase_credentials(path, "localhost:1"));
  CHECK(read_file(AT_FDCWD, path)->find("other") != std::string::npos);
}
