#include "builder/executor.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "base/trace.h"
#include "builder/internal/early_push.h"
#include "builder/internal/squash.h"

namespace lamina::builder {

Executor::Executor(Environment environment) : env_(std::move(environment)), records_(env_.store) {
  for (const Step& step : env_.plan.steps) commands_ahead_ += std::holds_alternative<RunStep>(step.body) ? 1 : 0;
  find_uses();
}

Result<Outcome> Executor::execute(const Step& step) {
  return std::visit([&](const auto& body) { return execute_body(step, body); }, step.body);
}

void Executor::finished(int step, Outcome outcome) {
  {
    auto known = known_.lock();
    known->outcomes.insert_or_assign(step, std::move(outcome));
    known->placed.erase(step);
  }
  outcome_known_.notify_all();
}

std::optional<Outcome> Executor::outcome(int step) const {
  auto known = known_.lock();
  const auto it = known->outcomes.find(step);
  return it == known->outcomes.end() ? std::nullopt : std::optional(it->second);
}

// Layers that are left out silently would make a wrong image.
Result<Executor::Below> Executor::below(int stage, int end) const {
  Below out;
  if (const ResolvedImage* base = env_.plan.base_of(stage)) out.stack = base->layers;
  auto known = known_.lock();
  for (const int id : env_.plan.chain(stage)) {
    if (id == end) break;
    if (const auto it = known->outcomes.find(id); it != known->outcomes.end()) {
      if (!it->second.record.layer.empty()) out.stack.push_back(it->second.record.layer);
    } else if (const auto placed = known->placed.find(id); placed != known->placed.end()) {
      out.placed.push_back(placed->second);
    } else {
      return Error(ErrorKind::kInternal, "a step begins before what it stands on is known");
    }
  }
  return out;
}

Result<std::vector<layers::LayerId>> Executor::finished_layers(int stage, int end) const {
  ASSIGN_OR_RETURN(Below all, below(stage, end));
  if (!all.placed.empty()) return Error(ErrorKind::kInternal, "a step begins before what it reads is there");
  return std::move(all.stack);
}

Result<std::vector<layers::LayerId>> Executor::layers_of_stage(int stage) const { return finished_layers(stage, -1); }

Result<std::vector<layers::LayerId>> Executor::layers_below(const Step& step) const { return finished_layers(step.stage, step.id); }

namespace {
std::string key_of_image(const ResolvedImage* image) {
  return image == nullptr ? "scratch" : "chain:" + oci::chain_id(image->config.diff_ids);
}
}  // namespace

std::string Executor::chain_key(int id) const {
  const Step& step = env_.plan.steps[static_cast<size_t>(id)];
  const std::string own = outcome(id).value_or(Outcome{}).key;
  return step.independent ? sha256_hex("linked\n" + key_below(step) + "\n" + own) : own;
}

std::string Executor::key_below(const Step& step) const {
  if (step.parent >= 0) return chain_key(step.parent);
  return key_of_image(env_.plan.base_of(step.stage));
}

std::string Executor::key_of_stage(int stage) const {
  const std::vector<int> chain = env_.plan.chain(stage);
  if (!chain.empty()) return chain_key(chain.back());
  return key_of_image(env_.plan.base_of(stage));
}

std::string Executor::key_of_source(const SourceRef& from) const {
  switch (from.kind) {
    case SourceRef::Kind::kStage: return key_of_stage(from.stage);
    case SourceRef::Kind::kImage: return key_of_image(&env_.plan.images[static_cast<size_t>(from.image)]);
    case SourceRef::Kind::kScratch: return "scratch";
    default: return {};  // contexts are keyed by content
  }
}

// Fetches and unpacks what is missing; `stage` says whose base image the stack stands on.
Result<std::vector<std::string>> Executor::snapshots(const std::vector<layers::LayerId>& stack, int stage) {
  const TraceSpan span("layers", "snapshots");
  const ResolvedImage* base = env_.plan.base_of(stage);
  return env_.store.snapshots(stack, env_.pool, base == nullptr ? nullptr : base->remote.get());
}

Result<std::vector<std::string>> Executor::snapshots_of_source(const SourceRef& from, int) {
  if (from.kind == SourceRef::Kind::kStage) {
    ASSIGN_OR_RETURN(const std::vector<layers::LayerId> stack, layers_of_stage(from.stage));
    return snapshots(stack, from.stage);
  }
  if (from.kind == SourceRef::Kind::kImage) {
    const ResolvedImage& image = env_.plan.images[static_cast<size_t>(from.image)];
    return env_.store.snapshots(image.layers, env_.pool, image.remote.get());
  }
  return std::vector<std::string>();
}

Result<std::shared_ptr<layers::RootfsView>> Executor::view_below(const Step& step) {
  ASSIGN_OR_RETURN(Below known, below(step.stage, step.id));
  auto& [stack, listings] = known;
  const ResolvedImage* base = env_.plan.base_of(step.stage);
  const size_t own = base == nullptr ? 0 : base->layers.size();
  // Where the files are needed later there are snapshots of them, or will be.
  while (!files_needed_[static_cast<size_t>(step.id)] && stack.size() > own) {
    ASSIGN_OR_RETURN(std::shared_ptr<const layers::Listing> listing, listing_of(stack.back()));
    if (!listing) break;
    listings.insert(listings.begin(), std::move(listing));
    stack.pop_back();
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, snapshots(stack, step.stage));
  return layers::RootfsView::open(directories, std::move(listings));
}

// Null when there is none.
Result<std::shared_ptr<const layers::Listing>> Executor::listing_of(const layers::LayerId& layer) {
  {
    auto known = listings_.lock();
    if (const auto it = known->find(layer); it != known->end()) return it->second;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const layers::Listing> listing, env_.store.listing(layer));
  return keep_listing(layer, listing) ? listing : nullptr;
}

bool Executor::keep_listing(const layers::LayerId& layer, std::shared_ptr<const layers::Listing> listing) {
  // A few hundred bytes each.
  constexpr size_t kEntriesInAll = 40'000;
  auto listings = listings_.lock();
  size_t held = listing ? listing->size() : 0;
  for (const auto& [id, other] : *listings) held += other ? other->size() : 0;
  if (held > kEntriesInAll) listing = nullptr;
  listings->insert_or_assign(layer, listing);
  return listing != nullptr;
}

ReadText Executor::reader_below(const Step& step, std::shared_ptr<layers::RootfsView> view) {
  return [this, &step, view = std::move(view)](const std::string& path) -> Result<std::optional<std::string>> {
    auto text = view->read_text(path);
    if (text || text.error().kind() != ErrorKind::kUnavailable) return text;
    if (step.parent >= 0) RETURN_IF_ERROR(wait_for(step.parent));
    ASSIGN_OR_RETURN(const std::vector<layers::LayerId> stack, layers_below(step));
    ASSIGN_OR_RETURN(const std::vector<std::string> directories, snapshots(stack, step.stage));
    ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> files, layers::RootfsView::open(directories));
    return files->read_text(path);
  };
}

Result<std::shared_ptr<const SourceTree>> Executor::tree_of(const SourceRef& from, int stage) {
  if (from.kind == SourceRef::Kind::kContext) return env_.sources.contexts.get("");
  if (from.kind == SourceRef::Kind::kNamedContext) return env_.sources.contexts.get(from.name);
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, snapshots_of_source(from, stage));
  ASSIGN_OR_RETURN(std::shared_ptr<layers::RootfsView> view, layers::RootfsView::open(directories));
  const std::string kind = from.kind == SourceRef::Kind::kStage ? "stage " : "image ";
  return tree_of_view(std::move(view), kind + from.name);
}

// A layer that no later step sees as files needs no snapshot (design: forms on demand). What is only placed upon is known
// by its listing.
void Executor::find_uses() {
  const std::vector<Step>& steps = env_.plan.steps;
  files_needed_.resize(steps.size());
  placed_upon_.resize(steps.size());
  const bool written_as_files = std::any_of(env_.request.outputs.begin(), env_.request.outputs.end(), [](const OutputSpec& output) {
    return output.type == OutputSpec::Type::kLocal || output.type == OutputSpec::Type::kTar;
  });
  if (const std::vector<int> target = env_.plan.chain(env_.plan.target); (env_.request.squash || written_as_files) && !target.empty()) {
    files_needed_[static_cast<size_t>(target.back())] = true;
  }
  // Every step comes after those it needs.
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    for (int stage : step->needs_stages) {
      if (const std::vector<int> chain = env_.plan.chain(stage); !chain.empty()) files_needed_[static_cast<size_t>(chain.back())] = true;
    }
    if (step->parent < 0) continue;
    const auto own = static_cast<size_t>(step->id), parent = static_cast<size_t>(step->parent);
    const bool command = std::holds_alternative<RunStep>(step->body);
    if (command || files_needed_[own]) files_needed_[parent] = true;
    if ((!command && !step->independent) || placed_upon_[own]) placed_upon_[parent] = true;
  }
}

KeyInputs Executor::common_inputs(const Step& step, const char* instruction) const {
  KeyInputs inputs(env_.store.temporary_files());
  inputs.add("instruction", instruction);
  if (!step.independent) {
    inputs.add(step.parent >= 0 ? "parent" : "base", key_below(step));
    // The stage's own: a stage for the build platform is executed once for all target platforms.
    inputs.add("platform", env_.plan.stages.at(step.stage).config.platform.text());
  }
  if (env_.request.source_date_epoch) inputs.add("SOURCE_DATE_EPOCH", std::to_string(*env_.request.source_date_epoch));
  if (env_.request.source_date_epoch && !latest_time(env_.request)) inputs.add("rewrite-timestamp", "false");
  return inputs;
}

std::optional<Outcome> Executor::recorded(const Step& step, const KeyInputs& inputs) {
  if (step.no_cache) return std::nullopt;
  const auto key = inputs.key();
  auto found = key ? records_.find(*key) : std::nullopt;  // record() says what is wrong with a key
  if (!found) return std::nullopt;
  std::string chain = found->chain;
  return Outcome{std::move(*found), std::move(chain), true, false, {}, false};
}

Result<Outcome> Executor::record(const Step& step, const KeyInputs& inputs, layers::LayerId layer) {
  Outcome outcome;
  ASSIGN_OR_RETURN(outcome.key, inputs.key());
  outcome.why = step.no_cache ? "the cache was not asked" : records_.explain_miss(inputs, step.identity);
  const Timestamp created = env_.request.source_date_epoch ? Timestamp{*env_.request.source_date_epoch, 0} : now();
  // Executed once more: steps on top may keep their records only if it came to the same files. What a command leaves
  // behind its key does not tell, so its chain is never the bare key: the record of the first execution may be gone
  // (prune) while those of steps on top are still there.
  const std::string own_chain = std::holds_alternative<RunStep>(step.body) && !layer.empty() ? sha256_hex(outcome.key + "\n" + layer.value) : outcome.key;
  if (const auto before = records_.last(outcome.key)) {
    ASSIGN_OR_RETURN(const bool same, before->layer == layer ? Result<bool>(true) : same_files(before->layer, layer));
    outcome.key = same ? before->chain : sha256_hex(outcome.key + "\n" + layer.value);
  } else {
    outcome.key = own_chain;
    outcome.fresh = true;
  }
  outcome.record = {std::move(layer), format_rfc3339(created), outcome.key};
  RETURN_IF_ERROR(records_.put(inputs, outcome.record, step.identity));
  return outcome;
}

Result<bool> Executor::same_files(const layers::LayerId& a, const layers::LayerId& b) {
  // With --no-cache the steps on top are executed anyway: not worth a digest on the way.
  if (a.empty() || b.empty() || env_.request.no_cache || !env_.store.layer_info(a)) return false;
  ASSIGN_OR_RETURN(const oci::DiffId before, env_.store.diff_id(a));
  ASSIGN_OR_RETURN(const oci::DiffId now, env_.store.diff_id(b));
  return before == now;
}

Result<layers::LayerId> Executor::squash_stage(int stage) {
  const TraceSpan span("layers", "squash");
  ASSIGN_OR_RETURN(const std::vector<layers::LayerId> all, layers_of_stage(stage));
  const ResolvedImage* base = env_.plan.base_of(stage);
  const size_t base_layers = base == nullptr ? 0 : base->layers.size();
  if (all.size() == base_layers) return layers::LayerId{};
  ASSIGN_OR_RETURN(const std::vector<std::string> own, env_.store.snapshots_from(base_layers, all, env_.pool, base == nullptr ? nullptr : base->remote.get()));
  std::vector<std::string> directories;
  if (base != nullptr) {
    ASSIGN_OR_RETURN(directories, env_.store.snapshots(base->layers, env_.pool, base->remote.get()));
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> view, layers::RootfsView::open(directories));
  ASSIGN_OR_RETURN(const std::unique_ptr<layers::EntrySource> entries, internal::squash(own, *view));
  ASSIGN_OR_RETURN(std::optional<layers::Entry> first, entries->next());
  if (!first) return layers::LayerId{};
  layers::ListedEntries squashed({*std::move(first)}, entries.get());
  return env_.store.add_entries(squashed, layers::SealOptions{latest_time(env_.request)}, layers::LayerForm::kTar, &env_.pool);
}

Result<layers::LayerId> Executor::add_layer(const Step& step, layers::EntrySource& entries, const std::vector<int>& followers) {
  const TraceSpan span("layers", "add " + step.title);
  const layers::SealOptions options{latest_time(env_.request)};
  const bool as_files = files_needed_[static_cast<size_t>(step.id)];
  const bool listed = !as_files && placed_upon_[static_cast<size_t>(step.id)];
  // The beginning tells whether there is anything at all, and whether a listing can hold it.
  layers::EntryList first;
  bool more = true;
  while (more && first.size() < (listed || !followers.empty() ? layers::Listing::kMaxEntries : 1)) {
    ASSIGN_OR_RETURN(std::optional<layers::Entry> entry, entries.next());
    more = entry.has_value();
    if (more) first.push_back(*std::move(entry));
  }
  if (first.empty()) return layers::LayerId{};
  const auto listing = !more ? layers::Listing::make(first) : nullptr;
  if (listing) placed(step, listing, followers);
  layers::ListedEntries all(std::move(first), &entries);
  if (as_files || (listed && !listing)) return env_.store.add_entries(all, options, layers::LayerForm::kSnapshot, &env_.pool);
  ASSIGN_OR_RETURN(layers::LayerId layer, add_unseen_layer(step, all));
  if (listing && listed) keep_listing(layer, listing);
  return layer;
}

Result<layers::LayerId> Executor::add_unseen_layer(const Step& step, layers::EntrySource& entries) {
  const layers::SealOptions options{latest_time(env_.request)};
  if (!compressed_at_once(step)) return env_.store.add_entries(entries, options, layers::LayerForm::kTar, &env_.pool);
  std::unique_ptr<registry::GrowingBlob> growing = env_.early_push == nullptr ? nullptr : env_.early_push->begin();
  ASSIGN_OR_RETURN(layers::LayerId layer, env_.store.add_entries_compressed(entries, options, *env_.compression, growing.get(), env_.pool));
  if (growing) env_.early_push->made(layer, std::move(growing));
  return layer;
}

// Compressed later, it would be read and written once more. Not for what a step sees as files, or ends up in another layer
// or image.
bool Executor::compressed_at_once(const Step& step) const {
  const bool in_one_pass = env_.compression && env_.compression->type != oci::Compression::kNone && !env_.compression->indexed;
  return in_one_pass && !env_.request.squash && !files_needed_[static_cast<size_t>(step.id)] && in_target(step);
}

bool Executor::in_target(const Step& step) const {
  const std::vector<int> chain = env_.plan.chain(env_.plan.target);
  return std::find(chain.begin(), chain.end(), step.id) != chain.end();
}

// --- WORKDIR --------------------------------------------------------------------------------------

namespace {
Error at_instruction(const Step& step, Error error) {
  if (!error.diagnostics().empty()) return error;
  Diagnostic d = diagnostic_at(step, error.message());
  return std::move(error).with_diagnostic(std::move(d));
}

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

Timestamp creation_time(const BuildRequest& request) {
  return request.source_date_epoch ? Timestamp{*request.source_date_epoch, 0} : now();
}
}  // namespace

Result<Outcome> Executor::execute_body(const Step& step, const WorkdirStep& workdir) {
  KeyInputs inputs = common_inputs(step, "WORKDIR");
  inputs.add("path", workdir.path);
  inputs.add("user", workdir.user);
  if (auto hit = recorded(step, inputs)) return std::move(*hit);
  ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> view, view_below(step));
  Placement placement;
  placement.created_time = creation_time(env_.request);
  auto entries = place_directory(workdir.path, placement, *view);
  if (!entries) return at_instruction(step, std::move(entries).error());
  if (entries->empty()) return record(step, inputs, layers::LayerId{});  // it exists: nobody's name matters
  auto user = resolve_user(workdir.user, reader_below(step, view));
  if (!user) return at_instruction(step, std::move(user).error());
  // A number without a group owns with that number as group, as BuildKit's WORKDIR does.
  const bool only_number = parse_uint(workdir.user).has_value();
  placement.owner = Owner{user->uid, only_number ? user->uid : user->gid};
  entries = place_directory(workdir.path, placement, *view);
  if (!entries) return at_instruction(step, std::move(entries).error());
  layers::ListedEntries listed(*std::move(entries));
  ASSIGN_OR_RETURN(layers::LayerId layer, add_layer(step, listed));
  return record(step, inputs, std::move(layer));
}

// --- COPY and ADD ---------------------------------------------------------------------------------

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

// Files of a stage whose own steps are known to be the same need not be read at all. Nothing for other sources.
Result<std::optional<KeyInputs>> Executor::inputs_by_definition(const CopyStep& copy, const KeyInputs& inputs) {
  const std::string source_key = key_of_source(copy.from);
  if (source_key.empty()) return std::optional<KeyInputs>();
  ASSIGN_OR_RETURN(KeyInputs by_definition, inputs.fork());
  by_definition.add("from", source_key);
  for (const parser::Word& source : copy.sources) by_definition.add("path", source.text);
  for (const auto& [name, content] : copy.inline_files) by_definition.add("heredoc:" + name, sha256_hex(content));
  return std::optional(std::move(by_definition));
}

Result<void> Executor::record_by_definition(const Step& step, const std::optional<KeyInputs>& inputs, const Outcome& outcome) {
  return inputs ? records_.put(*inputs, outcome.record, step.identity + "\nby definition") : Result<void>();
}

Result<Outcome> Executor::execute_body(const Step& step, const CopyStep& copy) {
  const bool early = !step.independent && step.parent >= 0 && !outcome(step.parent);
  if (early) {
    auto made = execute_early(step, copy);
    if (!made) return at_instruction(step, std::move(made).error());
    if (*made) return std::move(**made);
  }
  ASSIGN_OR_RETURN(KeyInputs inputs, copy_inputs(step, copy));
  ASSIGN_OR_RETURN(const std::optional<KeyInputs> by_definition, inputs_by_definition(copy, inputs));
  // With --strict the sources are looked at, for what it makes an error.
  if (by_definition && !env_.request.strict) {
    if (auto hit = recorded(step, *by_definition)) return std::move(*hit);
  }
  auto made = select_and_place(step, copy, std::move(inputs));
  if (!made) return at_instruction(step, std::move(made).error());
  RETURN_IF_ERROR(record_by_definition(step, by_definition, *made));
  if (early) made->as_placed = false;  // it is not what it was at first
  return std::move(*made);
}

Result<Selection> Executor::select(const Step& step, const CopyStep& copy) {
  std::shared_ptr<const SourceTree> tree;
  if (copy.remotes.size() < copy.sources.size()) {
    ASSIGN_OR_RETURN(tree, tree_of(copy.from, step.stage));
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

// `fresh`: no record of the step is expected.
Result<layers::LayerId> Executor::copy_files(const Step& step, const CopyStep& copy, std::vector<RemotePart>& remotes, Selection& selection, bool fresh) {
  // Into a snapshot the kernel copies long files.
  if (files_needed_[static_cast<size_t>(step.id)]) RETURN_IF_ERROR(digest_selection(selection, env_.pool, kCopyBufferSize));
  watch_reading(selection);
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
  placement.created_time = creation_time(env_.request);

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

// --- RUN -------------------------------------------------------------------------------------------

namespace {
// A part of a stage. Reading all of one could cost more than the RUN.
bool known_by_content(const PlannedMount& planned) {
  return planned.mount.type == parser::MountType::kBind && planned.from.kind == SourceRef::Kind::kStage && clean_path("/" + planned.mount.source) != "/";
}
}  // namespace

Result<Outcome> Executor::execute_body(const Step& step, const RunStep& run) {
  --commands_ahead_;
  KeyInputs inputs = common_inputs(step, "RUN");
  for (size_t i = 0; i < run.argv.size(); ++i) inputs.add_text(fmt::format("argv[{}]", i), run.argv[i]);
  if (run.script) inputs.add_text("script " + run.script->first, run.script->second);
  for (const auto& [name, value] : run.env) inputs.add_text("env." + name, value);
  inputs.add("working directory", run.working_dir);
  inputs.add("user", run.user);
  if (!run.hostname.empty()) inputs.add("host name", run.hostname);
  inputs.add("network", run.network == NetworkMode::kNone ? "none" : "host");
  if (run.insecure) inputs.add("security", "insecure");
  for (const auto& [name, address] : env_.request.extra_hosts) inputs.add("host " + name, "");
  for (const std::string& limit : env_.request.ulimits) inputs.add("ulimit", limit);
  if (env_.request.shm_size_bytes != BuildRequest().shm_size_bytes) inputs.add("size of /dev/shm", std::to_string(env_.request.shm_size_bytes));
  for (const PlannedDevice& device : run.devices) inputs.add("device " + device.name, join(device.edits.names, " "));

  // Mounted files of a stage whose own steps are known to be the same need not be read at all.
  const bool reads_stage = std::any_of(run.mounts.begin(), run.mounts.end(), known_by_content);
  KeyInputs by_definition;
  if (reads_stage) {
    ASSIGN_OR_RETURN(by_definition, inputs.fork());
    RETURN_IF_ERROR(add_mount_inputs(step, run, false, by_definition));
    if (auto hit = recorded(step, by_definition)) return std::move(*hit);
  }
  RETURN_IF_ERROR(add_mount_inputs(step, run, reads_stage, inputs));
  auto outcome = recorded(step, inputs);
  if (!outcome) {
    auto layer = run_command(step, run);
    if (!layer) return at_instruction(step, std::move(layer).error());
    ASSIGN_OR_RETURN(outcome, record(step, inputs, std::move(*layer)));
  }
  if (reads_stage) {
    RETURN_IF_ERROR(records_.put(by_definition, outcome->record, step.identity + "\nby definition"));
  }
  return std::move(*outcome);
}

// What a cache or secret holds is no input; what a cache starts with is. Files of a stage are known by its steps or,
// `by_content`, by their bytes.
Result<void> Executor::add_mount_inputs(const Step& step, const RunStep& run, bool by_content, KeyInputs& inputs) {
  int number = 0;
  for (const PlannedMount& planned : run.mounts) {
    const parser::Mount& m = planned.mount;
    const std::string prefix = fmt::format("mount[{}].", number++);
    inputs.add(prefix + "type", std::to_string(static_cast<int>(m.type)));
    inputs.add(prefix + "target", m.target);
    const bool cache = m.type == parser::MountType::kCache;
    inputs.add(prefix + "options", fmt::format("ro={} id={} env={} mode={} uid={} gid={} size={}", m.read_only, cache ? "" : m.id, m.env.value_or(""),
                                               m.mode.value_or(0), m.uid.value_or(0), m.gid.value_or(0), m.size_bytes.value_or(0)));
    if (m.type != parser::MountType::kBind && !(cache && !m.from.empty())) continue;
    inputs.add(prefix + "source", m.source);
    const std::string key = key_of_source(planned.from);
    if (!key.empty() && !(by_content && known_by_content(planned))) {
      inputs.add(prefix + "from", key);
      continue;
    }
    CopyStep everything;
    everything.from = planned.from;
    everything.sources.push_back(literal_path(m.source, step.instruction.range));
    ASSIGN_OR_RETURN(const std::shared_ptr<const SourceTree> tree, tree_of(planned.from, step.stage));
    ASSIGN_OR_RETURN(Selection selection, select_sources(everything, step, tree, env_.pool, env_.store.temporary_files()));
    RETURN_IF_ERROR(digest_selection(selection, env_.pool));
    RETURN_IF_ERROR(add_selection_inputs(selection, inputs));
    // A stage's directory is mounted as it is, with its own attributes; a context's files are laid out anew.
    if (!key.empty()) RETURN_IF_ERROR(add_root_inputs(selection, prefix, inputs));
  }
  return {};
}

}  // namespace lamina::builder
