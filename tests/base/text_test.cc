#include "base/text.h"

#include <doctest/doctest.h>

using namespace lamina;
using Strings = std::vector<std::string>;

TEST_CASE("split, join, trim, case") {
  CHECK(split("a,,b,", ',') == Strings{"a", "", "b", ""});
  CHECK(split("", ',') == Strings{""});
  CHECK(join({"a", "", "b"}, ", ") == "a, , b");
  CHECK(join({}, ",") == "");
  CHECK(trim(" \t\r\n\v\fa b ") == "a b");
  CHECK(trim("  ") == "");
  CHECK(to_lower("AbZ\xc3\x89") == "abz\xc3\x89");
  CHECK(to_upper("aBz\xc3\xa9") == "ABZ\xc3\xa9");
  CHECK(iequals("CoPy", "cOpY"));
  CHECK_FALSE(iequals("copy", "cop"));
}

TEST_CASE("numbers are whole or nothing") {
  CHECK(parse_uint("18446744073709551615") == UINT64_MAX);
  CHECK(parse_uint("0755", 8) == 0755);
  for (const char* bad : {"", "-1", "+1", " 1", "1 ", "1x", "18446744073709551616"}) {
    CAPTURE(bad);
    CHECK(parse_uint(bad) == std::nullopt);
  }
  CHECK(parse_int("-9223372036854775808") == INT64_MIN);
  CHECK(parse_int("9223372036854775808") == std::nullopt);
}

TEST_CASE("go_quote") {
  CHECK(go_quote("a\"b\\c") == R"("a\"b\\c")");
  CHECK(go_quote("\n\t\r\a\b\f\v") == R"("\n\t\r\a\b\f\v")");
  CHECK(go_quote(std::string_view("\0\x1b\x7f", 3)) == R"("\x00\x1b\x7f")");
  CHECK(go_quote("\xc3\xa9\xff") == "\"\xc3\xa9\\xff\"");
  CHECK(go_quote("\xc2\x85\xef\xbb\xbf") == R"("\u0085\ufeff")");
  CHECK(go_quote("\xed\xa0\x80") == R"("\xed\xa0\x80")");  // a surrogate is not UTF-8
  CHECK(go_quote("\xf3\xa0\x80\x81") == R"("\U000e0001")");
}

TEST_CASE("human_size") {
  CHECK(human_size(0) == "0 B");
  CHECK(human_size(999) == "999 B");
  CHECK(human_size(1000) == "1.0 kB");
  CHECK(human_size(1234567) == "1.2 MB");
  CHECK(human_size(999999) == "1.0 MB");
  CHECK(human_size(UINT64_MAX) == "18.4 EB");
}

TEST_CASE("clean_path is Go's path.Clean") {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"", "."},        {"a/../b//c", "b/c"},   {"/", "/"},      {"/../a", "/a"},
      {"../a", "../a"}, {"a/../..", ".."},      {"./a/./", "a"}, {"/a/b/../../..", "/"},
      {"a/..", "."},    {"../../a", "../../a"}, {"//a", "/a"},   {"/.", "/"},
  };
  for (const auto& [path, clean] : cases) {
    CAPTURE(path);
    CHECK(clean_path(path) == clean);
  }
  CHECK(path_components("/a/./b//../c/") == Strings{"a", "b", "..", "c"});
  CHECK(path_components("") == Strings{});
}

TEST_CASE("printable keeps text and disarms control characters") {
  CHECK(printable("a\tb \xc3\xa9") == "a\tb \xc3\xa9");
  CHECK(printable("\x1b[2J\n") == "\xef\xbf\xbd[2J\xef\xbf\xbd");
  CHECK(printable("\xc2\x9b") == "\xef\xbf\xbd");  // CSI as a C1 control
  CHECK(printable("\x9b") == "\xef\xbf\xbd");      // and as a raw byte
  CHECK(printable("\xc0\x80") == "\xef\xbf\xbd\xef\xbf\xbd");
  CHECK(printable("\xe2\x82") == "\xef\xbf\xbd\xef\xbf\xbd");
}
