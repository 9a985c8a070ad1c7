// Options of RUN --mount and of ports, owners and modes: small grammars applied after expansion.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "parser/expand.h"

namespace lamina::parser {

enum class MountType { kBind, kCache, kTmpfs, kSecret, kSsh };
enum class CacheSharing { kShared, kPrivate, kLocked };

// RUN --mount=type=…; defaults of the language are filled in.
struct Mount {
  MountType type = MountType::kBind;
  std::string target;                 // may be relative to WORKDIR; empty for secret with env only
  std::string source;                 // bind, cache: path inside `from`; default "/"
  std::string from;                   // stage, image or named context; empty: the build context
  bool read_only = true;              // bind: true, others: false unless ro was given
  std::string id;                     // cache, secret, ssh
  CacheSharing sharing = CacheSharing::kShared;
  std::optional<uint64_t> size_bytes; // tmpfs
  bool required = false;              // secret, ssh
  std::optional<std::string> env;     // secret
  std::optional<uint32_t> mode, uid, gid;
};

// `raw` is the flag's value (CSV of key=value). Values are expanded with `lookup`, except from.
// Errors are kInvalidInput with the reason; unknown keys and types get a suggestion.
Result<Mount> parse_mount(std::string_view raw, const Lookup& lookup, char escape = '\\');

// Stage, image or context names in the raw values of a RUN's mounts, for the dependency graph.
// Nothing when the mount has no from.
std::optional<std::string> mount_from(std::string_view raw);

// RUN --device=…; a bare word or vendor/class=name is the name. kInvalidInput with the reason.
struct DeviceWish {
  std::string name;       // "vendor.com/class", "vendor.com/class=name", "vendor.com/class=*", or a class
  bool required = false;
};
Result<DeviceWish> parse_device(std::string_view raw);

// EXPOSE words after expansion → sorted "8080/tcp"; ranges become single ports.
struct Ports {
  std::vector<std::string> ports;
};
Result<Ports> parse_ports(const std::vector<std::string>& words);

// --chmod: octal 0..07777 or symbolic ("u=rwX,go=rX").
class ModeChange {
 public:
  static Result<ModeChange> parse(std::string_view text);
  // The new permission bits for a file with these bits.
  uint32_t apply(uint32_t mode, bool is_directory) const;
  // The octal value when it was given as one.
  std::optional<uint32_t> octal() const { return octal_; }

 private:
  struct Clause {
    uint32_t who = 0;  // mask of u, g, o bits
    char op = '=';
    std::string perms;
  };
  std::optional<uint32_t> octal_;
  std::vector<Clause> clauses_;
};

// STOPSIGNAL: the Linux signal table, with or without SIG, or a number.
bool valid_signal(std::string_view text);

}  // namespace lamina::parser
