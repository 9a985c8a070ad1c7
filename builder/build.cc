#include "builder/build.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <set>
#include <thread>

#include "base/files.h"
#include "base/text.h"
#include "base/trace.h"
#include "builder/assemble.h"
#include "builder/checks.h"
#include "builder/contexts.h"
#include "builder/epoch.h"
#include "builder/internal/early_push.h"
#include "builder/internal/emulation.h"
#include "builder/internal/output_plan.h"
#include "builder/outputs.h"
#include "builder/scheduler.h"
#include "net/url.h"

namespace lamina::builder {

namespace {

// RUNs mostly wait for their commands, so more of them than cores go on at once.
constexpr unsigned kParallelSteps = 16;

// Whether --build-arg BUILDKIT_SYNTAX stands in the place of a # syntax line; it must name the language that we read.
Result<bool> names_frontend(const BuildRequest& request) {
  bool named = false;
  for (const auto& [name, value] : request.build_args) {
    if (name != "BUILDKIT_SYNTAX" || !value || value->empty()) continue;
    named = true;
    if (parser::is_builtin_frontend(*value)) continue;
    return Error(ErrorKind::kInvalidInput, fmt::format("the frontend {} of BUILDKIT_SYNTAX cannot be used", printable(*value)))
        .with_note("this program reads the language of docker/dockerfile itself and runs no other frontend");
  }
  return named;
}

struct LoadedDockerfile {
  parser::ParsedDockerfile parsed;
  std::string path;  // in the user's file system, or empty
};

Result<LoadedDockerfile> load_dockerfile(const BuildRequest& request, Contexts& contexts, EventHub& events) {
  VertexScope vertex(events, "[internal] load build definition from " + (request.dockerfile.empty() ? "Dockerfile" : printable(net::redacted(request.dockerfile))));
  ASSIGN_OR_RETURN(DockerfileText text, contexts.dockerfile());
  ASSIGN_OR_RETURN(const bool other_frontend, names_frontend(request));
  LoadedDockerfile loaded{parser::parse_dockerfile(text.shown, std::move(text.text), other_frontend), std::move(text.path)};
  vertex.done(parser::has_errors(loaded.parsed.diagnostics) ? VertexStatus::kFailed : VertexStatus::kDone);
  return loaded;
}

registry::ClientOptions client_options(const BuildRequest& request, EventHub& events, std::stop_token stop) {
  registry::ClientOptions options;
  options.auth_file = request.auth_file;
  options.insecure_registries = request.insecure_registries;
  options.stop = std::move(stop);
  options.on_warning = [&events](const std::string& text) { events.warning(text); };
  return options;
}

// Why a build that does not fit into the store was stopped; shared with the thread that watches.
struct SpaceTrouble {
  explicit SpaceTrouble(std::stop_source source) : stop(std::move(source)) {}
  std::stop_source stop;
  Guarded<std::optional<Error>> error;
};

// One build: the parts that live as long as it does.
class Build {
 public:
  Build(layers::Store& store, const BuildRequest& request, BuildEvents& listener, std::stop_token stop)
      : store_(store),
        request_(request),
        events_(listener),
        on_stop_(std::move(stop), [this] { stop_.request_stop(); }),
        client_(client_options(request, events_, stop_.get_token())),
        resolver_(store, client_, request.pull),
        sources_(store, request_, events_, stop_.get_token()),
        pool_(request.jobs != 0 ? request.jobs : std::max(2U, std::thread::hardware_concurrency())) {
    resolver_.on_lookup([this](const std::string& name) { lookups_.lock()->insert(name); });
  }

  Result<BuildResult> run();
  Result<std::string> describe();
  Result<CheckReport> check();
  Result<parser::Mended> mend(const CheckReport& report);
  Result<parser::Dockerfile> load_valid();

 private:
  Result<LoadedDockerfile> load();
  Result<void> pass_checks(const LoadedDockerfile& loaded, const oci::Platform& platform);
  oci::Platform first_platform() const { return request_.platforms.empty() ? oci::Platform::host() : request_.platforms.front(); }
  Result<Plan> plan(const LoadedDockerfile& loaded, const oci::Platform& platform);
  Result<oci::Image> build_platform(const Plan& plan, BuildResult& result);
  Result<std::vector<Plan>> plan_all(const LoadedDockerfile& loaded);
  Result<void> check_outputs();
  bool indexed() const;
  Result<void> execute(const Plan& plan, Executor& executor, BuildResult& result);
  Result<void> tag(const std::vector<PlatformImage>& images, BuildResult& result);
  Result<void> send_out(const std::vector<PlatformImage>& images, BuildResult& result);
  Result<oci::Descriptor> push_index(const std::vector<PlatformImage>& images, const internal::PushPlan& push);
  // Steps of the platform being built are announced in order, so that their ids follow each other.
  int vertex_of_step(const Step& step) const { return first_vertex_ + step.id; }
  std::optional<layers::CompressionOptions> early_compression() const;
  Result<void> limit_space();
  Error cancelled_or(Error error);

  layers::Store& store_;
  BuildRequest request_;
  EventHub events_;
  std::stop_source stop_;
  std::shared_ptr<SpaceTrouble> space_ = std::make_shared<SpaceTrouble>(stop_);
  std::stop_callback<std::function<void()>> on_stop_;
  Guarded<std::set<std::string>> lookups_;
  registry::Client client_;
  ImageResolver resolver_;
  BuildSources sources_;
  internal::OutputPlan outputs_;
  std::optional<internal::EarlyPush> early_push_;  // to the first repository that is pushed to
  std::set<std::string> told_;  // warnings of the checks
  int first_vertex_ = 0;
  ThreadPool pool_;
  // Digests and compression of finished layers, while later steps run. They wait for tasks of pool_, so
  // they have threads of their own.
  std::vector<std::future<void>> compressing_;
  ThreadPool background_{2, "compress"};
};

Result<void> Build::limit_space() {
  if (!request_.max_used_space) return {};
  const auto exceeded = [space = space_](Error error) {
    *space->error.lock() = std::move(error);
    space->stop.request_stop();
  };
  return store_.limit_space({*request_.max_used_space, layers_of_record, exceeded});
}

Error Build::cancelled_or(Error error) {
  if (error.kind() == ErrorKind::kCancelled) {
    if (auto trouble = space_->error.lock(); *trouble) return **trouble;
  }
  if (error.kind() == ErrorKind::kCancelled) return Error(ErrorKind::kCancelled, "interrupted");
  return error;
}

// Tells what the checks find; what was told for one platform is not told again for another. All errors of the file come
// at once; warnings are errors when the check options say so.
Result<void> Build::pass_checks(const LoadedDockerfile& loaded, const oci::Platform& platform) {
  const bool readable = !parser::has_errors(loaded.parsed.diagnostics);
  ASSIGN_OR_RETURN(CheckReport report, run_checks({loaded.parsed, request_, platform, store_, readable ? &sources_.contexts : nullptr, false}));
  std::set<std::string> rules;
  size_t errors = 0;
  for (Diagnostic& d : report.diagnostics) {
    if (d.severity == Severity::kError) {
      ++errors;
    } else if (report.warnings_are_errors) {
      if (!d.rule.empty()) rules.insert(d.rule);
      d.severity = Severity::kError;
    } else if (told_.insert(d.render()).second) {
      events_.diagnostic(d);
    }
  }
  if (errors == 0 && (!report.warnings_are_errors || report.diagnostics.empty())) return {};
  Error error(ErrorKind::kInvalidInput, errors == 0   ? "the Dockerfile does not pass its checks: " + join({rules.begin(), rules.end()}, ", ")
                                        : errors == 1 ? "the Dockerfile has an error"
                                                      : fmt::format("the Dockerfile has {} errors", errors));
  for (Diagnostic& d : report.diagnostics) {
    if (d.severity == Severity::kError) error = std::move(error).with_diagnostic(std::move(d));
  }
  return error;
}

Result<Plan> Build::plan(const LoadedDockerfile& loaded, const oci::Platform& platform) {
  const TraceSpan span("plan", "plan");
  auto made = make_plan(loaded.parsed.dockerfile, request_, platform, resolver_);
  for (const std::string& name : *lookups_.lock()) {
    VertexScope vertex(events_, "[internal] load metadata for " + name);
    if (made) vertex.done();
  }
  lookups_.lock()->clear();
  if (made) {
    for (const Diagnostic& d : made->warnings) events_.diagnostic(d);
  }
  // Now the store knows the base images. What the checks say of a plan that failed is still worth reading.
  auto passed = pass_checks(loaded, platform);
  if (made && !passed) return std::move(passed).error();
  return made;
}

Result<void> Build::execute(const Plan& plan, Executor& executor, BuildResult& result) {
  const std::vector<int> target_chain = plan.chain(plan.target);
  const std::set<int> in_target(target_chain.begin(), target_chain.end());
  SchedulerEvents events;
  events.started = [&](const Step& step) { events_.started(vertex_of_step(step)); };
  events.finished = [&](const Step& step, const Outcome& outcome) {
    ++result.steps;
    if (outcome.cached) ++result.cached;
    events_.finished(vertex_of_step(step), outcome.cached ? VertexStatus::kCached : VertexStatus::kDone, outcome.why);
    const layers::LayerId layer = outcome.record.layer;
    if (layer.empty() || request_.squash || !in_target.contains(step.id)) return;
    // What is known of a layer that was there is known; what is not is found out when the image is put together.
    if (outcome.cached && outputs_.compressions.empty()) return;
    compressing_.push_back(background_.submit([this, layer] {
      if (stop_.stop_requested()) return;
      const TraceSpan span("layers", "digest and compress " + layer.value);
      if (outputs_.compressions.empty()) {
        ignore_error(store_.diff_id(layer), "asked for again, and reported, when the image is put together");
        return;
      }
      // Gives the digest too.
      for (const layers::CompressionOptions& options : outputs_.compressions) {
        const auto blob = store_.blob(layer, options, pool_);
        if (blob && early_push_ && options == outputs_.pushes.front().compression) early_push_->send(layer, blob->descriptor);
      }
    }));
  };
  events.failed = [&](const Step& step, const Error& error) {
    events_.finished(vertex_of_step(step), error.kind() == ErrorKind::kCancelled ? VertexStatus::kCancelled : VertexStatus::kFailed, error.message());
  };
  events.cancelled = [&](const Step& step) { events_.finished(vertex_of_step(step), VertexStatus::kCancelled); };
  return run_plan(plan, executor, {kParallelSteps, pool_.size() - 1}, stop_, events);
}

// Several platforms, or one and BUILDKIT_MULTI_PLATFORM=1, make an index.
bool Build::indexed() const {
  if (request_.platforms.size() > 1) return true;
  return std::any_of(request_.build_args.begin(), request_.build_args.end(), [](const auto& arg) {
    return arg.first == "BUILDKIT_MULTI_PLATFORM" && arg.second && (*arg.second == "1" || to_lower(*arg.second) == "true");
  });
}

// What a layer is compressed to while it is made; the other kinds are made from that.
std::optional<layers::CompressionOptions> Build::early_compression() const {
  if (early_push_) return outputs_.pushes.front().compression;
  return outputs_.compressions.empty() ? std::nullopt : std::optional(outputs_.compressions.front());
}

// What would fail at the end is said at the beginning.
Result<void> Build::check_outputs() {
  ASSIGN_OR_RETURN(outputs_, internal::plan_outputs(request_, indexed()));
  request_.rewrite_timestamp = outputs_.rewrite_timestamp;
  RETURN_IF_ERROR(internal::check_destinations(request_));
  for (const internal::WritePlan& write : outputs_.writes) {
    const bool loads = write.output->type == OutputSpec::Type::kDocker && write.output->dest.empty();
    if (loads) RETURN_IF_ERROR(find_daemon(*write.output, stop_.get_token()));
  }
  return {};
}

// All of them before anything is executed: errors of any platform, and a missing emulator, are found here.
Result<std::vector<Plan>> Build::plan_all(const LoadedDockerfile& loaded) {
  std::vector<Plan> plans;
  for (const oci::Platform& platform : request_.platforms.empty() ? std::vector{oci::Platform::host()} : request_.platforms) {
    ASSIGN_OR_RETURN(Plan made, plan(loaded, platform));
    RETURN_IF_ERROR(internal::check_emulation(store_, made, stop_.get_token()));
    plans.push_back(std::move(made));
  }
  return plans;
}

Result<oci::Image> Build::build_platform(const Plan& made, BuildResult& result) {
  first_vertex_ = 0;
  for (const Step& step : made.steps) {
    const int id = events_.announce(step.title, made.stages.at(step.stage).name);
    if (first_vertex_ == 0) first_vertex_ = id;
  }
  Executor executor({store_, made, request_, sources_, pool_,
                     [this](int step, OutputStream stream, std::string_view bytes) { events_.output(first_vertex_ + step, stream, bytes); },
                     [this](int step, const std::string& what, uint64_t done, uint64_t total) { events_.progress(first_vertex_ + step, what, done, total); },
                     [this](const std::string& text) { events_.warning(text); }, stop_.get_token(),
                     early_compression(), early_push_ ? &*early_push_ : nullptr});
  RETURN_IF_ERROR(execute(made, executor, result));
  VertexScope vertex(events_, "exporting to image");
  std::optional<layers::LayerId> squashed;
  if (request_.squash) {
    ASSIGN_OR_RETURN_WITH(squashed, executor.squash_stage(made.target), "squashing the layers");
  }
  ASSIGN_OR_RETURN(oci::Image image, assemble_image(store_, made, executor, request_, squashed));
  result.images.push_back({made.platform, image.descriptor, image.manifest.config.digest});
  vertex.done();
  return image;
}

Result<void> Build::tag(const std::vector<PlatformImage>& images, BuildResult& result) {
  oci::Descriptor top = images.front().image.descriptor;
  result.image_id = images.front().image.manifest.config.digest;
  if (indexed()) {
    const registry::ExportIndex index = make_index(images, request_, false);
    top = index.descriptor;
    RETURN_IF_ERROR(oci::put_blob(store_, top, index.json));
    result.image_id = top.digest;
    result.index = top;
  }
  for (const oci::Reference& name : outputs_.tags) {
    RETURN_IF_ERROR(store_.set_image(name.canonical(), top));
    result.tagged.push_back(name);
  }
  return {};
}

Result<oci::Descriptor> Build::push_index(const std::vector<PlatformImage>& images, const internal::PushPlan& push) {
  std::vector<PlatformImage> sent;
  std::set<std::string> repositories;
  for (const PlatformImage& member : images) {
    ASSIGN_OR_RETURN(oci::Image compressed, compress_image(store_, member.image, push.compression, pool_));
    if (push.docker_types) {
      ASSIGN_OR_RETURN(compressed, with_docker_types(store_, compressed));
    }
    std::vector<oci::Reference> by_digest;
    for (const oci::Reference& name : push.names) {
      const oci::Digest& digest = compressed.descriptor.digest;
      if (repositories.insert(digest.hex() + name.registry() + "/" + name.repository()).second) by_digest.push_back(name.by_digest(digest));
    }
    if (!by_digest.empty()) {
      ASSIGN_OR_RETURN(const registry::PushReport report, push_to(store_, client_, member.image, by_digest, {push.compression, push.docker_types}, pool_, events_));
    }
    sent.push_back({member.platform, std::move(compressed)});
  }
  const registry::ExportIndex index = make_index(sent, request_, push.docker_types);
  oci::Descriptor last;
  for (const oci::Reference& name : push.names) {
    ASSIGN_OR_RETURN(last, client_.push_manifest(push.by_digest ? name.by_digest(index.descriptor.digest) : name, index.descriptor.media_type, index.json));
  }
  return last;
}

Result<void> Build::send_out(const std::vector<PlatformImage>& images, BuildResult& result) {
  for (const internal::PushPlan& push : outputs_.pushes) {
    oci::Descriptor pushed;
    if (indexed()) {
      ASSIGN_OR_RETURN(pushed, push_index(images, push));
    } else {
      ASSIGN_OR_RETURN(const registry::PushReport report, push_to(store_, client_, images.front().image, push.names, {push.compression, push.docker_types, push.by_digest}, pool_, events_));
      pushed = report.manifest;
    }
    if (!result.pushed) result.pushed = pushed;
  }
  for (const internal::WritePlan& write : outputs_.writes) {
    ASSIGN_OR_RETURN(std::string words, write_output(store_, client_, images, indexed(), write, request_, pool_, events_));
    if (!words.empty()) result.loaded.push_back(std::move(words));
  }
  return {};
}

Result<LoadedDockerfile> Build::load() {
  ASSIGN_OR_RETURN(LoadedDockerfile loaded, load_dockerfile(request_, sources_.contexts, events_));
  if (parser::has_errors(loaded.parsed.diagnostics)) RETURN_IF_ERROR(pass_checks(loaded, first_platform()));
  return loaded;
}

Result<parser::Dockerfile> Build::load_valid() {
  ASSIGN_OR_RETURN(LoadedDockerfile loaded, load());
  RETURN_IF_ERROR(find_target(loaded.parsed.dockerfile, request_.target));
  return std::move(loaded.parsed.dockerfile);
}

Result<CheckReport> Build::check() {
  ASSIGN_OR_RETURN(const LoadedDockerfile loaded, load_dockerfile(request_, sources_.contexts, events_));
  if (!parser::has_errors(loaded.parsed.diagnostics)) RETURN_IF_ERROR(find_target(loaded.parsed.dockerfile, request_.target));
  const oci::Platform platform = first_platform();
  ASSIGN_OR_RETURN(CheckReport report, run_checks({loaded.parsed, request_, platform, store_, &sources_.contexts, true}));
  report.path = loaded.path;
  return report;
}

Result<parser::Mended> Build::mend(const CheckReport& report) {
  const oci::Platform platform = first_platform();
  ASSIGN_OR_RETURN(const bool other_frontend, names_frontend(request_));
  std::optional<Error> failed;
  const auto find = [&](const std::string& text) {
    auto found = run_checks({parser::parse_dockerfile(report.file, text, other_frontend), request_, platform, store_, &sources_.contexts, true});
    if (found) return std::move(found->diagnostics);
    failed = std::move(found).error();
    return std::vector<Diagnostic>();
  };
  parser::Mended mended = parser::mend_all(*report.text, report.file, find);
  if (failed) return std::move(*failed);
  return mended;
}

Result<std::string> Build::describe() {
  ASSIGN_OR_RETURN(outputs_, internal::plan_outputs(request_, indexed()));
  ASSIGN_OR_RETURN(const LoadedDockerfile loaded, load());
  std::string text;
  for (const oci::Platform& platform : request_.platforms.empty() ? std::vector{oci::Platform::host()} : request_.platforms) {
    ASSIGN_OR_RETURN(const Plan made, plan(loaded, platform));
    text += made.describe();
  }
  return text;
}

Result<BuildResult> Build::run() {
  RETURN_IF_ERROR(check_outputs());
  if (!outputs_.pushes.empty() && outputs_.pushes.front().compression.type != oci::Compression::kNone) early_push_.emplace(client_, store_, outputs_.pushes.front().names.front());
  store_.stop_on(stop_.get_token());  // also what a failed step ends
  RETURN_IF_ERROR(limit_space());
  ASSIGN_OR_RETURN(const LoadedDockerfile loaded, load());
  RETURN_IF_ERROR(settle_epoch(request_, {loaded.parsed.dockerfile, sources_, resolver_, [this](const std::string& text) { events_.warning(text); }}));
  // As BuildKit, which says so in its daemon's log only.
  if (request_.rewrite_timestamp.value_or(false) && !request_.source_date_epoch) events_.warning("rewrite-timestamp changes nothing without a time: set SOURCE_DATE_EPOCH");
  BuildResult result;
  std::vector<PlatformImage> images;
  auto plans = plan_all(loaded);
  if (!plans) return cancelled_or(std::move(plans).error());
  for (const Plan& made : *plans) {
    auto image = build_platform(made, result);
    // What was learnt about the context is worth keeping after a failure too.
    ignore_error(sources_.contexts.save_indexes(), "only spares reading again");
    if (!image) return cancelled_or(std::move(image).error());
    images.push_back({made.platform, std::move(*image)});
  }
  if (stop_.stop_requested()) return cancelled_or(Error(ErrorKind::kCancelled, "interrupted"));
  // Before a name moves: the forms that outputs want are there, and fit. And nothing is sent twice at the same time.
  for (std::future<void>& work : compressing_) work.wait();
  RETURN_IF_ERROR(store_.check_space());
  RETURN_IF_ERROR(tag(images, result));
  auto sent = send_out(images, result);
  if (!sent) return cancelled_or(std::move(sent).error());
  return result;
}

}  // namespace

Result<BuildResult> build(layers::Store& store, const BuildRequest& request, BuildEvents& events, std::stop_token stop) {
  auto result = Build(store, request, events, std::move(stop)).run();
  store.end_limit();  // now that nothing goes on
  return result;
}

Result<std::string> describe_plan(layers::Store& store, const BuildRequest& request, BuildEvents& events) {
  return Build(store, request, events, {}).describe();
}

Result<CheckReport> check_build(layers::Store& store, const BuildRequest& request, BuildEvents& events) {
  return Build(store, request, events, {}).check();
}

Result<MendedBuild> mend_build(layers::Store& store, const BuildRequest& request, BuildEvents& events) {
  Build build(store, request, events, {});
  MendedBuild out;
  ASSIGN_OR_RETURN(out.before, build.check());
  ASSIGN_OR_RETURN(out.after, build.mend(out.before));
  return out;
}

Result<parser::Dockerfile> load_definition(layers::Store& store, const BuildRequest& request, BuildEvents& events) {
  return Build(store, request, events, {}).load_valid();
}

}  // namespace lamina::builder
