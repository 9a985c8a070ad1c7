#include "builder/assemble.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/trace.h"
#include "oci/image_config.h"

namespace lamina::builder {

namespace {

// A base image may lack history for its layers; readers expect one entry for each.
void complete_base_history(std::vector<HistoryItem>& history, size_t base_layers) {
  size_t described = 0;
  size_t own = 0;
  while (own < history.size() && history[own].step < 0 && history[own].entry.comment != "lamina") ++own;
  for (size_t i = 0; i < history.size(); ++i) {
    if (history[i].step < 0 && !history[i].entry.empty_layer) ++described;
  }
  for (; described < base_layers; ++described) {
    oci::HistoryEntry entry;
    entry.comment = "layer of the base image";
    history.insert(history.begin() + static_cast<ptrdiff_t>(own++), {std::move(entry), -1});
  }
}

// Entries without a layer take the time of the nearest step before them, else after them.
void fill_times(std::vector<oci::HistoryEntry>& history, size_t first_new, const std::string& fallback) {
  std::string last;
  for (size_t i = first_new; i < history.size(); ++i) {
    if (history[i].created.empty()) history[i].created = last;
    last = history[i].created;
  }
  std::string next = fallback;
  for (size_t i = history.size(); i-- > first_new;) {
    if (history[i].created.empty()) history[i].created = next;
    next = history[i].created;
  }
}

// The time of an image none of whose steps made anything, kept so that a rebuild gives the same image.
Result<std::string> remembered_time(layers::Store& store, const BuildRequest& request, const std::string& config_without_time) {
  if (request.source_date_epoch) return format_rfc3339({*request.source_date_epoch, 0});
  const std::string key = sha256_hex("time of config " + config_without_time);
  ASSIGN_OR_RETURN(const std::optional<std::string> known, store.record(key));
  if (known && parse_rfc3339(*known)) return *known;
  std::string time = format_rfc3339(now());
  RETURN_IF_ERROR(store.put_record(key, time));
  return time;
}

// An OCI manifest names layers in OCI's words; the bytes are the same.
void name_as_oci(oci::Manifest& manifest) {
  manifest.media_type = oci::media_type::kOciManifest;
  for (oci::Descriptor& layer : manifest.layers) {
    if (layer.media_type == oci::media_type::kDockerLayer || layer.media_type == oci::media_type::kDockerLayerGzip) {
      layer.media_type = oci::oci_layer_type(*oci::layer_compression(layer.media_type));
    }
  }
}

oci::Descriptor describe(std::string_view media_type, std::string_view bytes) {
  oci::Descriptor d;
  d.media_type = media_type;
  d.digest = oci::Digest::of(bytes);
  d.size = bytes.size();
  return d;
}

}  // namespace

Result<oci::Image> store_image(layers::Store& store, oci::Manifest manifest, std::string config_json) {
  oci::Image image;
  manifest.config = describe(oci::media_type::kOciConfig, config_json);
  image.manifest_json = manifest.to_json();
  image.descriptor = describe(manifest.media_type, image.manifest_json);
  image.manifest = std::move(manifest);
  image.config_json = std::move(config_json);
  RETURN_IF_ERROR(oci::put_blob(store, image.manifest.config, image.config_json));
  RETURN_IF_ERROR(oci::put_blob(store, image.descriptor, image.manifest_json));
  return image;
}

Result<oci::Image> assemble_image(layers::Store& store, const Plan& plan, const Executor& executor, const BuildRequest& request,
                                  const std::optional<layers::LayerId>& squashed) {
  const TraceSpan span("image", "assemble");
  const PlannedStage& target = plan.stages.at(plan.target);
  oci::ImageConfig config = target.config;
  oci::Manifest manifest;
  std::vector<HistoryItem> items = target.history;
  size_t base_layers = 0;
  if (const ResolvedImage* base = plan.base_of(plan.target)) {
    base_layers = base->image.manifest.layers.size();
    manifest.layers = base->image.manifest.layers;
    name_as_oci(manifest);
    for (oci::Descriptor& layer : manifest.layers) {
      if (!base->reference.repository().empty() && !annotated_source(layer) && oci::layer_compression(layer.media_type) != oci::Compression::kNone) {
        layer.annotations[source_annotation(base->reference.registry())] = base->reference.repository();
      }
    }
  }
  const auto add_layer = [&](const layers::LayerId& id) -> Result<void> {
    ASSIGN_OR_RETURN(oci::DiffId diff_id, store.diff_id(id));
    config.diff_ids.push_back(std::move(diff_id));
    ASSIGN_OR_RETURN(oci::Descriptor layer, store.tar_descriptor(id));
    manifest.layers.push_back(std::move(layer));
    return {};
  };
  complete_base_history(items, base_layers);
  config.history.clear();
  size_t first_new = items.size();
  for (size_t i = 0; i < items.size(); ++i) {
    HistoryItem& item = items[i];
    if (item.step >= 0 || item.entry.comment == "lamina") first_new = std::min(first_new, i);
    if (item.step >= 0) {
      const Outcome outcome = executor.outcome(item.step).value_or(Outcome{});
      item.entry.created = outcome.record.created;
      item.entry.empty_layer = squashed || outcome.record.layer.empty();
      if (!item.entry.empty_layer) RETURN_IF_ERROR(add_layer(outcome.record.layer));
    }
    config.history.push_back(item.entry);
  }
  if (squashed && !squashed->empty()) {
    RETURN_IF_ERROR(add_layer(*squashed));
    oci::HistoryEntry entry;
    entry.created_by = "all layers above as one # lamina";
    entry.comment = "lamina";
    config.history.push_back(std::move(entry));
  }
  std::string time;
  for (size_t i = first_new; i < config.history.size() && time.empty(); ++i) time = config.history[i].created;
  if (time.empty()) {
    ASSIGN_OR_RETURN(time, remembered_time(store, request, config.to_json()));
  }
  // A base image of ours that was built further: its entries have times already.
  fill_times(config.history, first_new, time);
  config.created = config.history.empty() || config.history.back().created.empty() ? time : config.history.back().created;
  manifest.annotations = annotations_of(request.annotations, AnnotationSpec::Level::kManifest, config.platform);
  return store_image(store, std::move(manifest), config.to_json());
}

Result<oci::Image> compress_image(layers::Store& store, const oci::Image& image, const layers::CompressionOptions& options, ThreadPool& pool) {
  const TraceSpan span("image", "compress");
  ASSIGN_OR_RETURN(oci::ImageConfig config, oci::ImageConfig::parse(image.config_json));
  oci::Manifest manifest = image.manifest;
  bool changed = false, other_tars = false;
  for (size_t i = 0; i < manifest.layers.size() && i < config.diff_ids.size(); ++i) {
    oci::Descriptor& layer = manifest.layers[i];
    changed = std::erase_if(layer.annotations, [](const auto& a) { return is_source_annotation(a.first); }) != 0 || changed;  // only for us
    const bool ours = oci::layer_compression(layer.media_type) == oci::Compression::kNone;
    if (!ours && !options.force) continue;
    if (ours && options.type == oci::Compression::kNone) continue;
    const auto id = store.find_layer(config.diff_ids[i]);
    if (!id) return Error(ErrorKind::kNotFound, fmt::format("layer {} is no longer in the store; build the image again", config.diff_ids[i].text()));
    ASSIGN_OR_RETURN(layers::BlobForm form, store.blob(*id, options, pool));
    changed = true;
    layer = std::move(form.descriptor);
    other_tars = other_tars || form.diff_id != config.diff_ids[i];
    config.diff_ids[i] = std::move(form.diff_id);
  }
  if (!changed) return image;  // byte for byte: it may be somebody's, signed
  name_as_oci(manifest);
  // The config names the tars that are sent; where they are those of the store it stays byte for byte.
  return store_image(store, std::move(manifest), other_tars ? config.to_json() : image.config_json);
}

Result<oci::Image> with_docker_types(layers::Store& store, const oci::Image& image) {
  oci::Image out = image;
  out.manifest.media_type = oci::media_type::kDockerManifest;
  out.manifest.config.media_type = oci::media_type::kDockerConfig;
  for (oci::Descriptor& layer : out.manifest.layers) {
    const auto compression = oci::layer_compression(layer.media_type);
    if (!compression) continue;
    layer.media_type = oci::docker_layer_type(*compression);
  }
  out.manifest_json = out.manifest.to_json();
  out.descriptor = describe(out.manifest.media_type, out.manifest_json);
  RETURN_IF_ERROR(oci::put_blob(store, out.descriptor, out.manifest_json));
  return out;
}

std::shared_ptr<oci::BlobSource> source_of_image(layers::Store& store, registry::Client& client, const oci::Image& image) {
  std::vector<std::shared_ptr<oci::BlobSource>> remotes;
  std::vector<std::string> seen;
  for (const oci::Descriptor& layer : image.manifest.layers) {
    const auto source = annotated_source(layer);
    if (!source || std::find(seen.begin(), seen.end(), source->canonical()) != seen.end()) continue;
    seen.push_back(source->canonical());
    remotes.push_back(registry::repository_source(client, *source));
  }
  return std::make_shared<LayeredSource>(store, std::move(remotes));
}

}  // namespace lamina::builder
