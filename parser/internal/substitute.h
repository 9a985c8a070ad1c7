// The patterns of ${v#p}, ${v%p} and ${v/p/r}: * and ? only, escapes \* \? \\ \/ \}.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace lamina::parser::internal {

// ${value#pattern}, and ## with `longest`. Fails with kInvalidInput on an escape that the language does not have.
Result<std::string> trim_prefix(std::string_view value, std::string_view pattern, bool longest);
// ${value%pattern}, %%.
Result<std::string> trim_suffix(std::string_view value, std::string_view pattern, bool longest);
// ${value/pattern/with} and //; the longest match at the leftmost place. A result over `limit` bytes fails.
Result<std::string> replace_matches(std::string_view value, std::string_view pattern, std::string_view with, bool all, size_t limit);

}  // namespace lamina::parser::internal
