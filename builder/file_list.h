// What a source of a COPY selected, file by file, for any number of files.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/guarded.h"
#include "base/sha256.h"
#include "base/spool.h"
#include "builder/source_tree.h"

namespace lamina::builder {

struct SelectedFile {
  std::string relative;  // below the source's root; "" is the root itself
  FileInfo info;
  std::optional<Sha256Bytes> digest;  // regular files: content_digest(), when it is known
  std::string link_target;            // symlinks
  std::map<std::string, std::string> xattrs;
};

// Filled once, in layers::path_less order, then read any number of times. A few pages are in memory, the others in a
// temporary file. Cursors are for one thread each; set_digest is for any thread, also while cursors read.
class FileList {
 public:
  // `root`: the source in its tree. `temporary_file` as a Spool takes it.
  FileList(std::string root, TemporaryFile temporary_file);
  ~FileList();

  const std::string& root() const { return root_; }
  // In the tree.
  std::string path_of(const SelectedFile& file) const;

  // One thread, before any other call. kInternal when it is not behind the one before.
  Result<void> append(const SelectedFile& file);
  size_t size() const { return count_; }
  uint64_t content_bytes() const { return content_bytes_; }  // of all regular files
  // REQUIRES: not empty.
  Result<SelectedFile> front() const;

  // Of the file appended as number `index`.
  Result<void> set_digest(size_t index, const Sha256Bytes& digest) const;

  // Borrows the list, which nobody appends to any more.
  class Cursor {
   public:
    explicit Cursor(const FileList& list) : list_(&list) {}
    // False after the last. A digest that is set meanwhile may show or not.
    Result<bool> next(SelectedFile& file);
    size_t index() const { return index_ - 1; }  // of what next() gave last

   private:
    const FileList* list_;
    size_t index_ = 0;
    std::shared_ptr<struct FileListPage> page_;
    size_t offset_ = 0;  // in the page
  };

 private:
  using Page = struct FileListPage;
  // Where a page is in the file.
  struct Place {
    uint64_t offset = 0;
    size_t record_bytes = 0;
  };
  struct Pages {
    std::map<size_t, std::shared_ptr<Page>> in_memory;  // by number
    std::vector<size_t> used;                           // the same numbers, the latest last
    std::map<size_t, Place> written;
    UniqueFd file;
    uint64_t file_size = 0;
  };
  Result<std::shared_ptr<Page>> page(Pages& pages, size_t number) const;
  Result<void> make_room(Pages& pages) const;
  Result<void> write(Pages& pages, size_t number, Page& page) const;
  Result<std::shared_ptr<Page>> read(Pages& pages, size_t number) const;

  const std::string root_;
  const TemporaryFile temporary_file_;
  size_t count_ = 0;
  std::string last_;  // what was appended last
  uint64_t content_bytes_ = 0;
  mutable Guarded<Pages> pages_;
};

}  // namespace lamina::builder
