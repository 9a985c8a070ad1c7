// What was learnt about the files of a build context, kept from one build to the next.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/sha256.h"
#include "layers/store.h"

namespace lamina::builder {

// Digests of files that were read before, with the stat data that proves them unchanged. A file's digest is
// reused only when device, inode, size, mtime and ctime are the same to the nanosecond and the ctime is clearly
// older than the moment of the reading (git's "racily clean" rule); otherwise its bytes are read. A change of
// the extended attributes moves the ctime too, so what is known of them is proved by the same data. Any thread.
//
// Index file, little-endian: "lamina-digests 3\n"; blocks; a table; 64-bit place of the table, its CRC-32, 32-bit number of
// blocks. A block is read alone: records in path_less order of their paths, then their CRC-32. A record: 8 64-bit numbers
// (device, inode, size, mtime s, mtime ns, ctime s, ctime ns, time of reading in ns), 32 bytes of digest, a byte of flags
// (1: no attribute that an image would hold), 16-bit numbers of the path's bytes that are those of the path before it in
// the block and of the others, and these. The table has for each block: 64-bit place, 32-bit size, 16-bit length and its
// first path. What is damaged counts as not there.
class DigestIndex {
 public:
  // An unreadable or foreign index counts as empty. `store` outlives the result.
  static std::shared_ptr<DigestIndex> load(layers::Store& store, const std::string& name);
  ~DigestIndex();

  struct Stat {
    uint64_t device = 0, inode = 0, size = 0;
    int64_t mtime_s = 0, mtime_ns = 0, ctime_s = 0, ctime_ns = 0;
    bool operator==(const Stat&) const = default;
  };
  struct Found {
    Sha256Bytes digest{};
    bool no_xattrs = false;
  };

  // Finds files of the last build's index; fastest when they are asked for in path_less order. One thread; borrows the
  // index.
  class Cursor {
   public:
    explicit Cursor(const DigestIndex& index);
    ~Cursor();
    // False when the file was never read or may have changed since.
    bool find(std::string_view path, const Stat& stat, Found& found);

   private:
    struct Position;
    const DigestIndex& index_;
    std::unique_ptr<Position> position_;
  };
  // The same for a single path.
  bool find(std::string_view path, const Stat& stat, Found& found) const;

  // `read_at_ns`: realtime_ns() before the first byte was read.
  void put(std::string_view path, const Stat& stat, const Found& found, int64_t read_at_ns);
  // Writes the index when something was put. In directories that got new records, those of files that are
  // no longer there go.
  Result<void> save(const std::function<bool(const std::string& path)>& exists);

 private:
  struct Impl;
  explicit DigestIndex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// CLOCK_REALTIME in nanoseconds.
int64_t realtime_ns();

}  // namespace lamina::builder
