// The listing of a layer that was made by an earlier build.
#include "base/trace.h"
#include "layers/internal/pipeline.h"
#include "layers/internal/store_impl.h"
#include "layers/tar.h"

namespace lamina::layers {

Result<std::shared_ptr<const Listing>> Store::listing(const LayerId& id) {
  using Found = std::shared_ptr<const Listing>;
  ASSIGN_OR_RETURN(const LayerInfo info, layer_info(id));
  if (info.has_snapshot) return Found();
  const TraceSpan span("layers", "list " + id.value);
  auto tar = open_tar(id, nullptr);
  if (!tar) return Found();  // its bytes are elsewhere
  // Attributes of what is listed get into other layers: of wrong bytes nothing may.
  HashingSource hashed(std::move(*tar));
  TarReader reader(hashed);
  EntryList entries;
  while (entries.size() <= Listing::kMaxEntries) {
    ASSIGN_OR_RETURN(std::optional<Entry> entry, reader.next());
    if (!entry) break;
    entries.push_back(*std::move(entry));
  }
  if (entries.size() > Listing::kMaxEntries) return Found();
  NullSink nowhere;
  RETURN_IF_ERROR(copy_stream(hashed, nowhere));
  if (!info.diff_id || oci::DiffId::from_bytes(hashed.summary().sha256) != *info.diff_id) return Found();  // making a snapshot says what is wrong
  return Listing::make(entries);
}

}  // namespace lamina::layers
