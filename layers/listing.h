// What a layer holds, without the bytes of its files: enough to see where something else may be put on top of it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layers/entry.h"

namespace lamina::layers {

// Immutable; any thread.
class Listing {
 public:
  // More entries are not worth the memory (a few hundred bytes each).
  static constexpr size_t kMaxEntries = 10'000;

  // Of a layer's entries, in their order; whoever reads their files is forgotten, short contents that are in memory are
  // kept. Null when there are more than kMaxEntries, or when some entry's parent directory is not among them: then the
  // list does not tell what the layer looks like.
  static std::shared_ptr<const Listing> make(const EntryList& entries);

  size_t size() const { return entries_.size(); }
  // The entry that stands at a path (a whiteout, too; of a hard link the file that it means), or null. Paths as in Entry.
  const Entry* find(std::string_view path) const;
  // Whether nothing of lower layers is left below this directory.
  bool opaque(std::string_view directory) const;
  // Names in a directory, whiteouts among them.
  std::vector<std::string> names(std::string_view directory) const;

 private:
  Listing() = default;
  EntryList entries_;
};

}  // namespace lamina::layers
