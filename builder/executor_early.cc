// A COPY whose parent, a COPY too, is still being written. Where the parent's files go is known by then, and nothing else of
// it decides what goes into this layer: so both are written at the same time. The key, which names the parent's content,
// is computed when the parent is done. Sources are selected when they are read, never before.
#include <algorithm>

#include "base/trace.h"
#include "builder/executor.h"

namespace lamina::builder {

// The steps that can begin as soon as it is known where this one's files go. `fresh`: no record of this step is expected,
// hence none of a step on top; else only those are meant that have no record to be looked for.
std::vector<int> Executor::followers(const Step& step, bool fresh) {
  std::vector<int> out;
  if (!can_begin_ || compressed_at_once(step)) return out;  // compressing takes all threads, and memory for each
  for (const Step& other : env_.plan.steps) {
    const auto* copy = std::get_if<CopyStep>(&other.body);
    // What ADD adds is digested before it is unpacked.
    if (other.parent != step.id || other.independent || copy == nullptr || copy->is_add) continue;
    // It may read the files of this step, too (FROM s, COPY --from=s).
    const bool reads = std::any_of(other.needs_stages.begin(), other.needs_stages.end(), [&](int stage) {
      const std::vector<int> chain = env_.plan.chain(stage);
      return std::find(chain.begin(), chain.end(), step.id) != chain.end();
    });
    if (!reads && (fresh || other.no_cache || !was_recorded(other))) out.push_back(other.id);
  }
  return out;
}

void Executor::placed(const Step& step, std::shared_ptr<const layers::Listing> listing, const std::vector<int>& followers) {
  if (followers.empty()) return;
  known_.lock()->placed.insert_or_assign(step.id, std::move(listing));
  for (int follower : followers) can_begin_(env_.plan.steps[static_cast<size_t>(follower)]);
}

// kCancelled when the build is stopped before the step's outcome is known, as it is when the step fails.
Result<void> Executor::wait_for(int step) {
  const std::stop_callback on_stop(env_.stop, [this] {
    known_.lock();  // whoever has looked at the token is waiting by now
    outcome_known_.notify_all();
  });
  auto known = known_.lock();
  std::optional<TraceSpan> waiting;
  if (!known->outcomes.contains(step)) waiting.emplace("wait", "for the step below");
  known.wait(outcome_known_, [&](const Known& k) { return k.outcomes.contains(step) || env_.stop.stop_requested(); });
  if (!known->outcomes.contains(step)) return Error(ErrorKind::kCancelled, "interrupted");
  return {};
}

// Nothing when the parent did not become what this stood upon: its layer was recorded before.
Result<std::optional<Outcome>> Executor::execute_early(const Step& step, const CopyStep& copy) {
  auto made = select_and_copy(step, copy);
  // An error, too, waits for the parent: what that made is worth keeping, and its own errors come first.
  RETURN_IF_ERROR(wait_for(step.parent));
  if (!outcome(step.parent)->as_placed) return std::optional<Outcome>();
  if (!made) return std::move(made).error();
  for (const std::string& warning : made->selection.warnings) env_.warning(warning);
  ASSIGN_OR_RETURN(KeyInputs inputs, copy_inputs(step, copy));
  const Reading reading = reading_of(step, copy);
  if (reading.sources.empty()) {
    ASSIGN_OR_RETURN(Outcome outcome, record_copy(step, made->selection, std::move(inputs), std::move(made->layer)));
    return std::optional(std::move(outcome));
  }
  ASSIGN_OR_RETURN(const KeyInputs definition, by_definition(reading, inputs));
  ASSIGN_OR_RETURN(const std::string any, any_content(step, reading, inputs));
  ASSIGN_OR_RETURN(Outcome outcome, record_undigested(step, reading, definition, any, std::move(made->layer)));
  return std::optional(std::move(outcome));
}

}  // namespace lamina::builder
