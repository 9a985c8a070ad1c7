// Checked access to JSON that may be hostile. nlohmann's exceptions never get past this header.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamina::json {

using Json = nlohmann::json;

// An object, or kCorrupt that says what `what` is instead. Nesting deeper than 100 is refused before parsing.
Result<Json> parse_object(std::string_view text, std::string_view what);
// Canonical text: keys in byte order, no white space; invalid UTF-8 is replaced, never thrown at.
std::string dump(const Json& value);

// Readers of object members. Absent and null give nothing; another type is kCorrupt and names the member.
Result<std::optional<std::string>> get_string(const Json& object, const char* name);
Result<std::optional<int64_t>> get_integer(const Json& object, const char* name);
Result<std::optional<bool>> get_bool(const Json& object, const char* name);
Result<std::optional<std::vector<std::string>>> get_strings(const Json& object, const char* name);
Result<std::map<std::string, std::string>> get_string_map(const Json& object, const char* name);
// Null when absent or null.
Result<const Json*> get_array(const Json& object, const char* name);
Result<const Json*> get_object(const Json& object, const char* name);

}  // namespace lamina::json
