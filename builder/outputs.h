// Where a finished image goes: registries, layouts, archives, plain files.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "builder/assemble.h"
#include "builder/build.h"
#include "builder/event_hub.h"
#include "registry/layout.h"

namespace lamina::builder {

// An image for each platform, in the order asked for.
struct PlatformImage {
  oci::Platform platform;
  oci::Image image;
};

// Descriptor and text of the index of these images, with the annotations that the request names; its
// source_date_epoch becomes one too.
registry::ExportIndex make_index(const std::vector<PlatformImage>& images, const BuildRequest& request, bool docker_types);

// Writes the image to `dest` ("-" is standard output) in the format of `output`; with `indexed`, or when there are
// several, an index (layouts) or a directory for each platform (plain files).
Result<void> write_output(layers::Store& store, registry::Client& client, const std::vector<PlatformImage>& images, bool indexed,
                          const OutputSpec& output, const BuildRequest& request, const std::vector<oci::Reference>& names,
                          ThreadPool& pool, EventHub& events);

// Pushes one image under names that may lie in several repositories; with Docker's media types on request.
Result<registry::PushReport> push_to(layers::Store& store, registry::Client& client, const oci::Image& image,
                                     const std::vector<oci::Reference>& names, const layers::CompressionOptions& compression,
                                     ThreadPool& pool, EventHub& events, bool docker_types = false);

}  // namespace lamina::builder
