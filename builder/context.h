// The build context: a directory of the user, read in place, filtered by the ignore file.
#pragma once

#include <memory>
#include <string>

#include "builder/source_tree.h"
#include "layers/store.h"
#include "parser/patterns.h"

namespace lamina::builder {

// Digests of files that were read before, with the stat data that proves them unchanged. A file's digest is
// reused only when device, inode, size, mtime and ctime are the same to the nanosecond and the ctime is clearly
// older than the moment of the reading (git's "racily clean" rule); otherwise its bytes are read. Any thread.
//
// Index file: "lamina-digests 1\n", then records of 8 little-endian 64-bit numbers (device, inode, size,
// mtime s, mtime ns, ctime s, ctime ns, time of reading in ns), 32 bytes of digest, a 16-bit path length, the path.
class DigestIndex {
 public:
  // An unreadable or foreign index counts as empty.
  static std::shared_ptr<DigestIndex> load(layers::Store& store, const std::string& name);
  ~DigestIndex();

  struct Stat {
    uint64_t device = 0, inode = 0, size = 0;
    int64_t mtime_s = 0, mtime_ns = 0, ctime_s = 0, ctime_ns = 0;
    bool operator==(const Stat&) const = default;
  };
  // 64 hexadecimal digits, or empty.
  std::string find(const std::string& path, const Stat& stat) const;
  // `read_at_ns`: CLOCK_REALTIME before the first byte was read.
  void put(const std::string& path, const Stat& stat, const std::string& hex, int64_t read_at_ns);
  // Writes the index when something was put. The store must outlive the call only.
  Result<void> save(layers::Store& store);

 private:
  DigestIndex();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Opens a context directory. Every file shows as owned by 0:0 (the context's owner never reaches an image).
// `ignore` may be empty. kNotFound or kInvalidInput when `directory` is missing or no directory.
Result<std::shared_ptr<const SourceTree>> open_context(const std::string& directory,
                                                       std::string name, parser::IgnoreList ignore,
                                                       std::shared_ptr<DigestIndex> index);

}  // namespace lamina::builder
