// What the store holds, and the removal of what nobody needs.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/time.h"
#include "layers/internal/needed.h"
#include "layers/internal/store_impl.h"
#include "oci/image_config.h"

namespace lamina::layers {

Result<Store::Usage> Store::usage() {
  Usage usage;
  ASSIGN_OR_RETURN(const auto blobs, names_in(impl_->path + "/blobs/sha256"));
  ASSIGN_OR_RETURN(const auto layers, names_in(impl_->path + "/layers"));
  ASSIGN_OR_RETURN(const auto images, this->images());
  ASSIGN_OR_RETURN(const auto shards, names_in(impl_->path + "/records"));
  usage.blobs = blobs.size();
  for (const std::string& layer : layers) usage.layers += layer.front() != '.' ? 1 : 0;
  usage.images = images.size();
  for (const std::string& shard : shards) {
    ASSIGN_OR_RETURN(const auto records, names_in(impl_->path + "/records/" + shard));
    usage.records += records.size();
  }
  DiskUsage disk;
  usage.blob_bytes = disk.add(impl_->path + "/blobs");
  usage.layer_bytes = disk.add(impl_->path + "/layers");
  usage.other_bytes = disk.add(impl_->path);  // the rest
  return usage;
}

namespace {

// Removes files and counts what that frees.
class Sweeper {
 public:
  void count(const std::string& path) { freed_ += disk_.add(path); }
  Result<void> remove(const std::string& path) {
    count(path);
    return remove_tree(AT_FDCWD, path);
  }
  // Everything in a directory that `keep` does not name.
  Result<void> empty(const std::string& directory, const std::set<std::string>& keep = {}) {
    ASSIGN_OR_RETURN(const auto names, names_in(directory));
    for (const std::string& name : names) {
      if (!keep.contains(name)) RETURN_IF_ERROR(remove(directory + "/" + name));
    }
    return {};
  }
  uint64_t freed() const { return freed_; }

 private:
  DiskUsage disk_;
  uint64_t freed_ = 0;
};

bool wanted(const PruneOptions& options, const char* type) { return options.types.empty() || options.types.contains(type); }

// Bytes that what is kept takes, each thing counted once.
class Budget {
 public:
  explicit Budget(Store::Impl& impl) : impl_(impl) {}
  void add(const std::string& path) { used_ += disk_.add(path); }
  void add(const Needed& needed) {
    for (const std::string& blob : needed.blobs) add(impl_.path + "/blobs/sha256/" + blob);
    for (const std::string& layer : needed.layers) add(impl_.path + "/layers/" + layer);
  }
  // With these layers too.
  uint64_t with(const std::vector<LayerId>& layers) {
    Needed more;
    Marker marker(impl_, more);
    for (const LayerId& id : layers) marker.mark_layer(id);
    add(more);
    return used_;
  }

 private:
  Store::Impl& impl_;
  DiskUsage disk_;
  uint64_t used_ = 0;
};

}  // namespace

// Removes the records that the options give up, and marks what the others hold.
Result<uint64_t> Store::Impl::sweep_records(const PruneOptions& options, const LayersOfRecord& layers_of_record, const std::function<void(const LayerId&)>& mark, const std::function<uint64_t(const std::vector<LayerId>&)>& used) {
  Sweeper sweeper;
  ASSIGN_OR_RETURN(const std::vector<UsedRecord> records, list_records(path, layers_of_record));
  const int64_t oldest = now().seconds - options.unused_for_seconds.value_or(0);
  bool full = false;
  for (const UsedRecord& record : records) {
    const bool old = options.unused_for_seconds ? record.used <= oldest : options.all;
    // The latest ones that fit are kept, and after the first that does not none is: an older one alone is of little use.
    full = full || (options.max_bytes && used(record.layers) > *options.max_bytes);
    if (full || old) {
      RETURN_IF_ERROR(sweeper.remove(record.path));
    } else {
      for (const LayerId& id : record.layers) mark(id);
    }
  }
  return sweeper.freed();
}

// Called with the store's lock held exclusively.
Result<uint64_t> Store::Impl::sweep(const PruneOptions& options, const LayersOfRecord& layers_of_record) {
  metas.lock()->clear();
  with_snapshot.lock()->clear();
  known_blocks.lock()->clear();
  Needed needed;
  Marker marker(*this, needed);
  Sweeper sweeper;
  ASSIGN_OR_RETURN(const std::vector<ImageRecord> records, self->images());
  for (const ImageRecord& image : records) RETURN_IF_ERROR_WITH(marker.mark(image.descriptor), "looking at " + image.name);
  if (wanted(options, "partial")) RETURN_IF_ERROR(sweeper.remove(path + "/partial"));
  const bool everything = options.all && !options.unused_for_seconds;
  if (everything && wanted(options, "exec.cachemount")) RETURN_IF_ERROR(sweeper.remove(path + "/cache-mounts"));
  if (everything && wanted(options, "source.git")) RETURN_IF_ERROR(sweeper.remove(path + "/git"));
  if (everything && options.types.empty()) RETURN_IF_ERROR(sweeper.remove(path + "/quarantine"));
  // The rest are build records, and what falls with them.
  if (!wanted(options, "regular")) return sweeper.freed();
  if (everything) RETURN_IF_ERROR(sweeper.empty(path + "/indexes"));
  Budget budget(*this);
  if (options.max_bytes) {
    for (const char* room : {"/indexes", "/cache-mounts", "/git", "/images", "/diffs", "/records", "/partial"}) budget.add(path + room);
    budget.add(needed);
  }
  ASSIGN_OR_RETURN(const uint64_t freed_records, sweep_records(options, layers_of_record, [&](const LayerId& id) { marker.mark_layer(id); }, [&](const auto& more) { return budget.with(more); }));
  // Small files that a killed program did not finish.
  ASSIGN_OR_RETURN(const auto names, names_in(path + "/images"));
  for (const std::string& name : names) {
    if (name.starts_with(".tmp.")) RETURN_IF_ERROR(sweeper.remove(path + "/images/" + name));
  }
  ASSIGN_OR_RETURN(const auto diffs, names_in(path + "/diffs"));
  // Names before bytes, so that what is interrupted here leaves nothing that looks whole and is not.
  for (const std::string& diff : diffs) {
    const auto diff_id = oci::DiffId::parse("sha256:" + diff);
    const auto layer = diff_id ? self->find_layer(*diff_id) : std::nullopt;
    if (!layer || !needed.layers.contains(layer->value)) RETURN_IF_ERROR(sweeper.remove(path + "/diffs/" + diff));
  }
  ASSIGN_OR_RETURN(const auto layers, names_in(path + "/layers"));
  for (const std::string& layer : layers) {
    if (layer.front() == '.' || needed.layers.contains(layer)) continue;
    sweeper.count(path + "/layers/" + layer);
    RETURN_IF_ERROR(drop_layer(LayerId{layer}));
  }
  RETURN_IF_ERROR(sweeper.empty(path + "/blobs/sha256", needed.blobs));
  metas.lock()->clear();
  return sweeper.freed() + freed_records;
}

Result<uint64_t> Store::prune(const PruneOptions& options, const LayersOfRecord& layers_of_record) {
  return impl_->alone<uint64_t>([&] { return impl_->sweep(options, layers_of_record); });
}

}  // namespace lamina::layers
