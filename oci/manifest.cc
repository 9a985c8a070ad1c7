#include "oci/manifest.h"

#include <fmt/format.h>

#include "base/json.h"

namespace lamina::oci {

namespace media_type {

bool is_index(std::string_view type) { return type == kOciIndex || type == kDockerIndex; }
bool is_manifest(std::string_view type) { return type == kOciManifest || type == kDockerManifest; }
bool is_layer(std::string_view type) { return layer_compression(type).has_value(); }

}  // namespace media_type

std::optional<Compression> layer_compression(std::string_view type) {
  using namespace media_type;
  if (type == kOciLayerGzip || type == kDockerLayerGzip) return Compression::kGzip;
  if (type == kOciLayerZstd || type == "application/vnd.docker.image.rootfs.diff.tar.zstd") return Compression::kZstd;
  if (type == kOciLayer || type == kDockerLayer) return Compression::kNone;
  // Non-distributable layers, deprecated in image-spec v1.1, still found.
  if (type == "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip" ||
      type == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip") {
    return Compression::kGzip;
  }
  if (type == "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd") return Compression::kZstd;
  if (type == "application/vnd.oci.image.layer.nondistributable.v1.tar") return Compression::kNone;
  return std::nullopt;
}

std::string_view oci_layer_type(Compression compression) {
  switch (compression) {
    case Compression::kNone: return media_type::kOciLayer;
    case Compression::kGzip: return media_type::kOciLayerGzip;
    case Compression::kZstd: return media_type::kOciLayerZstd;
  }
  return media_type::kOciLayer;
}

std::string_view docker_layer_type(Compression compression) {
  switch (compression) {
    case Compression::kNone: return media_type::kDockerLayer;
    case Compression::kGzip: return media_type::kDockerLayerGzip;
    case Compression::kZstd: return "application/vnd.docker.image.rootfs.diff.tar.zstd";
  }
  return media_type::kDockerLayer;
}

namespace {

using json::Json;

Result<Platform> platform_from(const Json& json) {
  Platform p;
  ASSIGN_OR_RETURN(const auto os, json::get_string(json, "os"));
  ASSIGN_OR_RETURN(const auto architecture, json::get_string(json, "architecture"));
  ASSIGN_OR_RETURN(const auto variant, json::get_string(json, "variant"));
  ASSIGN_OR_RETURN(const auto os_version, json::get_string(json, "os.version"));
  ASSIGN_OR_RETURN(auto os_features, json::get_strings(json, "os.features"));
  p.os = os.value_or("");
  p.architecture = architecture.value_or("");
  p.variant = variant.value_or("");
  p.os_version = os_version.value_or("");
  if (os_features) p.os_features = std::move(*os_features);
  return p;
}

Json platform_to(const Platform& p) {
  Json json = {{"os", p.os}, {"architecture", p.architecture}};
  if (!p.variant.empty()) json["variant"] = p.variant;
  if (!p.os_version.empty()) json["os.version"] = p.os_version;
  if (!p.os_features.empty()) json["os.features"] = p.os_features;
  return json;
}

Result<Descriptor> descriptor_from(const Json& json) {
  if (!json.is_object()) return Error(ErrorKind::kCorrupt, "a descriptor is not an object");
  Descriptor d;
  ASSIGN_OR_RETURN(const auto type, json::get_string(json, "mediaType"));
  ASSIGN_OR_RETURN(const auto digest, json::get_string(json, "digest"));
  ASSIGN_OR_RETURN(const auto size, json::get_integer(json, "size"));
  ASSIGN_OR_RETURN(d.annotations, json::get_string_map(json, "annotations"));
  ASSIGN_OR_RETURN(auto urls, json::get_strings(json, "urls"));
  ASSIGN_OR_RETURN(const auto artifact, json::get_string(json, "artifactType"));
  ASSIGN_OR_RETURN(const Json* platform, json::get_object(json, "platform"));
  if (!digest || !size || *size < 0) return Error(ErrorKind::kCorrupt, "a descriptor lacks its digest or size");
  auto parsed = Digest::parse(*digest);
  if (!parsed) return Error(ErrorKind::kCorrupt, parsed.error().message());
  d.media_type = type.value_or("");
  d.digest = std::move(*parsed);
  d.size = static_cast<uint64_t>(*size);
  if (urls) d.urls = std::move(*urls);
  d.artifact_type = artifact.value_or("");
  if (platform != nullptr) {
    ASSIGN_OR_RETURN(d.platform, platform_from(*platform));
  }
  return d;
}

Json descriptor_to(const Descriptor& d) {
  Json json = {{"mediaType", d.media_type}, {"digest", d.digest.text()}, {"size", d.size}};
  if (!d.annotations.empty()) json["annotations"] = d.annotations;
  if (!d.urls.empty()) json["urls"] = d.urls;
  if (!d.artifact_type.empty()) json["artifactType"] = d.artifact_type;
  if (d.platform) json["platform"] = platform_to(*d.platform);
  return json;
}

Result<std::vector<Descriptor>> descriptors_from(const Json& json, const char* name) {
  std::vector<Descriptor> out;
  ASSIGN_OR_RETURN(const Json* array, json::get_array(json, name));
  if (array == nullptr) return out;  // older tools write null for "no layers"
  for (const Json& item : *array) {
    ASSIGN_OR_RETURN(Descriptor d, descriptor_from(item));
    out.push_back(std::move(d));
  }
  return out;
}

}  // namespace

Result<Manifest> Manifest::parse(std::string_view bytes) {
  ASSIGN_OR_RETURN(const Json json, json::parse_object(bytes, "the manifest"));
  // Two readers could take one document for two different things (CVE-2021-41190).
  if (json.contains("manifests")) return Error(ErrorKind::kCorrupt, "the manifest has \"manifests\" too, as an index has");
  Manifest m;
  ASSIGN_OR_RETURN(const auto version, json::get_integer(json, "schemaVersion"));
  if (version.value_or(2) != 2) {
    return Error(ErrorKind::kUnsupported, fmt::format("manifest schema version {} is not supported; push the image again with a current tool", *version));
  }
  ASSIGN_OR_RETURN(const auto type, json::get_string(json, "mediaType"));
  if (type) m.media_type = *type;
  if (!media_type::is_manifest(m.media_type)) {
    return Error(ErrorKind::kCorrupt, fmt::format("media type \"{}\" is not that of an image manifest", m.media_type));
  }
  ASSIGN_OR_RETURN(const Json* config, json::get_object(json, "config"));
  if (config == nullptr) return Error(ErrorKind::kCorrupt, "the manifest has no config");
  ASSIGN_OR_RETURN(m.config, descriptor_from(*config));
  ASSIGN_OR_RETURN(m.layers, descriptors_from(json, "layers"));
  ASSIGN_OR_RETURN(m.annotations, json::get_string_map(json, "annotations"));
  ASSIGN_OR_RETURN(const Json* subject, json::get_object(json, "subject"));
  if (subject != nullptr) {
    ASSIGN_OR_RETURN(m.subject, descriptor_from(*subject));
  }
  ASSIGN_OR_RETURN(const auto artifact, json::get_string(json, "artifactType"));
  m.artifact_type = artifact.value_or("");
  return m;
}

std::string Manifest::to_json() const {
  Json json = {{"schemaVersion", 2}, {"mediaType", media_type}, {"config", descriptor_to(config)}};
  json["layers"] = Json::array();
  for (const Descriptor& d : layers) json["layers"].push_back(descriptor_to(d));
  if (!annotations.empty()) json["annotations"] = annotations;
  if (subject) json["subject"] = descriptor_to(*subject);
  if (!artifact_type.empty()) json["artifactType"] = artifact_type;
  return json::dump(json);
}

Result<Index> Index::parse(std::string_view bytes) {
  ASSIGN_OR_RETURN(const Json json, json::parse_object(bytes, "the image index"));
  for (const char* member : {"config", "layers"}) {
    if (json.contains(member)) return Error(ErrorKind::kCorrupt, fmt::format("the image index has \"{}\" too, as a manifest has", member));
  }
  Index index;
  ASSIGN_OR_RETURN(const auto type, json::get_string(json, "mediaType"));
  if (type) index.media_type = *type;
  if (!media_type::is_index(index.media_type)) {
    return Error(ErrorKind::kCorrupt, fmt::format("media type \"{}\" is not that of an image index", index.media_type));
  }
  ASSIGN_OR_RETURN(index.manifests, descriptors_from(json, "manifests"));
  ASSIGN_OR_RETURN(index.annotations, json::get_string_map(json, "annotations"));
  return index;
}

std::string Index::to_json() const {
  Json json = {{"schemaVersion", 2}, {"mediaType", media_type}};
  json["manifests"] = Json::array();
  for (const Descriptor& d : manifests) json["manifests"].push_back(descriptor_to(d));
  if (!annotations.empty()) json["annotations"] = annotations;
  return json::dump(json);
}

Result<Descriptor> Index::select(const Platform& wanted) const {
  const Descriptor* best = nullptr;
  int best_score = 0;
  std::string offered;
  for (const Descriptor& d : manifests) {
    if (!d.platform || d.platform->architecture == "unknown") continue;
    offered += (offered.empty() ? "" : ", ") + d.platform->text();
    const int score = match_score(wanted, *d.platform);
    if (score > best_score) {
      best_score = score;
      best = &d;
    }
  }
  if (best != nullptr) return *best;
  // An index of one image without platform says nothing; take it.
  if (manifests.size() == 1 && !manifests[0].platform) return manifests[0];
  return Error(ErrorKind::kNotFound, fmt::format("there is no image for {}", wanted.text()))
      .with_note("it exists for: " + (offered.empty() ? "no platform at all" : offered));
}

std::string detect_manifest_type(std::string_view bytes) {
  const auto json = json::parse_object(bytes, "the manifest");
  if (!json) return {};
  const auto type = json::get_string(*json, "mediaType");
  if (type && *type) return **type;
  if (json->contains("manifests")) return std::string(media_type::kOciIndex);
  if (json->contains("config") && json->contains("layers")) return std::string(media_type::kOciManifest);
  return {};
}

}  // namespace lamina::oci
