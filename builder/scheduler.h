// Runs the steps of a plan, each as soon as what it needs is done, over all stages at once.
#pragma once

#include <functional>
#include <stop_token>

#include "base/result.h"
#include "builder/executor.h"
#include "builder/plan.h"

namespace lamina::builder {

struct SchedulerEvents {
  std::function<void(const Step&)> started;
  std::function<void(const Step&, const Outcome&)> finished;
  std::function<void(const Step&, const Error&)> failed;
  std::function<void(const Step&)> cancelled;  // never ran, or was stopped because another failed
};

struct Parallelism {
  unsigned steps = 1;        // at once (a RUN mostly waits)
  unsigned early_steps = 0;  // of these, such as began before the step below them was done
};

// The calling thread owns the graph; steps run on threads of their own. The first failure stops what runs (through
// `stop_others`) and is returned when all have ended. Events come from the calling thread.
Result<void> run_plan(const Plan& plan, Executor& executor, Parallelism parallelism, std::stop_source& stop_others, const SchedulerEvents& events);

}  // namespace lamina::builder
