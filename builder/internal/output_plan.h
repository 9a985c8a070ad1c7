// What the outputs of a build come to: which names are pushed with which options, what is written where.
#pragma once

#include <string>
#include <vector>

#include "builder/build.h"

namespace lamina::builder::internal {

// Names that are pushed with the same options.
struct PushPlan {
  std::vector<oci::Reference> names;
  layers::CompressionOptions compression;
  bool docker_types = false;
  bool by_digest = false;
};

// Everything that is neither the store nor a registry.
struct WritePlan {
  const OutputSpec* output = nullptr;  // of the request
  std::vector<oci::Reference> names;   // what it says the image is called
};

struct OutputPlan {
  std::vector<oci::Reference> tags;  // names in the store
  std::vector<PushPlan> pushes;
  std::vector<WritePlan> writes;
  std::optional<bool> rewrite_timestamp;  // what the request and its outputs say
  // What finished layers are compressed to while later steps run; each once.
  std::vector<layers::CompressionOptions> compressions;
};

// Borrows the request. `indexed`: the result is an index. kInvalidInput for what cannot be meant: a wrong name, a name or
// destination given twice with different meanings, an output that cannot hold an index.
Result<OutputPlan> plan_outputs(const BuildRequest& request, bool indexed);

// Looks at the destinations before anything is built: a missing directory, a directory where a file is to be written, and
// the like are kInvalidInput.
Result<void> check_destinations(const BuildRequest& request);

}  // namespace lamina::builder::internal
