#include "builder/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
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

// What a step's thread tells the graph's owner.
struct News {
  int step;
  std::optional<Result<Outcome>> result;  // none: the step can begin, although its parent is not done
};

class Scheduler {
 public:
  Scheduler(const Plan& plan, Executor& executor, Parallelism parallelism, std::stop_source& stop, const SchedulerEvents& events)
      : plan_(plan), executor_(executor), stop_(stop), events_(events), max_early_(parallelism.early_steps), pool_(parallelism.steps, "step") {
    if (max_early_ > 0) executor_.when_step_can_begin([this](const Step& step) { tell({step.id, std::nullopt}); });
  }

  Result<void> run() {
    prepare();
    launch_ready();
    while (running_ > 0) {
      News news = next_news();
      const Step& step = plan_.steps[static_cast<size_t>(news.step)];
      if (!news.result) {
        can_begin_.insert(step.id);
        launch_early(step);
        continue;
      }
      --running_;
      settle(step, *std::move(news.result));
      if (error_) continue;
      launch_ready();
      for (int id : can_begin_) launch_early(plan_.steps[static_cast<size_t>(id)]);
      std::erase_if(can_begin_, [this](int id) { return launched_.contains(id); });
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
    const bool alone = running_ == 0 && ready_.size() == 1 && !may_be_overtaken(ready_.front());
    for (; !ready_.empty(); ready_.pop_front()) {
      const Step& step = plan_.steps[static_cast<size_t>(ready_.front())];
      launch(step);
      if (alone) {
        execute(step, std::nullopt, std::chrono::steady_clock::now());
      } else {
        post(step, std::nullopt);
      }
    }
  }

  // Whether another step might begin before this one has ended.
  bool may_be_overtaken(int step) const {
    const auto is_copy = [this](int id) { return std::holds_alternative<CopyStep>(plan_.steps[static_cast<size_t>(id)].body); };
    const std::vector<int>& waiters = waiters_[static_cast<size_t>(step)];
    return max_early_ > 0 && is_copy(step) && std::any_of(waiters.begin(), waiters.end(), is_copy);
  }

  void launch(const Step& step) {
    ++running_;
    launched_.insert(step.id);
    events_.started(step);
  }

  void post(const Step& step, std::optional<int> running_parent) {
    pool_.post([this, &step, running_parent, ready = std::chrono::steady_clock::now()] { execute(step, running_parent, ready); });
  }

  // Before its parent is done, when that is all it waits for. More than the processors can do gains nothing: they wait for
  // their parents while they hold threads and memory.
  void launch_early(const Step& step) {
    const bool only_parent = waits_for_[static_cast<size_t>(step.id)] == 1 && !settled_.contains(step.parent);
    if (error_ || launched_.contains(step.id) || !only_parent || early_.size() == max_early_) return;
    early_.insert(step.id);
    tell_wait(step, step.parent);
    launch(step);
    post(step, step.parent);
  }

  void tell(News news) {
    news_.lock()->push_back(std::move(news));
    wake_.notify_one();
  }

  void execute(const Step& step, std::optional<int> running_parent, TraceTime ready) {
    Result<Outcome> result = execute_traced(step, running_parent, ready);
    tell({step.id, std::move(result)});
  }

  Result<Outcome> execute_traced(const Step& step, std::optional<int> running_parent, TraceTime ready) {
    if (tracing()) trace_lasting("wait", step.title + " waits for a free slot", static_cast<uint64_t>(step.id), ready);
    const TraceSpan span("step", step.title);
    for (int need : plan_.needs(step)) {
      if (need != running_parent) trace_arrow_to(arrow(need, step.id));
    }
    Result<Outcome> result = executor_.execute(step);
    // It can begin before its parent ends, but not end.
    if (running_parent) trace_arrow_to(arrow(*running_parent, step.id));
    for (int waiter : waiters_[static_cast<size_t>(step.id)]) trace_arrow_from(arrow(step.id, waiter));
    return result;
  }

  void tell_wait(const Step& waiter, int need) {
    if (tracing()) trace_lasting("wait", fmt::format("{} waits for {}", waiter.title, plan_.steps[static_cast<size_t>(need)].title), static_cast<uint64_t>(waiter.id), began_);
  }

  uint64_t arrow(int from, int to) const { return static_cast<uint64_t>(from) * plan_.steps.size() + static_cast<uint64_t>(to); }

  News next_news() {
    auto news = news_.lock();
    std::optional<TraceSpan> waiting;
    if (news->empty()) waiting.emplace("wait", "for a step");
    news.wait(wake_, [](const auto& queue) { return !queue.empty(); });
    News first = std::move(news->front());
    news->pop_front();
    return first;
  }

  void settle(const Step& step, Result<Outcome> result) {
    settled_.insert(step.id);
    early_.erase(step.id);
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
      if (--waits_for_[static_cast<size_t>(waiter)] != 0 || launched_.contains(waiter)) continue;
      ready_.push_back(waiter);
      tell_wait(plan_.steps[static_cast<size_t>(waiter)], step.id);
    }
  }

  const Plan& plan_;
  Executor& executor_;
  std::stop_source& stop_;
  const SchedulerEvents& events_;
  std::vector<size_t> waits_for_;
  std::vector<std::vector<int>> waiters_;
  std::deque<int> ready_;
  const size_t max_early_;
  std::set<int> can_begin_;  // before their parents are done
  std::set<int> early_;      // those of them that run
  std::set<int> launched_, settled_;
  size_t running_ = 0;
  const TraceTime began_ = std::chrono::steady_clock::now();
  std::optional<Error> error_;
  Guarded<std::deque<News>> news_;
  std::condition_variable wake_;
  ThreadPool pool_;  // last: its threads use the members above
};

}  // namespace

Result<void> run_plan(const Plan& plan, Executor& executor, Parallelism parallelism, std::stop_source& stop_others, const SchedulerEvents& events) {
  return Scheduler(plan, executor, parallelism, stop_others, events).run();
}

}  // namespace lamina::builder
