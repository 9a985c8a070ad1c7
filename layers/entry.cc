#include "layers/entry.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "layers/internal/paths.h"

namespace lamina::layers {

bool path_less(std::string_view a, std::string_view b) {
  const auto [at_a, at_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (at_a == a.end() || at_b == b.end()) return a.size() < b.size();
  if (*at_a == '/') return true;  // "a/x" before "a.x": the separator is below every byte
  if (*at_b == '/') return false;
  return static_cast<unsigned char>(*at_a) < static_cast<unsigned char>(*at_b);
}

void Entry::become_hard_link(const std::string& first) {
  type = EntryType::kHardlink;
  link_target = first;
  size = 0;
  opener.reset();
  source_path.clear();
  bytes.reset();
}

Result<std::optional<Entry>> ListedEntries::next() {
  if (next_ == entries_.size()) return rest_ == nullptr ? std::optional<Entry>() : rest_->next();
  return std::optional<Entry>(std::move(entries_[next_++]));
}

uint64_t ListedEntries::content_bytes() const {
  if (rest_ != nullptr) return rest_->content_bytes();
  uint64_t bytes = 0;
  for (const Entry& entry : entries_) bytes += entry.size;
  return bytes;
}

bool PathLess::operator()(std::string_view a, std::string_view b) const { return path_less(a, b); }

Result<std::string> clean_member_path(std::string_view path) {
  const auto bad = [&](std::string_view why) {
    return Error(ErrorKind::kCorrupt, fmt::format("the path \"{}\" {}", printable(path.substr(0, 200)), why));
  };
  if (path.find('\0') != std::string_view::npos) return bad("contains a NUL byte");
  if (path.size() > kMaxPathBytes) {
    return bad(fmt::format("… is {} bytes long; {} are allowed", path.size(), kMaxPathBytes));
  }
  std::string cleaned;
  cleaned.reserve(path.size());
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") return bad("leads outside of the layer (\"..\")");
    if (!cleaned.empty()) cleaned += '/';
    cleaned += part;
  }
  return cleaned;
}

std::string_view parent_path(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

std::string_view base_name(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

std::string join_path(std::string_view parent, std::string_view name) {
  std::string path(parent);
  if (!path.empty()) path += '/';
  path += name;
  return path;
}

bool is_at_or_below(std::string_view path, std::string_view prefix) {
  if (prefix.empty()) return true;
  return path.starts_with(prefix) && (path.size() == prefix.size() || path[prefix.size()] == '/');
}

}  // namespace lamina::layers
