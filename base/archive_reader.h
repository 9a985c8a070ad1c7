// Reads archives that users supply (tar in all dialects, with any compression) by libarchive, which
// is loaded with dlopen at the first use: a build without archives does not pay for it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/stream.h"
#include "base/time.h"

namespace lamina {

struct ArchiveMember {
  enum class Type { kFile, kDirectory, kSymlink, kHardlink, kCharDevice, kBlockDevice, kFifo };
  std::string path;  // as it stands in the archive
  Type type = Type::kFile;
  uint32_t mode = 0, uid = 0, gid = 0;
  Timestamp mtime;
  uint64_t size = 0;
  std::string link_target;
  uint32_t dev_major = 0, dev_minor = 0;
  std::map<std::string, std::string> xattrs;
};

// One thread.
class ArchiveReader {
 public:
  // Formats: tar and its dialects; filters: gzip, bzip2, xz, zstd, none. Borrows `source`.
  // kUnsupported when libarchive is not installed (names the package), kCorrupt when the bytes are
  // no such archive.
  static Result<std::unique_ptr<ArchiveReader>> open(ByteSource& source);
  virtual ~ArchiveReader() = default;
  virtual Result<std::optional<ArchiveMember>> next() = 0;
  // Content of the member that next() gave last.
  virtual Result<size_t> read(std::span<std::byte> buffer) = 0;
};

}  // namespace lamina
