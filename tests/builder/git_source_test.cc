#include "builder/git_source.h"

#include <doctest/doctest.h>

namespace lamina::builder {
namespace {

TEST_CASE("git sources") {
  struct Case {
    const char *text, *remote, *host, *ref, *subdir, *checksum;
  };
  const Case cases[] = {
      {"https://h/x/y.git", "https://h/x/y.git", "h", "", "", ""},
      {"https://u:p@h:8443/y.git#main", "https://u:p@h:8443/y.git", "h:8443", "main", "", ""},
      {"http://h/y.git#feature/a:sub/dir", "http://h/y.git", "h", "feature/a", "sub/dir", ""},
      {"http://h/y.git#:sub", "http://h/y.git", "h", "", "sub", ""},
      {"git@h.example:team/y", "git@h.example:team/y", "h.example", "", "", ""},
      {"git@h:y.git?tag=v1#refs/tags/v1:d", "git@h:y.git", "h", "refs/tags/v1", "d", ""},
      {"ssh://git@h:22/y", "ssh://git@h:22/y", "h:22", "", "", ""},
      {"git://h/y", "git://h/y", "h", "", "", ""},
      {"git+https://h/y", "https://h/y", "h", "", "", ""},
      {"https://h/y.git?branch=b&subdir=/../s&commit=ABCDEF", "https://h/y.git", "h", "refs/heads/b", "s", "abcdef"},
      {"https://h/y.git?ref=r&checksum=1234", "https://h/y.git", "h", "r", "", "1234"},
  };
  for (const Case& c : cases) {
    INFO(std::string(c.text));
    const auto source = parse_git_source(c.text, GitPlace::kDockerfile);
    REQUIRE(source.has_value());
    REQUIRE(source->has_value());
    CHECK((*source)->remote == c.remote);
    CHECK((*source)->host == c.host);
    CHECK((*source)->ref == c.ref);
    CHECK((*source)->subdir == c.subdir);
    CHECK((*source)->checksum == c.checksum);
  }
}

TEST_CASE("flags of git sources") {
  const auto a = parse_git_source("https://h/y.git?keep-git-dir&submodules=false&mtime=commit", GitPlace::kDockerfile);
  REQUIRE(a.has_value());
  CHECK((*a)->keep_git_dir == true);
  CHECK((*a)->submodules == false);
  CHECK((*a)->mtime == "commit");
  const auto b = parse_git_source("https://h/y.git?keep-git-dir=0", GitPlace::kDockerfile);
  CHECK((*b)->keep_git_dir == false);
}

TEST_CASE("what is no git source") {
  for (const char* text : {"a", "./git@h:x", "../x.git", "/git@h:x.git", "http://h/x", "https://h/x.git/y", "a/b@c:d", "x@y/z:w", "C:\\x", "github.com/x/y", "https://h/a.tar#x.git", "ftp://h/x.git", "@h:x"}) {
    INFO(std::string(text));
    const auto source = parse_git_source(text, GitPlace::kDockerfile);
    REQUIRE(source.has_value());
    CHECK(!source->has_value());
  }
}

TEST_CASE("hostile and wrong git sources are refused before git sees them") {
  for (const char* text : {
           "git@-oProxyCommand:y", "-x@h:y", "ssh://-oProxyCommand=x/y", "ssh://-u@h/y", "https://h/y.git#-upload-pack=x", "https://h/y.git?ref=--exec", "https://h/y.git?ref=a:b", "https://h/y.git?ref=a..b",
           "https://h/y.git?ref=a%20b", "https://h/y.git?ref=x@{1}", "https://h/y.git?ref=x^", "https://h/y.git?ref=a%0ab", "https://h/y.git?subdir=a%0ab", "https://h/y.git?commit=xyz", "https://h/y.git?what=1",
           "https://h/y.git?ref=", "https://h/y.git?tag=a&branch=b", "https://h/y.git?tag=a&tag=a", "https://h/y.git?ref=a#b", "https://h/y.git?submodules=perhaps", "https://h/y.git?mtime=now", "git+ext://h/y", "file:///x/y.git",
           "git+file:///x", "git@h:", "git@h:a b", "git://",
       }) {
    INFO(std::string(text));
    const auto source = parse_git_source(text, GitPlace::kDockerfile);
    REQUIRE(!source.has_value());
    CHECK(source.error().kind() == ErrorKind::kInvalidInput);
  }
}

TEST_CASE("a password in a wrong source is not shown") {
  const auto source = parse_git_source("git+https://u:secret@/x", GitPlace::kDockerfile);
  REQUIRE(!source.has_value());
  CHECK(source.error().render().find("secret") == std::string::npos);
}

TEST_CASE("the command line may name more") {
  const auto github = parse_git_source("github.com/x/y#main:d", GitPlace::kCommandLine);
  REQUIRE(github.has_value());
  REQUIRE(github->has_value());
  CHECK((*github)->remote == "https://github.com/x/y");
  CHECK((*github)->ref == "main");
  CHECK((*github)->subdir == "d");
  const auto local = parse_git_source("file:///srv/y.git#v1", GitPlace::kCommandLine);
  REQUIRE(local.has_value());
  CHECK((*local)->remote == "file:///srv/y.git");
  CHECK((*local)->host.empty());
}

TEST_CASE("git sources that others can read") {
  for (const char* text : {"http://h/y.git", "http://127.0.0.1.example/y.git", "http://u:p@10.0.0.1:80/y.git", "http://localhost.example/y.git", "HTTP://[::2]/y.git"}) {
    INFO(std::string(text));
    const auto source = parse_git_source(text, GitPlace::kDockerfile);
    REQUIRE((source && *source));
    CHECK((*source)->readable_by_others());
  }
  for (const char* text : {"https://h/y.git", "http://127.0.0.9:80/y.git", "http://LOCALHOST/y.git", "http://[::1]:80/y.git", "ssh://git@h/y"}) {
    INFO(std::string(text));
    const auto source = parse_git_source(text, GitPlace::kDockerfile);
    REQUIRE((source && *source));
    CHECK_FALSE((*source)->readable_by_others());
  }
}

TEST_CASE("credentials of git sources") {
  struct Case {
    const char *text, *address, *credentials;
  };
  const Case cases[] = {
      {"https://u:p%40%2F@h:8443/y.git", "https://h:8443/y.git", "u:p@/"},
      {"https://token@h/y.git", "https://h/y.git", "token:"},
      {"https://u:100%@h/y.git", "https://h/y.git", "u:100%"},
      {"https://h/y.git", "https://h/y.git", ""},
      {"ssh://git:p@h/y", "ssh://git@h/y", ""},
      {"git@h:y.git", "git@h:y.git", ""},
  };
  for (const Case& c : cases) {
    INFO(std::string(c.text));
    const auto source = parse_git_source(c.text, GitPlace::kDockerfile);
    REQUIRE((source && *source));
    CHECK((*source)->address() == c.address);
    CHECK((*source)->http_credentials() == c.credentials);
  }
}

}  // namespace
}  // namespace lamina::builder
