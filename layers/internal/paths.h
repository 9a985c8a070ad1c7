// Paths of layer members: relative, "/"-separated, without empty, "." and ".." components; "" is the root.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace lamina::layers {

// Longest path that a layer may hold, in bytes. Far above PATH_MAX, which bounds what programs can name
// in one call; small enough that a hostile archive cannot make the walk to a file expensive.
inline constexpr size_t kMaxPathBytes = 32 * 1024;

// OCI image-spec layer.md, "Whiteouts".
inline constexpr std::string_view kWhiteoutPrefix = ".wh.";
inline constexpr std::string_view kOpaqueName = ".wh..wh..opq";
inline constexpr std::string_view kWhiteoutMetaPrefix = ".wh..wh.";  // aufs' own files

// "./a//b/" → "a/b", "/" → "". kCorrupt for "..", NUL and paths that are too long.
Result<std::string> clean_member_path(std::string_view path);

// "a/b" → "a"; "a" → "".
std::string_view parent_path(std::string_view path);
// "a/b" → "b".
std::string_view base_name(std::string_view path);
std::string join_path(std::string_view parent, std::string_view name);

// Whether `path` is `prefix` itself or below it.
bool is_at_or_below(std::string_view path, std::string_view prefix);

// For std::map keys: parents right before what is in them.
struct PathLess {
  using is_transparent = void;
  bool operator()(std::string_view a, std::string_view b) const;
};

}  // namespace lamina::layers
