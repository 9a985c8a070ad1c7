// The exec form: a JSON array of strings, read as Go's encoding/json reads it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lamina::parser::internal {

struct JsonArray {
  enum Kind {
    kNone,    // no JSON array: the text is a shell form
    kMixed,   // an array, but not of strings only
    kStrings
  } kind = kNone;
  std::vector<std::string> strings;  // kStrings only
};

// The whole of `text` must be the array. As in Go, invalid UTF-8 and lone surrogates become U+FFFD (a general JSON
// library refuses them, which would silently turn an exec form into a shell form). Needs no stack however deep the nesting.
JsonArray parse_json_array(std::string_view text);

}  // namespace lamina::parser::internal
