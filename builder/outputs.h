// Where a finished image goes: registries, layouts, archives, plain files.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "builder/assemble.h"
#include "builder/build.h"
#include "builder/event_hub.h"
#include "builder/internal/output_plan.h"
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
// several, an index (layouts) or a directory for each platform (plain files). The words of a daemon that it was loaded
// into, else "".
Result<std::string> write_output(layers::Store& store, registry::Client& client, const std::vector<PlatformImage>& images, bool indexed,
                                 const internal::WritePlan& write, const BuildRequest& request, ThreadPool& pool, EventHub& events);

// Where an output without a destination loads the image. Errors as of Daemon::find.
Result<registry::Daemon> find_daemon(const OutputSpec& output, std::stop_token stop);

struct PushOptions {
  layers::CompressionOptions compression;
  bool docker_types = false;
  bool by_digest = false;  // the names get no tag
};
// Pushes one image under names that may lie in several repositories.
Result<registry::PushReport> push_to(layers::Store& store, registry::Client& client, const oci::Image& image,
                                     const std::vector<oci::Reference>& names, const PushOptions& options,
                                     ThreadPool& pool, EventHub& events);

}  // namespace lamina::builder
