// Why two images differ: config, annotations, layer by layer, file by file, down to the first differing bytes.
#pragma once

#include <string>
#include <vector>

#include "layers/store.h"
#include "oci/blob.h"

namespace lamina::builder {

struct ImageDiff {
  struct Line {
    std::string where;  // "config", "manifest", "layer 2"
    std::string text;   // "etc/motd: bytes 12 to 14 differ: …"
    bool time = false;  // differs in a time only
  };
  std::vector<Line> lines;
  bool same() const { return lines.empty(); }
  bool only_times() const;
};

// Reads layers from the store, and what it lacks from `remote_a` and `remote_b`; only layers whose DiffIds differ are
// read. Layers are compared in pairs, bottom first. Contents are not held in memory: a file costs two bytes a KiB.
Result<ImageDiff> diff_images(layers::Store& store, const oci::Image& a, oci::BlobSource* remote_a, const oci::Image& b, oci::BlobSource* remote_b);

}  // namespace lamina::builder
