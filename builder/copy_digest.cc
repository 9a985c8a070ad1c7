// The digests of what a COPY selects: read for the key, or taken on the way into the layer.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "base/trace.h"
#include "builder/copy.h"
#include "builder/digest_index.h"

namespace lamina::builder {

namespace {

// Files are digested in slices of this many; a large one on its own, by all threads together.
constexpr size_t kSlice = 64;
constexpr size_t kSlicesAtOnce = 16;

struct DigestJob {
  const SelectedSource* source;
  SelectedFile file;
  size_t index;  // in the source's list
};

Result<void> digest_file(const DigestJob& job, ThreadPool* helpers) {
  const SelectedSource& source = *job.source;
  const std::string path = source.files->path_of(job.file);
  ASSIGN_OR_RETURN(const Sha256Bytes digest, source.tree->file_digest(path, job.file.info, !job.file.xattrs.empty(), helpers));
  return source.files->set_digest(job.index, digest);
}

Result<void> digest_files(std::vector<DigestJob>& jobs, ThreadPool& pool) {
  const size_t slices = (jobs.size() + kSlice - 1) / kSlice;
  std::vector<Result<void>> results(slices);
  parallel_for(pool, slices, [&](size_t slice) {
    for (size_t i = slice * kSlice; i < std::min(jobs.size(), (slice + 1) * kSlice) && results[slice]; ++i) {
      results[slice] = digest_file(jobs[i], nullptr);
    }
  });
  jobs.clear();
  for (Result<void>& result : results) RETURN_IF_ERROR(std::move(result));
  return {};
}

}  // namespace

Result<void> digest_selection(const Selection& selection, ThreadPool& pool, uint64_t from_bytes) {
  const TraceSpan span("copy", "digest");
  std::vector<DigestJob> small;
  for (const SelectedSource& source : selection.sources) {
    if (!source.files) continue;
    FileList::Cursor cursor(*source.files);
    SelectedFile file;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, cursor.next(file));
      if (!more) break;
      if (file.info.type != EntryType::kFile || file.digest || file.info.size < from_bytes) continue;
      if (file.info.size == 0) {  // the layer's will be empty, whatever is in it by then
        RETURN_IF_ERROR(source.files->set_digest(cursor.index(), sha256({})));
      } else if (file.info.size > kDigestPiece) {
        RETURN_IF_ERROR(digest_file({&source, file, cursor.index()}, &pool));
      } else {
        small.push_back({&source, std::move(file), cursor.index()});
        if (small.size() == kSlice * kSlicesAtOnce) RETURN_IF_ERROR(digest_files(small, pool));
      }
    }
  }
  return digest_files(small, pool);
}

// The writer tells about its file once, from any thread, one at a time.
class WatchedFile : public layers::FileOpener {
 public:
  WatchedFile(std::shared_ptr<const ReadWatch> watch, const SelectedFile& file, size_t index)
      : watch_(std::move(watch)), info_(file.info), digest_(file.digest), has_xattrs_(!file.xattrs.empty()), index_(index) {}

  Result<UniqueFd> open_file(const std::string& path) const override { return watch_->opener_->open_file(path); }

  Result<void> examine(const std::string& path, int fd) const override {
    if (digest_) return {};
    ASSIGN_OR_RETURN_WITH(taken_, content_digest(fd, info_.size, nullptr), "reading " + path);
    return {};
  }

  // What was read is what the digest is of: because nobody wrote to the file, or because the bytes are here.
  Result<void> confirm(const std::string& path, int fd, std::optional<std::string_view> bytes) const override {
    ASSIGN_OR_RETURN(const bool unchanged, watch_->tree_->unchanged(path, info_, fd));
    if (!unchanged && !bytes) return changed(path);
    if (bytes) taken_ = sha256(*bytes);  // a window's file is shorter than a piece
    if (!bytes && digest_) return {};
    if (!taken_) return Error(ErrorKind::kInternal, path + " was copied without its digest");
    if (digest_ && *digest_ != *taken_) return changed(path);
    if (digest_) return {};
    if (unchanged) watch_->tree_->learn_digest(path, info_, has_xattrs_, *taken_, watch_->began_ns_);
    return watch_->files_->set_digest(index_, *taken_);
  }

 private:
  static Error changed(const std::string& path) {
    return Error(ErrorKind::kCorrupt, fmt::format("{} changed while it was copied", printable(path)))
        .with_note("something writes into the build context; build again when it has ended");
  }

  const std::shared_ptr<const ReadWatch> watch_;
  const FileInfo info_;
  const std::optional<Sha256Bytes> digest_;
  const bool has_xattrs_;
  const size_t index_;
  mutable std::optional<Sha256Bytes> taken_;  // of the bytes that were read here
};

ReadWatch::ReadWatch(const SelectedSource& source) : tree_(source.tree), opener_(source.tree->opener()), files_(source.files), began_ns_(realtime_ns()) {}

std::shared_ptr<const layers::FileOpener> ReadWatch::opener_of(const SelectedFile& file, size_t index) const {
  return std::make_shared<WatchedFile>(shared_from_this(), file, index);
}

void watch_reading(Selection& selection) {
  for (SelectedSource& source : selection.sources) {
    if (source.files) source.watch = std::make_shared<ReadWatch>(source);
  }
}

}  // namespace lamina::builder
