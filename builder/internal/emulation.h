// Whether programs of another platform run here: natively, or through an emulator registered in binfmt_misc.
#pragma once

#include <string>

#include "builder/plan.h"
#include "layers/store.h"

namespace lamina::builder::internal {

// A static program for the architecture that does nothing and succeeds; empty for architectures not known here.
std::string probe_program(const std::string& architecture);

// For every stage with a RUN whose platform is not this machine's: executes probe_program in a sandbox of its own, so
// that an emulator that the sandbox cannot see does not count. kUnsupported at the first RUN that could not be
// executed, naming the platform and what to do; nothing of the plan has been executed by then.
Result<void> check_emulation(layers::Store& store, const Plan& plan, std::stop_token stop);

}  // namespace lamina::builder::internal
