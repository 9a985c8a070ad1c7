// The listing of a layer that was made by an earlier build.
#include "base/trace.h"
#include "layers/internal/store_impl.h"
#include "layers/tar.h"

namespace lamina::layers {

Result<std::shared_ptr<const Listing>> Store::listing(const LayerId& id) {
  using Found = std::shared_ptr<const Listing>;
  ASSIGN_OR_RETURN(const LayerInfo info, layer_info(id));
  if (info.has_snapshot) return Found();
  const TraceSpan span("layers", "list " + id.value);
  const auto tar = open_tar(id, nullptr);
  if (!tar) return Found();  // its bytes are elsewhere
  TarReader reader(**tar);
  EntryList entries;
  while (entries.size() <= Listing::kMaxEntries) {
    ASSIGN_OR_RETURN(std::optional<Entry> entry, reader.next());
    if (!entry) return Listing::make(entries);
    entries.push_back(*std::move(entry));
  }
  return Found();
}

}  // namespace lamina::layers
