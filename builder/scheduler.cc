#include "builder/scheduler.h"

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <optional>
#include <set>

#include "base/guarded.h"
#include "base/thread_pool.h"
#include "base/trace.h"

namespace lamina::builder {

namespace {

struct Completion {
  int step;
  Result<Outcome> result;
};

class Scheduler {
 public:
  Scheduler(const Plan& plan, Executor& executor, unsigned parallel, std::stop_source& stop, const SchedulerEvents& events)
      : plan_(plan), executor_(executor), stop_(stop), events_(events), pool_(parallel, "step") {}

  Result<void> run() {
    prepare();
    launch_ready();
    while (running_ > 0) {
      Completion completion = next_completion();
      --running_;
      settle(plan_.steps[static_cast<size_t>(completion.step)], std::move(completion.result));
      if (!error_) launch_ready();
    }
    for (const Step& step : plan_.steps) {
      if (!settled_.contains(step.id)) events_.cancelled(step);
    }
    if (error_) return std::move(*error_);
    return {};
  }

 private:
  // For each step: how many steps it waits for, and who waits for it.
  void prepare() {
    waits_for_.resize(plan_.steps.size());
    waiters_.resize(plan_.steps.size());
    for (const Step& step : plan_.steps) {
      const std::vector<int> needs = plan_.needs(step);
      waits_for_[static_cast<size_t>(step.id)] = needs.size();
      for (int need : needs) waiters_[static_cast<size_t>(need)].push_back(step.id);
      if (needs.empty()) ready_.push_back(step.id);
    }
  }

  void launch_ready() {
    // When nothing else can go on before this step has ended, no thread is needed for it.
    const bool alone = running_ == 0 && ready_.size() == 1;
    for (; !ready_.empty(); ready_.pop_front()) {
      const Step& step = plan_.steps[static_cast<size_t>(ready_.front())];
      ++running_;
      events_.started(step);
      const auto execute = [this, &step, ready = std::chrono::steady_clock::now()] {
        Result<Outcome> result = execute_traced(step, ready);
        completed_.lock()->push_back({step.id, std::move(result)});
        wake_.notify_one();
      };
      if (alone) {
        execute();
      } else {
        pool_.post(execute);
      }
    }
  }

  Result<Outcome> execute_traced(const Step& step, TraceTime ready) {
    if (tracing()) trace_lasting("wait", step.title + " waits for a free slot", static_cast<uint64_t>(step.id), ready);
    const TraceSpan span("step", step.title);
    for (int need : plan_.needs(step)) trace_arrow_to(arrow(need, step.id));
    Result<Outcome> result = executor_.execute(step);
    for (int waiter : waiters_[static_cast<size_t>(step.id)]) trace_arrow_from(arrow(step.id, waiter));
    return result;
  }

  uint64_t arrow(int from, int to) const { return static_cast<uint64_t>(from) * plan_.steps.size() + static_cast<uint64_t>(to); }

  Completion next_completion() {
    auto completed = completed_.lock();
    std::optional<TraceSpan> waiting;
    if (completed->empty()) waiting.emplace("wait", "for a step");
    completed.wait(wake_, [](const auto& queue) { return !queue.empty(); });
    Completion first = std::move(completed->front());
    completed->pop_front();
    return first;
  }

  void settle(const Step& step, Result<Outcome> result) {
    settled_.insert(step.id);
    if (!result) {
      if (error_) {
        events_.cancelled(step);  // stopped because of the first failure
        return;
      }
      events_.failed(step, result.error());
      error_ = std::move(result).error();
      stop_.request_stop();
      return;
    }
    executor_.finished(step.id, *result);
    events_.finished(step, *result);
    for (int waiter : waiters_[static_cast<size_t>(step.id)]) {
      if (--waits_for_[static_cast<size_t>(waiter)] != 0) continue;
      ready_.push_back(waiter);
      if (tracing()) trace_lasting("wait", fmt::format("{} waits for {}", plan_.steps[static_cast<size_t>(waiter)].title, step.title), static_cast<uint64_t>(waiter), began_);
    }
  }

  const Plan& plan_;
  Executor& executor_;
  std::stop_source& stop_;
  const SchedulerEvents& events_;
  std::vector<size_t> waits_for_;
  std::vector<std::vector<int>> waiters_;
  std::deque<int> ready_;
  std::set<int> settled_;
  size_t running_ = 0;
  const TraceTime began_ = std::chrono::steady_clock::now();
  std::optional<Error> error_;
  Guarded<std::deque<Completion>> completed_;
  std::condition_variable wake_;
  ThreadPool pool_;  // last: its threads use the members above
};

}  // namespace

Result<void> run_plan(const Plan& plan, Executor& executor, unsigned parallel, std::stop_source& stop_others, const SchedulerEvents& events) {
  return Scheduler(plan, executor, parallel, stop_others, events).run();
}

}  // namespace lamina::builder
