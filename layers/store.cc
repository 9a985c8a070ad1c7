// The store's frame: opening, scratch space, blobs, names, records. See store.h for the files.
#include "layers/store.h"

#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/json.h"
#include "base/text.h"
#include "base/time.h"
#include "base/trace.h"
#include "layers/internal/new_inodes.h"
#include "layers/internal/store_impl.h"

namespace lamina::layers {
namespace {

constexpr std::string_view kFormat = "lamina-store 1\n";
// Manifests and configs are smaller; layers are as a rule larger, and guarded by the boot id.
constexpr uint64_t kSyncedSize = 1 << 20;
constexpr const char* kLockSuffix = ".lock";

Error full_disk_note(Error error) {
  if (error.error_number() != ENOSPC && error.error_number() != EDQUOT) return error;
  return std::move(error).with_note("the disk of the store is full; build prune frees what no image needs, or use --store DIR on another disk");
}

Result<void> check_format(const std::string& path) {
  ASSIGN_OR_RETURN(const auto format, read_file_if_exists(AT_FDCWD, path + "/format", 4096));
  if (format && *format == kFormat) return {};
  if (format) {
    return Error(ErrorKind::kUnsupported, fmt::format("the store {} has the format \"{}\", which this version does not know", path, printable(std::string(trim(*format)))))
        .with_note("use another directory with --store DIR, or remove this one");
  }
  return write_file_atomically(AT_FDCWD, path + "/format", kFormat, Durability::kFsync);
}

Result<void> make_rooms(const std::string& path) {
  struct stat st {};
  if (::stat((path + "/format").c_str(), &st) == 0) return check_format(path);
  RETURN_IF_ERROR(make_directories(AT_FDCWD, path, 0700));
  for (const char* room : {"blobs/sha256", "layers", "diffs", "images", "records", "indexes", "tmp"}) {
    RETURN_IF_ERROR(make_directories(AT_FDCWD, path + "/" + room, 0700));
  }
  return check_format(path);
}

// Takes one blob into the store.
class StoreBlobWriter : public oci::BlobWriter {
 public:
  StoreBlobWriter(Scratch& scratch, ScratchFile file, std::string path, oci::Descriptor descriptor)
      : scratch_(scratch), file_(std::move(file)), path_(std::move(path)), descriptor_(std::move(descriptor)), hash_(file_.fd()) {}

  Result<void> write(std::span<const std::byte> data) override {
    auto written = hash_.write(data);
    if (!written) return full_disk_note(std::move(written).error().with_context("storing blob " + descriptor_.digest.text()));
    return {};
  }

  Result<void> commit() override {
    auto summary = hash_.finish();
    if (!summary) return full_disk_note(std::move(summary).error().with_context("storing blob " + descriptor_.digest.text()));
    const oci::Digest digest = oci::Digest::from_bytes(summary->sha256);
    if (digest != descriptor_.digest || summary->size != descriptor_.size) {
      return Error(ErrorKind::kCorrupt, fmt::format("blob {} of {} bytes is damaged: what came has {} bytes and the digest {}", descriptor_.digest.text(), descriptor_.size, summary->size, digest.text()));
    }
    RETURN_IF_ERROR(scratch_.hold("blob " + descriptor_.digest.hex()));
    return file_.publish(path_, summary->size);
  }

 private:
  Scratch& scratch_;
  ScratchFile file_;
  std::string path_;
  oci::Descriptor descriptor_;
  HashingWriter hash_;
};

}  // namespace

// --- scratch ----------------------------------------------------------------------------------------

Result<void> Scratch::make_lock() {
  if (lock_) return {};
  // A cleaner may remove the lock file between its making and its locking: then the name has gone.
  for (int attempt = 0; attempt < 10; ++attempt) {
    const std::string name = tmp_ + "/" + temporary_name("build");
    auto fd = open_at(AT_FDCWD, name + kLockSuffix, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (!fd) return full_disk_note(std::move(fd).error());
    struct stat st {};
    if (::flock(fd->get(), LOCK_EX | LOCK_NB) != 0 || ::fstat(fd->get(), &st) != 0 || st.st_nlink == 0) continue;
    lock_ = *std::move(fd);
    directory_ = name;
    return {};
  }
  return Error(ErrorKind::kSystem, fmt::format("no temporary directory could be made in {}", tmp_));
}

Result<std::string> Scratch::directory() {
  const std::lock_guard guard(mutex_);
  if (made_) return directory_;
  RETURN_IF_ERROR(make_lock());
  // Away from the inodes that the programs before freed: they are slow to get (NewInodes), and every command makes a dozen.
  spread_subdirectories(tmp_);
  if (::mkdir(directory_.c_str(), 0700) != 0) return full_disk_note(system_error(errno, "mkdir", directory_));
  made_ = true;
  return directory_;
}

void Scratch::discard(const std::string& path) {
  const auto here = directory();
  const std::string away = here ? *here + "/" + temporary_name("gone") : std::string();
  if (away.empty() || ::rename(path.c_str(), away.c_str()) != 0) {
    ignore_error(remove_tree(AT_FDCWD, path), "housekeeping; in the scratch directory it goes with that");
    return;
  }
  const std::lock_guard guard(mutex_);
  // Removal mostly waits, so a few go on at once.
  constexpr unsigned kRemovers = 3;
  if (!remover_) remover_ = std::make_unique<ThreadPool>(kRemovers, "remover");
  remover_->post([away] {
    const TraceSpan span("layers", "remove in the background");
    ignore_error(remove_tree(AT_FDCWD, away), "it goes with the scratch directory");
  });
}

void Scratch::settle() {
  std::unique_ptr<ThreadPool> remover;
  {
    const std::lock_guard guard(mutex_);
    remover = std::move(remover_);
  }
}

Scratch::~Scratch() {
  remover_.reset();  // after what it has to do
  if (directory_.empty()) return;
  if (made_) ignore_error(remove_tree(AT_FDCWD, directory_), "the next program that opens the store tries again");
  ::unlink((directory_ + kLockSuffix).c_str());
}

void Scratch::remove_leftovers() const {
  const auto tmp = open_directory(AT_FDCWD, tmp_);
  if (!tmp) return;
  const auto names = list_directory(tmp->get());
  if (!names) return;
  for (const std::string& name : *names) {
    if (!name.ends_with(kLockSuffix)) continue;
    const auto lock = FileLock::try_acquire(tmp->get(), name, FileLock::Mode::kExclusive);
    if (!lock || !*lock) continue;
    ignore_error(remove_tree(tmp->get(), name.substr(0, name.size() - std::string_view(kLockSuffix).size())), "housekeeping");
    ::unlinkat(tmp->get(), name.c_str(), 0);
  }
}

Result<ScratchFile> ScratchFile::create(Scratch& scratch) {
  ASSIGN_OR_RETURN(const std::string directory, scratch.directory());
  std::string path = directory + "/" + temporary_name("file");
  auto fd = open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (!fd) return full_disk_note(std::move(fd).error());
  return ScratchFile(std::move(path), *std::move(fd));
}

ScratchFile::~ScratchFile() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

Result<void> ScratchFile::publish(const std::string& path, uint64_t size) {
  if (size <= kSyncedSize && ::fdatasync(fd_.get()) != 0) return full_disk_note(system_error(errno, "fdatasync", path_));
  if (::rename(path_.c_str(), path.c_str()) != 0) return full_disk_note(system_error(errno, "rename", path));
  path_.clear();
  return {};
}

// --- opening ----------------------------------------------------------------------------------------

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) { impl_->self = this; }
Store::~Store() = default;
void Store::stop_on(std::stop_token stop) { impl_->stop = std::move(stop); }
const std::string& Store::path() const { return impl_->path; }

Result<std::unique_ptr<Store>> Store::open(const std::string& path) {
  auto made = make_rooms(path);
  if (!made) return full_disk_note(std::move(made).error().with_context("opening the store " + path));
  auto impl = std::make_unique<Impl>(path);
  ASSIGN_OR_RETURN(const std::string boot, read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 4096));
  impl->boot_id = trim(boot);
  ASSIGN_OR_RETURN_WITH(impl->lock, FileLock::acquire(AT_FDCWD, path + "/lock", FileLock::Mode::kShared), "opening the store " + path);
  impl->scratch.remove_leftovers();
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

// --- blobs ------------------------------------------------------------------------------------------

bool Store::Impl::blob_exists(const oci::Digest& digest) const {
  return ::faccessat(AT_FDCWD, blob_path(digest).c_str(), F_OK, 0) == 0;
}

bool Store::has_blob(const oci::Descriptor& descriptor) {
  struct stat st {};
  ignore_error(impl_->scratch.hold("blob " + descriptor.digest.hex()), "then it may be removed to make room, and the reader says so");
  return ::stat(impl_->blob_path(descriptor.digest).c_str(), &st) == 0 && static_cast<uint64_t>(st.st_size) == descriptor.size;
}

Result<std::unique_ptr<ByteSource>> Store::open_blob(const oci::Descriptor& descriptor) {
  auto fd = open_at(AT_FDCWD, impl_->blob_path(descriptor.digest), O_RDONLY);
  if (!fd && fd.error().kind() == ErrorKind::kNotFound) {
    return Error(ErrorKind::kNotFound, fmt::format("blob {} is not in the store", descriptor.digest.text()));
  }
  if (!fd) return std::move(fd).error();
  return oci::verify_stream(std::make_unique<FdSource>(*std::move(fd)), descriptor);
}

Result<std::unique_ptr<oci::BlobWriter>> Store::create_blob(const oci::Descriptor& descriptor) {
  RETURN_IF_ERROR(impl_->make_room(descriptor.size, true));
  ASSIGN_OR_RETURN(ScratchFile file, ScratchFile::create(impl_->scratch));
  return std::unique_ptr<oci::BlobWriter>(new StoreBlobWriter(impl_->scratch, std::move(file), impl_->blob_path(descriptor.digest), descriptor));
}

Result<void> Store::remove_blob(const oci::Digest& digest) {
  const std::string path = impl_->blob_path(digest);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return system_error(errno, "unlink", path);
  return {};
}

Result<oci::Descriptor> Store::add_blob(ByteSource& content, const std::optional<oci::Digest>& expected) {
  ASSIGN_OR_RETURN(ScratchFile file, ScratchFile::create(impl_->scratch));
  HashingWriter hash(file.fd());
  auto copied = copy_stream(content, hash);
  if (!copied) return full_disk_note(std::move(copied).error());
  auto summary = hash.finish();
  if (!summary) return full_disk_note(std::move(summary).error());
  oci::Descriptor descriptor;
  descriptor.digest = oci::Digest::from_bytes(summary->sha256);
  descriptor.size = summary->size;
  if (expected && descriptor.digest != *expected) {
    return Error(ErrorKind::kCorrupt, fmt::format("digest mismatch: got {} (expected: {})", descriptor.digest.text(), expected->text()));
  }
  RETURN_IF_ERROR(impl_->scratch.hold("blob " + descriptor.digest.hex()));
  RETURN_IF_ERROR(file.publish(impl_->blob_path(descriptor.digest), descriptor.size));
  return descriptor;
}

Result<std::string> Store::checked_blob_path(const oci::Digest& digest) {
  RETURN_IF_ERROR(impl_->scratch.hold("blob " + digest.hex()));
  const std::string path = impl_->blob_path(digest);
  const Error absent(ErrorKind::kNotFound, fmt::format("blob {} is not in the store", digest.text()));
  auto fd = open_at(AT_FDCWD, path, O_RDONLY);
  if (!fd) return absent;
  FdSource source(*std::move(fd));
  HashingWriter hash(-1);
  RETURN_IF_ERROR(copy_stream(source, hash));
  ASSIGN_OR_RETURN(const StreamSummary summary, hash.finish());
  if (oci::Digest::from_bytes(summary.sha256) != digest) return absent;
  return path;
}

// --- names ------------------------------------------------------------------------------------------

namespace {

Result<ImageRecord> parse_image(std::string_view text) {
  ASSIGN_OR_RETURN(const json::Json json, json::parse_object(text, "an image name's file"));
  ImageRecord record;
  ASSIGN_OR_RETURN(const auto name, json::get_string(json, "name"));
  ASSIGN_OR_RETURN(const auto type, json::get_string(json, "mediaType"));
  ASSIGN_OR_RETURN(const auto digest, json::get_string(json, "digest"));
  ASSIGN_OR_RETURN(const auto size, json::get_integer(json, "size"));
  ASSIGN_OR_RETURN(const auto created, json::get_string(json, "created"));
  record.name = name.value_or("");
  record.created = created.value_or("");
  record.descriptor.media_type = type.value_or("");
  record.descriptor.size = static_cast<uint64_t>(size.value_or(0));
  ASSIGN_OR_RETURN(record.descriptor.digest, oci::Digest::parse(digest.value_or("")));
  return record;
}

}  // namespace

Result<void> Store::set_image(const std::string& canonical_name, const oci::Descriptor& descriptor) {
  // The same again is not written again: a rebuild that changes nothing writes nothing.
  ASSIGN_OR_RETURN(const std::optional<ImageRecord> old, image(canonical_name));
  if (old && old->descriptor.digest == descriptor.digest) return {};
  const json::Json json = {{"name", canonical_name},
                                    {"mediaType", descriptor.media_type},
                                    {"digest", descriptor.digest.text()},
                                    {"size", descriptor.size},
                                    {"created", format_rfc3339(now())}};
  return write_file_atomically(AT_FDCWD, impl_->image_path(canonical_name), json::dump(json), Durability::kFsync);
}

Result<std::optional<ImageRecord>> Store::image(const std::string& canonical_name) {
  return impl_->read_image(impl_->image_path(canonical_name));
}

Result<std::optional<ImageRecord>> Store::Impl::read_image(const std::string& file) const {
  ASSIGN_OR_RETURN(const auto text, read_file_if_exists(AT_FDCWD, file, 1 << 20));
  if (!text) return std::optional<ImageRecord>();
  ASSIGN_OR_RETURN_WITH(ImageRecord record, parse_image(*text), "reading " + file);
  return std::optional<ImageRecord>(std::move(record));
}

Result<std::vector<ImageRecord>> Store::images() {
  ASSIGN_OR_RETURN(const UniqueFd directory, open_directory(AT_FDCWD, impl_->path + "/images"));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(directory.get()));
  std::vector<ImageRecord> records;
  for (const std::string& name : names) {
    if (name.size() != 64) continue;  // a temporary file of write_file_atomically
    ASSIGN_OR_RETURN(std::optional<ImageRecord> record, impl_->read_image(impl_->path + "/images/" + name));
    if (record) records.push_back(*std::move(record));
  }
  std::sort(records.begin(), records.end(), [](const ImageRecord& a, const ImageRecord& b) { return a.name < b.name; });
  return records;
}

Result<bool> Store::remove_image(const std::string& canonical_name) {
  const std::string path = impl_->image_path(canonical_name);
  if (::unlink(path.c_str()) == 0) return true;
  if (errno == ENOENT) return false;
  return system_error(errno, "unlink", path);
}

// --- records and indexes ------------------------------------------------------------------------------

// Not synced: after a crash of the machine a record is whole, or fails to parse and counts as absent.
Result<std::optional<std::string>> Store::record(const std::string& key_hex) {
  const std::string path = impl_->record_path(key_hex);
  // Its time says when it last helped, for prune; once an hour is exact enough. Who makes room while builds go on looks
  // closer.
  constexpr int64_t kExact = 3600, kCloser = 1;
  struct stat st {};
  if (::stat(path.c_str(), &st) == 0 && now().seconds - st.st_mtim.tv_sec > (impl_->keeper ? kCloser : kExact)) ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
  return read_file_if_exists(AT_FDCWD, path);
}

Result<std::unique_ptr<ByteSource>> Store::open_record(const std::string& key_hex) {
  auto fd = open_at(AT_FDCWD, impl_->record_path(key_hex), O_RDONLY);
  if (!fd && fd.error().kind() == ErrorKind::kNotFound) return std::unique_ptr<ByteSource>();
  if (!fd) return std::move(fd).error();
  return std::unique_ptr<ByteSource>(std::make_unique<FdSource>(*std::move(fd)));
}

bool Store::has_record(const std::string& key_hex) { return ::access(impl_->record_path(key_hex).c_str(), F_OK) == 0; }

Result<void> Store::put_record(const std::string& key_hex, std::string_view value) {
  const std::string path = impl_->record_path(key_hex);
  auto written = write_file_atomically(AT_FDCWD, path, value, Durability::kNone);
  if (!written && written.error().kind() == ErrorKind::kNotFound) {
    RETURN_IF_ERROR(make_directories(AT_FDCWD, impl_->path + "/records/" + key_hex.substr(0, 2), 0700));
    written = write_file_atomically(AT_FDCWD, path, value, Durability::kNone);
  }
  if (!written) return full_disk_note(std::move(written).error());
  return {};
}

Result<void> Store::put_record(const std::string& key_hex, ByteSource& value) {
  constexpr size_t kShort = 64 * 1024;
  std::string begin(kShort, '\0');
  size_t size = 0;
  while (size < kShort) {
    ASSIGN_OR_RETURN(const size_t got, value.read(std::as_writable_bytes(std::span(begin).subspan(size))));
    if (got == 0) return put_record(key_hex, std::string_view(begin).substr(0, size));
    size += got;
  }
  RETURN_IF_ERROR(make_directories(AT_FDCWD, impl_->path + "/records/" + key_hex.substr(0, 2), 0700));
  return impl_->put_file(impl_->record_path(key_hex), [&](ByteSink& sink) -> Result<void> {
    RETURN_IF_ERROR(sink.write(std::as_bytes(std::span(begin))));
    if (auto copied = copy_stream(value, sink); !copied) return std::move(copied).error();
    return {};
  });
}

Result<std::optional<std::string>> Store::index(const std::string& name) {
  return read_file_if_exists(AT_FDCWD, impl_->path + "/indexes/" + name);
}

Result<void> Store::put_index(const std::string& name, std::string_view value) {
  return write_file_atomically(AT_FDCWD, impl_->path + "/indexes/" + name, value, Durability::kNone);
}

Result<UniqueFd> Store::open_index(const std::string& name) {
  auto fd = open_at(AT_FDCWD, impl_->path + "/indexes/" + name, O_RDONLY);
  if (!fd && fd.error().kind() == ErrorKind::kNotFound) return UniqueFd();
  return fd;
}

Result<void> Store::put_index(const std::string& name, const std::function<Result<void>(ByteSink&)>& write) {
  return impl_->put_file(impl_->path + "/indexes/" + name, write);
}

Result<void> Store::Impl::put_file(const std::string& where, const std::function<Result<void>(ByteSink&)>& write) {
  ASSIGN_OR_RETURN(ScratchFile file, ScratchFile::create(scratch));
  FdSink sink(file.fd());
  if (auto written = write(sink); !written) return full_disk_note(std::move(written).error());
  return file.publish(where, UINT64_MAX);
}

TemporaryFile Store::temporary_files() {
  return [this] { return impl_->temporary_file(); };
}

Result<UniqueFd> Store::Impl::temporary_file() {
  ASSIGN_OR_RETURN(const std::string directory, scratch.directory());
  if (auto file = open_at(AT_FDCWD, directory, O_TMPFILE | O_RDWR, 0600)) return file;
  // A file system that cannot do that.
  const std::string name = directory + "/" + temporary_name("unnamed");
  ASSIGN_OR_RETURN(UniqueFd file, open_at(AT_FDCWD, name, O_CREAT | O_EXCL | O_RDWR, 0600));
  if (::unlink(name.c_str()) != 0) return system_error(errno, "unlink", name);
  return file;
}

}  // namespace lamina::layers
