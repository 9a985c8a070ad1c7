#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/text.h"
#include "builder/build.h"
#include "builder/images.h"
#include "cli/commands.h"
#include "cli/internal/image_commands.h"
#include "cli/progress.h"
#include "cli/output.h"
#include "oci/image_config.h"
#include "registry/client.h"

namespace lamina::cli {

namespace {

using Json = nlohmann::json;

std::string dump(const Json& json, int indent = -1) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

std::string short_id(const oci::Digest& digest, bool whole) { return whole ? digest.text() : digest.hex().substr(0, 12); }

// "3 hours ago"
std::string ago(const std::string& created) {
  const auto time = parse_rfc3339(created);
  if (!time) return "N/A";
  const int64_t seconds = std::max<int64_t>(0, now().seconds - time->seconds);
  const std::pair<int64_t, const char*> units[] = {{31536000, "year"}, {2592000, "month"}, {604800, "week"}, {86400, "day"}, {3600, "hour"}, {60, "minute"}};
  for (const auto& [length, name] : units) {
    if (seconds >= length) return fmt::format("{} {}{} ago", seconds / length, name, seconds / length == 1 ? "" : "s");
  }
  return fmt::format("{} second{} ago", seconds, seconds == 1 ? "" : "s");
}

}  // namespace

namespace {

// Layer sizes: of the uncompressed tar where known, else of the blob.
std::vector<uint64_t> layer_sizes(layers::Store& store, const oci::Image& image, const oci::ImageConfig& config) {
  std::vector<uint64_t> sizes;
  for (size_t i = 0; i < image.manifest.layers.size(); ++i) {
    uint64_t size = image.manifest.layers[i].size;
    if (i < config.diff_ids.size()) {
      if (const auto id = store.find_layer(config.diff_ids[i])) {
        if (const auto info = store.layer_info(*id); info && info->tar_size) size = *info->tar_size;
      }
    }
    sizes.push_back(size);
  }
  return sizes;
}

struct Loaded {
  oci::Image image;
  oci::ImageConfig config;
};

Result<Loaded> load(layers::Store& store, const std::string& name, const std::string& platform_text) {
  ASSIGN_OR_RETURN(const oci::Reference reference, oci::Reference::parse(name));
  oci::Platform platform = oci::Platform::host();
  if (!platform_text.empty()) {
    ASSIGN_OR_RETURN(platform, oci::Platform::parse(platform_text));
  }
  Loaded loaded;
  ASSIGN_OR_RETURN(loaded.image, builder::find_image(store, reference, platform));
  ASSIGN_OR_RETURN(loaded.config, oci::ImageConfig::parse(loaded.image.config_json));
  return loaded;
}

Result<void> list_images(layers::Store& store, const ImageOptions& o) {
  ASSIGN_OR_RETURN(const std::vector<layers::ImageRecord> records, store.images());
  std::vector<std::vector<std::string>> rows = {{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}};
  std::string json_lines, ids;
  for (const layers::ImageRecord& record : records) {
    ASSIGN_OR_RETURN(const oci::Reference name, oci::Reference::parse(record.name));
    if (!o.names.empty()) {
      ASSIGN_OR_RETURN(const oci::Reference filter, oci::Reference::parse(o.names[0]));
      if (filter.familiar_repository() != name.familiar_repository() || (filter.tag() && filter.tag() != name.tag())) continue;
    }
    const auto loaded = load(store, record.name, "");
    oci::Digest id = record.descriptor.digest;
    std::string created;
    uint64_t size = 0;
    if (loaded) {
      id = loaded->image.manifest.config.digest;
      created = loaded->config.created;
      for (uint64_t s : layer_sizes(store, loaded->image, loaded->config)) size += s;
    }
    ids += short_id(id, o.no_truncation) + "\n";
    rows.push_back({name.familiar_repository(), name.tag_or_latest().empty() ? "<none>" : name.tag_or_latest(), short_id(id, o.no_truncation), ago(created), human_size(size)});
    json_lines += dump({{"Repository", name.familiar_repository()}, {"Tag", name.tag_or_latest()}, {"ID", id.text()}, {"Digest", record.descriptor.digest.text()}, {"CreatedAt", created}, {"Size", size}}) + "\n";
  }
  print(o.quiet ? ids : o.format == "json" ? json_lines : table(rows));
  return {};
}

Result<void> inspect_images(layers::Store& store, const ImageOptions& o) {
  if (!o.raw.empty() && o.raw != "manifest" && o.raw != "config") return Error(ErrorKind::kInvalidInput, "--raw is manifest or config");
  Json all = Json::array();
  for (const std::string& name : o.names) {
    ASSIGN_OR_RETURN(const Loaded loaded, load(store, name, o.platform));
    if (!o.raw.empty()) {
      print((o.raw == "manifest" ? loaded.image.manifest_json : loaded.image.config_json) + "\n");
      continue;
    }
    ASSIGN_OR_RETURN(const oci::Reference reference, oci::Reference::parse(name));
    Json layers = Json::array();
    const std::vector<uint64_t> sizes = layer_sizes(store, loaded.image, loaded.config);
    for (size_t i = 0; i < sizes.size(); ++i) {
      layers.push_back({{"DiffID", i < loaded.config.diff_ids.size() ? loaded.config.diff_ids[i].text() : ""}, {"Size", sizes[i]}, {"Digest", loaded.image.manifest.layers[i].digest.text()}, {"MediaType", loaded.image.manifest.layers[i].media_type}});
    }
    all.push_back({{"Id", loaded.image.manifest.config.digest.text()},
                   {"RepoTags", Json::array({reference.familiar()})},
                   {"Digest", loaded.image.descriptor.digest.text()},
                   {"Created", loaded.config.created},
                   {"Os", loaded.config.platform.os},
                   {"Architecture", loaded.config.platform.architecture},
                   {"Layers", std::move(layers)},
                   {"Config", Json::parse(loaded.image.config_json, nullptr, false)},
                   {"Manifest", Json::parse(loaded.image.manifest_json, nullptr, false)}});
  }
  if (o.raw.empty()) print(dump(all, 2) + "\n");
  return {};
}

Result<void> show_history(layers::Store& store, const ImageOptions& o) {
  ASSIGN_OR_RETURN(const Loaded loaded, load(store, o.names[0], o.platform));
  const std::vector<uint64_t> sizes = layer_sizes(store, loaded.image, loaded.config);
  std::vector<std::vector<std::string>> rows;
  std::string json_lines;
  size_t layer = 0;
  for (const oci::HistoryEntry& h : loaded.config.history) {
    const uint64_t size = h.empty_layer || layer >= sizes.size() ? 0 : sizes[layer++];
    std::string by = printable(h.created_by);
    if (!o.no_truncation && by.size() > 60) by = by.substr(0, 57) + "...";
    rows.push_back({ago(h.created), by, human_size(size), printable(h.comment)});
    json_lines = dump({{"CreatedAt", h.created}, {"CreatedBy", h.created_by}, {"Size", size}, {"Comment", h.comment}, {"EmptyLayer", h.empty_layer}}) + "\n" + json_lines;
  }
  rows.push_back({"CREATED", "CREATED BY", "SIZE", "COMMENT"});
  std::reverse(rows.begin(), rows.end());  // the newest first, as docker
  print(o.format == "json" ? json_lines : table(rows));
  return {};
}

Result<void> remove_images(layers::Store& store, const ImageOptions& o) {
  std::optional<Error> first;
  for (const std::string& name : o.names) {
    ASSIGN_OR_RETURN(const oci::Reference reference, oci::Reference::parse(name));
    ASSIGN_OR_RETURN(const bool removed, store.remove_image(reference.canonical()));
    if (removed) {
      print("Untagged: " + reference.familiar() + "\n");
    } else if (!first) {
      first = Error(ErrorKind::kNotFound, fmt::format("there is no image {} in the store", reference.familiar()));
    }
  }
  // The space is given back unless somebody else is at work; prune does it then.
  layers::PruneOptions unneeded;
  unneeded.types = {"regular"};  // downloads that broke off stay
  ignore_error(store.prune(unneeded, builder::layers_of_record), "only housekeeping");
  if (first) return std::move(*first);
  return {};
}

}  // namespace

registry::ClientOptions client_options(const ImageOptions& o, const Session& session) {
  registry::ClientOptions options;
  options.auth_file = o.common.auth_file;
  options.insecure_registries = o.common.insecure_registries;
  options.stop = session.stop;
  options.on_warning = [](const std::string& text) { ignore_error(write_all(STDERR_FILENO, "warning: " + printable(text) + "\n"), "standard error is gone"); };
  return options;
}

namespace {

Result<layers::CompressionOptions> compression_of(const ImageOptions& o) {
  layers::CompressionOptions compression;
  if (!o.compression.empty()) RETURN_IF_ERROR(layers::set_compression(compression, o.compression, "--compression"));
  compression.level = o.compression_level;
  compression.force = o.force_compression;
  RETURN_IF_ERROR(layers::check(compression));
  return compression;
}

Result<void> push_image(layers::Store& store, const ImageOptions& o, const Session& session) {
  ASSIGN_OR_RETURN(const oci::Reference source, oci::Reference::parse(o.names[0]));
  std::vector<oci::Reference> destinations;
  for (size_t i = 1; i < o.names.size(); ++i) {
    ASSIGN_OR_RETURN(oci::Reference destination, oci::Reference::parse(o.names[i]));
    destinations.push_back(std::move(destination));
  }
  ASSIGN_OR_RETURN(const layers::CompressionOptions compression, compression_of(o));
  registry::Client client(client_options(o, session));
  const std::unique_ptr<Progress> progress = make_progress(o.progress, STDERR_FILENO, false);
  auto pushed = builder::push(store, source, destinations, compression, client, *progress);
  progress->finish(!pushed);
  if (!pushed) return std::move(pushed).error();
  if (!o.quiet) {
    ignore_error(write_all(STDERR_FILENO, fmt::format("{} uploaded ({}), {} mounted, {} already there\n", pushed->uploaded, human_size(pushed->uploaded_bytes), pushed->mounted, pushed->existed)), "standard error is gone");
  }
  RETURN_IF_ERROR(write_digest_file(o, pushed->manifest.digest));
  print(pushed->manifest.digest.text() + "\n");
  return {};
}

Result<void> pull_image(layers::Store& store, const ImageOptions& o, const Session& session) {
  ASSIGN_OR_RETURN(const oci::Reference name, oci::Reference::parse(o.names[0]));
  oci::Platform platform = oci::Platform::host();
  if (!o.platform.empty()) {
    ASSIGN_OR_RETURN(platform, oci::Platform::parse(o.platform));
  }
  // What comes has a known size: it fits, or is not begun.
  ASSIGN_OR_RETURN(const std::optional<uint64_t> limit, parse_max_used_space({}));
  if (limit) RETURN_IF_ERROR(store.limit_space({*limit, builder::layers_of_record, {}}));
  registry::Client client(client_options(o, session));
  const std::unique_ptr<Progress> progress = make_progress(o.progress, STDERR_FILENO, false);
  auto pulled = builder::pull(store, name, platform, client, *progress);
  store.end_limit();
  progress->finish(!pulled);
  if (!pulled) return std::move(pulled).error();
  RETURN_IF_ERROR(write_digest_file(o, pulled->digest));
  print(pulled->digest.text() + "\n");
  return {};
}

Result<void> tag_image(layers::Store& store, const ImageOptions& o) {
  ASSIGN_OR_RETURN(const oci::Reference source, oci::Reference::parse(o.names[0]));
  ASSIGN_OR_RETURN(const oci::Reference name, oci::Reference::parse(o.names[1]));
  if (name.digest()) return Error(ErrorKind::kInvalidInput, "a new name must not have a digest");
  RETURN_IF_ERROR(builder::find_image(store, source, oci::Platform::host()));
  ASSIGN_OR_RETURN(const std::optional<layers::ImageRecord> record, store.image(source.canonical()));
  return store.set_image(name.canonical(), record->descriptor);
}

Result<void> run_on_store(const std::string& command, const ImageOptions& o, const Session& session) {
  ASSIGN_OR_RETURN(const std::unique_ptr<layers::Store> store, layers::Store::open(store_path(o.common, session.isolation == builder::Isolation::kRoot)));
  store->stop_on(session.stop);
  if (command == "images") return list_images(*store, o);
  if (command == "inspect") return inspect_images(*store, o);
  if (command == "history") return show_history(*store, o);
  if (command == "rmi") return remove_images(*store, o);
  if (command == "tag") return tag_image(*store, o);
  if (command == "push") return push_image(*store, o, session);
  if (command == "pull") return pull_image(*store, o, session);
  if (command == "du") return show_usage(*store, o);
  if (command == "fsck") return check_store(*store, o);
  return prune_store(*store, o);
}

Result<bool> compare_images(const ImageOptions& o, const Session& session) {
  ASSIGN_OR_RETURN(const std::unique_ptr<layers::Store> store, layers::Store::open(store_path(o.common, session.isolation == builder::Isolation::kRoot)));
  store->stop_on(session.stop);
  return show_diff(*store, o, session);
}

Result<void> execute(const std::string& command, const ImageOptions& o, const Session& session) {
  if (command == "login") return log_in(o, session);
  if (command == "logout") return log_out(o);
  if (command == "copy") return copy_between(o, session);
  if (command == "tags") return list_tags(o, session);
  if (command == "inspect" && is_remote(o)) return inspect_remote(o, session);
  return run_on_store(command, o, session);
}

}  // namespace

int image_command(const std::string& command, const std::vector<std::string>& arguments, const Session& session) {
  auto parsed = parse_image_command(command, arguments);
  if (!parsed) return report(parsed.error());
  if (parsed->help) {
    print(parsed->help->text);
    return 0;
  }
  if (command == "diff") {
    const auto same = compare_images(parsed->options, session);
    return !same ? report(same.error()) : *same ? 0 : 1;
  }
  const auto done = execute(command, parsed->options, session);
  return done ? 0 : report(done.error());
}

}  // namespace lamina::cli
