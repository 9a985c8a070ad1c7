#include "builder/user.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/diagnostic.h"
#include "base/text.h"

namespace lamina::builder {

namespace {

struct PasswdLine {
  std::string name;
  uint32_t uid = 0, gid = 0;
  std::string home;
};
struct GroupLine {
  std::string name;
  uint32_t gid = 0;
  std::vector<std::string> members;
};

std::optional<uint32_t> id_of(std::string_view text) {
  const auto n = parse_uint(text);
  if (!n || *n > UINT32_MAX) return std::nullopt;
  return static_cast<uint32_t>(*n);
}

// passwd(5), group(5). Lines that make no sense are skipped, as the C library does.
Result<std::vector<PasswdLine>> read_passwd(const ReadText& read) {
  std::vector<PasswdLine> out;
  ASSIGN_OR_RETURN(const std::optional<std::string> text, read("/etc/passwd"));
  for (const std::string& line : split(text.value_or(""), '\n')) {
    const std::vector<std::string> f = split(line, ':');
    if (f.size() < 4) continue;
    const auto uid = id_of(f[2]), gid = id_of(f[3]);
    if (!uid || !gid) continue;
    out.push_back({f[0], *uid, *gid, f.size() > 5 ? f[5] : ""});
  }
  return out;
}

Result<std::vector<GroupLine>> read_group(const ReadText& read) {
  std::vector<GroupLine> out;
  ASSIGN_OR_RETURN(const std::optional<std::string> text, read("/etc/group"));
  for (const std::string& line : split(text.value_or(""), '\n')) {
    const std::vector<std::string> f = split(line, ':');
    if (f.size() < 3) continue;
    const auto gid = id_of(f[2]);
    if (!gid) continue;
    out.push_back({f[0], *gid, f.size() > 3 ? split(f[3], ',') : std::vector<std::string>()});
  }
  return out;
}

template <typename Line>
Error unknown_name(const char* what, const char* file, const std::string& name, const std::vector<Line>& lines) {
  Error error(ErrorKind::kNotFound, fmt::format("unable to find {} {}: no matching entries in {}", what, printable(name), file));
  std::vector<std::string> names;
  for (const Line& l : lines) names.push_back(l.name);
  if (const auto near = nearest_name(name, names)) return std::move(error).with_note("did you mean " + *near + "?");
  return std::move(error).with_note(fmt::format("make the {} in an earlier RUN, or give its number", what));
}

struct Parts {
  std::string user, group;
  bool has_group = false;
};
Parts split_owner(std::string_view text) {
  const size_t colon = text.find(':');
  Parts p;
  p.user = std::string(text.substr(0, colon));
  p.has_group = colon != std::string_view::npos && colon + 1 < text.size();
  if (p.has_group) p.group = std::string(text.substr(colon + 1));
  return p;
}

Result<uint32_t> find_group(const std::string& group, const ReadText& read) {
  ASSIGN_OR_RETURN(const std::vector<GroupLine> groups, read_group(read));
  for (const GroupLine& g : groups) {
    if (g.name == group) return g.gid;
  }
  if (const auto gid = id_of(group)) return *gid;
  return unknown_name("group", "/etc/group", group, groups);
}

}  // namespace

Result<ResolvedUser> resolve_user(std::string_view text, const ReadText& read) {
  const Parts parts = split_owner(text);
  ResolvedUser out;
  const auto number = id_of(parts.user);
  const auto group_number = id_of(parts.group);
  const bool numeric = number && parts.has_group && group_number;
  ASSIGN_OR_RETURN(const std::vector<PasswdLine> users, read_passwd(read));
  const std::string wanted = parts.user.empty() ? "root" : parts.user;
  const auto by_name = std::find_if(users.begin(), users.end(), [&](const PasswdLine& l) { return l.name == wanted; });
  const uint32_t wanted_uid = number.value_or(0);
  const auto found = by_name != users.end() ? by_name
                     : number || parts.user.empty() ? std::find_if(users.begin(), users.end(), [&](const PasswdLine& l) { return l.uid == wanted_uid; })
                                                    : users.end();
  if (found != users.end()) {
    out.uid = found->uid;
    out.gid = found->gid;
    out.home = found->home;
  } else if (number) {
    out.uid = *number;
  } else if (!parts.user.empty() && parts.user != "root") {  // root is 0 even without a passwd file
    return unknown_name("user", "/etc/passwd", parts.user, users);
  }
  if (parts.has_group) {
    ASSIGN_OR_RETURN(out.gid, numeric ? Result<uint32_t>(*group_number) : find_group(parts.group, read));
  } else if (found != users.end()) {
    ASSIGN_OR_RETURN(const std::vector<GroupLine> groups, read_group(read));
    for (const GroupLine& g : groups) {
      if (std::find(g.members.begin(), g.members.end(), found->name) != g.members.end()) out.groups.push_back(g.gid);
    }
  }
  // The primary group is also a supplementary one (CVE-2023-25173).
  if (std::find(out.groups.begin(), out.groups.end(), out.gid) == out.groups.end()) out.groups.insert(out.groups.begin(), out.gid);
  return out;
}

Result<Owner> resolve_owner(std::string_view text, const ReadText& read, bool unknown_is_root) {
  const Parts parts = split_owner(text);
  Owner out;
  if (const auto number = id_of(parts.user)) {
    out.uid = *number;
    out.gid = *number;
  } else if (!parts.user.empty()) {
    ASSIGN_OR_RETURN(const std::vector<PasswdLine> users, read_passwd(read));
    const auto found = std::find_if(users.begin(), users.end(), [&](const PasswdLine& l) { return l.name == parts.user; });
    if (found != users.end()) {
      out.uid = found->uid;
      out.gid = found->gid;
    } else if (!unknown_is_root) {
      return unknown_name("user", "/etc/passwd", parts.user, users);
    }
  }
  if (parts.has_group) {
    if (const auto number = id_of(parts.group)) {
      out.gid = *number;
    } else {
      auto group = find_group(parts.group, read);
      if (!group && !(unknown_is_root && group.error().kind() == ErrorKind::kNotFound)) return std::move(group).error();
      out.gid = group ? *group : 0;
    }
  }
  return out;
}

}  // namespace lamina::builder
