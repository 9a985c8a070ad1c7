// Secrets and ssh agents that the command line gave to the build.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "builder/build.h"

namespace lamina::builder {

// The secret's bytes; nothing when none was given with this id. An error when it was and cannot be read.
Result<std::optional<std::string>> read_secret(const BuildRequest& request, const std::string& id);

// The agent's socket; empty when none was given with this id, or when it is the environment's and that has none.
std::string ssh_agent_socket(const BuildRequest& request, const std::string& id);

}  // namespace lamina::builder
