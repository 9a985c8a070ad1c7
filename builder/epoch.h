// SOURCE_DATE_EPOCH: a number, or where the time is to be taken from. dockerfile-language reference 1.6.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/result.h"
#include "builder/contexts.h"
#include "builder/images.h"
#include "parser/instructions.h"

namespace lamina::builder {

struct EpochSources {
  const parser::Dockerfile& dockerfile;
  BuildSources& build;
  ImageResolver& resolver;
  std::function<void(const std::string&)> warn;
};

// Sets request.source_date_epoch from the request's own words or from a global ARG of the Dockerfile, and the build
// argument with it. "context" and a named context give the time of what was fetched, of a directory that of the git commit
// it is at; a stage
// FROM scratch with one remote ADD gives that of its source. kInvalidInput for a word that is none of these.
Result<void> settle_epoch(BuildRequest& request, const EpochSources& sources);

}  // namespace lamina::builder
