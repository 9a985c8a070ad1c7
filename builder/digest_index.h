// What was learnt about the files of a build context, kept from one build to the next.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/guarded.h"
#include "base/sha256.h"
#include "layers/store.h"

namespace lamina::builder {

// Digests of files that were read before, with the stat data that proves them unchanged. A file's digest is
// reused only when device, inode, size, mtime and ctime are the same to the nanosecond and the ctime is clearly
// older than the moment of the reading (git's "racily clean" rule); otherwise its bytes are read. A change of
// the extended attributes moves the ctime too, so what is known of them is proved by the same data. Any thread.
//
// Index file, little-endian: "lamina-digests 2\n", then for each directory: 32-bit length and path, 32-bit
// number of records; each record: 8 64-bit numbers (device, inode, size, mtime s, mtime ns, ctime s, ctime ns,
// time of reading in ns), 32 bytes of digest, a byte of flags (1: no attribute that an image would hold),
// 16-bit length and name. Directories and the names in one come in byte order, so that a walk in that order
// reads the file from its beginning to its end.
class DigestIndex {
 public:
  // An unreadable or foreign index counts as empty.
  static std::shared_ptr<DigestIndex> load(layers::Store& store, const std::string& name);

  struct Stat {
    uint64_t device = 0, inode = 0, size = 0;
    int64_t mtime_s = 0, mtime_ns = 0, ctime_s = 0, ctime_ns = 0;
    bool operator==(const Stat&) const = default;
  };
  struct Found {
    Sha256Bytes digest{};
    bool no_xattrs = false;
  };

  // Finds the files of one directory; fastest when they are asked for in byte order. Borrows the index.
  class Directory {
   public:
    // False when the file was never read or may have changed since.
    bool find(std::string_view name, const Stat& stat, Found& found);

   private:
    friend class DigestIndex;
    const char* begin_ = nullptr;  // the first record
    const char* at_ = nullptr;     // the record after the one found last
    uint32_t count_ = 0, number_ = 0;
  };
  Directory directory(std::string_view path) const;
  // The same for a single path.
  bool find(const std::string& path, const Stat& stat, Found& found) const;

  // `read_at_ns`: realtime_ns() before the first byte was read.
  void put(const std::string& path, const Stat& stat, const Found& found, int64_t read_at_ns);
  // Writes the index when something was put. In directories that got new records, those of files that are
  // no longer there go. The store must outlive the call only.
  Result<void> save(layers::Store& store, const std::function<bool(const std::string& path)>& exists);

 private:
  struct Known {
    Stat stat;
    int64_t read_at_ns = 0;
    Found found;
  };
  struct Place {
    const char* records = nullptr;
    uint32_t count = 0;
  };

  std::string name_;
  std::string text_;                                // the file as it was loaded; records are read in place
  std::map<std::string_view, Place> directories_;
  Guarded<std::map<std::string, std::map<std::string, Known>>> fresh_;  // directory → name → record
};

// CLOCK_REALTIME in nanoseconds.
int64_t realtime_ns();

}  // namespace lamina::builder
