// What of a store is needed, and what it takes: shared by prune and by what makes room during builds.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "layers/internal/store_impl.h"

namespace lamina::layers {

// Names in byte order.
Result<std::vector<std::string>> names_in(const std::string& path);

// Allocated bytes as du(1) counts them: every inode once, whatever names it has. What cannot be read counts as nothing.
class DiskUsage {
 public:
  // Of a file or a tree; what was counted before is not counted again.
  uint64_t add(int dir_fd, const std::string& name);
  uint64_t add(const std::string& path) { return add(AT_FDCWD, path); }

 private:
  std::set<std::pair<dev_t, ino_t>> seen_;
};

struct Needed {
  std::set<std::string> blobs;   // hex
  std::set<std::string> layers;  // ids
};

// Follows names to bytes. Takes no lease on what it meets.
class Marker {
 public:
  Marker(Store::Impl& impl, Needed& needed) : impl_(impl), needed_(needed) {}
  // An index, a manifest, and all that it names.
  Result<void> mark(const oci::Descriptor& top);
  void mark_layer(const LayerId& id);

 private:
  Result<std::string> read(const oci::Descriptor& blob) const;
  Store::Impl& impl_;
  Needed& needed_;
};

// Those that a layer's meta names, its uncompressed tar too.
std::vector<std::string> blobs_of(const LayerMeta& meta);

// A build record and when it last helped a build (Store::record touches it).
struct UsedRecord {
  std::string path;
  int64_t used = 0;
  std::vector<LayerId> layers;
};
// The latest first.
Result<std::vector<UsedRecord>> list_records(const std::string& store, const Store::LayersOfRecord& layers_of_record);

}  // namespace lamina::layers
