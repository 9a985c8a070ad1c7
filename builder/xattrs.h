// Extended attributes that belong into an image.
#pragma once

#include <map>
#include <string>

#include "base/result.h"

namespace lamina::builder {

// Those of `path` below `dir_fd` (the link itself, not its target), without what belongs to this machine: system.*
// (ACLs name local users), trusted.*, security labels other than file capabilities, and this program's own. A file
// system without xattrs gives none.
Result<std::map<std::string, std::string>> read_xattrs(int dir_fd, const std::string& path);

}  // namespace lamina::builder
