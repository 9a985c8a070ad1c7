// From names to images: the store first, then the registry or the layout that the user named.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/guarded.h"
#include "builder/build.h"
#include "layers/store.h"
#include "oci/image_config.h"
#include "registry/client.h"

namespace lamina::builder {

struct ResolvedImage {
  std::string name;            // as the user wrote it
  oci::Reference reference;    // canonical; unset repository for layouts
  oci::Image image;
  oci::ImageConfig config;
  std::vector<layers::LayerId> layers;        // bottom first, registered in the store
  std::shared_ptr<oci::BlobSource> remote;    // where missing layers come from; may be null
};

// Resolves and remembers. Any thread.
class ImageResolver {
 public:
  ImageResolver(layers::Store& store, registry::Client& client, PullPolicy policy)
      : store_(store), client_(client), policy_(policy) {}

  // `on_lookup` is told the name when a registry is asked.
  void on_lookup(std::function<void(const std::string&)> callback) { on_lookup_ = std::move(callback); }

  // An image by name. kNotFound, kDenied, kUnavailable as the registry client says them.
  Result<ResolvedImage> by_name(const std::string& name, const oci::Platform& platform);
  // oci-layout://path[:tag|@digest], the part behind the scheme.
  Result<ResolvedImage> from_layout(const std::string& location, const oci::Platform& platform);

 private:
  Result<ResolvedImage> find(const std::string& name, const oci::Platform& platform);
  Result<ResolvedImage> register_layers(ResolvedImage resolved);

  layers::Store& store_;
  registry::Client& client_;
  PullPolicy policy_;
  std::function<void(const std::string&)> on_lookup_;
  Guarded<std::map<std::string, ResolvedImage>> known_;
};

// Reads from the store, and what it lacks from `remote` (may be null); an uncompressed layer is made from
// whatever form the store has.
class LayeredSource : public oci::BlobSource {
 public:
  LayeredSource(layers::Store& store, std::vector<std::shared_ptr<oci::BlobSource>> remotes)
      : store_(store), remotes_(std::move(remotes)) {}
  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Descriptor& descriptor) override;
  // What the store lacks and a remote can continue.
  Result<std::unique_ptr<ByteSource>> open_blob_from(const oci::Descriptor& descriptor, uint64_t offset) override;

 private:
  layers::Store& store_;
  std::vector<std::shared_ptr<oci::BlobSource>> remotes_;
};

// Annotation of a layer in the store's own manifests: the repository that holds its blob, by registry. It is
// removed from what is pushed or exported. The name is containerd's label for the same fact.
std::string source_annotation(const std::string& registry);
bool is_source_annotation(std::string_view name);
std::optional<oci::Reference> annotated_source(const oci::Descriptor& layer);

}  // namespace lamina::builder
