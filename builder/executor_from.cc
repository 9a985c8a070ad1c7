// COPY from a stage or an image. What it copies is known without being read, by the key of the stage; digests are of use only
// when that stage was executed anew and may have come to the same files. So they are not taken before: what was copied then
// is still in the store, and is digested beside what there is now.
#include "base/trace.h"
#include "builder/executor.h"

namespace lamina::builder {

namespace {
std::string name_by_definition(const Step& step) { return step.identity + "\nby definition"; }
}  // namespace

// Nothing when the source is a context.
Result<std::optional<Executor::ByDefinition>> Executor::by_definition(const CopyStep& copy, const KeyInputs& inputs) {
  const std::string source_key = key_of_source(copy.from);
  if (source_key.empty()) return std::optional<ByDefinition>();
  const auto with = [&](const std::string& from) -> Result<KeyInputs> {
    ASSIGN_OR_RETURN(KeyInputs all, inputs.fork());
    all.add("from", from);
    for (const parser::Word& source : copy.sources) all.add("path", source.text);
    for (const auto& [name, content] : copy.inline_files) all.add("heredoc:" + name, sha256_hex(content));
    return all;
  };
  ASSIGN_OR_RETURN(KeyInputs definition, with(source_key));
  ASSIGN_OR_RETURN(const KeyInputs any_content, with("any " + name_of_source(copy.from)));
  ASSIGN_OR_RETURN(std::string key, any_content.key());
  return std::optional(ByDefinition{std::move(definition), std::move(key)});
}

// Whether the step was recorded here, so that its files may not be needed at all.
bool Executor::was_recorded(const Step& step) { return records_.knows(step.identity) || records_.knows(name_by_definition(step)); }

Result<Outcome> Executor::copy_from_layers(const Step& step, const CopyStep& copy, KeyInputs inputs, const ByDefinition& known) {
  if (env_.request.strict) RETURN_IF_ERROR(select(step, copy));  // for what it makes an error
  if (auto hit = recorded(step, known.inputs)) return std::move(*hit);
  ASSIGN_OR_RETURN(const bool by_content, digest_earlier(step, copy, inputs, known));
  if (!by_content) return copy_undigested(step, copy, known);
  ASSIGN_OR_RETURN(Outcome outcome, select_and_place(step, copy, std::move(inputs)));
  RETURN_IF_ERROR(records_.put(known.inputs, outcome.record, name_by_definition(step)));
  return outcome;
}

Result<Outcome> Executor::copy_undigested(const Step& step, const CopyStep& copy, const ByDefinition& known) {
  ASSIGN_OR_RETURN(Selection selection, select(step, copy));
  for (const std::string& warning : selection.warnings) env_.warning(warning);
  std::vector<RemotePart> no_remotes;  // ADD has them
  ASSIGN_OR_RETURN(layers::LayerId layer, copy_files(step, copy, no_remotes, selection, !step.no_cache));
  return record_undigested(step, copy, known, std::move(layer));
}

Result<Outcome> Executor::record_undigested(const Step& step, const CopyStep& copy, const ByDefinition& known, layers::LayerId layer) {
  if (auto hit = recorded(step, known.inputs)) return std::move(*hit);
  ASSIGN_OR_RETURN(Outcome outcome, record(step, known.inputs, std::move(layer), name_by_definition(step)));
  ASSIGN_OR_RETURN(std::string key, known.inputs.key());
  ASSIGN_OR_RETURN(std::vector<layers::LayerId> source, layers_of_source(copy.from));
  RETURN_IF_ERROR(records_.put_undigested(known.any_content, {std::move(key), std::move(source)}));
  return outcome;
}

// Whether there may be a record by content. What was copied undigested gets one now, if its files are still there.
Result<bool> Executor::digest_earlier(const Step& step, const CopyStep& copy, const KeyInputs& inputs, const ByDefinition& known) {
  if (step.no_cache) return false;
  const std::optional<Undigested> earlier = records_.undigested(known.any_content);
  if (!earlier || earlier->record_key.empty()) return earlier.has_value();
  const TraceSpan span("copy", "digest what was copied before");
  const std::optional<StepRecord> record = records_.find(earlier->record_key);
  if (!record) return false;
  ASSIGN_OR_RETURN(KeyInputs by_content, inputs.fork());
  // What cannot be read any more only costs the hit.
  if (const auto added = add_earlier_files(step, copy, earlier->source, by_content); !added) {
    return added.error().kind() == ErrorKind::kCancelled ? Result<bool>(added.error()) : false;
  }
  RETURN_IF_ERROR(records_.put(by_content, *record, step.identity));
  RETURN_IF_ERROR(records_.put_undigested(known.any_content, {}));
  return true;
}

Result<void> Executor::add_earlier_files(const Step& step, const CopyStep& copy, const std::vector<layers::LayerId>& source, KeyInputs& inputs) {
  for (const layers::LayerId& layer : source) {
    if (!env_.store.layer_info(layer)) return Error(ErrorKind::kNotFound, "a layer is no longer in the store");
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, env_.store.snapshots(source, env_.pool, nullptr));
  ASSIGN_OR_RETURN(std::shared_ptr<layers::RootfsView> view, layers::RootfsView::open(directories));
  const auto tree = tree_of_view(std::move(view), name_of_source(copy.from));
  ASSIGN_OR_RETURN(const Selection selection, select_sources(copy, step, tree, env_.pool, env_.store.temporary_files()));
  RETURN_IF_ERROR(digest_selection(selection, env_.pool));
  return add_selection_inputs(selection, inputs);
}

}  // namespace lamina::builder
