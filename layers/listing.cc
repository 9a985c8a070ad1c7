#include "layers/listing.h"

#include <algorithm>

#include "layers/internal/paths.h"
#include "layers/internal/xattrs.h"

namespace lamina::layers {
namespace {

constexpr uint64_t kMaxKeptBytes = 64 << 10;  // /etc/passwd and the like

// Those of one path together, the opaque whiteout of a directory after it.
bool before(const Entry& a, const Entry& b) {
  if (a.path != b.path) return path_less(a.path, b.path);
  return a.type != EntryType::kOpaqueWhiteout && b.type == EntryType::kOpaqueWhiteout;
}

Entry without_files(const Entry& entry) {
  Entry kept = entry;
  kept.opener.reset();
  kept.source_path.clear();
  if (kept.bytes && kept.bytes->size() > kMaxKeptBytes) kept.bytes.reset();
  // As a snapshot would hold them.
  std::erase_if(kept.xattrs, [&](const auto& xattr) { return !is_layer_xattr(kept.type, xattr.first); });
  return kept;
}

}  // namespace

std::shared_ptr<const Listing> Listing::make(const EntryList& entries) {
  if (entries.size() > kMaxEntries) return nullptr;
  std::shared_ptr<Listing> listing(new Listing);
  listing->entries_.reserve(entries.size());
  for (const Entry& entry : entries) listing->entries_.push_back(without_files(entry));
  std::sort(listing->entries_.begin(), listing->entries_.end(), before);
  for (const Entry& entry : listing->entries_) {
    if (entry.type == EntryType::kHardlink && listing->find(entry.path)->type != EntryType::kFile) return nullptr;
    const std::string parent(entry.type == EntryType::kOpaqueWhiteout ? std::string_view(entry.path) : parent_path(entry.path));
    if (parent.empty()) continue;
    const Entry* directory = listing->find(parent);
    if (directory == nullptr || directory->type != EntryType::kDirectory) return nullptr;
  }
  return listing;
}

const Entry* Listing::find(std::string_view path) const {
  auto at = std::lower_bound(entries_.begin(), entries_.end(), path, [](const Entry& entry, std::string_view wanted) { return path_less(entry.path, wanted); });
  if (at == entries_.end() || at->path != path || at->type == EntryType::kOpaqueWhiteout) return nullptr;
  if (at->type != EntryType::kHardlink) return &*at;
  const std::string_view target = at->link_target;  // an earlier entry, and no hard link itself
  const auto file = std::lower_bound(entries_.begin(), entries_.end(), target, [](const Entry& entry, std::string_view wanted) { return path_less(entry.path, wanted); });
  return file != entries_.end() && file->path == target ? &*file : &*at;
}

bool Listing::opaque(std::string_view directory) const {
  auto at = std::lower_bound(entries_.begin(), entries_.end(), directory, [](const Entry& entry, std::string_view wanted) { return path_less(entry.path, wanted); });
  for (; at != entries_.end() && at->path == directory; ++at) {
    if (at->type == EntryType::kOpaqueWhiteout) return true;
  }
  return false;
}

std::vector<std::string> Listing::names(std::string_view directory) const {
  std::vector<std::string> names;
  auto at = std::upper_bound(entries_.begin(), entries_.end(), directory, [](std::string_view wanted, const Entry& entry) { return path_less(wanted, entry.path); });
  const std::string prefix = directory.empty() ? std::string() : std::string(directory) + '/';
  for (; at != entries_.end() && at->path.starts_with(prefix); ++at) {
    const std::string_view rest = std::string_view(at->path).substr(prefix.size());
    if (rest.empty() || rest.find('/') != std::string_view::npos || at->type == EntryType::kOpaqueWhiteout) continue;
    names.emplace_back(rest);
  }
  return names;
}

}  // namespace lamina::layers
