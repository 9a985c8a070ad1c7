#include "base/archive_reader.h"

#include <archive.h>
#include <archive_entry.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <cstring>
#include <vector>

namespace lamina {

namespace {

// The functions that are used, with the types of the headers.
struct Api {
#define LAMINA_ARCHIVE_FUNCTIONS(X)                                                                                    \
  X(archive_read_new) X(archive_read_free) X(archive_read_support_format_tar) X(archive_read_support_format_gnutar)  \
  X(archive_read_support_filter_gzip) X(archive_read_support_filter_bzip2) X(archive_read_support_filter_xz)         \
  X(archive_read_support_filter_zstd) X(archive_read_open) X(archive_read_next_header) X(archive_read_data)          \
  X(archive_error_string) X(archive_entry_pathname) X(archive_entry_filetype) X(archive_entry_perm)                  \
  X(archive_entry_uid) X(archive_entry_gid) X(archive_entry_mtime) X(archive_entry_mtime_nsec) X(archive_entry_size) \
  X(archive_entry_symlink) X(archive_entry_hardlink) X(archive_entry_rdevmajor) X(archive_entry_rdevminor)           \
  X(archive_entry_xattr_reset) X(archive_entry_xattr_next)
#define X(name) decltype(&::name) name = nullptr;
  LAMINA_ARCHIVE_FUNCTIONS(X)
#undef X
};

const Api* load_api() {
  static const Api* const api = []() -> const Api* {
    void* library = ::dlopen("libarchive.so.13", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    static Api loaded;
#define X(name)                                                                     \
  loaded.name = reinterpret_cast<decltype(&::name)>(::dlsym(library, #name));       \
  if (loaded.name == nullptr) return nullptr;
    LAMINA_ARCHIVE_FUNCTIONS(X)
#undef X
    return &loaded;
  }();
  return api;
}

std::string text_or_empty(const char* s) { return s == nullptr ? std::string() : std::string(s); }

class LibarchiveReader : public ArchiveReader {
 public:
  LibarchiveReader(const Api& api, ByteSource& source) : api_(api), source_(source), buffer_(kCopyBufferSize), archive_(api.archive_read_new()) {}
  LibarchiveReader(const LibarchiveReader&) = delete;
  LibarchiveReader& operator=(const LibarchiveReader&) = delete;
  ~LibarchiveReader() override { api_.archive_read_free(archive_); }

  Result<void> start() {
    api_.archive_read_support_format_tar(archive_);
    api_.archive_read_support_format_gnutar(archive_);
    api_.archive_read_support_filter_gzip(archive_);
    api_.archive_read_support_filter_bzip2(archive_);
    api_.archive_read_support_filter_xz(archive_);
    api_.archive_read_support_filter_zstd(archive_);
    if (api_.archive_read_open(archive_, this, nullptr, &LibarchiveReader::feed, nullptr) != ARCHIVE_OK) return failed("opening the archive");
    return {};
  }

  Result<std::optional<ArchiveMember>> next() override {
    archive_entry* entry = nullptr;
    const int result = api_.archive_read_next_header(archive_, &entry);
    if (result == ARCHIVE_EOF) return std::optional<ArchiveMember>();
    if (result != ARCHIVE_OK && result != ARCHIVE_WARN) return failed("reading the archive");
    ArchiveMember m;
    m.path = text_or_empty(api_.archive_entry_pathname(entry));
    m.mode = static_cast<uint32_t>(api_.archive_entry_perm(entry));
    m.uid = static_cast<uint32_t>(api_.archive_entry_uid(entry));
    m.gid = static_cast<uint32_t>(api_.archive_entry_gid(entry));
    m.mtime = {api_.archive_entry_mtime(entry), static_cast<uint32_t>(api_.archive_entry_mtime_nsec(entry))};
    m.dev_major = static_cast<uint32_t>(api_.archive_entry_rdevmajor(entry));
    m.dev_minor = static_cast<uint32_t>(api_.archive_entry_rdevminor(entry));
    if (const char* hard = api_.archive_entry_hardlink(entry)) {
      m.type = ArchiveMember::Type::kHardlink;
      m.link_target = hard;
      return std::optional(std::move(m));
    }
    switch (api_.archive_entry_filetype(entry)) {
      case AE_IFDIR: m.type = ArchiveMember::Type::kDirectory; break;
      case AE_IFLNK: m.type = ArchiveMember::Type::kSymlink; break;
      case AE_IFCHR: m.type = ArchiveMember::Type::kCharDevice; break;
      case AE_IFBLK: m.type = ArchiveMember::Type::kBlockDevice; break;
      case AE_IFIFO: m.type = ArchiveMember::Type::kFifo; break;
      default: m.type = ArchiveMember::Type::kFile; m.size = static_cast<uint64_t>(api_.archive_entry_size(entry)); break;
    }
    m.link_target = text_or_empty(api_.archive_entry_symlink(entry));
    api_.archive_entry_xattr_reset(entry);
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    while (api_.archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      m.xattrs.emplace(text_or_empty(name), std::string(static_cast<const char*>(value), size));
    }
    return std::optional(std::move(m));
  }

  Result<size_t> read(std::span<std::byte> buffer) override {
    const la_ssize_t n = api_.archive_read_data(archive_, buffer.data(), buffer.size());
    if (n < 0) return failed("reading the archive");
    return static_cast<size_t>(n);
  }

 private:
  // Called through C frames: nothing may be thrown, an error is kept for later.
  static la_ssize_t feed(archive*, void* self_pointer, const void** out) {
    auto* self = static_cast<LibarchiveReader*>(self_pointer);
    auto n = self->source_.read(self->buffer_);
    if (!n) {
      self->source_error_ = std::move(n).error();
      return -1;
    }
    *out = self->buffer_.data();
    return static_cast<la_ssize_t>(*n);
  }

  Error failed(const char* what) {
    if (source_error_) return *source_error_;
    return Error(ErrorKind::kCorrupt, fmt::format("{}: {}", what, text_or_empty(api_.archive_error_string(archive_))));
  }

  const Api& api_;
  ByteSource& source_;
  std::vector<std::byte> buffer_;
  archive* archive_;
  std::optional<Error> source_error_;
};

}  // namespace

Result<std::unique_ptr<ArchiveReader>> ArchiveReader::open(ByteSource& source) {
  const Api* api = load_api();
  if (api == nullptr) {
    return Error(ErrorKind::kUnsupported, "archives cannot be read: libarchive.so.13 is not installed").with_note("install it: apt-get install libarchive13");
  }
  auto reader = std::make_unique<LibarchiveReader>(*api, source);
  RETURN_IF_ERROR(reader->start());
  return std::unique_ptr<ArchiveReader>(std::move(reader));
}

}  // namespace lamina
