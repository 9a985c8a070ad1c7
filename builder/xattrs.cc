#include "builder/xattrs.h"

#include <fcntl.h>
#include <sys/xattr.h>

#include <cerrno>

#include "base/text.h"

namespace lamina::builder {

namespace {

bool belongs_to_image(std::string_view name) {
  if (name == "security.capability") return true;
  const auto starts = [&](std::string_view p) { return name.substr(0, p.size()) == p; };
  return starts("user.") && !starts("user.overlay.") && !starts("user.lamina.");
}

}  // namespace

Result<std::map<std::string, std::string>> read_xattrs(int dir_fd, const std::string& path) {
  // There is no listxattrat(2); the magic link of the directory descriptor leads there without a race.
  const std::string full = "/proc/self/fd/" + std::to_string(dir_fd) + "/" + path;
  std::map<std::string, std::string> found;
  char names[4096];
  const ssize_t size = ::llistxattr(full.c_str(), names, sizeof names);
  if (size < 0) {
    // ERANGE: nothing sensible has 4 KiB of names; ENOTSUP, EPERM: no attributes here.
    if (errno == ENOTSUP || errno == EPERM || errno == ENOENT || errno == ERANGE) return found;
    return system_error(errno, "listxattr", path);
  }
  for (const char* name = names; name < names + size; name += std::char_traits<char>::length(name) + 1) {
    if (!belongs_to_image(name)) continue;
    std::string value(65536, '\0');
    const ssize_t n = ::lgetxattr(full.c_str(), name, value.data(), value.size());
    if (n < 0) continue;  // gone, or not ours to read: as BuildKit, such an attribute is left out
    value.resize(static_cast<size_t>(n));
    found.emplace(name, std::move(value));
  }
  return found;
}

}  // namespace lamina::builder
