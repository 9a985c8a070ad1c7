// What a COPY takes from a stage or an image, and what a RUN mounts of a stage, is known without being read, by the key of the
// stage; digests are of use only when that stage was executed anew and may have come to the same files. So they are not
// taken before: what was read then is still in the store, and is digested beside what there is now.
#include "base/trace.h"
#include "builder/executor.h"

namespace lamina::builder {

namespace {
std::string name_by_definition(const Step& step) { return step.identity + "\nby definition"; }

// What cannot be read any more only costs the hit.
Result<bool> lost(const Error& error) { return error.kind() == ErrorKind::kCancelled ? Result<bool>(error) : false; }
}  // namespace

// `add` adds what is said of the sources, each under the name that it is given for it.
Result<std::optional<Executor::ByDefinition>> Executor::definition(const Step& step, const KeyInputs& inputs, const std::function<void(KeyInputs& all, const Named& named)>& add) {
  ASSIGN_OR_RETURN(KeyInputs own, inputs.fork());
  add(own, [this](const SourceRef& from) { return key_of_source(from); });
  ASSIGN_OR_RETURN(KeyInputs any, inputs.fork());
  any.add("read for", env_.plan.stages.at(step.stage).config.platform.text());  // a linked COPY's other inputs do not say it
  add(any, [](const SourceRef& from) { return "any " + name_of_source(from); });
  ASSIGN_OR_RETURN(std::string key, any.key());
  return std::optional(ByDefinition{std::move(own), std::move(key)});
}

// Nothing when the source is a context.
Result<std::optional<Executor::ByDefinition>> Executor::by_definition(const Step& step, const CopyStep& copy, const KeyInputs& inputs) {
  if (key_of_source(copy.from).empty()) return std::optional<ByDefinition>();
  return definition(step, inputs, [&](KeyInputs& all, const Named& named) {
    all.add("from", named(copy.from));
    for (const parser::Word& source : copy.sources) all.add("path", source.text);
    for (const auto& [name, content] : copy.inline_files) all.add("heredoc:" + name, sha256_hex(content));
  });
}

// Of a step that was looked for by content. The newest inputs by content may be older than the last execution.
Result<void> Executor::put_by_definition(const Step& step, const ByDefinition& known, Outcome& outcome) {
  if (!outcome.cached) outcome.why = records_.explain_reading(known.inputs, name_by_definition(step), outcome.why);
  return records_.put(known.inputs, outcome.record, name_by_definition(step));
}

// Whether the step was recorded here, so that its files may not be needed at all.
bool Executor::was_recorded(const Step& step) { return records_.knows(step.identity) || records_.knows(name_by_definition(step)); }

Result<Outcome> Executor::copy_from_layers(const Step& step, const CopyStep& copy, KeyInputs inputs, const ByDefinition& known) {
  if (env_.request.strict) RETURN_IF_ERROR(select(step, copy));  // for what it makes an error
  if (auto hit = recorded(step, known.inputs)) return std::move(*hit);
  ASSIGN_OR_RETURN(const bool by_content, digest_earlier(step, {copy.from}, inputs, known, [&](const Trees& trees, KeyInputs& all) -> Result<void> {
    ASSIGN_OR_RETURN(const Selection selection, select_sources(copy, step, trees.front(), env_.pool, env_.store.temporary_files()));
    RETURN_IF_ERROR(digest_selection(selection, env_.pool));
    return add_selection_inputs(selection, all);
  }));
  if (!by_content) return copy_undigested(step, copy, known);
  ASSIGN_OR_RETURN(Outcome outcome, select_and_place(step, copy, std::move(inputs)));
  RETURN_IF_ERROR(put_by_definition(step, known, outcome));
  return outcome;
}

Result<Outcome> Executor::copy_undigested(const Step& step, const CopyStep& copy, const ByDefinition& known) {
  ASSIGN_OR_RETURN(Selection selection, select(step, copy));
  for (const std::string& warning : selection.warnings) env_.warning(warning);
  std::vector<RemotePart> no_remotes;  // ADD has them
  ASSIGN_OR_RETURN(layers::LayerId layer, copy_files(step, copy, no_remotes, selection, !step.no_cache));
  return record_undigested(step, {copy.from}, known, std::move(layer));
}

Result<Outcome> Executor::record_undigested(const Step& step, const std::vector<SourceRef>& sources, const ByDefinition& known, layers::LayerId layer) {
  if (auto hit = recorded(step, known.inputs)) return std::move(*hit);
  ASSIGN_OR_RETURN(Outcome outcome, record(step, known.inputs, std::move(layer), name_by_definition(step)));
  Undigested note;
  ASSIGN_OR_RETURN(note.record_key, known.inputs.key());
  for (const SourceRef& from : sources) {
    ASSIGN_OR_RETURN(std::vector<layers::LayerId> layers, layers_of_source(from));
    note.sources.push_back(std::move(layers));
  }
  RETURN_IF_ERROR(records_.put_undigested(known.any_content, note));
  return outcome;
}

// Whether there may be a record by content. What was read undigested gets one now, if it is still there: `inputs` and what
// `add_files` adds, which is given the trees of the sources.
Result<bool> Executor::digest_earlier(const Step& step, const std::vector<SourceRef>& sources, const KeyInputs& inputs, const ByDefinition& known, const AddFiles& add_files) {
  if (step.no_cache) return false;
  const std::optional<Undigested> earlier = records_.undigested(known.any_content);
  if (!earlier || earlier->record_key.empty()) return earlier.has_value();
  const TraceSpan span("copy", "digest what was read before");
  const std::optional<StepRecord> record = records_.find(earlier->record_key);
  if (!record || earlier->sources.size() != sources.size()) return false;
  ASSIGN_OR_RETURN(KeyInputs by_content, inputs.fork());
  Trees trees;
  for (size_t i = 0; i < sources.size(); ++i) {
    const auto tree = earlier_tree(sources[i], earlier->sources[i]);
    if (!tree) return lost(tree.error());
    trees.push_back(*tree);
  }
  if (const auto added = add_files(trees, by_content); !added) return lost(added.error());
  RETURN_IF_ERROR(records_.put(by_content, *record, step.identity));
  RETURN_IF_ERROR(records_.put_undigested(known.any_content, {}));
  return true;
}

Result<std::shared_ptr<const SourceTree>> Executor::earlier_tree(const SourceRef& from, const std::vector<layers::LayerId>& layers) {
  for (const layers::LayerId& layer : layers) {
    if (!env_.store.layer_info(layer)) return Error(ErrorKind::kNotFound, "a layer is no longer in the store");
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, env_.store.snapshots(layers, env_.pool, nullptr));
  ASSIGN_OR_RETURN(std::shared_ptr<layers::RootfsView> view, layers::RootfsView::open(directories));
  return tree_of_view(std::move(view), name_of_source(from));
}

}  // namespace lamina::builder
