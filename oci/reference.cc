#include "oci/reference.h"

#include <fmt/format.h>

#include "base/text.h"

namespace lamina::oci {

namespace {

bool is_lower_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool is_alnum(char c) { return is_lower_alnum(c) || (c >= 'A' && c <= 'Z'); }

// distribution-spec: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
bool valid_component(std::string_view s) {
  size_t i = 0;
  while (true) {
    const size_t start = i;
    while (i < s.size() && is_lower_alnum(s[i])) ++i;
    if (i == start) return false;
    if (i == s.size()) return true;
    const size_t separator = i;
    while (i < s.size() && s[i] == s[separator] && (s[i] == '.' || s[i] == '_' || s[i] == '-')) ++i;
    const size_t count = i - separator;
    if (count == 0 || (s[separator] == '.' && count > 1) || (s[separator] == '_' && count > 2)) return false;
  }
}

// [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
bool valid_tag(std::string_view s) {
  if (s.empty() || s.size() > 128 || s[0] == '.' || s[0] == '-') return false;
  for (char c : s) {
    if (!is_alnum(c) && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

// host[:port] or [ipv6][:port]
bool valid_registry(std::string_view s) {
  std::string_view host = s;
  if (!s.empty() && s[0] == '[') {
    const size_t end = s.find(']');
    if (end == std::string_view::npos) return false;
    for (char c : s.substr(1, end - 1)) {
      if (!is_alnum(c) && c != ':' && c != '.') return false;
    }
    const std::string_view rest = s.substr(end + 1);
    return rest.empty() || (rest[0] == ':' && parse_uint(rest.substr(1)).value_or(65536) <= 65535);
  }
  if (const size_t colon = s.find(':'); colon != std::string_view::npos) {
    if (parse_uint(s.substr(colon + 1)).value_or(65536) > 65535) return false;
    host = s.substr(0, colon);
  }
  if (host.empty()) return false;
  for (const std::string& label : split(host, '.')) {
    if (label.empty() || label.front() == '-' || label.back() == '-') return false;
    for (char c : label) {
      if (!is_alnum(c) && c != '-') return false;
    }
  }
  return true;
}

// The first part is a registry when it looks like a host: a dot, a port, or localhost.
bool looks_like_registry(std::string_view s) {
  if (s == "localhost" || s.find('.') != std::string_view::npos || s.find(':') != std::string_view::npos) return true;
  return to_lower(s) != s;
}

Error invalid(std::string_view text, std::string_view why) {
  return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is no image name: {}", text, why));
}

}  // namespace

Result<Reference> Reference::parse(std::string_view text) {
  Reference r;
  std::string_view rest = text;
  if (rest.empty()) return invalid(text, "it is empty");
  if (const size_t at = rest.find('@'); at != std::string_view::npos) {
    auto digest = Digest::parse(rest.substr(at + 1));
    if (!digest) return invalid(text, digest.error().message());
    r.digest_ = std::move(*digest);
    rest = rest.substr(0, at);
  }
  const size_t slash = rest.rfind('/');
  const size_t colon = rest.rfind(':');
  if (colon != std::string_view::npos && (slash == std::string_view::npos || colon > slash)) {
    const std::string_view tag = rest.substr(colon + 1);
    if (!valid_tag(tag)) {
      return invalid(text, fmt::format("the tag \"{}\" may hold letters, digits, \"_\", \".\" and \"-\" and at most 128 of them", tag));
    }
    r.tag_ = std::string(tag);
    rest = rest.substr(0, colon);
  }
  const size_t first = rest.find('/');
  if (first != std::string_view::npos && looks_like_registry(rest.substr(0, first))) {
    r.registry_ = std::string(rest.substr(0, first));
    rest = rest.substr(first + 1);
    if (!valid_registry(r.registry_)) return invalid(text, fmt::format("\"{}\" is no registry host", r.registry_));
    if (r.registry_ == "index.docker.io" || r.registry_ == "registry-1.docker.io") r.registry_ = "docker.io";
  } else {
    r.registry_ = "docker.io";
  }
  if (rest.empty()) return invalid(text, "the repository is missing");
  for (const std::string& part : split(rest, '/')) {
    if (valid_component(part)) continue;
    if (part.empty()) return invalid(text, "it has an empty part between slashes");
    Error error = invalid(text, fmt::format("\"{}\" is no valid part of a repository", part));
    if (to_lower(part) != part && valid_component(to_lower(part))) {
      return std::move(error).with_note("repository names are lower case: " + to_lower(text.substr(0, text.find_first_of("@"))));
    }
    return error;
  }
  r.repository_ = std::string(rest);
  if (r.registry_ == "docker.io" && r.repository_.find('/') == std::string::npos) r.repository_ = "library/" + r.repository_;
  if (r.repository_.size() > 255) return invalid(text, "the repository is longer than 255 characters");
  return r;
}

std::string Reference::tag_or_latest() const {
  if (tag_) return *tag_;
  return digest_ ? "" : "latest";
}

std::string Reference::manifest_reference() const { return digest_ ? digest_->text() : tag_or_latest(); }

namespace {
std::string suffix(const std::string& tag, const std::optional<Digest>& digest) {
  return (tag.empty() ? "" : ":" + tag) + (digest ? "@" + digest->text() : "");
}
}  // namespace

std::string Reference::canonical() const {
  return registry_ + "/" + repository_ + suffix(tag_or_latest(), digest_);
}

std::string Reference::familiar() const {
  return familiar_repository() + suffix(tag_or_latest(), digest_);
}

std::string Reference::familiar_repository() const {
  if (registry_ != "docker.io") return registry_ + "/" + repository_;
  constexpr std::string_view kLibrary = "library/";
  return repository_.compare(0, kLibrary.size(), kLibrary) == 0 ? repository_.substr(kLibrary.size()) : repository_;
}

Reference Reference::with_tag(std::string tag) const {
  Reference r = *this;
  r.tag_ = std::move(tag);
  return r;
}

Reference Reference::with_digest(Digest digest) const {
  Reference r = *this;
  r.digest_ = std::move(digest);
  return r;
}

Reference Reference::by_digest(Digest digest) const {
  Reference r = with_digest(std::move(digest));
  r.tag_.reset();
  return r;
}

bool Reference::is_loopback() const {
  std::string host = registry_;
  if (!host.empty() && host[0] == '[') {
    host = host.substr(1, host.find(']') - 1);
    return host == "::1";
  }
  host = host.substr(0, host.find(':'));
  if (host == "localhost") return true;
  const std::vector<std::string> parts = split(host, '.');
  if (parts.size() != 4 || parts[0] != "127") return false;
  for (const std::string& p : parts) {
    if (parse_uint(p).value_or(256) > 255) return false;
  }
  return true;
}

std::string Reference::api_host() const { return registry_ == "docker.io" ? "registry-1.docker.io" : registry_; }

}  // namespace lamina::oci
