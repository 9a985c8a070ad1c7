#include "oci/platform.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <map>

#include "base/text.h"

namespace lamina::oci {

namespace {

// Go's names for what uname(2) and people call otherwise: {architecture, variant}.
void normalise(Platform& p) {
  static const std::map<std::string, std::pair<std::string, std::string>> kSynonyms = {
      {"x86_64", {"amd64", ""}}, {"x86-64", {"amd64", ""}}, {"aarch64", {"arm64", ""}},
      {"armhf", {"arm", "v7"}},  {"armel", {"arm", "v6"}},  {"armv7l", {"arm", "v7"}},
      {"armv6l", {"arm", "v6"}}, {"i386", {"386", ""}},     {"i686", {"386", ""}}};
  p.os = to_lower(p.os);
  p.architecture = to_lower(p.architecture);
  p.variant = to_lower(p.variant);
  if (const auto it = kSynonyms.find(p.architecture); it != kSynonyms.end()) {
    p.architecture = it->second.first;
    if (p.variant.empty()) p.variant = it->second.second;
  }
  // The baseline of an architecture has no variant.
  if ((p.architecture == "arm64" && (p.variant == "v8" || p.variant == "8")) ||
      (p.architecture == "amd64" && p.variant == "v1")) {
    p.variant.clear();
  }
  if (p.architecture == "arm" && p.variant.empty()) p.variant = "v7";
  if (p.architecture == "arm" && p.variant.size() == 1) p.variant = "v" + p.variant;
}

int version(const Platform& p) {
  if (p.variant.size() >= 2 && p.variant[0] == 'v') {
    return static_cast<int>(parse_uint(p.variant.substr(1)).value_or(0));
  }
  if (p.architecture == "arm") return 7;
  if (p.architecture == "arm64") return 8;
  return 1;
}

bool valid_part(const std::string& s) {
  if (s.empty()) return false;
  for (char c : s) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-')) return false;
  }
  return true;
}

}  // namespace

std::string Platform::text() const {
  return os + "/" + architecture + (variant.empty() ? "" : "/" + variant);
}

Result<Platform> Platform::parse(std::string_view text) {
  const std::vector<std::string> parts = split(text, '/');
  Platform p;
  if (parts.size() == 1) {
    p.architecture = parts[0];
    if (parts[0] == "linux") p.architecture = host().architecture;
  } else if (parts.size() <= 3) {
    p.os = parts[0];
    p.architecture = parts[1];
    if (parts.size() == 3) p.variant = parts[2];
  }
  normalise(p);
  const bool variant_ok = parts.size() != 3 || p.variant.empty() || valid_part(p.variant);
  if (parts.size() > 3 || !valid_part(p.os) || !valid_part(p.architecture) || !variant_ok) {
    return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is no platform", text))
        .with_note("write os/architecture[/variant], such as linux/amd64 or linux/arm/v7");
  }
  return p;
}

Platform Platform::host() {
  static const Platform platform = [] {
    utsname name{};
    ::uname(&name);
    Platform p;
    p.architecture = name.machine;
    normalise(p);
    return p;
  }();
  return platform;
}

int match_score(const Platform& wanted, const Platform& offered) {
  Platform w = wanted, o = offered;
  normalise(w);
  normalise(o);
  if (w.os != o.os || w.architecture != o.architecture) return 0;
  if (w.variant == o.variant) return 100;
  const int have = version(w), need = version(o);
  return need <= have ? 50 + need : 0;
}

}  // namespace lamina::oci
