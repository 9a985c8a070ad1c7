#include "layers/internal/needed.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "oci/image_config.h"

namespace lamina::layers {

Result<std::vector<std::string>> names_in(const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd directory, open_directory(AT_FDCWD, path));
  return list_directory(directory.get());
}

uint64_t DiskUsage::add(int dir_fd, const std::string& name) {
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

Result<std::string> Marker::read(const oci::Descriptor& blob) const {
  constexpr uint64_t kMaxText = 64 << 20;
  return read_file(AT_FDCWD, impl_.blob_path(blob.digest), kMaxText);
}

Result<void> Marker::mark(const oci::Descriptor& top) {
  if (!needed_.blobs.insert(top.digest.hex()).second || !impl_.blob_exists(top.digest)) return {};
  ASSIGN_OR_RETURN(const std::string text, read(top));
  if (oci::media_type::is_index(top.media_type)) {
    ASSIGN_OR_RETURN(const oci::Index index, oci::Index::parse(text));
    for (const oci::Descriptor& manifest : index.manifests) RETURN_IF_ERROR(mark(manifest));
    return {};
  }
  if (!oci::media_type::is_manifest(top.media_type)) return {};
  ASSIGN_OR_RETURN(const oci::Manifest manifest, oci::Manifest::parse(text));
  needed_.blobs.insert(manifest.config.digest.hex());
  for (const oci::Descriptor& layer : manifest.layers) needed_.blobs.insert(layer.digest.hex());
  if (!impl_.blob_exists(manifest.config.digest)) return {};
  ASSIGN_OR_RETURN(const std::string config_text, read(manifest.config));
  const auto config = oci::ImageConfig::parse(config_text);
  if (!config) return {};  // an artifact, not an image
  for (const oci::DiffId& diff_id : config->diff_ids) {
    if (const LayerId layer = impl_.linked_layer(diff_id); !layer.empty()) mark_layer(layer);
  }
  return {};
}

void Marker::mark_layer(const LayerId& id) {
  const auto meta = impl_.read_meta(id);
  if (!meta || !needed_.layers.insert(id.value).second) return;
  for (std::string& blob : blobs_of(*meta)) needed_.blobs.insert(std::move(blob));
}

std::vector<std::string> blobs_of(const LayerMeta& meta) {
  std::vector<std::string> blobs;
  for (const LayerBlob& blob : meta.blobs) blobs.push_back(blob.descriptor.digest.hex());
  if (meta.diff_id) blobs.push_back(meta.diff_id->hex());
  return blobs;
}

namespace {
constexpr size_t kRecordBeginning = 4096;
}

Result<std::vector<UsedRecord>> list_records(const std::string& store, const Store::LayersOfRecord& layers_of_record) {
  std::vector<UsedRecord> records;
  ASSIGN_OR_RETURN(const auto shards, names_in(store + "/records"));
  for (const std::string& shard : shards) {
    const std::string directory = store + "/records/" + shard;
    ASSIGN_OR_RETURN(const auto keys, names_in(directory));
    for (const std::string& key : keys) {
      UsedRecord record{directory + "/" + key, 0, {}};
      struct stat st {};
      if (::stat(record.path.c_str(), &st) == 0) record.used = st.st_mtim.tv_sec;
      // Layers are named at the beginning. The inputs of a step that copied very many files are long.
      const auto file = open_at(AT_FDCWD, record.path, O_RDONLY | O_NOCTTY);
      if (!file && file.error().kind() == ErrorKind::kNotFound) continue;
      if (!file) return Error(file.error());
      std::string text(kRecordBeginning, '\0');
      const ssize_t size = ::read(file->get(), text.data(), text.size());
      if (size < 0) return system_error(errno, "read", record.path);
      text.resize(static_cast<size_t>(size));
      record.layers = layers_of_record(text);
      records.push_back(std::move(record));
    }
  }
  // The latest first.
  std::stable_sort(records.begin(), records.end(), [](const UsedRecord& a, const UsedRecord& b) { return a.used > b.used; });
  return records;
}

}  // namespace lamina::layers
