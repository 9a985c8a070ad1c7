// What a COPY or ADD can do before the step below it is done: ask servers, and find its files. The first to come, the
// pool or the step itself, does it.
#include <future>

#include "base/trace.h"
#include "builder/executor.h"

namespace lamina::builder {

namespace {

// How far is looked, and how much a COPY must read for a thread beside it to be worth starting.
constexpr size_t kStepsAhead = 16;
constexpr uint64_t kLongCopyBytes = 4 << 20;

bool is_long(const Selection& selection) {
  uint64_t bytes = 0;
  for (const SelectedSource& source : selection.sources) bytes += source.files ? source.files->content_bytes() : 0;
  return bytes >= kLongCopyBytes;
}

}  // namespace

struct Executor::AheadTask {
  std::atomic<bool> begun = false;
  std::promise<std::optional<Prepared>> prepared;  // nothing after an error, which the step finds again if it is one
};

Result<Executor::Prepared> Executor::prepare(const Step& step, const CopyStep& copy) {
  Prepared prepared;
  ASSIGN_OR_RETURN(prepared.remotes, look_up_remotes(step, copy));
  std::shared_ptr<const SourceTree> tree;
  if (copy.remotes.size() < copy.sources.size()) {
    ASSIGN_OR_RETURN(tree, tree_of(copy.from, step.stage));
  }
  ASSIGN_OR_RETURN(prepared.selection, select_sources(copy, step, tree, env_.pool, temporary_file()));
  return prepared;
}

Result<Executor::Prepared> Executor::prepare_or_take(const Step& step, const CopyStep& copy, bool& ahead) {
  std::shared_ptr<AheadTask> task;
  {
    auto state = ahead_.lock();
    state->waiting.erase(step.id);
    if (const auto it = state->tasks.find(step.id); it != state->tasks.end()) {
      task = std::move(it->second);
      state->tasks.erase(it);
    }
  }
  if (task && task->begun.exchange(true)) {
    const TraceSpan span("wait", "for the files of " + step.title);
    if (std::optional<Prepared> prepared = task->prepared.get_future().get()) {
      ahead = true;
      return *std::move(prepared);
    }
  }
  return prepare(step, copy);
}

bool Executor::sources_ready(const Step& step) const {
  for (int stage : step.needs_stages) {
    const std::vector<int> chain = env_.plan.chain(stage);
    if (!chain.empty() && !outcome(chain.back())) return false;
  }
  return true;
}

void Executor::work_ahead(const Step& step, const Selection* selection) {
  if (selection != nullptr && !is_long(*selection)) return;
  const std::vector<Step>& steps = env_.plan.steps;
  std::set<int> above = {step.id};
  {
    auto state = ahead_.lock();
    const size_t end = std::min(steps.size(), static_cast<size_t>(step.id) + 1 + kStepsAhead);
    for (size_t id = static_cast<size_t>(step.id) + 1; id < end; ++id) {
      const Step& other = steps[id];
      if (other.independent || !above.contains(other.parent)) continue;
      above.insert(other.id);
      if (std::holds_alternative<CopyStep>(other.body) && !state->tasks.contains(other.id)) state->waiting.insert(other.id);
    }
  }
  go_on_ahead();
}

void Executor::go_on_ahead() {
  auto state = ahead_.lock();
  for (auto it = state->waiting.begin(); it != state->waiting.end();) {
    const Step& step = env_.plan.steps[static_cast<size_t>(*it)];
    if (!sources_ready(step)) {
      ++it;
      continue;
    }
    it = state->waiting.erase(it);
    auto task = std::make_shared<AheadTask>();
    state->tasks.emplace(step.id, task);
    ahead_pool_.post([this, &step, task] {
      if (task->begun.exchange(true)) return;
      std::optional<Prepared> done;
      if (!env_.stop.stop_requested()) {
        auto prepared = prepare(step, std::get<CopyStep>(step.body));
        if (prepared) done = *std::move(prepared);
      }
      task->prepared.set_value(std::move(done));
    });
  }
}

}  // namespace lamina::builder
