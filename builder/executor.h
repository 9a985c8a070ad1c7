// Executes one step: computes its key, takes a recorded layer or makes a new one.
#pragma once

#include <atomic>
#include <condition_variable>
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
#include "builder/contexts.h"
#include "builder/copy.h"
#include "builder/git.h"
#include "builder/key.h"
#include "builder/plan.h"
#include "builder/remote_files.h"

namespace lamina::builder {

namespace internal {
class EarlyPush;
class RunMounts;
}

// What a step came to.
struct Outcome {
  StepRecord record;
  std::string key;
  bool cached = false;
  bool fresh = false;  // no record had this key before: no step on top of it can have one
  std::string why;  // of a miss: the inputs that differ
  bool as_placed = true;  // the layer holds what steps on top were told while it was written
};

// Any thread; steps may run at the same time when all that they need is done.
class Executor {
 public:
  struct Environment {
    layers::Store& store;
    const Plan& plan;
    const BuildRequest& request;
    BuildSources& sources;
    ThreadPool& pool;             // short compute tasks
    std::function<void(int step, OutputStream, std::string_view)> output;
    std::function<void(int step, const std::string& what, uint64_t done, uint64_t total)> progress;
    std::function<void(const std::string&)> warning;
    std::stop_token stop;
    std::optional<layers::CompressionOptions> compression;  // of the layers, when an output will want them compressed
    internal::EarlyPush* early_push = nullptr;              // gets a blob's bytes while it is made
  };
  explicit Executor(Environment environment);

  // The outcomes of the step's parent and of the stages it needs must be known. A step that can_begin named needs no
  // outcome of its parent to begin with; it waits for it before it ends.
  Result<Outcome> execute(const Step& step);
  // Makes an outcome known to later steps, and to those that wait for it.
  void finished(int step, Outcome outcome);
  // Called, on the thread that executes the parent, for each COPY that can begin while its parent is still being written.
  // To be set before anything is executed.
  void when_step_can_begin(std::function<void(const Step& step)> can_begin) { can_begin_ = std::move(can_begin); }

  // Layers of a stage, bottom first, all of whose steps are finished (else kInternal).
  Result<std::vector<layers::LayerId>> layers_of_stage(int stage) const;
  // One layer that does to the stage's base image what its steps' layers do together; empty when they do nothing.
  Result<layers::LayerId> squash_stage(int stage);
  std::optional<Outcome> outcome(int step) const;

 private:
  Result<std::vector<layers::LayerId>> layers_below(const Step& step) const;
  // What a step on top of this one, or one that reads this one's files, has as its "parent" input.
  std::string chain_key(int step) const;
  // What a step stands on: layers and, on top, what is known of those that are being written.
  struct Below {
    std::vector<layers::LayerId> stack;
    std::vector<std::shared_ptr<const layers::Listing>> placed;
  };
  // Of the stage's steps before `end`. kInternal where neither is known.
  Result<Below> below(int stage, int end) const;
  Result<std::vector<layers::LayerId>> finished_layers(int stage, int end) const;
  std::string key_below(const Step& step) const;
  std::string key_of_stage(int stage) const;
  std::string key_of_source(const SourceRef& from) const;
  Result<std::vector<std::string>> snapshots(const std::vector<layers::LayerId>& stack, int stage);
  // Of a stage or an image.
  Result<std::vector<layers::LayerId>> layers_of_source(const SourceRef& from) const;
  Result<std::vector<std::string>> snapshots_of_source(const SourceRef& from);
  static std::string name_of_source(const SourceRef& from);
  // For placing: of the topmost layers a listing serves where one is at hand.
  Result<std::shared_ptr<layers::RootfsView>> view_below(const Step& step);
  Result<std::shared_ptr<const layers::Listing>> listing_of(const layers::LayerId& layer);
  // False, and a snapshot is made when one is needed, where too much would be held.
  bool keep_listing(const layers::LayerId& layer, std::shared_ptr<const layers::Listing> listing);
  // Reads files of that view, from snapshots where it does not hold them.
  ReadText reader_below(const Step& step, std::shared_ptr<layers::RootfsView> view);
  Result<std::shared_ptr<const SourceTree>> tree_of(const SourceRef& from);
  // Of a stage or an image, from its snapshots.
  static Result<std::shared_ptr<const SourceTree>> tree_of_snapshots(const std::vector<std::string>& directories, const SourceRef& from);
  void find_uses();
  bool in_target(const Step& step) const;
  bool compressed_at_once(const Step& step) const;

  Timestamp creation_time() const;  // of what nobody else gives a time
  KeyInputs common_inputs(const Step& step, const char* instruction) const;
  std::optional<Outcome> recorded(const Step& step, const KeyInputs& inputs);
  // As the newest of what is `named` so; the step's identity when it is nothing.
  Result<Outcome> record(const Step& step, const KeyInputs& inputs, layers::LayerId layer, std::optional<std::string> named = {});
  Result<bool> same_files(const layers::LayerId& a, const layers::LayerId& b);
  Result<layers::LayerId> add_layer(const Step& step, layers::EntrySource& entries, const std::vector<int>& followers = {});
  Result<layers::LayerId> add_unseen_layer(const Step& step, layers::EntrySource& entries);
  bool record_is_likely(const Step& step);

  bool lenient_owners() const;  // --compat unknown-owner
  Result<Outcome> execute_body(const Step& step, const RunStep& run);
  Result<Outcome> execute_body(const Step& step, const CopyStep& copy);
  Result<Outcome> execute_body(const Step& step, const WorkdirStep& workdir);

  Result<Outcome> execute_run(const Step& step, const RunStep& run);
  Result<KeyInputs> run_inputs(const Step& step, const RunStep& run);
  Result<void> add_mount_inputs(const Step& step, const RunStep& run, KeyInputs& inputs);
  Result<Selection> add_mounted_files(const Step& step, const PlannedMount& planned, std::shared_ptr<const SourceTree> tree, KeyInputs& inputs);
  Result<void> add_mounts(const Step& step, const RunStep& run, internal::RunMounts& set);
  Result<layers::LayerId> run_command(const Step& step, const RunStep& run);
  // COPY and ADD.
  // A source of the network after its server was asked, before its bytes are here.
  struct RemotePart {
    size_t order = 0;  // index in CopyStep::sources
    std::variant<RemoteFile, GitRevision> found;
  };
  Result<KeyInputs> copy_inputs(const Step& step, const CopyStep& copy);
  Result<Selection> select(const Step& step, const CopyStep& copy);
  Result<Outcome> select_and_place(const Step& step, const CopyStep& copy, KeyInputs inputs);
  Result<Outcome> execute_copy(const Step& step, const CopyStep& copy, std::vector<RemotePart>& remotes, Selection& selection, KeyInputs inputs);
  Result<layers::LayerId> copy_files(const Step& step, const CopyStep& copy, std::vector<RemotePart>& remotes, Selection& selection, bool fresh);
  Result<Outcome> record_copy(const Step& step, const Selection& selection, KeyInputs inputs, layers::LayerId layer);
  Result<void> watch(const Step& step, Selection& selection);
  struct Placed {
    Selection selection;
    layers::LayerId layer;
  };
  // Of a COPY whose record is not looked for by content before. The selection's warnings are not told.
  Result<Placed> select_and_copy(const Step& step, const CopyStep& copy);

  // What is read of stages and images: executor_from.cc.
  using Named = std::function<std::string(const SourceRef& from)>;
  using Trees = std::vector<std::shared_ptr<const SourceTree>>;
  struct Reading {
    std::vector<SourceRef> sources;
    std::function<void(const Named& named, KeyInputs& all)> add_names;               // what is said of them, and how each is named
    std::function<Result<void>(const Trees& trees, KeyInputs& all)> add_files;  // what a tree of each holds
  };
  // Borrow the step. Without sources where only contexts are read.
  Reading reading_of(const Step& step, const CopyStep& copy);
  Reading reading_of(const Step& step, const RunStep& run);
  Result<KeyInputs> by_definition(const Reading& reading, const KeyInputs& inputs);
  Result<std::string> any_content(const Step& step, const Reading& reading, const KeyInputs& inputs);
  Result<void> put_by_definition(const Step& step, const KeyInputs& definition, Outcome& outcome);
  bool was_recorded(const Step& step);
  Result<Outcome> copy_from_layers(const Step& step, const CopyStep& copy, const Reading& reading, KeyInputs inputs);
  Result<Outcome> record_undigested(const Step& step, const Reading& reading, const KeyInputs& definition, const std::string& any, layers::LayerId layer);
  Result<bool> digest_earlier(const Step& step, const Reading& reading, const KeyInputs& inputs, const std::string& any);
  Result<std::shared_ptr<const SourceTree>> earlier_tree(const SourceRef& from, const std::vector<layers::LayerId>& layers);

  // A COPY on top of a layer that is being written: executor_early.cc.
  std::vector<int> followers(const Step& step, bool fresh);
  void placed(const Step& step, std::shared_ptr<const layers::Listing> listing, const std::vector<int>& followers);
  Result<void> wait_for(int step);
  Result<std::optional<Outcome>> execute_early(const Step& step, const CopyStep& copy);

  // What ADD fetches: executor_add.cc.
  Result<std::vector<RemotePart>> look_up_remotes(const Step& step, const CopyStep& copy);
  void add_remote_inputs(const CopyStep& copy, const std::vector<RemotePart>& parts, KeyInputs& inputs) const;
  // Adds them to the selection; the files of git sources live as long as the result.
  Result<std::vector<GitCheckout>> fetch_remotes(const Step& step, const CopyStep& copy, std::vector<RemotePart>& parts, Selection& selection);
  static Result<SelectedSource> select_file(const std::string& url, const RemoteFile& file, const std::string& path, const std::vector<std::string>& excludes);
  bool commit_times(const GitSource& source) const;
  RemoteFiles::Progress progress_of(const Step& step, const parser::Word& source) const;

  Environment env_;
  RecordBook records_;
  Sandboxes sandboxes_;
  std::atomic<int> commands_ahead_ = 0;  // RUN steps that nobody has begun with
  // By step.
  struct Known {
    std::map<int, Outcome> outcomes;
    std::map<int, std::shared_ptr<const layers::Listing>> placed;  // of layers that are being written
  };
  mutable Guarded<Known> known_;
  std::condition_variable outcome_known_;
  std::function<void(const Step& step)> can_begin_;
  // By step: who works with what it leaves behind.
  std::vector<bool> files_needed_;  // its files are read or mounted
  std::vector<bool> placed_upon_;   // a COPY or WORKDIR has to know what is there
  Guarded<std::map<layers::LayerId, std::shared_ptr<const layers::Listing>>> listings_;  // null: there is none
};

}  // namespace lamina::builder
