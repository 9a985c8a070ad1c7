// The digests of what a COPY selects: read for the key, or taken on the way into the layer.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "base/text.h"
#include "base/trace.h"
#include "builder/copy.h"
#include "builder/digest_index.h"

namespace lamina::builder {

namespace {

// Files are digested in slices of this many; a large one on its own, by all threads together.
constexpr size_t kSlice = 64;

}  // namespace

Result<void> digest_selection(Selection& selection, ThreadPool& pool, uint64_t from_bytes) {
  const TraceSpan span("copy", "digest");
  struct Job {
    const SourceTree* tree;
    SelectedFile* file;
  };
  std::vector<Job> small, large;
  for (SelectedSource& source : selection.sources) {
    for (SelectedFile& file : source.files) {
      if (file.info.type != EntryType::kFile || !file.digest.empty() || file.info.size < from_bytes) continue;
      if (file.info.size == 0) {  // the layer's will be empty, whatever is in it by then
        file.digest = sha256_hex({});
        continue;
      }
      (file.info.size > kDigestPiece ? large : small).push_back({source.tree.get(), &file});
    }
  }
  const auto digest = [&](const Job& job, ThreadPool* helpers) -> Result<void> {
    ASSIGN_OR_RETURN(job.file->digest, job.tree->file_digest(job.file->path, job.file->info, !job.file->xattrs.empty(), helpers));
    return {};
  };
  for (const Job& job : large) RETURN_IF_ERROR(digest(job, &pool));
  const size_t slices = (small.size() + kSlice - 1) / kSlice;
  std::vector<Result<void>> results(slices);
  parallel_for(pool, slices, [&](size_t slice) {
    for (size_t i = slice * kSlice; i < std::min(small.size(), (slice + 1) * kSlice) && results[slice]; ++i) {
      results[slice] = digest(small[i], nullptr);
    }
  });
  for (Result<void>& result : results) RETURN_IF_ERROR(std::move(result));
  return {};
}

namespace {

// Of one source. The writer tells about each file once, from any thread; a file is touched by one thread at a time.
class WatchedFiles : public layers::FileOpener {
 public:
  explicit WatchedFiles(SelectedSource& source) : tree_(source.tree), files_opener_(source.tree->opener()), began_ns_(realtime_ns()) {
    files_.reserve(source.files.size());
    for (SelectedFile& file : source.files) {
      if (file.info.type == EntryType::kFile && file.info.size != 0) files_.emplace(file.path, Watched{&file, {}});
    }
  }

  Result<UniqueFd> open_file(const std::string& path) const override { return files_opener_->open_file(path); }

  Result<void> examine(const std::string& path, int fd) const override {
    const Watched* const watched = find(path);
    if (watched == nullptr || !watched->file->digest.empty()) return {};
    ASSIGN_OR_RETURN_WITH(watched->taken, content_digest(fd, watched->file->info.size, nullptr), "reading " + path);
    return {};
  }

  // What was read is what the digest is of: because nobody wrote to the file, or because the bytes are here.
  Result<void> confirm(const std::string& path, int fd, std::optional<std::string_view> bytes) const override {
    const Watched* const watched = find(path);
    if (watched == nullptr) return {};
    SelectedFile& file = *watched->file;
    ASSIGN_OR_RETURN(const bool unchanged, tree_->unchanged(path, file.info, fd));
    if (!unchanged && !bytes) return changed(path);
    if (bytes) watched->taken = sha256(*bytes);  // a window's file is shorter than a piece
    if (!bytes && !file.digest.empty()) return {};
    if (!watched->taken) return Error(ErrorKind::kInternal, path + " was copied without its digest");
    std::string text = to_hex(*watched->taken);
    if (!file.digest.empty() && file.digest != text) return changed(path);
    file.digest = std::move(text);
    if (unchanged) tree_->learn_digest(path, file.info, !file.xattrs.empty(), *watched->taken, began_ns_);
    return {};
  }

 private:
  struct Watched {
    SelectedFile* file;
    mutable std::optional<Sha256Bytes> taken;  // of the bytes that were read here
  };
  const Watched* find(const std::string& path) const {
    const auto it = files_.find(path);
    return it == files_.end() ? nullptr : &it->second;
  }
  static Error changed(const std::string& path) {
    return Error(ErrorKind::kCorrupt, fmt::format("{} changed while it was copied", printable(path)))
        .with_note("something writes into the build context; build again when it has ended");
  }

  const std::shared_ptr<const SourceTree> tree_;
  const std::shared_ptr<const layers::FileOpener> files_opener_;
  const int64_t began_ns_;
  std::unordered_map<std::string_view, Watched> files_;
};

}  // namespace

void watch_reading(Selection& selection) {
  for (SelectedSource& source : selection.sources) {
    if (!source.inline_content) source.opener = std::make_shared<WatchedFiles>(source);
  }
}

}  // namespace lamina::builder
