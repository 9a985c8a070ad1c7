// Times as images write them.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lamina {

// Seconds and nanoseconds since 1970-01-01T00:00:00Z.
struct Timestamp {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
  auto operator<=>(const Timestamp&) const = default;
};

Timestamp now();
// RFC 3339 in UTC as Go writes it: fraction without trailing zeros, or no fraction.
std::string format_rfc3339(const Timestamp& t);
std::optional<Timestamp> parse_rfc3339(std::string_view text);

}  // namespace lamina
