#include "net/url.h"

#include <doctest/doctest.h>

#include "net/fetch.h"

namespace lamina::net {
namespace {

TEST_CASE("URLs come apart") {
  struct Case {
    const char *text, *scheme, *user, *host, *port, *path, *query, *fragment;
  };
  const Case cases[] = {
      {"http://h", "http", "", "h", "", "", "", ""},
      {"HTTPS://u:p@Host.Example:8443/a/b?x=1#f:g", "https", "u:p", "host.example", "8443", "/a/b", "x=1", "f:g"},
      {"http://[::1]:80/x", "http", "", "::1", "80", "/x", "", ""},
      {"http://a@b@c/", "http", "a@b", "c", "", "/", "", ""},
      {"ssh://git@h/~/r.git", "ssh", "git", "h", "", "/~/r.git", "", ""},
      {"file:///p/r.git#v1", "file", "", "", "", "/p/r.git", "", "v1"},
      {"http://h?q=http://x#y?z", "http", "", "h", "", "", "q=http://x", "y?z"},
  };
  for (const Case& c : cases) {
    INFO(std::string(c.text));
    const auto url = Url::parse(c.text);
    REQUIRE(url.has_value());
    CHECK(url->scheme == c.scheme);
    CHECK(url->user_info == c.user);
    CHECK(url->host == c.host);
    CHECK(url->port == c.port);
    CHECK(url->path == c.path);
    CHECK(url->query == c.query);
    CHECK(url->fragment == c.fragment);
  }
}

TEST_CASE("what is no URL") {
  for (const char* text : {"", "h/x", "://h", "1http://h", "http://h/a b", "http://h\n", "http://h:0/", "http://h:99999/", "http://h:x/", "http://[::1/", "http://[::1]x/"}) {
    INFO(std::string(text));
    const auto url = Url::parse(text);
    REQUIRE(!url.has_value());
    CHECK(url.error().kind() == ErrorKind::kInvalidInput);
  }
}

TEST_CASE("equal servers have equal origins") {
  CHECK(origin_of("https://h") == "https://h");
  CHECK(origin_of("HTTPS://joe:secret@H:443/x?y#z") == "https://h");
  CHECK(origin_of("https://h:0443") == "https://h");
  CHECK(origin_of("http://h:80/") == "http://h");
  CHECK(origin_of("http://h:443/") == "http://h:443");
  CHECK(origin_of("https://[::1]:443") == "https://[::1]");
  CHECK(origin_of("HTTPS://joe@A.test:1/x") == "https://a.test:1");
  CHECK(origin_of("https://h@evil.test/") == "https://evil.test");
  CHECK(origin_of("https://h x/") != origin_of("https://h"));
  CHECK(origin_of("h") == "h");
}

TEST_CASE("a URL is shown without its secrets") {
  CHECK(shown_url("https://joe:secret@A.test/p/q?token=secret#x") == "https://a.test/p/q");
  CHECK(shown_url("https://a.test:443") == "https://a.test");
  for (const char* text : {"https://joe:secret@a test/p?secret", "https://joe:secret@a.test:x/#secret", "/p?secret"}) CHECK(shown_url(text).find("secret") == std::string::npos);
}

TEST_CASE("an origin has its port") {
  CHECK(Url::parse("https://H/x")->origin() == Url::parse("https://h:443/y")->origin());
  CHECK(Url::parse("http://h/")->origin() != Url::parse("https://h/")->origin());
  CHECK(Url::parse("http://h:1/")->origin() != Url::parse("http://h:2/")->origin());
}

TEST_CASE("the fragment is not sent") { CHECK(Url::parse("http://u:p@h:1/a?b#c")->text() == "http://u:p@h:1/a?b"); }

TEST_CASE("percent escapes") {
  CHECK(*percent_decode("a%20b%2Fc") == "a b/c");
  CHECK(*percent_decode("") == "");
  for (const char* text : {"%", "a%2", "%zz"}) CHECK(!percent_decode(text).has_value());
}

TEST_CASE("queries") {
  const auto q = parse_query("a=1&b&c=x%26y+z&&");
  REQUIRE(q.has_value());
  REQUIRE(q->size() == 3);
  CHECK((*q)[1] == std::pair<std::string, std::string>("b", ""));
  CHECK((*q)[2] == std::pair<std::string, std::string>("c", "x&y z"));
}

TEST_CASE("passwords are not shown") {
  CHECK(redacted("https://u:secret@h/x@y") == "https://xxxxx@h/x@y");
  CHECK(redacted("https://token@h") == "https://xxxxx@h");
  CHECK(redacted("git+https://token@h/r") == "git+https://xxxxx@h/r");
  CHECK(redacted("ssh://git@h/r") == "ssh://git@h/r");
  CHECK(redacted("git@h:r") == "git@h:r");
  CHECK(redacted("https://h/a@b") == "https://h/a@b");
}

TEST_CASE("dates of HTTP") {
  CHECK(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777);
  CHECK(parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT") == 0);
  for (const char* text : {"", "yesterday", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 28:49:37 GMT"}) CHECK(!parse_http_date(text).has_value());
}

}  // namespace
}  // namespace lamina::net
