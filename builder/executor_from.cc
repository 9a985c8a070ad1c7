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

// The keys of the sources instead of their files.
Result<KeyInputs> Executor::by_definition(const Reading& reading, const KeyInputs& inputs) {
  ASSIGN_OR_RETURN(KeyInputs all, inputs.fork());
  reading.add_names([this](const SourceRef& from) { return key_of_source(from); }, all);
  return all;
}

// The key of the step, whatever its sources hold.
Result<std::string> Executor::any_content(const Step& step, const Reading& reading, const KeyInputs& inputs) {
  ASSIGN_OR_RETURN(KeyInputs all, inputs.fork());
  all.add("read for", env_.plan.stages.at(step.stage).config.platform.text());  // a linked COPY's other inputs do not say it
  reading.add_names([](const SourceRef& from) { return "any " + name_of_source(from); }, all);
  return all.key();
}

Executor::Reading Executor::reading_of(const Step& step, const CopyStep& copy) {
  if (key_of_source(copy.from).empty()) return {};
  Reading reading;
  reading.sources = {copy.from};
  reading.add_names = [&copy](const Named& named, KeyInputs& all) {
    all.add("from", named(copy.from));
    for (const parser::Word& source : copy.sources) all.add("path", source.text);
    for (const auto& [name, content] : copy.inline_files) all.add("heredoc:" + name, sha256_hex(content));
  };
  reading.add_files = [this, &step, &copy](const Trees& trees, KeyInputs& all) -> Result<void> {
    ASSIGN_OR_RETURN(const Selection selection, select_sources(copy, step, trees.front(), env_.pool, env_.store.temporary_files()));
    RETURN_IF_ERROR(digest_selection(selection, env_.pool));
    return add_selection_inputs(selection, all);
  };
  return reading;
}

// Of a step that was looked for by content. The newest inputs by content may be older than the last execution.
Result<void> Executor::put_by_definition(const Step& step, const KeyInputs& definition, Outcome& outcome) {
  if (!outcome.cached) outcome.why = records_.explain_reading(definition, name_by_definition(step), outcome.why);
  return records_.put(definition, outcome.record, name_by_definition(step));
}

// Whether the step was recorded here, so that its files may not be needed at all.
bool Executor::was_recorded(const Step& step) { return records_.knows(step.identity) || records_.knows(name_by_definition(step)); }

Result<Outcome> Executor::copy_from_layers(const Step& step, const CopyStep& copy, const Reading& reading, KeyInputs inputs) {
  if (env_.request.strict) RETURN_IF_ERROR(select(step, copy));  // for what it makes an error
  ASSIGN_OR_RETURN(const KeyInputs definition, by_definition(reading, inputs));
  if (auto hit = recorded(step, definition)) return std::move(*hit);
  ASSIGN_OR_RETURN(const std::string any, any_content(step, reading, inputs));
  ASSIGN_OR_RETURN(const bool by_content, digest_earlier(step, reading, inputs, any));
  if (!by_content) {
    ASSIGN_OR_RETURN(Placed made, select_and_copy(step, copy));
    for (const std::string& warning : made.selection.warnings) env_.warning(warning);
    return record_undigested(step, reading, definition, any, std::move(made.layer));
  }
  ASSIGN_OR_RETURN(Outcome outcome, select_and_place(step, copy, std::move(inputs)));
  RETURN_IF_ERROR(put_by_definition(step, definition, outcome));
  return outcome;
}

Result<Outcome> Executor::record_undigested(const Step& step, const Reading& reading, const KeyInputs& definition, const std::string& any, layers::LayerId layer) {
  if (auto hit = recorded(step, definition)) return std::move(*hit);
  ASSIGN_OR_RETURN(Outcome outcome, record(step, definition, std::move(layer), name_by_definition(step)));
  Undigested note;
  ASSIGN_OR_RETURN(note.record_key, definition.key());
  for (const SourceRef& from : reading.sources) {
    ASSIGN_OR_RETURN(note.sources.emplace_back(), layers_of_source(from));
  }
  RETURN_IF_ERROR(records_.put_undigested(any, note));
  return outcome;
}

// Whether there may be a record by content. What was read undigested gets one now, if it is still there.
Result<bool> Executor::digest_earlier(const Step& step, const Reading& reading, const KeyInputs& inputs, const std::string& any) {
  if (step.no_cache) return false;
  const std::optional<Undigested> earlier = records_.undigested(any);
  if (!earlier || earlier->record_key.empty()) return earlier.has_value();
  const TraceSpan span("copy", "digest what was read before");
  const std::optional<StepRecord> record = records_.find(earlier->record_key);
  if (!record || earlier->sources.size() != reading.sources.size()) return false;
  ASSIGN_OR_RETURN(KeyInputs by_content, inputs.fork());
  Trees trees;
  for (size_t i = 0; i < reading.sources.size(); ++i) {
    const auto tree = earlier_tree(reading.sources[i], earlier->sources[i]);
    if (!tree) return lost(tree.error());
    trees.push_back(*tree);
  }
  if (const auto added = reading.add_files(trees, by_content); !added) return lost(added.error());
  RETURN_IF_ERROR(records_.put(by_content, *record, step.identity));
  RETURN_IF_ERROR(records_.put_undigested(any, {}));
  return true;
}

Result<std::shared_ptr<const SourceTree>> Executor::earlier_tree(const SourceRef& from, const std::vector<layers::LayerId>& layers) {
  for (const layers::LayerId& layer : layers) {
    if (!env_.store.layer_info(layer)) return Error(ErrorKind::kNotFound, "a layer is no longer in the store");
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, env_.store.snapshots(layers, env_.pool, nullptr));
  return tree_of_snapshots(directories, from);
}

}  // namespace lamina::builder
