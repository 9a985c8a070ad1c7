// COPY and ADD: what was selected decides the key, where it goes decides the layer.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "builder/executor.h"

namespace lamina::builder {

namespace {

// Points at a flag of the instruction.
Error at_flag(const Step& step, std::string_view name, Error error) {
  for (const parser::Flag& flag : step.instruction.flags) {
    if (flag.name != name || !step.text) continue;
    Diagnostic d;
    d.file = step.file;
    d.range = flag.value_range;
    d.line_text = std::string(line_of(*step.text, flag.value_range.line));
    d.message = error.message();
    return std::move(error).with_diagnostic(std::move(d));
  }
  return error;
}

}  // namespace

bool Executor::lenient_owners() const {
  return std::find(env_.request.compat.begin(), env_.request.compat.end(), "unknown-owner") != env_.request.compat.end();
}

Result<KeyInputs> Executor::copy_inputs(const Step& step, const CopyStep& copy) {
  KeyInputs inputs = common_inputs(step, copy.is_add ? "ADD" : "COPY");
  inputs.add("destination", copy.destination);
  inputs.add("chown", copy.chown);
  inputs.add("chmod", copy.chmod);
  inputs.add("options", fmt::format("link={} parents={} unpack={} if-exists={}", copy.link, copy.parents, copy.unpack, copy.if_exists));
  if (copy.unpack_remote) inputs.add("unpack", "remote files too");
  if (!copy.chown.empty() && lenient_owners()) inputs.add("compat", "unknown-owner");
  for (const std::string& exclude : copy.excludes) inputs.add("exclude", exclude);
  return inputs;
}

Result<Outcome> Executor::execute_body(const Step& step, const CopyStep& copy) {
  const bool early = !step.independent && step.parent >= 0 && !outcome(step.parent);
  if (early) {
    auto made = execute_early(step, copy);
    if (!made) return at_instruction(step, std::move(made).error());
    if (*made) return std::move(**made);
  }
  ASSIGN_OR_RETURN(KeyInputs inputs, copy_inputs(step, copy));
  const Reading reading = reading_of(step, copy);
  auto made = reading.sources.empty() ? select_and_place(step, copy, std::move(inputs)) : copy_from_layers(step, copy, reading, std::move(inputs));
  if (!made) return at_instruction(step, std::move(made).error());
  if (early) made->as_placed = false;  // it is not what it was at first
  return std::move(*made);
}

Result<Selection> Executor::select(const Step& step, const CopyStep& copy) {
  std::shared_ptr<const SourceTree> tree;
  if (copy.remotes.size() < copy.sources.size()) {
    ASSIGN_OR_RETURN(tree, tree_of(copy.from));
  }
  ASSIGN_OR_RETURN(Selection selection, select_sources(copy, step, tree, env_.pool, env_.store.temporary_files()));
  if (env_.request.strict && !selection.warnings.empty()) {
    return Error(ErrorKind::kNotFound, selection.warnings.front()).with_note("--strict makes this an error");
  }
  return selection;
}

Result<Outcome> Executor::select_and_place(const Step& step, const CopyStep& copy, KeyInputs inputs) {
  ASSIGN_OR_RETURN(std::vector<RemotePart> remotes, look_up_remotes(step, copy));
  add_remote_inputs(copy, remotes, inputs);
  ASSIGN_OR_RETURN(Selection selection, select(step, copy));
  for (const std::string& warning : selection.warnings) env_.warning(warning);
  return execute_copy(step, copy, remotes, selection, std::move(inputs));
}

// Whether an earlier build may have left a record of this step: if not, its key is not worth an extra reading.
bool Executor::record_is_likely(const Step& step) {
  if (step.no_cache) return false;
  if (!step.independent && step.parent >= 0 && outcome(step.parent).value_or(Outcome{}).fresh) return false;
  return records_.knows(step.identity);
}

// The key needs the content's digests and the layer needs its bytes. Where a record is likely the files are digested
// first; else they are read once, for both.
Result<Outcome> Executor::execute_copy(const Step& step, const CopyStep& copy, std::vector<RemotePart>& remotes, Selection& selection, KeyInputs inputs) {
  const bool digest_on_the_way = !copy.is_add && !record_is_likely(step);  // ADD may put an archive's files in a file's place
  bool fresh = !step.no_cache;
  if (!digest_on_the_way) {
    RETURN_IF_ERROR(digest_selection(selection, env_.pool));
    RETURN_IF_ERROR(add_selection_inputs(selection, inputs));
    if (auto hit = recorded(step, inputs)) return std::move(*hit);
    ASSIGN_OR_RETURN(const std::string key, inputs.key());
    fresh = !records_.last(key);
  }
  RETURN_IF_ERROR(watch(step, selection));
  ASSIGN_OR_RETURN(layers::LayerId layer, copy_files(step, copy, remotes, selection, fresh));
  if (digest_on_the_way) return record_copy(step, selection, std::move(inputs), std::move(layer));
  return record(step, inputs, std::move(layer));
}

// Of what was read on the way into the layer.
Result<Outcome> Executor::record_copy(const Step& step, const Selection& selection, KeyInputs inputs, layers::LayerId layer) {
  RETURN_IF_ERROR(digest_selection(selection, env_.pool));  // what did not get into the layer
  RETURN_IF_ERROR(add_selection_inputs(selection, inputs));
  if (auto hit = recorded(step, inputs)) return std::move(*hit);
  return record(step, inputs, std::move(layer));
}

// From now on digests are taken while the files are read for the layer; into a snapshot the kernel copies long ones.
Result<void> Executor::watch(const Step& step, Selection& selection) {
  if (files_needed_[static_cast<size_t>(step.id)]) RETURN_IF_ERROR(digest_selection(selection, env_.pool, kCopyBufferSize));
  watch_reading(selection);
  return {};
}

Result<Executor::Placed> Executor::select_and_copy(const Step& step, const CopyStep& copy) {
  Placed made;
  ASSIGN_OR_RETURN(made.selection, select(step, copy));
  if (key_of_source(copy.from).empty()) RETURN_IF_ERROR(watch(step, made.selection));
  std::vector<RemotePart> no_remotes;  // ADD has them
  ASSIGN_OR_RETURN(made.layer, copy_files(step, copy, no_remotes, made.selection, !step.no_cache));
  return made;
}

// `fresh`: no record of the step is expected.
Result<layers::LayerId> Executor::copy_files(const Step& step, const CopyStep& copy, std::vector<RemotePart>& remotes, Selection& selection, bool fresh) {
  ASSIGN_OR_RETURN(const std::vector<GitCheckout> checkouts, fetch_remotes(step, copy, remotes, selection));
  // COPY --link is made as if nothing were below.
  ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> view, step.independent ? layers::RootfsView::open({}) : view_below(step));
  Placement placement;
  placement.mode = copy.mode;
  if (!copy.chown.empty()) {
    auto owner = resolve_owner(copy.chown, reader_below(step, view), lenient_owners());
    if (!owner) return at_flag(step, "chown", std::move(owner).error());
    placement.owner = *owner;
  }
  placement.created_time = creation_time();

  // Archives are unpacked beside the layer; their files live until it is made.
  std::vector<layers::PendingLayer> unpacked;
  if ((copy.unpack || copy.unpack_remote) && copy.from.kind == SourceRef::Kind::kContext) {
    for (SelectedSource& source : selection.sources) {
      if (source.remote ? !copy.unpack_remote : !copy.unpack) continue;
      if (source.directory || source.inline_content) continue;
      ASSIGN_OR_RETURN(const SelectedFile file, source.files->front());
      if (file.info.type != EntryType::kFile) continue;
      const std::string path = source.files->path_of(file);
      ASSIGN_OR_RETURN(const bool archive, is_archive(*source.tree, path));
      if (!archive) continue;
      ASSIGN_OR_RETURN(layers::PendingLayer scratch, env_.store.begin_layer());
      ASSIGN_OR_RETURN(std::shared_ptr<const SourceTree> tree, unpack_archive(*source.tree, path, scratch.fs()));
      if (source.watch) {
        const auto opener = source.watch->opener_of(file, 0);
        ASSIGN_OR_RETURN(const UniqueFd again, opener->open_file(path));
        RETURN_IF_ERROR(opener->confirm(path, again.get(), std::nullopt));
      }
      ASSIGN_OR_RETURN(source, select_whole_tree(std::move(tree), source.named, env_.store.temporary_files()));
      source.archive = true;
      unpacked.push_back(std::move(scratch));
    }
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<layers::EntrySource> entries, place_sources(selection, copy, placement, *view));
  return add_layer(step, *entries, followers(step, fresh));
}

}  // namespace lamina::builder
