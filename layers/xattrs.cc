#include "layers/internal/xattrs.h"

#include <fmt/format.h>
#include <sys/xattr.h>

#include <cerrno>
#include <cstring>

#include "base/files.h"
#include "base/text.h"
#include "layers/snapshot.h"

namespace lamina::layers {
namespace {

// XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h.
constexpr size_t kLargestValue = 65536;

std::string magic_path(int dir_fd, const std::string& name) {
  return fmt::format("/proc/self/fd/{}/{}", dir_fd, name);
}

// Names of the attributes, each ended by NUL; empty where the file system has none.
Result<std::string> list_names(const std::string& path, const std::string& shown) {
  char small[512];
  const ssize_t size = ::llistxattr(path.c_str(), small, sizeof small);
  if (size >= 0) return std::string(small, static_cast<size_t>(size));
  if (errno == ENOTSUP || errno == EPERM) return std::string();
  if (errno != ERANGE) return system_error(errno, "llistxattr", shown);
  std::string names(kLargestValue, '\0');
  const ssize_t full = ::llistxattr(path.c_str(), names.data(), names.size());
  if (full < 0) return system_error(errno, "llistxattr", shown);
  names.resize(static_cast<size_t>(full));
  return names;
}

Result<std::string> get_value(const std::string& path, const char* name, const std::string& shown) {
  std::string value(256, '\0');
  ssize_t size = ::lgetxattr(path.c_str(), name, value.data(), value.size());
  if (size < 0 && errno == ERANGE) {
    value.resize(kLargestValue);
    size = ::lgetxattr(path.c_str(), name, value.data(), value.size());
  }
  if (size < 0) return system_error(errno, fmt::format("lgetxattr {}", name), shown);
  value.resize(static_cast<size_t>(size));
  return value;
}

}  // namespace

bool is_layer_xattr(EntryType type, std::string_view name) {
  if (name == "security.capability") return type == EntryType::kFile;
  if (type != EntryType::kFile && type != EntryType::kDirectory) return false;
  return name.starts_with("user.") && name.size() > 5 && !name.starts_with("user.overlay.") &&
         !name.starts_with("user.lamina.");
}

const char* opaque_xattr() {
  return has_full_privileges() ? "trusted.overlay.opaque" : "user.overlay.opaque";
}

namespace {

Result<void> check_plain_overlay(std::string_view key, const std::string& shown) {
  const std::string_view prefix = has_full_privileges() ? "trusted.overlay." : "user.overlay.";
  if (!key.starts_with(prefix)) return {};
  const std::string_view feature = key.substr(prefix.size());
  if (feature != "redirect" && feature != "metacopy") return {};
  return Error(ErrorKind::kUnsupported,
               fmt::format("\"{}\" was written by an overlay with the feature {}, which layers cannot hold",
                           printable(shown), feature));
}

}  // namespace

Result<Xattrs> read_layer_xattrs(int dir_fd, const std::string& name, EntryType type) {
  Xattrs found;
  if (type != EntryType::kFile && type != EntryType::kDirectory) return found;
  const std::string path = magic_path(dir_fd, name);
  ASSIGN_OR_RETURN(const std::string names, list_names(path, name));
  for (size_t at = 0; at < names.size(); at += std::strlen(names.c_str() + at) + 1) {
    const char* key = names.c_str() + at;
    RETURN_IF_ERROR(check_plain_overlay(key, name));
    if (!is_layer_xattr(type, key)) continue;
    ASSIGN_OR_RETURN(std::string value, get_value(path, key, name));
    found.emplace(key, std::move(value));
  }
  return found;
}

bool is_opaque(int dir_fd) {
  char value = 0;
  // O_PATH descriptors refuse fgetxattr(2).
  const std::string path = fmt::format("/proc/self/fd/{}", dir_fd);
  return ::getxattr(path.c_str(), opaque_xattr(), &value, 1) == 1 && value == 'y';
}

std::optional<EmulatedDevice> emulated_device(int dir_fd, const std::string& name) {
  const auto value = get_value(magic_path(dir_fd, name), kDeviceXattr, name);
  if (!value) return std::nullopt;
  const std::vector<std::string> parts = split(*value, ' ');
  if (parts.size() != 3 || (parts[0] != "c" && parts[0] != "b")) return std::nullopt;
  const auto major = parse_uint(parts[1]), minor = parse_uint(parts[2]);
  if (!major || !minor || *major > 0xfff || *minor > 0xfffff) return std::nullopt;
  EmulatedDevice device;
  device.type = parts[0] == "c" ? EntryType::kCharDevice : EntryType::kBlockDevice;
  device.major = static_cast<uint32_t>(*major);
  device.minor = static_cast<uint32_t>(*minor);
  return device;
}

std::string format_device(const EmulatedDevice& device) {
  return fmt::format("{} {} {}", device.type == EntryType::kCharDevice ? 'c' : 'b', device.major, device.minor);
}

}  // namespace lamina::layers
