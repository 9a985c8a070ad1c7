// Executes one step: computes its key, takes a recorded layer or makes a new one.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/guarded.h"
#include "base/thread_pool.h"
#include "builder/context.h"
#include "builder/copy.h"
#include "builder/key.h"
#include "builder/plan.h"

namespace lamina::builder {

// What a step came to.
struct Outcome {
  StepRecord record;
  std::string key;
  bool cached = false;
  std::string why;  // of a miss: the inputs that differ
};

// The contexts of a build, opened when first needed. Any thread.
class Contexts {
 public:
  Contexts(layers::Store& store, const BuildRequest& request, std::string dockerfile_path)
      : store_(store), request_(request), dockerfile_path_(std::move(dockerfile_path)) {}
  // "" is the main context. kNotFound for a missing directory.
  Result<std::shared_ptr<const SourceTree>> get(const std::string& name);
  // Keeps what was learnt about the files.
  Result<void> save_indexes();

 private:
  struct Opened {
    std::shared_ptr<const SourceTree> tree;
    std::shared_ptr<DigestIndex> index;
  };
  Result<Opened> open(const std::string& name);

  layers::Store& store_;
  const BuildRequest& request_;
  std::string dockerfile_path_;
  Guarded<std::map<std::string, Opened>> opened_;
};

// Any thread; steps may run at the same time when all that they need is done.
class Executor {
 public:
  struct Environment {
    layers::Store& store;
    const Plan& plan;
    const BuildRequest& request;
    Contexts& contexts;
    ThreadPool& pool;             // short compute tasks
    std::function<void(int step, OutputStream, std::string_view)> output;
    std::function<void(const std::string&)> warning;
    std::stop_token stop;
  };
  explicit Executor(Environment environment);

  // The outcomes of the step's parent and of the stages it needs must be known.
  Result<Outcome> execute(const Step& step);
  // Makes an outcome known to later steps.
  void finished(int step, Outcome outcome);

  // Layers of a stage, bottom first, all of whose steps are finished.
  std::vector<layers::LayerId> layers_of_stage(int stage) const;
  std::optional<Outcome> outcome(int step) const;

 private:
  std::vector<layers::LayerId> layers_below(const Step& step) const;
  std::string key_below(const Step& step) const;
  std::string key_of_stage(int stage) const;
  std::string key_of_source(const SourceRef& from) const;
  Result<std::vector<std::string>> snapshots(const std::vector<layers::LayerId>& stack, int stage);
  Result<std::vector<std::string>> snapshots_of_source(const SourceRef& from, int stage);
  Result<std::shared_ptr<layers::RootfsView>> view_below(const Step& step);
  Result<std::shared_ptr<const SourceTree>> tree_of(const SourceRef& from, int stage);
  bool files_needed_later(const Step& step) const;

  KeyInputs common_inputs(const Step& step, const char* instruction) const;
  std::optional<Outcome> recorded(const Step& step, const KeyInputs& inputs);
  Result<Outcome> record(const Step& step, const KeyInputs& inputs, layers::LayerId layer);
  Result<layers::LayerId> add_layer(const Step& step, const layers::EntryList& entries);

  Result<Outcome> execute_body(const Step& step, const RunStep& run);
  Result<Outcome> execute_body(const Step& step, const CopyStep& copy);
  Result<Outcome> execute_body(const Step& step, const WorkdirStep& workdir);

  Result<void> add_mount_inputs(const Step& step, const RunStep& run, KeyInputs& inputs);
  Result<layers::LayerId> run_command(const Step& step, const RunStep& run);
  Result<layers::LayerId> copy_files(const Step& step, const CopyStep& copy, Selection& selection);

  Environment env_;
  RecordBook records_;
  mutable Guarded<std::map<int, Outcome>> outcomes_;
};

}  // namespace lamina::builder
