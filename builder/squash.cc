#include "builder/internal/squash.h"

#include <map>
#include <set>
#include <utility>

#include "builder/internal/paths.h"
#include "layers/snapshot.h"

namespace lamina::builder::internal {

namespace {

using layers::Entry;
using layers::EntryType;

Entry mark(const std::string& path, EntryType type) {
  Entry entry;
  entry.path = path;
  entry.type = type;
  return entry;
}

class Squasher {
 public:
  explicit Squasher(const layers::RootfsView& below) : below_(below) {}

  Result<void> add(const std::string& snapshot) {
    ASSIGN_OR_RETURN(const std::unique_ptr<layers::SnapshotReader> reader, layers::SnapshotReader::open(snapshot));
    std::map<std::string, Entry> firsts;  // files of this layer, for the links to them
    ++layer_;
    while (true) {
      ASSIGN_OR_RETURN(std::optional<Entry> entry, reader->next());
      if (!entry) return {};
      if (entry->type == EntryType::kFile) firsts[entry->path] = *entry;
      apply(std::move(*entry), firsts);
    }
  }

  Result<layers::EntryList> finish() {
    link_again();
    layers::EntryList out;
    for (const std::string& path : removed_) {
      ASSIGN_OR_RETURN(const auto info, below_.lstat(path));
      if (info && !covered(path)) entries_[path] = mark(path, EntryType::kWhiteout);
    }
    for (auto& [path, entry] : entries_) {
      const bool opaque = opaque_.contains(path);
      out.push_back(std::move(entry));
      if (!opaque) continue;
      ASSIGN_OR_RETURN(const auto info, below_.lstat(path));
      if (info && info->type == EntryType::kDirectory && !covered(path)) out.push_back(mark(path, EntryType::kOpaqueWhiteout));
    }
    return out;
  }

 private:
  void apply(Entry entry, const std::map<std::string, Entry>& firsts) {
    const std::string path = entry.path;
    switch (entry.type) {
      case EntryType::kWhiteout:
        forget(path, true);
        removed_.insert(path);
        return;
      case EntryType::kOpaqueWhiteout:
        forget(path, false);
        opaque_.insert(path);
        return;
      case EntryType::kDirectory: {
        const auto before = entries_.find(path);
        // In the place of something that is no directory, or was removed: nothing of the layers below shows.
        const bool replaces = removed_.contains(path) || (before != entries_.end() && before->second.type != EntryType::kDirectory);
        if (replaces) {
          forget(path, true);
          opaque_.insert(path);
        }
        break;
      }
      case EntryType::kHardlink: {
        const std::string first = entry.link_target;
        entry = firsts.at(first);
        entry.path = path;
        forget(path, true);
        groups_[path] = {layer_, first};
        groups_[first] = {layer_, first};
        break;
      }
      default: forget(path, true);
    }
    entries_[path] = std::move(entry);
  }

  // Everything below a path, and itself if asked.
  void forget(const std::string& path, bool itself) {
    const std::string prefix = path + "/";
    const auto inside = [&](const std::string& p) { return (itself && p == path) || path.empty() || p.compare(0, prefix.size(), prefix) == 0; };
    std::erase_if(entries_, [&](const auto& item) { return inside(item.first); });
    std::erase_if(groups_, [&](const auto& item) { return inside(item.first); });
    std::erase_if(removed_, inside);
    std::erase_if(opaque_, inside);
  }

  // Whether something above the path hides what is below the new layer there.
  bool covered(const std::string& path) const {
    for (std::string at = parent_of(path); !at.empty(); at = parent_of(at)) {
      const auto it = entries_.find(at);
      if (opaque_.contains(at) || (it != entries_.end() && it->second.type != EntryType::kDirectory)) return true;
    }
    return false;
  }

  // Paths that were one file in their layer and are still there: the first in the new order is the file.
  void link_again() {
    std::map<std::pair<int, std::string>, std::string> first;
    for (auto& [path, entry] : entries_) {
      const auto group = groups_.find(path);
      if (group == groups_.end()) continue;
      const auto [it, inserted] = first.emplace(group->second, path);
      if (!inserted) entry.become_hard_link(it->second);
    }
  }

  const layers::RootfsView& below_;
  int layer_ = 0;
  std::map<std::string, Entry, PathLess> entries_;
  std::map<std::string, std::pair<int, std::string>> groups_;  // path → layer and first path of its hard links
  std::set<std::string> removed_, opaque_;
};

}  // namespace

Result<layers::EntryList> squash(const std::vector<std::string>& snapshots, const layers::RootfsView& below) {
  Squasher squasher(below);
  for (const std::string& snapshot : snapshots) RETURN_IF_ERROR(squasher.add(snapshot));
  return squasher.finish();
}

}  // namespace lamina::builder::internal
