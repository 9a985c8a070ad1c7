// Images in files: OCI image layouts (directory or tar) and docker-archive tars.
// OCI image-spec v1.1 image-layout.md; docker save format 1.2 (manifest.json).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "oci/blob.h"
#include "oci/reference.h"

namespace lamina::registry {

// An index of images for several platforms.
struct ExportIndex {
  oci::Descriptor descriptor;
  std::string json;
  std::vector<const oci::Image*> images;
};

// One image, or an index, to be written: blobs are streamed from `blobs`.
struct ExportImage {
  const oci::Image* image = nullptr;
  std::vector<oci::Reference> names;
  const ExportIndex* index = nullptr;  // instead of image; not for docker archives
  std::map<std::string, std::string> annotations = {};  // of its descriptor in index.json

  std::vector<const oci::Image*> images() const { return index == nullptr ? std::vector{image} : index->images; }
};

// oci-layout, index.json with org.opencontainers.image.ref.name (the tag) and io.containerd.image.name (the
// canonical name), blobs. An existing layout is replaced as a whole: written beside and renamed.
Result<void> write_layout_directory(const std::string& path, const ExportImage& image, oci::BlobSource& blobs);
// The same as a tar: deterministic, no time in it.
Result<void> write_layout_tar(ByteSink& out, const ExportImage& image, oci::BlobSource& blobs);
// A tar for `docker load` and `podman load`; it is also a valid OCI layout tar, as docker writes since v25.
// Layers must be uncompressed or gzip (kUnsupported otherwise).
Result<void> write_docker_archive(ByteSink& out, const ExportImage& image, oci::BlobSource& blobs);

// Opens a layout directory, a layout tar, or a docker-archive tar (also gzip or zstd compressed); which one is
// found by looking. Any thread.
class ImageFile : public oci::BlobSource {
 public:
  // An archive is unpacked first, until `stop` (then kCancelled).
  static Result<std::unique_ptr<ImageFile>> open(const std::string& path, std::stop_token stop = {});
  // The descriptor that a tag (ref.name, or the full name) or digest selects; with neither given, the only one
  // there is (kInvalidInput listing the choices when there are several, kNotFound when there is none).
  virtual Result<oci::Descriptor> find(const std::optional<std::string>& tag,
                                       const std::optional<oci::Digest>& digest) = 0;
};

}  // namespace lamina::registry
