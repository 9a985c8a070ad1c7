#include "builder/executor.h"

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

Result<std::vector<layers::LayerId>> Executor::layers_of_source(const SourceRef& from) const {
  if (from.kind == SourceRef::Kind::kStage) return layers_of_stage(from.stage);
  if (from.kind == SourceRef::Kind::kImage) return env_.plan.images[static_cast<size_t>(from.image)].layers;
  return std::vector<layers::LayerId>();
}

Result<std::vector<std::string>> Executor::snapshots_of_source(const SourceRef& from) {
  ASSIGN_OR_RETURN(const std::vector<layers::LayerId> stack, layers_of_source(from));
  if (from.kind == SourceRef::Kind::kStage) return snapshots(stack, from.stage);
  if (from.kind == SourceRef::Kind::kImage) return env_.store.snapshots(stack, env_.pool, env_.plan.images[static_cast<size_t>(from.image)].remote.get());
  return std::vector<std::string>();
}

std::string Executor::name_of_source(const SourceRef& from) {
  return (from.kind == SourceRef::Kind::kStage ? "stage " : "image ") + from.name;
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

Result<std::shared_ptr<const SourceTree>> Executor::tree_of(const SourceRef& from) {
  if (from.kind == SourceRef::Kind::kContext) return env_.sources.contexts.get("");
  if (from.kind == SourceRef::Kind::kNamedContext) return env_.sources.contexts.get(from.name);
  ASSIGN_OR_RETURN(const std::vector<std::string> directories, snapshots_of_source(from));
  return tree_of_snapshots(directories, from);
}

Result<std::shared_ptr<const SourceTree>> Executor::tree_of_snapshots(const std::vector<std::string>& directories, const SourceRef& from) {
  ASSIGN_OR_RETURN(std::shared_ptr<layers::RootfsView> view, layers::RootfsView::open(directories));
  return tree_of_view(std::move(view), name_of_source(from));
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

Timestamp Executor::creation_time() const {
  return env_.request.source_date_epoch ? Timestamp{*env_.request.source_date_epoch, 0} : now();
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

Result<Outcome> Executor::record(const Step& step, const KeyInputs& inputs, layers::LayerId layer, std::optional<std::string> named) {
  const std::string identity = std::move(named).value_or(step.identity);
  Outcome outcome;
  ASSIGN_OR_RETURN(outcome.key, inputs.key());
  outcome.why = step.no_cache ? "the cache was not asked" : records_.explain_miss(inputs, identity);
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
  outcome.record = {std::move(layer), format_rfc3339(creation_time()), outcome.key};
  RETURN_IF_ERROR(records_.put(inputs, outcome.record, identity));
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

Result<Outcome> Executor::execute_body(const Step& step, const WorkdirStep& workdir) {
  KeyInputs inputs = common_inputs(step, "WORKDIR");
  inputs.add("path", workdir.path);
  inputs.add("user", workdir.user);
  if (auto hit = recorded(step, inputs)) return std::move(*hit);
  ASSIGN_OR_RETURN(const std::shared_ptr<layers::RootfsView> view, view_below(step));
  Placement placement;
  placement.created_time = creation_time();
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

}  // namespace lamina::builder
