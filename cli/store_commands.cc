// build du, prune, fsck.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/text.h"
#include "builder/build.h"
#include "cli/internal/image_commands.h"

namespace lamina::cli {

namespace {

Error wrong(std::string message, std::string note) { return Error(ErrorKind::kInvalidInput, std::move(message)).with_note(std::move(note)); }

// "90s", "30m", "24h", "7d", "1h30m"; a bare number is seconds.
Result<int64_t> parse_duration(const std::string& option, const std::string& text) {
  const std::string note = "write 90s, 30m, 24h or 7d";
  int64_t total = 0;
  size_t at = 0;
  if (text.empty()) return wrong(option + " is empty", note);
  while (at < text.size()) {
    size_t end = at;
    while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
    const auto number = parse_uint(text.substr(at, end - at));
    if (!number || *number > 1000000000) return wrong(fmt::format("{} \"{}\" is no duration", option, printable(text)), note);
    const char unit = end < text.size() ? text[end] : 's';
    const int64_t factor = unit == 's' ? 1 : unit == 'm' ? 60 : unit == 'h' ? 3600 : unit == 'd' ? 86400 : 0;
    if (factor == 0) return wrong(fmt::format("{} \"{}\" has an unknown unit", option, printable(text)), note);
    total += static_cast<int64_t>(*number) * factor;
    at = end + 1;
  }
  return total;
}

Result<layers::PruneOptions> prune_options(const ImageOptions& o) {
  layers::PruneOptions options;
  options.all = o.all;
  if (!o.keep_duration.empty()) {
    ASSIGN_OR_RETURN(options.unused_for_seconds, parse_duration("--keep-duration", o.keep_duration));
  }
  if (!o.max_used_space.empty()) {
    ASSIGN_OR_RETURN(options.max_bytes, parse_bytes(o.max_used_space));
  }
  for (const std::string& filter : o.filters) {
    const size_t eq = filter.find('=');
    const std::string key = filter.substr(0, eq);
    const std::string value = eq == std::string::npos ? "" : filter.substr(eq + 1);
    if (key == "until") {
      ASSIGN_OR_RETURN(options.unused_for_seconds, parse_duration("--filter until=", value));
    } else if (key == "type" && (value == "regular" || value == "exec.cachemount" || value == "source.git" || value == "partial")) {
      options.types.insert(value);
      options.all = true;  // what is named is meant
    } else {
      return wrong(fmt::format("--filter \"{}\" is not known", printable(filter)), "until=24h, type=regular (build records), type=exec.cachemount, type=source.git, type=partial (downloads that broke off)");
    }
  }
  return options;
}

}  // namespace

Result<void> show_usage(layers::Store& store, const ImageOptions& o) {
  ASSIGN_OR_RETURN(const layers::Store::Usage usage, store.usage());
  const uint64_t total = usage.blob_bytes + usage.layer_bytes + usage.other_bytes;
  if (o.format == "json") {
    const nlohmann::json json = {{"Blobs", usage.blobs}, {"BlobBytes", usage.blob_bytes}, {"Layers", usage.layers}, {"LayerBytes", usage.layer_bytes},
                                 {"Images", usage.images}, {"BuildRecords", usage.records}, {"OtherBytes", usage.other_bytes}, {"TotalBytes", total}, {"Store", store.path()}};
    print(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    return {};
  }
  print(table({{"TYPE", "COUNT", "SIZE"},
               {"blobs", std::to_string(usage.blobs), human_size(usage.blob_bytes)},
               {"layers", std::to_string(usage.layers), human_size(usage.layer_bytes)},
               {"images", std::to_string(usage.images), "-"},
               {"build records", std::to_string(usage.records), "-"},
               {"other (caches, git repositories, downloads that broke off)", "-", human_size(usage.other_bytes)},
               {"total", "-", human_size(total)}}));
  return {};
}

Result<void> prune_store(layers::Store& store, const ImageOptions& o) {
  ASSIGN_OR_RETURN(const layers::PruneOptions options, prune_options(o));
  ASSIGN_OR_RETURN(const uint64_t freed, store.prune(options, builder::layers_of_record));
  print("Freed " + human_size(freed) + "\n");
  if (!options.max_bytes) return {};
  ASSIGN_OR_RETURN(const layers::Store::Usage usage, store.usage());
  const uint64_t total = usage.blob_bytes + usage.layer_bytes + usage.other_bytes;
  if (total > *options.max_bytes) {
    ignore_error(write_all(STDERR_FILENO, fmt::format("warning: the images in the store need {} by themselves; remove some with build rmi\n", human_size(total))), "standard error is gone");
  }
  return {};
}

Result<void> check_store(layers::Store& store, const ImageOptions& o) {
  ASSIGN_OR_RETURN(const layers::FsckReport report, store.fsck(!o.check_only));
  for (const layers::FsckReport::Problem& problem : report.problems) {
    print(problem.what + (problem.done.empty() ? "" : ": " + problem.done) + "\n");
  }
  print(fmt::format("{} blobs, {} layers and {} images checked, {} read\n", report.blobs, report.layers, report.images, human_size(report.bytes)));
  if (report.unverified > 0) print(fmt::format("the files of {} pulled layer{} not verified: the bytes they were unpacked from are not here, or say too little\n", report.unverified, report.unverified == 1 ? " were" : "s were"));
  if (report.problems.empty()) return {};
  const size_t n = report.problems.size();
  Error error(ErrorKind::kCorrupt, fmt::format("the store {} has {} problem{}{}", store.path(), n, n == 1 ? "" : "s", o.check_only ? "" : ", which were put out of the way"));
  return std::move(error).with_note(o.check_only ? "build fsck without --check-only repairs it" : "what is missing now is pulled or built again when it is needed");
}

}  // namespace lamina::cli
