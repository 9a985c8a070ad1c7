// One member of a layer: the form in which a layer is a list of values.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "base/unique_fd.h"

namespace lamina::layers {

enum class EntryType {
  kFile,
  kDirectory,
  kSymlink,
  kHardlink,  // link_target is the path of an earlier entry of the same layer
  kCharDevice,
  kBlockDevice,
  kFifo,
  kWhiteout,        // `path` does not exist any more
  kOpaqueWhiteout,  // nothing of lower layers is left below the directory `path`
};

// Gives the bytes of files by path: a context directory, a snapshot. Any thread.
class FileOpener {
 public:
  virtual ~FileOpener() = default;
  virtual Result<UniqueFd> open_file(const std::string& path) const = 0;
  // What the owner of the files does with their bytes besides, so that each file is read once. A long file is examined
  // on another thread while it is read here (pread(2) only); every file is confirmed after its last byte, with its
  // bytes when they are in memory at once, and an error means that they are not to be used.
  virtual Result<void> examine(const std::string& /*path*/, int /*fd*/) const { return {}; }
  virtual Result<void> confirm(const std::string& /*path*/, int /*fd*/, std::optional<std::string_view> /*bytes*/) const { return {}; }
};

struct Entry {
  std::string path;  // relative, no leading or trailing "/", no ".", "..", or empty components; "" is the root
  EntryType type = EntryType::kFile;
  uint32_t mode = 0;  // permission bits, 07777
  uint32_t uid = 0;
  uint32_t gid = 0;
  Timestamp mtime;
  uint64_t size = 0;        // kFile
  std::string link_target;  // kSymlink: any text; kHardlink: a path like `path`
  uint32_t dev_major = 0, dev_minor = 0;
  std::map<std::string, std::string> xattrs;

  // Where the bytes of a kFile are: `opener` and `source_path`, or `bytes`.
  std::shared_ptr<const FileOpener> opener;
  std::string source_path;
  std::shared_ptr<const std::string> bytes;

  // Makes of a kFile another name of the one at `first`, an earlier entry.
  void become_hard_link(const std::string& first);
};

// Order of entries in a layer: component-wise by bytes, so that a directory comes right before what is
// in it and the order does not depend on the file system; an opaque whiteout first in its directory.
bool path_less(std::string_view a, std::string_view b);

// Sorted by path_less, no path twice (a kOpaqueWhiteout and its kDirectory may share one).
using EntryList = std::vector<Entry>;

// The same one after the other, for layers of any number of entries. One thread at a time.
class EntrySource {
 public:
  virtual ~EntrySource() = default;
  // Nothing after the last.
  virtual Result<std::optional<Entry>> next() = 0;
  // The sum of the sizes of all files, as far as it is known; room is made for so much.
  virtual uint64_t content_bytes() const = 0;
};

// Those of a list, then those of `rest` (borrowed, may be null) from which the list was taken.
class ListedEntries : public EntrySource {
 public:
  explicit ListedEntries(EntryList entries, EntrySource* rest = nullptr) : entries_(std::move(entries)), rest_(rest) {}
  Result<std::optional<Entry>> next() override;
  uint64_t content_bytes() const override;

 private:
  EntryList entries_;
  EntrySource* const rest_;
  size_t next_ = 0;
};

}  // namespace lamina::layers
