#include "base/time.h"

#include <doctest/doctest.h>

#include <random>
#include <vector>

using namespace lamina;

TEST_CASE("RFC 3339 as Go writes it") {
  CHECK(format_rfc3339({0, 0}) == "1970-01-01T00:00:00Z");
  CHECK(format_rfc3339({1700000000, 120000000}) == "2023-11-14T22:13:20.12Z");
  CHECK(format_rfc3339({951782399, 1}) == "2000-02-28T23:59:59.000000001Z");
  CHECK(format_rfc3339({951782400, 0}) == "2000-02-29T00:00:00Z");
  CHECK(format_rfc3339({-1, 0}) == "1969-12-31T23:59:59Z");
  CHECK(format_rfc3339({-62135596800, 0}) == "0001-01-01T00:00:00Z");  // Go's zero time
}

TEST_CASE("parse_rfc3339") {
  CHECK(parse_rfc3339("2023-11-14T22:13:20.12Z") == Timestamp{1700000000, 120000000});
  CHECK(parse_rfc3339("2023-11-15T00:13:20+02:00") == Timestamp{1700000000, 0});
  CHECK(parse_rfc3339("2023-11-14T17:13:20-05:00") == Timestamp{1700000000, 0});
  CHECK(parse_rfc3339("1970-01-01T00:00:00.1234567899Z") == Timestamp{0, 123456789});
  CHECK(parse_rfc3339("0001-01-01T00:00:00Z") == Timestamp{-62135596800, 0});
  for (const char* bad : {"", "2023", "2023-11-14", "2023-11-14T22:13:20", "2023-13-14T22:13:20Z",
                          "2023-02-29T00:00:00Z", "2023-11-14T24:00:00Z", "2023-11-14T22:13:20.Z",
                          "2023-11-14T22:13:20Zx", "2023-11-14T22:13:20+0200",
                          "+023-11-14T22:13:20Z", "2023-11-14T22:13:2", "2023-11-14 22:13:20Z"}) {
    CAPTURE(bad);
    CHECK(parse_rfc3339(bad) == std::nullopt);
  }
}

TEST_CASE("parse(format(t)) is t") {
  const unsigned seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int64_t> seconds(-62135596800, 253402300799);
  std::uniform_int_distribution<uint32_t> nanoseconds(0, 999999999);
  for (int i = 0; i < 2000; ++i) {
    const Timestamp t{seconds(random), nanoseconds(random)};
    const std::string text = format_rfc3339(t);
    CAPTURE(text);
    CHECK(parse_rfc3339(text) == t);
  }
  CHECK(now() > Timestamp{1700000000, 0});
}
