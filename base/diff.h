// The difference of two texts, as diff -u shows it.
#pragma once

#include <string>
#include <string_view>

namespace lamina {

// "--- name", "+++ name", hunks with three lines of context; empty when the texts are the same.
std::string unified_diff(std::string_view before, std::string_view after, std::string_view name);

}  // namespace lamina
