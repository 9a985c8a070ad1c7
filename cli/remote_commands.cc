// build copy, tags, inspect --remote: images that are not in the store.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/text.h"
#include "cli/internal/image_commands.h"
#include "cli/output.h"
#include "registry/copy.h"

namespace lamina::cli {

namespace {

using Json = nlohmann::json;

std::string dump(const Json& json, int indent) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

Json describe(const oci::Descriptor& d) {
  Json json = {{"MediaType", d.media_type}, {"Digest", d.digest.text()}, {"Size", d.size}};
  if (d.platform) json["Platform"] = d.platform->text();
  if (!d.artifact_type.empty()) json["ArtifactType"] = d.artifact_type;
  if (!d.annotations.empty()) json["Annotations"] = d.annotations;
  return json;
}

struct Remote {
  registry::Place place;
  registry::OpenedImage image;
  std::string config;  // of a manifest; empty for an index
};

// The image itself when a platform is given, else what the name points at.
Result<Remote> open_remote(registry::Client& client, const std::string& name, const ImageOptions& o) {
  Remote remote;
  ASSIGN_OR_RETURN(remote.place, registry::parse_place(name));
  ASSIGN_OR_RETURN_WITH(remote.image, registry::open_image(client, remote.place), "looking at " + name);
  if (!o.platform.empty() && oci::media_type::is_index(remote.image.top.media_type)) {
    ASSIGN_OR_RETURN(const oci::Platform platform, oci::Platform::parse(o.platform));
    ASSIGN_OR_RETURN(const oci::Index index, oci::Index::parse(remote.image.bytes));
    ASSIGN_OR_RETURN(remote.image.top, index.select(platform));
    ASSIGN_OR_RETURN(remote.image.bytes, oci::read_blob(*remote.image.blobs, remote.image.top));
  }
  if (oci::media_type::is_manifest(remote.image.top.media_type)) {
    ASSIGN_OR_RETURN(const oci::Manifest manifest, oci::Manifest::parse(remote.image.bytes));
    ASSIGN_OR_RETURN(remote.config, oci::read_blob(*remote.image.blobs, manifest.config));
  }
  return remote;
}

Result<Json> describe_remote(registry::Client& client, const Remote& remote, const std::string& name) {
  Json json = describe(remote.image.top);
  json["Name"] = name;
  if (oci::media_type::is_index(remote.image.top.media_type)) {
    ASSIGN_OR_RETURN(const oci::Index index, oci::Index::parse(remote.image.bytes));
    json["Manifests"] = Json::array();
    for (const oci::Descriptor& d : index.manifests) json["Manifests"].push_back(describe(d));
    if (!index.annotations.empty()) json["Annotations"] = index.annotations;
  } else {
    json["Manifest"] = Json::parse(remote.image.bytes, nullptr, false);
    json["Config"] = Json::parse(remote.config, nullptr, false);
  }
  if (remote.place.kind == registry::Place::Kind::kRegistry) {
    ASSIGN_OR_RETURN(const oci::Index referrers, client.referrers(remote.place.name.with_digest(remote.image.top.digest), ""));
    json["Referrers"] = Json::array();
    for (const oci::Descriptor& d : referrers.manifests) json["Referrers"].push_back(describe(d));
  }
  return json;
}

}  // namespace

bool is_remote(const ImageOptions& o) {
  for (const std::string& name : o.names) {
    if (registry::names_transport(name)) return true;
  }
  return o.remote;
}

Result<void> inspect_remote(const ImageOptions& o, const Session& session) {
  if (!o.raw.empty() && o.raw != "manifest" && o.raw != "config") return Error(ErrorKind::kInvalidInput, "--raw is manifest or config");
  registry::Client client(client_options(o, session));
  Json all = Json::array();
  for (const std::string& name : o.names) {
    ASSIGN_OR_RETURN(const Remote remote, open_remote(client, name, o));
    if (o.raw == "config" && remote.config.empty()) return Error(ErrorKind::kInvalidInput, name + " is an index of several images: choose one with --platform");
    if (!o.raw.empty()) {
      print(o.raw == "manifest" ? remote.image.bytes : remote.config);
      continue;
    }
    ASSIGN_OR_RETURN(Json json, describe_remote(client, remote, name));
    all.push_back(std::move(json));
  }
  if (o.raw.empty()) print(dump(all, 2) + "\n");
  return {};
}

Result<void> list_tags(const ImageOptions& o, const Session& session) {
  std::string name = o.names[0];
  if (name.compare(0, 9, "docker://") == 0) name.erase(0, 9);
  ASSIGN_OR_RETURN(const oci::Reference repository, oci::Reference::parse(name));
  if (repository.tag() || repository.digest()) return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" names an image: give the repository alone", printable(name)));
  registry::Client client(client_options(o, session));
  ASSIGN_OR_RETURN(const std::vector<std::string> tags, client.tags(repository));
  if (o.format == "json") {
    print(dump({{"Repository", repository.familiar_repository()}, {"Tags", tags}}, -1) + "\n");
    return {};
  }
  std::string text;
  for (const std::string& tag : tags) text += printable(tag) + "\n";
  print(text);
  return {};
}

Result<void> copy_between(const ImageOptions& o, const Session& session) {
  ASSIGN_OR_RETURN(const registry::Place from, registry::parse_place(o.names[0]));
  ASSIGN_OR_RETURN(const registry::Place to, registry::parse_place(o.names[1]));
  registry::CopyOptions options;
  if (!o.platform.empty()) {
    ASSIGN_OR_RETURN(options.platform, oci::Platform::parse(o.platform));
  }
  options.referrers = o.referrers;
  registry::Client client(client_options(o, session));
  ASSIGN_OR_RETURN_WITH(const registry::CopyReport report, registry::copy_image(client, from, to, options), fmt::format("copying {} to {}", from.text, to.text));
  if (!o.quiet) {
    ignore_error(write_all(STDERR_FILENO, fmt::format("{} manifest{}, {} blobs, {} moved\n", report.manifests, report.manifests == 1 ? "" : "s", report.blobs, human_size(report.moved_bytes))), "standard error is gone");
  }
  RETURN_IF_ERROR(write_digest_file(o, report.top.digest));
  if (to.path != "-") print(report.top.digest.text() + "\n");
  return {};
}

Result<void> write_digest_file(const ImageOptions& o, const oci::Digest& digest) {
  if (o.digest_file.empty()) return {};
  return write_text(o.digest_file, digest.text() + "\n");
}

}  // namespace lamina::cli
