// What users do with finished images: find, push, pull, run.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/text.h"
#include "builder/assemble.h"
#include "builder/images.h"
#include "builder/outputs.h"

namespace lamina::builder {

namespace {

unsigned cores() { return std::max(2U, std::thread::hardware_concurrency()); }

Error no_such_image(layers::Store& store, const oci::Reference& name) {
  Error error(ErrorKind::kNotFound, fmt::format("there is no image {} in the store", name.familiar()));
  std::vector<std::string> names;
  if (const auto images = store.images()) {
    for (const layers::ImageRecord& record : *images) {
      if (const auto parsed = oci::Reference::parse(record.name)) names.push_back(parsed->familiar());
    }
  }
  if (const auto near = nearest_name(name.familiar(), names)) return std::move(error).with_note("did you mean " + *near + "?");
  return std::move(error).with_note("build images lists what there is");
}

// The layers of an image, known to the store; their blobs may still be elsewhere.
Result<std::vector<layers::LayerId>> register_layers(layers::Store& store, const oci::Image& image) {
  ASSIGN_OR_RETURN(const oci::ImageConfig config, oci::ImageConfig::parse(image.config_json));
  if (config.diff_ids.size() != image.manifest.layers.size()) return Error(ErrorKind::kCorrupt, "the image's manifest and config name different numbers of layers");
  std::vector<layers::LayerId> stack;
  for (size_t i = 0; i < config.diff_ids.size(); ++i) {
    ASSIGN_OR_RETURN(layers::LayerId id, store.add_pulled(config.diff_ids[i], image.manifest.layers[i]));
    stack.push_back(std::move(id));
  }
  return stack;
}

// Pulls the layers that the store does not hold, several at once.
Result<void> fetch_layers(layers::Store& store, oci::BlobSource& remote, const oci::Image& image, EventHub& events, int vertex) {
  ThreadPool transfers(4);
  std::vector<std::future<Result<void>>> results;
  for (const oci::Descriptor& layer : image.manifest.layers) {
    results.push_back(transfers.submit([&store, &remote, &events, vertex, layer]() -> Result<void> {
      const auto progress = [&](uint64_t done) { events.progress(vertex, "layer " + layer.digest.hex().substr(0, 12), done, layer.size); };
      RETURN_IF_ERROR_WITH(store.fetch_blob(layer, remote, progress), "pulling layer " + layer.digest.text());
      progress(layer.size);
      return {};
    }));
  }
  std::optional<Error> first;
  for (auto& result : results) {
    auto r = result.get();
    if (!r && !first) first = std::move(r).error();
  }
  if (first) return std::move(*first);
  return {};
}

}  // namespace

Result<oci::Image> find_image(layers::Store& store, const oci::Reference& name, const oci::Platform& platform) {
  ASSIGN_OR_RETURN(const std::optional<layers::ImageRecord> record, store.image(name.canonical()));
  if (!record) return no_such_image(store, name);
  ASSIGN_OR_RETURN_WITH(registry::PulledImage loaded, registry::load_image(store, record->descriptor, platform), "reading the image " + name.familiar());
  return std::move(loaded.image);
}

Result<registry::PushReport> push(layers::Store& store, const oci::Reference& source, const std::vector<oci::Reference>& destinations,
                                  const layers::CompressionOptions& compression, registry::Client& client, BuildEvents& listener) {
  EventHub events(listener);
  ThreadPool pool(cores());
  ASSIGN_OR_RETURN(const oci::Image image, find_image(store, source, oci::Platform::host()));
  return push_to(store, client, image, destinations.empty() ? std::vector{source} : destinations, {compression}, pool, events);
}

Result<oci::Descriptor> pull(layers::Store& store, const oci::Reference& name, const oci::Platform& platform, registry::Client& client, BuildEvents& listener) {
  EventHub events(listener);
  VertexScope vertex(events, "pulling " + name.familiar());
  ASSIGN_OR_RETURN(const registry::PulledImage pulled, registry::pull_image_metadata(client, name, platform, store));
  const std::unique_ptr<oci::BlobSource> remote = registry::repository_source(client, name);
  RETURN_IF_ERROR(fetch_layers(store, *remote, pulled.image, events, vertex.id()));
  RETURN_IF_ERROR(register_layers(store, pulled.image));
  RETURN_IF_ERROR(store.set_image(name.canonical(), pulled.top));
  vertex.done();
  return pulled.top;
}

namespace {

Result<SandboxSpec> spec_of(const oci::ImageConfig& config, const RunRequest& request) {
  SandboxSpec spec;
  const std::vector<std::string> entrypoint = request.entrypoint ? *request.entrypoint : config.entrypoint.value_or(std::vector<std::string>());
  spec.argv = entrypoint;
  const std::vector<std::string> image_command = request.entrypoint ? std::vector<std::string>() : config.cmd.value_or(std::vector<std::string>());
  const std::vector<std::string>& command = request.command.empty() ? image_command : request.command;
  spec.argv.insert(spec.argv.end(), command.begin(), command.end());
  if (spec.argv.empty()) {
    return Error(ErrorKind::kInvalidInput, "the image names no command").with_note("give one: build run " + request.image.familiar() + " COMMAND");
  }
  oci::ImageConfig merged = config;
  for (const std::string& variable : request.environment) {
    const size_t eq = variable.find('=');
    merged.set_env(variable.substr(0, eq), eq == std::string::npos ? "" : variable.substr(eq + 1));
  }
  spec.environment = merged.env;
  spec.working_dir = !request.working_dir.empty() ? request.working_dir : config.working_dir.empty() ? "/" : config.working_dir;
  spec.user = request.user.empty() ? config.user : request.user;
  spec.hostname = request.hostname.empty() ? "lamina" : request.hostname;
  spec.network = request.network;
  spec.extra_hosts = request.extra_hosts;
  spec.mounts = request.volumes;
  spec.inherit_stdio = true;
  return spec;
}

}  // namespace

Result<ExitStatus> run_image(layers::Store& store, const RunRequest& request, std::stop_token stop) {
  ASSIGN_OR_RETURN(const oci::Image image, find_image(store, request.image, oci::Platform::host()));
  ASSIGN_OR_RETURN(const oci::ImageConfig config, oci::ImageConfig::parse(image.config_json));
  ASSIGN_OR_RETURN(SandboxSpec spec, spec_of(config, request));
  ASSIGN_OR_RETURN(const std::vector<layers::LayerId> stack, register_layers(store, image));
  registry::ClientOptions options;
  options.stop = stop;
  registry::Client client(options);
  const auto remote = source_of_image(store, client, image);
  ThreadPool pool(cores());
  ASSIGN_OR_RETURN_WITH(const std::vector<std::string> snapshots, store.snapshots(stack, pool, remote.get()), "unpacking " + request.image.familiar());
  ASSIGN_OR_RETURN(const layers::PendingLayer changes, store.begin_layer());  // thrown away at the end
  struct stat root {};
  if (!snapshots.empty() && ::stat(snapshots.back().c_str(), &root) == 0) {
    if (::chown(changes.fs().c_str(), root.st_uid, root.st_gid) != 0) return system_error(errno, "chown", changes.fs());
    ::chmod(changes.fs().c_str(), root.st_mode & 07777);
  } else {
    ::chmod(changes.fs().c_str(), 0755);
  }
  spec.lower_dirs.assign(snapshots.rbegin(), snapshots.rend());
  spec.upper_dir = changes.fs();
  spec.work_dir = changes.work();
  return Sandboxes().run(spec, {}, std::move(stop), false);
}

}  // namespace lamina::builder
