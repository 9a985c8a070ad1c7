// What the store holds, and the removal of what nobody needs.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "layers/internal/store_impl.h"
#include "oci/image_config.h"

namespace lamina::layers {
namespace {

// Allocated bytes of a file or a tree. What cannot be read counts as nothing.
uint64_t allocated(int dir_fd, const std::string& name) {
  struct stat st {};
  if (::fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return 0;
  uint64_t bytes = static_cast<uint64_t>(st.st_blocks) * 512;
  if (!S_ISDIR(st.st_mode)) return st.st_nlink > 1 ? bytes / st.st_nlink : bytes;
  const UniqueFd directory(::openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory) return bytes;
  const auto names = list_directory(directory.get());
  if (!names) return bytes;
  for (const std::string& child : *names) bytes += allocated(directory.get(), child);
  return bytes;
}

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
  usage.blob_bytes = allocated(AT_FDCWD, impl_->path + "/blobs");
  usage.layer_bytes = allocated(AT_FDCWD, impl_->path + "/layers");
  const uint64_t all = allocated(AT_FDCWD, impl_->path);
  usage.other_bytes = all - std::min(all, usage.blob_bytes + usage.layer_bytes);
  return usage;
}

namespace {

// Removes files and counts what that frees.
class Sweeper {
 public:
  void count(const std::string& path) { freed_ += allocated(AT_FDCWD, path); }
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
  uint64_t freed_ = 0;
};

// The layers that build records hold.
Result<void> mark_records(Store& store, Marker& marker, const Store::LayersOfRecord& layers_of_record) {
  ASSIGN_OR_RETURN(const auto shards, names_in(store.path() + "/records"));
  for (const std::string& shard : shards) {
    ASSIGN_OR_RETURN(const auto keys, names_in(store.path() + "/records/" + shard));
    for (const std::string& key : keys) {
      ASSIGN_OR_RETURN(const auto text, store.record(key));
      if (!text) continue;
      for (const LayerId& id : layers_of_record(*text)) marker.mark_layer(id);
    }
  }
  return {};
}

}  // namespace

// Called with the store's lock held exclusively.
Result<uint64_t> Store::Impl::sweep(bool all, const LayersOfRecord& layers_of_record) {
  metas.lock()->clear();
  with_snapshot.lock()->clear();
  known_blocks.lock()->clear();
  Needed needed;
  Marker marker(*self, needed);
  Sweeper sweeper;
  ASSIGN_OR_RETURN(const std::vector<ImageRecord> records, self->images());
  for (const ImageRecord& image : records) RETURN_IF_ERROR_WITH(marker.mark(image.descriptor), "looking at " + image.name);
  if (all) {
    for (const char* room : {"/records", "/indexes"}) RETURN_IF_ERROR(sweeper.empty(path + room));
    for (const char* room : {"/cache-mounts", "/git"}) RETURN_IF_ERROR(sweeper.remove(path + room));
  } else {
    RETURN_IF_ERROR(mark_records(*self, marker, layers_of_record));
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
  return sweeper.freed();
}

Result<uint64_t> Store::prune(bool all, const LayersOfRecord& layers_of_record) {
  const std::string lock = impl_->path + "/lock";
  impl_->lock.reset();
  auto only = FileLock::try_acquire(AT_FDCWD, lock, FileLock::Mode::kExclusive);
  if (!only) return std::move(only).error();
  Result<uint64_t> freed = Error(ErrorKind::kUnavailable, "another build uses the store").with_note("try again when it has ended");
  if (*only) freed = impl_->sweep(all, layers_of_record);
  only->reset();
  ASSIGN_OR_RETURN(impl_->lock, FileLock::acquire(AT_FDCWD, lock, FileLock::Mode::kShared));
  return freed;
}

}  // namespace lamina::layers
