#include "builder/file_list.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "base/files.h"

namespace lamina::builder {

namespace {

constexpr size_t kPageFiles = 512;
constexpr size_t kPagesInMemory = 8;
constexpr const char* kTemporary = "the temporary file of a list of files";
constexpr size_t kDigestBytes = kPageFiles * sizeof(Sha256Bytes);

template <typename T>
void append_bytes(std::string& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& out, std::string_view text) {
  append_bytes(out, static_cast<uint32_t>(text.size()));
  out += text;
}

// What append_* wrote, by the same program: nothing can be wrong with it.
class RecordReader {
 public:
  RecordReader(const std::string& records, size_t offset) : records_(records), offset_(offset) {}
  template <typename T>
  void take(T& value) {
    std::memcpy(&value, records_.data() + offset_, sizeof value);
    offset_ += sizeof value;
  }
  void take_text(std::string& text) {
    uint32_t size = 0;
    take(size);
    text.assign(records_, offset_, size);
    offset_ += size;
  }
  size_t offset() const { return offset_; }

 private:
  const std::string& records_;
  size_t offset_;
};

}  // namespace

struct FileListPage {
  std::string records;  // complete when the next page is begun, or the list is
  // Of the files of the page, as far as any is known.
  std::vector<Sha256Bytes> digests;
  std::vector<unsigned char> known;
  size_t count = 0;
  bool changed = true;  // since it was written

  void set_digest(size_t at, const Sha256Bytes& digest) {
    if (at >= known.size()) resize(at + 1);
    digests[at] = digest;
    known[at] = 1;
  }
  void resize(size_t size) {
    digests.resize(size);
    known.resize(size);
  }
};

FileList::FileList(std::string root, TemporaryFile temporary_file) : root_(std::move(root)), temporary_file_(std::move(temporary_file)) {}
FileList::~FileList() = default;

std::string FileList::path_of(const SelectedFile& file) const {
  if (file.relative.empty()) return root_;
  return root_.empty() ? file.relative : root_ + "/" + file.relative;
}

Result<void> FileList::append(const SelectedFile& file) {
  if (count_ != 0 && !layers::path_less(last_, file.relative)) return Error(ErrorKind::kInternal, "selected files come out of order");
  last_ = file.relative;
  auto pages = pages_.lock();
  const size_t number = count_ / kPageFiles;
  if (count_ % kPageFiles == 0) {
    RETURN_IF_ERROR(make_room(*pages));
    pages->in_memory.emplace(number, std::make_shared<Page>());
    pages->used.push_back(number);
  }
  Page& page = *pages->in_memory.at(number);
  append_bytes(page.records, file.info);
  append_text(page.records, file.relative);
  append_text(page.records, file.link_target);
  append_bytes(page.records, static_cast<uint32_t>(file.xattrs.size()));
  for (const auto& [name, value] : file.xattrs) {
    append_text(page.records, name);
    append_text(page.records, value);
  }
  if (file.digest) page.set_digest(page.count, *file.digest);
  ++page.count;
  ++count_;
  if (file.info.type == EntryType::kFile) content_bytes_ += file.info.size;
  return {};
}

Result<SelectedFile> FileList::front() const {
  SelectedFile file;
  RETURN_IF_ERROR(Cursor(*this).next(file));
  return file;
}

Result<void> FileList::set_digest(size_t index, const Sha256Bytes& digest) const {
  auto pages = pages_.lock();
  ASSIGN_OR_RETURN(const std::shared_ptr<Page> page, this->page(*pages, index / kPageFiles));
  page->set_digest(index % kPageFiles, digest);
  page->changed = true;
  return {};
}

Result<bool> FileList::Cursor::next(SelectedFile& file) {
  if (index_ == list_->count_) return false;
  auto pages = list_->pages_.lock();  // digests may be set meanwhile
  if (index_ % kPageFiles == 0) {
    ASSIGN_OR_RETURN(page_, list_->page(*pages, index_ / kPageFiles));
    offset_ = 0;
  }
  RecordReader reader(page_->records, offset_);
  reader.take(file.info);
  reader.take_text(file.relative);
  reader.take_text(file.link_target);
  uint32_t count = 0;
  reader.take(count);
  file.xattrs.clear();
  for (; count > 0; --count) {
    std::string name;
    reader.take_text(name);
    reader.take_text(file.xattrs[name]);
  }
  offset_ = reader.offset();
  const size_t at = index_++ % kPageFiles;
  file.digest.reset();
  if (at < page_->known.size() && page_->known[at] != 0) file.digest = page_->digests[at];
  return true;
}

Result<std::shared_ptr<FileListPage>> FileList::page(Pages& pages, size_t number) const {
  if (const auto it = pages.in_memory.find(number); it != pages.in_memory.end()) {
    if (pages.used.back() != number) {
      std::erase(pages.used, number);
      pages.used.push_back(number);
    }
    return it->second;
  }
  RETURN_IF_ERROR(make_room(pages));
  ASSIGN_OR_RETURN(std::shared_ptr<Page> page, read(pages, number));
  pages.in_memory.emplace(number, page);
  pages.used.push_back(number);
  return page;
}

// For one page more. Those that a cursor stands in stay: there would be two of them.
Result<void> FileList::make_room(Pages& pages) const {
  if (!temporary_file_ || pages.used.size() < kPagesInMemory) return {};
  const auto oldest = std::find_if(pages.used.begin(), pages.used.end(), [&](size_t number) { return pages.in_memory.at(number).use_count() == 1; });
  if (oldest == pages.used.end()) return {};
  RETURN_IF_ERROR(write(pages, *oldest, *pages.in_memory.at(*oldest)));
  pages.in_memory.erase(*oldest);
  pages.used.erase(oldest);
  return {};
}

// A page in the file: the records, then room for the digests.
Result<void> FileList::write(Pages& pages, size_t number, Page& page) const {
  if (!page.changed) return {};
  if (!pages.file) {
    ASSIGN_OR_RETURN(pages.file, temporary_file_());
  }
  const int fd = pages.file.get();
  const auto [it, fresh] = pages.written.try_emplace(number, Place{pages.file_size, page.records.size()});
  const uint64_t digests_at = it->second.offset + page.records.size();
  if (fresh) {
    RETURN_IF_ERROR_WITH(write_all_at(fd, it->second.offset, std::as_bytes(std::span(page.records))), kTemporary);
    pages.file_size = digests_at + kDigestBytes + kPageFiles;
  }
  page.resize(kPageFiles);
  RETURN_IF_ERROR_WITH(write_all_at(fd, digests_at, std::as_bytes(std::span(page.digests))), kTemporary);
  RETURN_IF_ERROR_WITH(write_all_at(fd, digests_at + kDigestBytes, std::as_bytes(std::span(page.known))), kTemporary);
  return {};
}

Result<std::shared_ptr<FileListPage>> FileList::read(Pages& pages, size_t number) const {
  const Place& place = pages.written.at(number);
  auto page = std::make_shared<Page>();
  page->records.resize(place.record_bytes);
  page->resize(kPageFiles);
  const uint64_t digests_at = place.offset + place.record_bytes;
  const int fd = pages.file.get();
  RETURN_IF_ERROR_WITH(read_exactly_at(fd, place.offset, std::as_writable_bytes(std::span(page->records))), kTemporary);
  RETURN_IF_ERROR_WITH(read_exactly_at(fd, digests_at, std::as_writable_bytes(std::span(page->digests))), kTemporary);
  RETURN_IF_ERROR_WITH(read_exactly_at(fd, digests_at + kDigestBytes, std::as_writable_bytes(std::span(page->known))), kTemporary);
  page->count = std::min(kPageFiles, count_ - number * kPageFiles);
  page->changed = false;
  return page;
}

}  // namespace lamina::builder
