// What the store holds, and the removal of what nobody needs.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/time.h"
#include "layers/internal/store_impl.h"
#include "oci/image_config.h"

namespace lamina::layers {
namespace {

// Allocated bytes as du(1) counts them: every inode once, whatever names it has. What cannot be read counts as nothing.
class DiskUsage {
 public:
  // Of a file or a tree; what was counted before is not counted again.
  uint64_t add(int dir_fd, const std::string& name) {
    struct stat st {};
    if (::fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return 0;
    if ((S_ISDIR(st.st_mode) || st.st_nlink > 1) && !seen_.insert({st.st_dev, st.st_ino}).second) return 0;
    uint64_t bytes = static_cast<uint64_t>(st.st_blocks) * 512;
    if (!S_ISDIR(st.st_mode)) return bytes;
    const UniqueFd directory(::openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory) return bytes;
    const auto names = list_directory(directory.get());
    if (!names) return bytes;
    for (const std::string& child : *names) bytes += add(directory.get(), child);
    return bytes;
  }
  uint64_t add(const std::string& path) { return add(AT_FDCWD, path); }

 private:
  std::set<std::pair<dev_t, ino_t>> seen_;
};

Result<std::vector<std::string>> names_in(const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd directory, open_directory(AT_FDCWD, path));
  return list_directory(directory.get());
}

struct Needed {
  std::set<std::string> blobs;   // hex
  std::set<std::string> layers;  // ids
};

class Marker {
 public:
  Marker(Store& store, Needed& needed) : store_(store), needed_(needed) {}

  Result<void> mark(const oci::Descriptor& top) {
    if (!needed_.blobs.insert(top.digest.hex()).second || !store_.has_blob(top)) return {};
    ASSIGN_OR_RETURN(const std::string text, oci::read_blob(store_, top));
    if (oci::media_type::is_index(top.media_type)) {
      ASSIGN_OR_RETURN(const oci::Index index, oci::Index::parse(text));
      for (const oci::Descriptor& manifest : index.manifests) RETURN_IF_ERROR(mark(manifest));
      return {};
    }
    if (!oci::media_type::is_manifest(top.media_type)) return {};
    ASSIGN_OR_RETURN(const oci::Manifest manifest, oci::Manifest::parse(text));
    needed_.blobs.insert(manifest.config.digest.hex());
    for (const oci::Descriptor& layer : manifest.layers) needed_.blobs.insert(layer.digest.hex());
    if (!store_.has_blob(manifest.config)) return {};
    ASSIGN_OR_RETURN(const std::string config_text, oci::read_blob(store_, manifest.config));
    const auto config = oci::ImageConfig::parse(config_text);
    if (!config) return {};  // an artifact, not an image
    for (const oci::DiffId& diff_id : config->diff_ids) {
      if (const auto layer = store_.find_layer(diff_id)) mark_layer(*layer);
    }
    return {};
  }

  void mark_layer(const LayerId& id) {
    const auto info = store_.layer_info(id);
    if (!info || !needed_.layers.insert(id.value).second) return;
    for (const oci::Descriptor& blob : info->blobs) needed_.blobs.insert(blob.digest.hex());
    if (info->diff_id) needed_.blobs.insert(info->diff_id->hex());
  }

 private:
  Store& store_;
  Needed& needed_;
};

}  // namespace

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

// A build record and when it last helped a build (Store::record touches it).
struct UsedRecord {
  std::string path;
  int64_t used = 0;
  std::vector<LayerId> layers;
};

Result<std::vector<UsedRecord>> list_records(Store& store, const Store::LayersOfRecord& layers_of_record) {
  std::vector<UsedRecord> records;
  ASSIGN_OR_RETURN(const auto shards, names_in(store.path() + "/records"));
  for (const std::string& shard : shards) {
    const std::string directory = store.path() + "/records/" + shard;
    ASSIGN_OR_RETURN(const auto keys, names_in(directory));
    for (const std::string& key : keys) {
      UsedRecord record{directory + "/" + key, 0, {}};
      struct stat st {};
      if (::stat(record.path.c_str(), &st) == 0) record.used = st.st_mtim.tv_sec;
      ASSIGN_OR_RETURN(const auto text, read_file_if_exists(AT_FDCWD, record.path, 16 << 20));
      if (!text) continue;
      record.layers = layers_of_record(*text);
      records.push_back(std::move(record));
    }
  }
  // The latest first.
  std::stable_sort(records.begin(), records.end(), [](const UsedRecord& a, const UsedRecord& b) { return a.used > b.used; });
  return records;
}

bool wanted(const PruneOptions& options, const char* type) { return options.types.empty() || options.types.contains(type); }

// Bytes that what is kept takes, each thing counted once.
class Budget {
 public:
  explicit Budget(Store& store) : store_(store) {}
  void add(const std::string& path) { used_ += disk_.add(path); }
  void add(const Needed& needed) {
    for (const std::string& blob : needed.blobs) add(store_.path() + "/blobs/sha256/" + blob);
    for (const std::string& layer : needed.layers) add(store_.path() + "/layers/" + layer);
  }
  // With these layers too.
  uint64_t with(const std::vector<LayerId>& layers) {
    Needed more;
    Marker marker(store_, more);
    for (const LayerId& id : layers) marker.mark_layer(id);
    add(more);
    return used_;
  }

 private:
  Store& store_;
  DiskUsage disk_;
  uint64_t used_ = 0;
};

}  // namespace

// Removes the records that the options give up, and marks what the others hold.
Result<uint64_t> Store::Impl::sweep_records(const PruneOptions& options, const LayersOfRecord& layers_of_record, const std::function<void(const LayerId&)>& mark, const std::function<uint64_t(const std::vector<LayerId>&)>& used) {
  Sweeper sweeper;
  ASSIGN_OR_RETURN(const std::vector<UsedRecord> records, list_records(*self, layers_of_record));
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
  Marker marker(*self, needed);
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
  Budget budget(*self);
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
