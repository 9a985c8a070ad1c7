// The stage that the planner is evaluating; shared by the planner's two sources only.
#pragma once

#include "builder/internal/planner.h"

namespace lamina::builder::internal {

struct Planner::StageScope {
  const parser::Stage& source;
  PlannedStage stage;
  bool in_trigger = false;
};

}  // namespace lamina::builder::internal
