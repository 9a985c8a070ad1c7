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
  oci::Descriptor descriptor;  // with the annotations that say where a table of contents is
  bool pulled = false;         // came from elsewhere: it is what others know the layer by
  std::optional<int> level;    // of a blob compressed here with a level that was asked for
  // Of a blob made here to have a table of contents: "estargz.1", "zstd:chunked.1". It has none when the layer could not get
  // one.
  std::string format;
  // When it is not the layer's tar that is compressed: an estargz has files of its own.
  std::optional<oci::DiffId> diff_id;
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
