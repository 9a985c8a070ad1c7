#include "layers/internal/layer_meta.h"

#include "base/json.h"

namespace lamina::layers {
namespace {

using json::Json;

constexpr int kVersion = 1;

Result<LayerBlob> parse_blob(const Json& json) {
  LayerBlob blob;
  if (!json.is_object()) return Error(ErrorKind::kCorrupt, "a blob is no object");
  ASSIGN_OR_RETURN(const auto type, json::get_string(json, "mediaType"));
  ASSIGN_OR_RETURN(const auto digest, json::get_string(json, "digest"));
  ASSIGN_OR_RETURN(const auto size, json::get_integer(json, "size"));
  ASSIGN_OR_RETURN(const auto pulled, json::get_bool(json, "pulled"));
  ASSIGN_OR_RETURN(const auto level, json::get_integer(json, "level"));
  ASSIGN_OR_RETURN(blob.descriptor.digest, oci::Digest::parse(digest.value_or("")));
  blob.descriptor.media_type = type.value_or("");
  blob.descriptor.size = static_cast<uint64_t>(size.value_or(0));
  blob.pulled = pulled.value_or(false);
  if (level) blob.level = static_cast<int>(*level);
  ASSIGN_OR_RETURN(blob.descriptor.annotations, json::get_string_map(json, "annotations"));
  ASSIGN_OR_RETURN(const auto format, json::get_string(json, "format"));
  blob.format = format.value_or("");
  ASSIGN_OR_RETURN(const auto diff_id, json::get_string(json, "diffId"));
  if (diff_id) {
    ASSIGN_OR_RETURN(blob.diff_id, oci::DiffId::parse(*diff_id));
  }
  return blob;
}

}  // namespace

Result<LayerMeta> LayerMeta::parse(std::string_view text) {
  LayerMeta meta;
  ASSIGN_OR_RETURN(const Json json, json::parse_object(text, "a layer's meta file"));
  ASSIGN_OR_RETURN(const auto version, json::get_integer(json, "version"));
  if (version != kVersion) return Error(ErrorKind::kCorrupt, "a layer's meta file has another version");
  ASSIGN_OR_RETURN(const auto boot, json::get_string(json, "boot"));
  ASSIGN_OR_RETURN(const auto pulled, json::get_bool(json, "pulled"));
  ASSIGN_OR_RETURN(const auto diff_id, json::get_string(json, "diffId"));
  ASSIGN_OR_RETURN(const auto size, json::get_integer(json, "tarSize"));
  ASSIGN_OR_RETURN(const auto clamp, json::get_integer(json, "clampMtime"));
  ASSIGN_OR_RETURN(const auto implicit, json::get_strings(json, "implicitDirectories"));
  ASSIGN_OR_RETURN(const Json* const blobs, json::get_array(json, "blobs"));
  meta.boot_id = boot.value_or("");
  meta.pulled = pulled.value_or(false);
  if (diff_id) {
    ASSIGN_OR_RETURN(meta.diff_id, oci::DiffId::parse(*diff_id));
  }
  if (size) meta.tar_size = static_cast<uint64_t>(*size);
  meta.clamp_mtime = clamp;
  meta.implicit_directories = implicit.value_or(std::vector<std::string>());
  if (blobs != nullptr) {
    for (const Json& item : *blobs) {
      ASSIGN_OR_RETURN(LayerBlob blob, parse_blob(item));
      meta.blobs.push_back(std::move(blob));
    }
  }
  return meta;
}

std::string LayerMeta::to_json() const {
  Json json = {{"version", kVersion}, {"boot", boot_id}, {"pulled", pulled}};
  if (diff_id) json["diffId"] = diff_id->text();
  if (tar_size) json["tarSize"] = *tar_size;
  if (clamp_mtime) json["clampMtime"] = *clamp_mtime;
  if (!implicit_directories.empty()) json["implicitDirectories"] = implicit_directories;
  for (const LayerBlob& blob : blobs) {
    Json item = {{"mediaType", blob.descriptor.media_type},
                 {"digest", blob.descriptor.digest.text()},
                 {"size", blob.descriptor.size},
                 {"pulled", blob.pulled}};
    if (blob.level) item["level"] = *blob.level;
    if (!blob.descriptor.annotations.empty()) item["annotations"] = blob.descriptor.annotations;
    if (!blob.format.empty()) item["format"] = blob.format;
    if (blob.diff_id) item["diffId"] = blob.diff_id->text();
    json["blobs"].push_back(std::move(item));
  }
  return json::dump(json);
}

}  // namespace lamina::layers
