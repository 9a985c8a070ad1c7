#include "builder/internal/squash.h"

#include <map>
#include <optional>
#include <utility>

#include "builder/internal/paths.h"
#include "layers/snapshot.h"

namespace lamina::builder::internal {

namespace {

using layers::Entry;
using layers::EntryType;

// One layer, read in the order of paths.
struct Layer {
  std::unique_ptr<layers::SnapshotReader> reader;
  std::optional<Entry> head;  // the next entry
  bool head_linked = false;   // a file with other names

  Result<void> advance() {
    ASSIGN_OR_RETURN(head, reader->next());
    head_linked = head && head->type == EntryType::kFile && reader->has_other_names();
    return {};
  }
};

// What a path of the result means for everything below it.
struct Level {
  std::string path;
  size_t first;        // layers before this one do not show below the path
  bool hides_base;
};

// All layers are read side by side: of each path the topmost layer counts.
class Squashed : public layers::EntrySource {
 public:
  explicit Squashed(const layers::RootfsView& below) : below_(below) {}

  Result<void> open(const std::vector<std::string>& snapshots) {
    for (const std::string& snapshot : snapshots) {
      Layer layer;
      ASSIGN_OR_RETURN(layer.reader, layers::SnapshotReader::open_among_many(snapshot));
      RETURN_IF_ERROR(layer.advance());
      layers_.push_back(std::move(layer));
    }
    return {};
  }

  Result<std::optional<Entry>> next() override {
    if (marker_) return std::exchange(marker_, std::nullopt);
    while (true) {
      const Entry* least = nullptr;
      for (const Layer& layer : layers_) {
        if (layer.head && (least == nullptr || layers::path_less(layer.head->path, least->path))) least = &*layer.head;
      }
      if (least == nullptr) return std::optional<Entry>();
      ASSIGN_OR_RETURN(std::optional<Entry> entry, merge(std::string(least->path)));
      if (entry) return entry;
    }
  }
  uint64_t content_bytes() const override { return 0; }  // not known before all is read

 private:
  // What one layer has at a path.
  struct Found {
    size_t layer = 0;
    Entry entry;
    bool linked = false;
  };
  // The names of one file of a layer.
  struct Links {
    std::optional<Entry> file;  // under its first name, when that does not show
    std::string shown;          // the first name that does
  };

  // What the result has at the path, if anything: takes the path's entries from all layers, bottom first.
  Result<std::optional<Entry>> merge(const std::string& path) {
    while (!levels_.empty() && !is_below(path, levels_.back().path)) levels_.pop_back();
    const bool base_hidden = !levels_.empty() && levels_.back().hides_base;
    Level level{path, levels_.empty() ? 0 : levels_.back().first, base_hidden};
    std::optional<Found> top;
    for (size_t i = 0; i < layers_.size(); ++i) RETURN_IF_ERROR(take(i, level, top));
    if (!top) return std::optional<Entry>();
    const EntryType type = top->entry.type;
    const bool hides = type == EntryType::kWhiteout || (type == EntryType::kDirectory && level.hides_base);
    levels_.push_back(std::move(level));
    bool hides_something = false;
    if (hides && !base_hidden) {
      ASSIGN_OR_RETURN(const auto info, below_.lstat(path));
      hides_something = info && (type == EntryType::kWhiteout || info->type == EntryType::kDirectory);
    }
    if (type == EntryType::kWhiteout && !hides_something) return std::optional<Entry>();
    if (type == EntryType::kDirectory && hides_something) {
      marker_.emplace();
      marker_->path = path;
      marker_->type = EntryType::kOpaqueWhiteout;
    }
    return std::optional(named(*std::move(top)));
  }

  Result<void> take(size_t i, Level& level, std::optional<Found>& top) {
    Layer& layer = layers_[i];
    while (layer.head && layer.head->path == level.path) {
      Found found{i, *std::move(layer.head), layer.head_linked};
      RETURN_IF_ERROR(layer.advance());
      if (i < level.first) {
        keep_hidden(std::move(found));
        continue;
      }
      // A directory in the place of something else lets nothing through either.
      const EntryType type = found.entry.type;
      if (type != EntryType::kDirectory || (top && top->entry.type != EntryType::kDirectory)) {
        level.first = i;
        level.hides_base = true;
      }
      if (type == EntryType::kOpaqueWhiteout) continue;  // it follows its directory
      if (top) keep_hidden(*std::move(top));
      top = std::move(found);
    }
    return {};
  }

  void keep_hidden(Found found) {
    if (found.linked) links_[{found.layer, found.entry.path}].file = std::move(found.entry);
  }

  // Paths that were one file in their layer and still show are one file: the first in the new order.
  Entry named(Found found) {
    Entry entry = std::move(found.entry);
    if (!found.linked && entry.type != EntryType::kHardlink) return entry;
    const std::string path = entry.path;
    Links& links = links_[{found.layer, found.linked ? path : entry.link_target}];
    if (!links.shown.empty()) {
      entry.become_hard_link(links.shown);
      return entry;
    }
    links.shown = path;
    if (!links.file) return entry;
    entry = *std::move(links.file);
    links.file.reset();
    entry.path = path;
    return entry;
  }

  const layers::RootfsView& below_;
  std::vector<Layer> layers_;  // bottom first
  std::vector<Level> levels_;  // on the way to the path that was merged last
  std::map<std::pair<size_t, std::string>, Links> links_;  // by layer and the first name in it
  std::optional<Entry> marker_;
};

}  // namespace

Result<std::unique_ptr<layers::EntrySource>> squash(const std::vector<std::string>& snapshots, const layers::RootfsView& below) {
  auto squashed = std::make_unique<Squashed>(below);
  RETURN_IF_ERROR(squashed->open(snapshots));
  return std::unique_ptr<layers::EntrySource>(std::move(squashed));
}

}  // namespace lamina::builder::internal
