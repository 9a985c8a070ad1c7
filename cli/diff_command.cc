// build diff A B: why two images of the store differ.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "builder/assemble.h"
#include "builder/image_diff.h"
#include "cli/internal/image_commands.h"

namespace lamina::cli {

namespace {

using Json = nlohmann::json;

std::string as_json(const builder::ImageDiff& diff) {
  Json lines = Json::array();
  for (const builder::ImageDiff::Line& line : diff.lines) lines.push_back({{"Where", line.where}, {"What", line.text}, {"TimeOnly", line.time}});
  const Json json = {{"Same", diff.same()}, {"OnlyTimes", diff.only_times()}, {"Differences", std::move(lines)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string as_text(const builder::ImageDiff& diff) {
  if (diff.same()) return "The images are the same.\n";
  std::string text;
  for (const builder::ImageDiff::Line& line : diff.lines) text += line.where + ": " + line.text + "\n";
  return text + (diff.only_times() ? "Only times differ.\n" : "");
}

}  // namespace

Result<bool> show_diff(layers::Store& store, const ImageOptions& o, const Session& session) {
  oci::Platform platform = oci::Platform::host();
  if (!o.platform.empty()) {
    ASSIGN_OR_RETURN(platform, oci::Platform::parse(o.platform));
  }
  registry::Client client(client_options(o, session));
  std::vector<oci::Image> images;
  std::vector<std::shared_ptr<oci::BlobSource>> remotes;
  for (const std::string& name : o.names) {
    ASSIGN_OR_RETURN(const oci::Reference reference, oci::Reference::parse(name));
    ASSIGN_OR_RETURN(oci::Image image, builder::find_image(store, reference, platform));
    remotes.push_back(builder::source_of_image(store, client, image));
    images.push_back(std::move(image));
  }
  ASSIGN_OR_RETURN(const builder::ImageDiff diff, builder::diff_images(store, images[0], remotes[0].get(), images[1], remotes[1].get()));
  print(o.format == "json" ? as_json(diff) : as_text(diff));
  return diff.same();
}

}  // namespace lamina::cli
