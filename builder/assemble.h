// From finished steps to an image: config, manifest, names; and from the store's form to what is sent out.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "builder/executor.h"
#include "builder/plan.h"
#include "oci/blob.h"

namespace lamina::builder {

// The image of the plan's target, stored as the store keeps images: new layers uncompressed (their blob
// digest is the DiffId), pulled layers as they came. Waits for the DiffIds. `squashed` (--squash) stands for the layers
// of all steps; it is empty when they changed nothing.
Result<oci::Image> assemble_image(layers::Store& store, const Plan& plan, const Executor& executor, const BuildRequest& request,
                                  const std::optional<layers::LayerId>& squashed);

// The same image with layers compressed for sending: pulled layers keep their blobs (unless options.force). An estargz has
// other DiffIds than the layer in the store, so the config of such an image differs too. The result is not stored under
// a name.
Result<oci::Image> compress_image(layers::Store& store, const oci::Image& image, const layers::CompressionOptions& options, ThreadPool& pool);

// The same image in Docker's words (oci-mediatypes=false): the bytes of layers and config stay. Stored, not named.
Result<oci::Image> with_docker_types(layers::Store& store, const oci::Image& image);

// Where the blobs of an image come from when it is sent: the store, else the repositories its layers name.
std::shared_ptr<oci::BlobSource> source_of_image(layers::Store& store, registry::Client& client, const oci::Image& image);

// Makes an image value from its parts and stores config and manifest as blobs.
Result<oci::Image> store_image(layers::Store& store, oci::Manifest manifest, std::string config_json);

}  // namespace lamina::builder
