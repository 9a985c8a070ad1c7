// USER and --chown: names to numbers, by the passwd and group files of a root file system.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamina::builder {

struct ResolvedUser {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;  // supplementary, the primary gid among them
  std::string home;              // from passwd; empty when unknown
};

// The text of /etc/passwd or /etc/group in the root file system; nothing when absent.
using ReadText = std::function<Result<std::optional<std::string>>(const std::string& path)>;

// For RUN and WORKDIR: "", "user", "uid", "user:group", "uid:gid". "" is root. Both numeric: the files are not
// needed. An unknown name is kNotFound and names it; an unknown number works (gid 0).
Result<ResolvedUser> resolve_user(std::string_view text, const ReadText& read);

// For --chown: a user name gives its primary gid; a number without group gives gid = uid; an unknown name is
// kNotFound with the nearest name, or 0 if `unknown_is_root`.
struct Owner {
  uint32_t uid = 0;
  uint32_t gid = 0;
};
Result<Owner> resolve_owner(std::string_view text, const ReadText& read, bool unknown_is_root = false);

}  // namespace lamina::builder
