#include "builder/images.h"

#include <fmt/format.h>

#include "base/text.h"
#include "base/trace.h"
#include "registry/layout.h"

namespace lamina::builder {

namespace {
constexpr std::string_view kSourceAnnotation = "containerd.io/distribution.source.";
}

bool is_source_annotation(std::string_view name) { return name.substr(0, kSourceAnnotation.size()) == kSourceAnnotation; }

std::string source_annotation(const std::string& registry) {
  return std::string(kSourceAnnotation) + registry;
}

std::optional<oci::Reference> annotated_source(const oci::Descriptor& layer) {
  for (const auto& [name, repository] : layer.annotations) {
    if (!is_source_annotation(name)) continue;
    auto reference = oci::Reference::parse(name.substr(kSourceAnnotation.size()) + "/" + repository);
    if (reference) return std::move(*reference);
  }
  return std::nullopt;
}

Result<std::unique_ptr<ByteSource>> LayeredSource::open_blob(const oci::Descriptor& descriptor) {
  if (store_.has_blob(descriptor)) return store_.open_blob(descriptor);
  if (oci::layer_compression(descriptor.media_type) == oci::Compression::kNone) {
    if (const auto diff_id = oci::DiffId::parse(descriptor.digest.text())) {
      if (const auto layer = store_.find_layer(*diff_id)) return store_.open_tar(*layer, nullptr);
    }
  }
  std::optional<Error> last;
  for (const auto& remote : remotes_) {
    auto stream = remote->open_blob(descriptor);
    if (stream) return stream;
    last = std::move(stream).error();
  }
  if (last) return std::move(*last);
  return Error(ErrorKind::kNotFound, fmt::format("blob {} is not in the store", descriptor.digest.text()));
}

Result<std::unique_ptr<ByteSource>> LayeredSource::open_blob_from(const oci::Descriptor& descriptor, uint64_t offset) {
  std::optional<Error> last;
  for (const auto& remote : remotes_) {
    auto stream = remote->open_blob_from(descriptor, offset);
    if (stream) return stream;
    last = std::move(stream).error();
  }
  if (last) return std::move(*last);
  return BlobSource::open_blob_from(descriptor, offset);
}

Result<ResolvedImage> ImageResolver::by_name(const std::string& name, const oci::Platform& platform) {
  const std::string key = name + " " + platform.text();
  {
    auto known = known_.lock();
    if (const auto it = known->find(key); it != known->end()) return it->second;
  }
  ASSIGN_OR_RETURN(ResolvedImage found, find(name, platform));
  known_.lock()->emplace(key, found);
  return found;
}

Result<ResolvedImage> ImageResolver::find(const std::string& name, const oci::Platform& platform) {
  const TraceSpan span("plan", "resolve " + name);
  ResolvedImage resolved;
  resolved.name = name;
  ASSIGN_OR_RETURN(resolved.reference, oci::Reference::parse(name));
  const std::string canonical = resolved.reference.canonical();
  std::optional<layers::ImageRecord> record;
  if (policy_ != PullPolicy::kAlways) {
    ASSIGN_OR_RETURN(record, store_.image(canonical));
  }
  if (record && policy_ == PullPolicy::kNewer) {
    const auto head = client_.head_manifest(resolved.reference);
    // Unreachable registry: what is here serves, as podman's "newer" does.
    if (head && *head && !((*head)->digest == record->descriptor.digest)) record.reset();
  }
  if (record) {
    auto local = registry::load_image(store_, record->descriptor, platform);
    if (local) {
      resolved.image = std::move(local->image);
      return register_layers(std::move(resolved));
    }
    // Another platform of the index may not have been fetched yet; anything else is worth asking too.
    if (policy_ == PullPolicy::kNever) return std::move(local).error();
  } else if (policy_ == PullPolicy::kNever) {
    return Error(ErrorKind::kNotFound, fmt::format("the image {} is not in the store and --pull=never forbids fetching it", resolved.reference.familiar()))
        .with_note("build pull " + resolved.reference.familiar());
  }
  if (on_lookup_) on_lookup_(canonical);
  ASSIGN_OR_RETURN_WITH(registry::PulledImage pulled,
                        registry::pull_image_metadata(client_, resolved.reference, platform, store_),
                        "looking up the image " + resolved.reference.familiar());
  RETURN_IF_ERROR(store_.set_image(canonical, pulled.top));
  resolved.image = std::move(pulled.image);
  return register_layers(std::move(resolved));
}

Result<ResolvedImage> ImageResolver::from_layout(const std::string& location, const oci::Platform& platform) {
  std::string path = location;
  std::optional<std::string> tag;
  std::optional<oci::Digest> digest;
  if (const size_t at = path.rfind("@sha256:"); at != std::string::npos) {
    ASSIGN_OR_RETURN(digest, oci::Digest::parse(path.substr(at + 1)));
    path.resize(at);
  } else if (const size_t colon = path.rfind(':');
             colon != std::string::npos && path.find('/', colon) == std::string::npos) {
    tag = path.substr(colon + 1);
    path.resize(colon);
  }
  ASSIGN_OR_RETURN_WITH(std::unique_ptr<registry::ImageFile> file, registry::ImageFile::open(path), "opening the image layout " + path);
  ASSIGN_OR_RETURN_WITH(const oci::Descriptor top, file->find(tag, digest), "reading the image layout " + path);
  ASSIGN_OR_RETURN_WITH(registry::PulledImage loaded, registry::load_image(*file, top, platform), "reading the image layout " + path);
  ResolvedImage resolved;
  resolved.name = "oci-layout://" + location;
  resolved.image = std::move(loaded.image);
  resolved.remote = std::move(file);
  return register_layers(std::move(resolved));
}

Result<ResolvedImage> ImageResolver::register_layers(ResolvedImage resolved) {
  ASSIGN_OR_RETURN_WITH(resolved.config, oci::ImageConfig::parse(resolved.image.config_json), "reading the config of " + resolved.name);
  const std::vector<oci::Descriptor>& blobs = resolved.image.manifest.layers;
  if (blobs.size() != resolved.config.diff_ids.size()) {
    return Error(ErrorKind::kCorrupt, fmt::format("the image {} is damaged: its manifest has {} layers and its config {}", resolved.name, blobs.size(), resolved.config.diff_ids.size()));
  }
  for (size_t i = 0; i < blobs.size(); ++i) {
    ASSIGN_OR_RETURN(layers::LayerId id, store_.add_pulled(resolved.config.diff_ids[i], blobs[i]));
    resolved.layers.push_back(std::move(id));
  }
  if (!resolved.remote) {
    std::vector<std::shared_ptr<oci::BlobSource>> remotes;
    std::vector<std::string> seen;
    if (!resolved.reference.repository().empty()) {
      remotes.push_back(registry::repository_source(client_, resolved.reference));
      seen.push_back(resolved.reference.registry() + "/" + resolved.reference.repository());
    }
    for (const oci::Descriptor& layer : blobs) {
      const auto source = annotated_source(layer);
      if (!source) continue;
      const std::string place = source->registry() + "/" + source->repository();
      if (std::find(seen.begin(), seen.end(), place) != seen.end()) continue;
      seen.push_back(place);
      // The place that is known to hold a layer is asked before the image's own name.
      remotes.insert(remotes.begin(), registry::repository_source(client_, *source));
    }
    resolved.remote = std::make_shared<LayeredSource>(store_, std::move(remotes));
  }
  return resolved;
}

}  // namespace lamina::builder
