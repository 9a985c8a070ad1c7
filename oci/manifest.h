// Descriptors, manifests and indexes: values, parsed from and written to canonical JSON (object keys in
// byte order, no white space). OCI image-spec v1.1: descriptor.md, manifest.md, image-index.md.
// Docker's twins are read too.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/digest.h"
#include "oci/platform.h"

namespace lamina::oci {

namespace media_type {
inline constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kOciManifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view kOciConfig = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view kOciLayer = "application/vnd.oci.image.layer.v1.tar";
inline constexpr std::string_view kOciLayerGzip = "application/vnd.oci.image.layer.v1.tar+gzip";
inline constexpr std::string_view kOciLayerZstd = "application/vnd.oci.image.layer.v1.tar+zstd";
inline constexpr std::string_view kDockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view kDockerConfig = "application/vnd.docker.container.image.v1+json";
inline constexpr std::string_view kDockerLayer = "application/vnd.docker.image.rootfs.diff.tar";
inline constexpr std::string_view kDockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";

bool is_index(std::string_view type);
bool is_manifest(std::string_view type);
// A layer of any family; foreign (non-distributable) ones included.
bool is_layer(std::string_view type);
}  // namespace media_type

enum class Compression { kNone, kGzip, kZstd };
// By media type; nothing for types that are no layer.
std::optional<Compression> layer_compression(std::string_view media_type);
std::string_view oci_layer_type(Compression compression);
std::string_view docker_layer_type(Compression compression);

struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  std::map<std::string, std::string> annotations;
  std::optional<Platform> platform;
  std::vector<std::string> urls;
  std::string artifact_type;

  bool operator==(const Descriptor&) const = default;
};

struct Manifest {
  std::string media_type{media_type::kOciManifest};
  Descriptor config;
  std::vector<Descriptor> layers;
  std::map<std::string, std::string> annotations;
  std::optional<Descriptor> subject;
  std::string artifact_type;

  // Both families; kCorrupt with the reason when it is not a manifest. `bytes` may be hostile.
  static Result<Manifest> parse(std::string_view bytes);
  std::string to_json() const;  // canonical
};

struct Index {
  std::string media_type{media_type::kOciIndex};
  std::vector<Descriptor> manifests;
  std::map<std::string, std::string> annotations;

  static Result<Index> parse(std::string_view bytes);
  std::string to_json() const;

  // The entry for a platform (see match_score); attestation entries (unknown/unknown) never match.
  // Fails with kNotFound and lists the platforms that exist.
  Result<Descriptor> select(const Platform& wanted) const;
};

// What mediaType says, or what the members show when it is missing; empty when neither helps.
std::string detect_manifest_type(std::string_view bytes);

}  // namespace lamina::oci
