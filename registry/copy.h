// Images from one place to another as they are: registries, layouts, archives; whole indexes too.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "registry/client.h"
#include "registry/layout.h"

namespace lamina::registry {

// docker://NAME or NAME; oci:PATH[:TAG|@DIGEST] (a layout directory); oci-archive:FILE[:TAG|@DIGEST];
// docker-archive:FILE[:NAME].
struct Place {
  enum class Kind { kRegistry, kLayout, kLayoutArchive, kDockerArchive };
  Kind kind = Kind::kRegistry;
  oci::Reference name;             // kRegistry; of archives the name that a tag makes, when it is one
  std::string path;                // of the others
  std::optional<std::string> tag;
  std::optional<oci::Digest> digest;
  std::string text;                // as the user wrote it
};
// kInvalidInput with what is known.
Result<Place> parse_place(std::string_view text);
// Whether the text begins with one of the transports.
bool names_transport(std::string_view text);

// An image, or an index of several, at its place. Borrows the client.
struct OpenedImage {
  oci::Descriptor top;
  std::string bytes;                      // of the manifest or index that `top` describes
  std::shared_ptr<oci::BlobSource> blobs;
};
Result<OpenedImage> open_image(Client& client, const Place& place);

// A file that appears only when it is complete; "-" is standard output.
Result<void> write_whole_file(const std::string& path, const std::function<Result<void>(ByteSink&)>& write);

struct CopyOptions {
  std::optional<oci::Platform> platform;  // only this image of an index
  bool referrers = false;                 // what refers to the image goes along, between registries
  TransferProgress progress;
};
struct CopyReport {
  oci::Descriptor top;
  unsigned manifests = 0, blobs = 0;
  uint64_t moved_bytes = 0;  // of blobs that were not there, mounted ones not counted
};
// Every blob is verified on its way. What exists at the destination is not sent again; the name there is set last.
// A layout directory is added to. kUnsupported for an index into a docker archive.
Result<CopyReport> copy_image(Client& client, const Place& from, const Place& to, const CopyOptions& options);

}  // namespace lamina::registry
