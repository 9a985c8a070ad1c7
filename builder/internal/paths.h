// Paths in a layer: relative, cleaned; "" is the root.
#pragma once

#include <string>
#include <string_view>

namespace lamina::builder::internal {

inline bool is_below(std::string_view path, std::string_view directory) {
  return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
}

// A component, or several, below a directory; an empty one is the directory.
inline std::string child_of(const std::string& directory, std::string_view name) {
  std::string path = directory;
  if (!path.empty() && !name.empty()) path += '/';
  return path += name;
}

inline std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

inline std::string_view name_of(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

}  // namespace lamina::builder::internal
