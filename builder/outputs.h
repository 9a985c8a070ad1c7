// Where a finished image goes: registries, layouts, archives, plain files.
#pragma once

#include <string>
#include <vector>

#include "builder/assemble.h"
#include "builder/build.h"
#include "builder/event_hub.h"

namespace lamina::builder {

// Writes the image to `dest` ("-" is standard output) in the format of `output`.
Result<void> write_output(layers::Store& store, registry::Client& client, const oci::Image& image, const OutputSpec& output,
                          const std::vector<oci::Reference>& names, ThreadPool& pool, EventHub& events);

// Pushes one image under names that may lie in several repositories.
Result<registry::PushReport> push_to(layers::Store& store, registry::Client& client, const oci::Image& image,
                                     const std::vector<oci::Reference>& names, const layers::CompressionOptions& compression,
                                     ThreadPool& pool, EventHub& events);

}  // namespace lamina::builder
