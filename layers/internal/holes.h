// Content that knows where its holes are.
#pragma once

#include "base/stream.h"

namespace lamina::layers {

// A ByteSource that yields zeros for holes, and lets a reader skip them instead.
class HoleySource : public ByteSource {
 public:
  // Skips the hole at the current position; its length in bytes, 0 when there is data or the end.
  virtual uint64_t skip_hole() = 0;
};

}  // namespace lamina::layers
