#include "parser/mount.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "parser/tree.h"

namespace lamina::parser {

namespace {

Error bad(std::string message) { return Error(ErrorKind::kInvalidInput, std::move(message)); }

// One CSV record by RFC 4180's rules: fields at commas, double quotes around a whole field, "" inside is a quote.
Result<std::vector<std::string>> csv_fields(std::string_view text) {
  std::vector<std::string> fields(1);
  enum { kStart, kPlain, kQuoted, kClosed } state = kStart;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (state == kQuoted) {
      if (c != '"') {
        fields.back() += c;
      } else if (text.substr(i + 1, 1) == "\"") {
        fields.back() += text[++i];
      } else {
        state = kClosed;
      }
    } else if (c == ',') {
      fields.emplace_back();
      state = kStart;
    } else if (c == '"') {
      if (state != kStart) return bad("a quote inside of a field: quotes go around the whole of key=value");
      state = kQuoted;
    } else if (state == kClosed) {
      return bad("text behind a closing quote: quotes go around the whole of key=value");
    } else {
      fields.back() += c;
      state = kPlain;
    }
  }
  if (state == kQuoted) return bad("a quote is not closed");
  return fields;
}

// "Key=value" → the key in lower case, and the value when there is one.
struct Field {
  std::string key;
  std::optional<std::string> value;
};
Field split_field(const std::string& field) {
  const size_t eq = field.find('=');
  Field out{to_lower(trim(std::string_view(field).substr(0, eq))), std::nullopt};
  if (eq != std::string::npos) out.value = field.substr(eq + 1);
  return out;
}

const std::vector<std::string> kKeys = {"type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw",
                                        "id",   "sharing", "required", "size", "mode", "uid", "gid", "env"};

Result<bool> parse_bool(const std::string& key, const std::optional<std::string>& value) {
  if (!value) return true;
  const std::string v = to_lower(*value);
  if (v == "true" || v == "1" || v == "t") return true;
  if (v == "false" || v == "0" || v == "f") return false;
  return bad(fmt::format("invalid value for {}: \"{}\" is neither true nor false", key, printable(*value)));
}

// "100m", "1gb", "1.5GiB" as docker/go-units reads sizes: powers of 1024.
std::optional<uint64_t> parse_size(const std::string& text) {
  size_t n = 0;
  double value = 0, scale = 1;
  bool point = false;
  for (; n < text.size() && ((text[n] >= '0' && text[n] <= '9') || (text[n] == '.' && !point)); ++n) {
    if (text[n] == '.') {
      point = true;
      continue;
    }
    value = value * 10 + (text[n] - '0');
    if (point) scale *= 10;
  }
  if (n == 0) return std::nullopt;
  std::string unit = to_lower(trim(std::string_view(text).substr(n)));
  if (!unit.empty() && unit.back() == 'b') unit.pop_back();
  if (!unit.empty() && unit.back() == 'i') unit.pop_back();
  const std::string units = "kmgtp";
  double factor = 1;
  if (unit.size() > 1 || (unit.size() == 1 && units.find(unit) == std::string::npos)) return std::nullopt;
  if (!unit.empty()) {
    for (size_t i = 0; i <= units.find(unit); ++i) factor *= 1024;
  }
  const double bytes = value / scale * factor;
  if (bytes > 9e18) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

Result<uint32_t> parse_number(const std::string& key, const std::string& value, int base) {
  const auto number = parse_uint(value, base);
  if (!number || *number > UINT32_MAX) return bad(fmt::format("invalid value for {}: \"{}\" is not {} number", key, printable(value), base == 8 ? "an octal" : "a"));
  return static_cast<uint32_t>(*number);
}

class MountParser {
 public:
  MountParser(const Lookup& lookup, char escape) : lookup_(lookup), escape_(escape) {}

  Result<Mount> run(std::string_view raw) {
    ASSIGN_OR_RETURN(const std::vector<std::string> fields, csv_fields(raw));
    for (const std::string& field : fields) RETURN_IF_ERROR(take(field));
    RETURN_IF_ERROR(finish());
    return std::move(mount_);
  }

 private:
  Result<void> take(const std::string& field) {
    auto [key, value] = split_field(field);
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) {
      Error error = bad(fmt::format("unexpected key '{}' in mount", printable(key)));
      if (const auto near = nearest_name(key, kKeys)) return std::move(error).with_note("did you mean " + *near + "?");
      return error;
    }
    if (value && key == "from" && value->find('$') != std::string::npos) {
      return bad("'from' doesn't support variable expansion, define alias stage instead");
    }
    if (value && key != "from") {
      ASSIGN_OR_RETURN(Expanded expanded, expand_word(*value, lookup_, escape_));
      value = std::move(expanded.text);
    }
    return set(key, value, field);
  }

  Result<void> set(const std::string& key, const std::optional<std::string>& value, const std::string& field) {
    if (key == "readonly" || key == "ro" || key == "readwrite" || key == "rw") {
      ASSIGN_OR_RETURN(const bool on, parse_bool(key, value));
      read_only_ = (key[0] == 'r' && (key == "ro" || key == "readonly")) ? on : !on;
      return {};
    }
    if (key == "required") {
      ASSIGN_OR_RETURN(mount_.required, parse_bool(key, value));
      given_.insert(key);
      return {};
    }
    if (!value) return bad(fmt::format("invalid field '{}' must be a key=value pair", printable(field)));
    if (key == "type") return set_type(*value);
    given_.insert(key);
    if (key == "from") mount_.from = *value;
    if (key == "source" || key == "src") mount_.source = *value;
    if (key == "target" || key == "dst" || key == "destination") mount_.target = *value;
    if (key == "id") mount_.id = *value;
    if (key == "env") mount_.env = *value;
    if (key == "sharing") return set_sharing(*value);
    if (key == "size") {
      mount_.size_bytes = parse_size(*value);
      if (!mount_.size_bytes) return bad(fmt::format("invalid value for size: \"{}\"", printable(*value)));
    }
    if (key == "mode") {
      ASSIGN_OR_RETURN(mount_.mode, parse_number(key, *value, 8));
    }
    if (key == "uid") {
      ASSIGN_OR_RETURN(mount_.uid, parse_number(key, *value, 10));
    }
    if (key == "gid") {
      ASSIGN_OR_RETURN(mount_.gid, parse_number(key, *value, 10));
    }
    return {};
  }

  Result<void> set_type(const std::string& value) {
    const std::vector<std::pair<std::string, MountType>> types = {
        {"bind", MountType::kBind}, {"cache", MountType::kCache}, {"tmpfs", MountType::kTmpfs}, {"secret", MountType::kSecret}, {"ssh", MountType::kSsh}};
    std::vector<std::string> names;
    for (const auto& [name, type] : types) {
      names.push_back(name);
      if (!iequals(name, value)) continue;
      mount_.type = type;
      return {};
    }
    Error error = bad(fmt::format("unsupported mount type \"{}\"", printable(value)));
    if (const auto near = nearest_name(value, names)) return std::move(error).with_note("did you mean " + *near + "?");
    return std::move(error).with_note("the types are bind, cache, tmpfs, secret and ssh");
  }

  Result<void> set_sharing(const std::string& value) {
    const std::string v = to_lower(value);
    if (v == "shared") {
      mount_.sharing = CacheSharing::kShared;
    } else if (v == "private") {
      mount_.sharing = CacheSharing::kPrivate;
    } else if (v == "locked") {
      mount_.sharing = CacheSharing::kLocked;
    } else {
      return bad(fmt::format("unsupported sharing value \"{}\": it is shared, private or locked", printable(value)));
    }
    return {};
  }

  bool given(const char* key) const { return given_.contains(key); }

  // dockerfile-language 1.7: which options go with which type, and the defaults.
  Result<void> finish() {
    const MountType type = mount_.type;
    const bool ids = type == MountType::kCache || type == MountType::kSecret || type == MountType::kSsh;
    for (const char* key : {"mode", "uid", "gid"}) {
      if (given(key) && !ids) return bad(fmt::format("{} not allowed for this type of mount", key));
    }
    if (given("sharing") && type != MountType::kCache) return bad("sharing is only allowed for cache mounts");
    if (given("size") && type != MountType::kTmpfs) return bad("size is only allowed for tmpfs mounts");
    if (given("required") && type != MountType::kSecret && type != MountType::kSsh) return bad("required is only allowed for secret and ssh mounts");
    if (given("env") && type != MountType::kSecret) return bad("env is only allowed for secret mounts");
    const bool files = type == MountType::kBind || type == MountType::kCache;
    if (given("from") && !files) return bad("from is only allowed for bind and cache mounts");
    mount_.read_only = read_only_.value_or(type == MountType::kBind);
    if (type == MountType::kTmpfs && read_only_.value_or(false)) return bad("a tmpfs mount cannot be read-only");
    if (type == MountType::kSecret) return finish_secret();
    if (type == MountType::kSsh) {
      if (mount_.id.empty()) mount_.id = "default";
      return {};
    }
    if (mount_.target.empty()) return bad("the mount needs a target");
    if (files && mount_.source.empty()) mount_.source = "/";
    if (type == MountType::kCache && mount_.id.empty()) mount_.id = clean_path(mount_.target);
    return {};
  }

  Result<void> finish_secret() {
    if (!mount_.source.empty()) {
      if (!mount_.id.empty()) return bad("both source and id can't be set");
      mount_.id = std::exchange(mount_.source, {});
    }
    const auto base = [](const std::string& path) { return path.substr(path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1); };
    if (mount_.id.empty()) {
      if (mount_.target.empty()) return bad("invalid secret mount. one of source, target required");
      mount_.id = base(mount_.target);
    }
    if (mount_.target.empty() && !mount_.env) mount_.target = "/run/secrets/" + base(mount_.id);
    return {};
  }

  const Lookup& lookup_;
  char escape_;
  Mount mount_;
  std::optional<bool> read_only_;
  std::set<std::string> given_;
};

}  // namespace

Result<Mount> parse_mount(std::string_view raw, const Lookup& lookup, char escape) { return MountParser(lookup, escape).run(raw); }

std::optional<std::string> mount_from(std::string_view raw) {
  const auto fields = csv_fields(raw);
  if (!fields) return std::nullopt;
  std::optional<std::string> from;
  for (const std::string& field : *fields) {
    auto [key, value] = split_field(field);
    if (key == "from" && value) from = std::move(value);  // the last one counts
  }
  return from;
}

Result<DeviceWish> parse_device(std::string_view raw) {
  ASSIGN_OR_RETURN(const std::vector<std::string> fields, csv_fields(raw));
  DeviceWish wish;
  for (const std::string& field : fields) {
    const size_t eq = field.find('=');
    const std::string key = to_lower(field.substr(0, eq));
    std::optional<std::string> value;
    if (eq != std::string::npos) value = field.substr(eq + 1);
    if (key == "required") {
      ASSIGN_OR_RETURN(wish.required, parse_bool(key, value));
    } else if (key == "name" && value) {
      if (!wish.name.empty()) return bad(fmt::format("the device's name is already set to {}", printable(wish.name)));
      wish.name = *value;
    } else if (wish.name.empty()) {
      wish.name = field;
    } else if (!value) {
      return bad(fmt::format("invalid field '{}' must be a key=value pair", printable(field)));
    } else {
      Error error = bad(fmt::format("unexpected key '{}' in device", printable(key)));
      if (const auto near = nearest_name(key, {"name", "required"})) return std::move(error).with_note("did you mean " + *near + "?");
      return error;
    }
  }
  if (wish.name.empty()) return bad("the device has no name").with_note("write --device=vendor.com/class=name");
  return wish;
}

// --- ports ------------------------------------------------------------------------------------------

namespace {

struct Range {
  uint64_t first = 0, last = 0;
};

std::optional<Range> parse_range(std::string_view text) {
  const size_t dash = text.find('-');
  const auto first = parse_uint(text.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : parse_uint(text.substr(dash + 1));
  if (!first || !last || *first > 65535 || *last > 65535 || *last < *first) return std::nullopt;
  return Range{*first, *last};
}

}  // namespace

namespace {

// The ports of one protocol, as counts of ranges that begin and end: a million overlapping ranges cost no more than one.
class PortSet {
 public:
  void add(Range range) {
    ++changes_[range.first];
    --changes_[range.last + 1];
  }
  void list(const std::string& protocol, std::vector<std::string>& out) const {
    int64_t open = 0;
    for (uint64_t port = 0; port <= 65535; ++port) {
      open += changes_[port];
      if (open > 0) out.push_back(fmt::format("{}/{}", port, protocol));
    }
  }

 private:
  std::vector<int64_t> changes_ = std::vector<int64_t>(65537);
};

}  // namespace

Result<Ports> parse_ports(const std::vector<std::string>& words) {
  Ports out;
  std::map<std::string, PortSet> sets;
  for (const std::string& word : words) {
    if (word.empty()) continue;
    std::string protocol = "tcp";
    std::string rest = word;
    if (const size_t slash = rest.find('/'); slash != std::string::npos) {
      protocol = to_lower(rest.substr(slash + 1));
      rest = rest.substr(0, slash);
      if (protocol.empty()) protocol = "tcp";
    }
    Error error = bad(fmt::format("invalid containerPort: {}", printable(word)));
    if (word[0] == '#') return std::move(error).with_note("a # inside a line does not begin a comment; put the comment on a line of its own");
    if (protocol != "tcp" && protocol != "udp" && protocol != "sctp") return bad(fmt::format("invalid proto: {}", printable(protocol))).with_note("it is tcp, udp or sctp");
    // Addresses and host ports are chosen when the container is started.
    if (const size_t colon = rest.rfind(':'); colon != std::string::npos) rest = rest.substr(colon + 1);
    const auto range = parse_range(rest);
    if (!range) return std::move(error).with_note("a port is a number from 0 to 65535, a range such as 8000-8010, with /tcp, /udp or /sctp behind it");
    sets[protocol].add(*range);
  }
  for (const auto& [protocol, set] : sets) set.list(protocol, out.ports);
  std::sort(out.ports.begin(), out.ports.end());
  return out;
}

// --- modes ------------------------------------------------------------------------------------------

Result<ModeChange> ModeChange::parse(std::string_view text) {
  ModeChange change;
  if (!text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    const auto octal = parse_uint(text, 8);
    if (!octal || *octal > 07777) return bad(fmt::format("invalid chmod parameter: '{}'. it should be octal string and between 0 and 07777", text));
    change.octal_ = static_cast<uint32_t>(*octal);
    return change;
  }
  for (const std::string& part : split(text, ',')) {
    size_t i = 0;
    Clause clause;
    for (; i < part.size() && std::string_view("ugoa").find(part[i]) != std::string_view::npos; ++i) {
      clause.who |= part[i] == 'u' ? 04700U : part[i] == 'g' ? 02070U : part[i] == 'o' ? 01007U : 07777U;
    }
    if (clause.who == 0) clause.who = 07777;
    bool any = false;
    while (i < part.size() && std::string_view("+-=").find(part[i]) != std::string_view::npos) {
      clause.op = part[i++];
      clause.perms.clear();
      while (i < part.size() && std::string_view("rwxXstugo").find(part[i]) != std::string_view::npos) clause.perms += part[i++];
      change.clauses_.push_back(clause);
      any = true;
    }
    if (!any || i != part.size()) {
      return bad(fmt::format("invalid chmod parameter: '{}'", printable(text))).with_note("it is octal such as 755, or symbolic such as u=rwX,go=rX");
    }
  }
  return change;
}

uint32_t ModeChange::apply(uint32_t mode, bool is_directory) const {
  if (octal_) return *octal_;
  for (const Clause& c : clauses_) {
    uint32_t bits = 0;
    for (char p : c.perms) {
      if (p == 'r') bits |= 0444;
      if (p == 'w') bits |= 0222;
      if (p == 'x' || (p == 'X' && (is_directory || (mode & 0111) != 0))) bits |= 0111;
      if (p == 's') bits |= 06000;
      if (p == 't') bits |= 01000;
      const uint32_t copied = p == 'u' ? mode >> 6 & 7 : p == 'g' ? mode >> 3 & 7 : p == 'o' ? mode & 7 : 0;
      bits |= copied * 0111;
    }
    bits &= c.who;
    if (c.op == '+') mode |= bits;
    if (c.op == '-') mode &= ~bits;
    // "=" leaves a directory's setuid and setgid bits alone, as chmod(1) does.
    if (c.op == '=') mode = (mode & ~(c.who & (is_directory ? 01777U : 07777U))) | bits;
  }
  return mode;
}

bool valid_signal(std::string_view text) {
  if (const auto number = parse_uint(text)) return *number >= 1 && *number <= 64;
  std::string name = to_upper(text);
  if (name.compare(0, 3, "SIG") == 0) name.erase(0, 3);
  static const std::set<std::string> kNames = {"ABRT", "ALRM", "BUS",  "CHLD", "CLD",  "CONT", "FPE",  "HUP",    "ILL",  "INT",  "IO",   "IOT",  "KILL",
                                               "PIPE", "POLL", "PROF", "PWR",  "QUIT", "SEGV", "STKFLT", "STOP", "SYS",  "TERM", "TRAP", "TSTP", "TTIN",
                                               "TTOU", "URG",  "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ"};
  if (kNames.contains(name)) return true;
  for (const auto& [prefix, limit] : {std::pair<std::string, uint64_t>{"RTMIN+", 15}, {"RTMAX-", 14}}) {
    if (name.compare(0, prefix.size(), prefix) == 0) return parse_uint(name.substr(prefix.size())).value_or(99) <= limit;
  }
  return name == "RTMIN" || name == "RTMAX";
}

}  // namespace lamina::parser
