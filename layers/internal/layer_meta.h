// What layers/<id>/meta says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/digest.h"
#include "oci/manifest.h"

namespace lamina::layers {

struct LayerBlob {
  oci::Descriptor descriptor;
  bool pulled = false;       // came from elsewhere: it is what others know the layer by
  std::optional<int> level;  // of a blob compressed here with a level that was asked for
};

struct LayerMeta {
  std::string boot_id;  // the boot in which the files were written
  bool pulled = false;  // the tar is somebody else's: a snapshot does not give its bytes back
  std::optional<oci::DiffId> diff_id;
  std::optional<uint64_t> tar_size;
  std::optional<int64_t> clamp_mtime;
  std::vector<std::string> implicit_directories;  // in the snapshot, but no members of the layer
  std::vector<LayerBlob> blobs;

  // kCorrupt when it is damaged or of another version: the layer is then as good as absent.
  static Result<LayerMeta> parse(std::string_view text);
  std::string to_json() const;
};

}  // namespace lamina::layers
