#include "registry/internal/answer_words.h"

#include <doctest/doctest.h>

using lamina::registry::internal::words_of_answer;

TEST_CASE("what a server says in an error is one line") {
  struct Case {
    const char* name;
    const char* type;
    std::string body;
    const char* words;
  };
  const Case cases[] = {
      {"codes", "application/json", R"({"errors":[{"code":"DENIED","message":"no"},{"code":"UNKNOWN"},{"message":"x"},7]})", "DENIED: no; UNKNOWN; x"},
      {"codes without a type", "", R"( {"errors":[{"code":"DENIED"}]})", "DENIED"},
      {"other JSON", "application/problem+json", "{\"detail\":\n  \"try later\"}", "{\"detail\": \"try later\"}"},
      {"nothing", "text/html", " \r\n", ""},
      {"title", "text/html; charset=utf-8", "<!DOCTYPE html><HTML><Head><TITLE lang=en>\n 502  Bad\tGateway </TITLE></head><body><h1>x</h1></body>", "502 Bad Gateway"},
      {"no title", "text/html", "<html><body><center><h1>413 Request Entity Too Large</h1></center><hr>nginx</body></html>", "413 Request Entity Too Large"},
      {"no heading", "text/html", "<p>not <b>now</b></p>", "not now"},
      {"a page that breaks off", "text/html", "<html><head><title>Bad Gate", "Bad Gate"},
      {"a page under a false name", "text/plain", "<html><title>Oops</title>", "Oops"},
      {"text", "text/plain", "upstream\r\n\r\ntimed out\r\n", "upstream timed out"},
      {"bytes", "application/octet-stream", std::string("\x01\x02\x03"), ""},
      {"a terminal is not steered", "text/plain", "a\x1b[31mb", "a\xef\xbf\xbd[31mb"},
  };
  for (const Case& c : cases) {
    SUBCASE(c.name) { CHECK(words_of_answer(c.type, c.body) == c.words); }
  }
  SUBCASE("a long one is cut, but not in the middle of a character") {
    const std::string words = words_of_answer("text/plain", std::string(119, 'x') + "äö" + std::string(5000, 'y'));
    CHECK(words == std::string(119, 'x') + "…");
  }
}
