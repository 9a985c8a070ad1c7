// RUN --device: descriptions of devices in files of the Container Device Interface, and what they bring into a
// sandbox. https://github.com/cncf-tags/container-device-interface, SPEC.md 0.3 to 1.0.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "parser/mount.h"

namespace lamina::builder {

struct DeviceNode {
  std::string path;       // in the sandbox
  std::string host_path;  // outside
  bool block = false;
  uint32_t major = 0, minor = 0;
  std::optional<uint32_t> mode, uid, gid;
};

struct DeviceBind {
  std::string host_path;
  std::string path;
  bool read_only = false;
};

struct DeviceEdits {
  std::vector<std::string> names;  // fully qualified names of what was found
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<DeviceNode> nodes;
  std::vector<DeviceBind> binds;
  std::vector<uint32_t> groups;    // supplementary, besides the user's
};

// The devices that the machine's files describe. Immutable after load.
class DeviceRegistry {
 public:
  // Reads *.json, *.yaml and *.yml; a later directory's device replaces an earlier one's of the same name. None
  // given: /etc/cdi and /var/run/cdi. A directory that is missing is empty. A file that cannot be understood is
  // remembered and told when a device is not found.
  static Result<DeviceRegistry> load(const std::vector<std::string>& directories);

  // What the wish stands for; nothing when an optional device is absent. kNotFound for a required one, kDenied when
  // neither `allow` ("device", "device=NAME") nor the device's own file allows it, kUnsupported for hooks.
  Result<DeviceEdits> find(const parser::DeviceWish& wish, const std::vector<std::string>& allow) const;

 private:
  struct Device {
    std::string file;
    std::map<std::string, std::string> annotations;
    DeviceEdits edits;         // those of the file first
    std::string unsupported;   // what of it cannot be done, or empty
  };
  std::map<std::string, Device> devices_;  // by "vendor/class=name"
  std::vector<std::string> problems_;

  Result<void> read(const std::string& file);
  std::vector<std::string> select(const std::string& name) const;
};

}  // namespace lamina::builder
