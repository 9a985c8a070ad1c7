// The few tar members that an image archive needs: files and directories with short names, no owner, no time.
// POSIX.1-1988 ustar; sizes of 8 GiB and more in GNU's base-256 form.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/stream.h"

namespace lamina::registry::internal {

class UstarWriter {
 public:
  explicit UstarWriter(ByteSink& out) : out_(out) {}
  Result<void> directory(const std::string& name);
  Result<void> file(const std::string& name, std::string_view content);
  // `content` must yield exactly `size` bytes; its end is read, so that a verified stream is checked.
  Result<void> file(const std::string& name, uint64_t size, ByteSource& content);
  Result<void> finish();

 private:
  Result<void> header(const std::string& name, uint64_t size, unsigned mode, char type);
  Result<void> pad(uint64_t size);
  ByteSink& out_;
};

}  // namespace lamina::registry::internal
