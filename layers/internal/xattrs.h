// Which extended attributes are part of an image, and which are overlay's or ours.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "layers/entry.h"

namespace lamina::layers {

using Xattrs = std::map<std::string, std::string>;

// Whether a layer may hold this attribute: security.capability of files, user.* of files and directories
// (the kernel allows user.* nowhere else, xattr(7)), without overlay's and ours. Labels of the machine
// (security.selinux, security.ima), ACLs, and trusted.* stay where they are, as with other builders.
bool is_layer_xattr(EntryType type, std::string_view name);

inline constexpr const char* kDeviceXattr = "user.lamina.device";

// "trusted.overlay.opaque" or "user.overlay.opaque", as this process mounts overlays.
const char* opaque_xattr();

// `name` in the directory `dir_fd`; symlinks are not followed. The magic link of the descriptor leads there
// without a race: there is no listxattrat(2) before Linux 6.13. kUnsupported when overlay wrote the file with
// features that Lamina never mounts with (redirect_dir, metacopy): its content would be somewhere else.
Result<Xattrs> read_layer_xattrs(int dir_fd, const std::string& name, EntryType type);
bool is_opaque(int dir_fd);
// Of an emulated device node: "c 1 3". Nothing when it has none.
struct EmulatedDevice {
  EntryType type = EntryType::kCharDevice;
  uint32_t major = 0, minor = 0;
};
std::optional<EmulatedDevice> emulated_device(int dir_fd, const std::string& name);
std::string format_device(const EmulatedDevice& device);

}  // namespace lamina::layers
