// --squash: several layers as one.
#pragma once

#include <memory>
#include <vector>

#include "layers/entry.h"
#include "layers/rootfs_view.h"

namespace lamina::builder::internal {

// The entries of one layer that does to `below` what the snapshots do one after the other (bottom first), computed as they
// are asked for. Whiteouts only where `below` has something to hide. The files are read from the snapshots, which must
// stay, as must `below`.
Result<std::unique_ptr<layers::EntrySource>> squash(const std::vector<std::string>& snapshots, const layers::RootfsView& below);

}  // namespace lamina::builder::internal
