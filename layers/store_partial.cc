// Blobs from elsewhere, kept on the way; what a break leaves is continued where it ended.
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/text.h"
#include "base/trace.h"
#include "layers/internal/partial_blob.h"
#include "layers/internal/store_impl.h"

namespace lamina::layers {

namespace {

// Smaller ones are fetched again as a whole.
constexpr uint64_t kWorthKeeping = 1 << 20;
// As with other blobs: small ones are synced, since what they say is not checked after a reboot.
constexpr uint64_t kSyncedSize = 1 << 20;
constexpr int kOpenTries = 10;

// How many bytes of the file may be believed.
uint64_t trusted_size(const std::string& state_path, const std::string& boot_id, uint64_t file_size) {
  const auto state = read_file_if_exists(AT_FDCWD, state_path, 4096);
  if (!state || !*state) return 0;
  const std::vector<std::string> words = split(trim(**state), ' ');
  if (words.size() != 2) return 0;
  if (words[0] == boot_id) return file_size;
  return std::min(file_size, parse_uint(words[1]).value_or(0));
}

}  // namespace

Result<std::optional<PartialBlob>> PartialBlob::open(const std::string& directory, const std::string& boot_id, const oci::Descriptor& blob) {
  RETURN_IF_ERROR(make_directories(AT_FDCWD, directory, 0700));
  const std::string path = directory + "/" + blob.digest.hex();
  for (int attempt = 0; attempt < kOpenTries; ++attempt) {
    ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, path, O_RDWR | O_CREAT, 0600));
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return std::optional<PartialBlob>();
      return system_error(errno, "flock", path);
    }
    // Whoever had it may have made it a blob of the store in between: that file is not ours to change.
    struct stat mine {}, there {};
    if (::fstat(fd.get(), &mine) != 0) return system_error(errno, "fstat", path);
    if (::stat(path.c_str(), &there) != 0 || there.st_ino != mine.st_ino || there.st_dev != mine.st_dev) continue;
    PartialBlob partial(path, boot_id, std::move(fd));
    partial.size_ = trusted_size(path + ".state", boot_id, static_cast<uint64_t>(mine.st_size));
    if (partial.size_ > blob.size) partial.size_ = 0;
    if (::ftruncate(partial.fd_.get(), static_cast<off_t>(partial.size_)) != 0) return system_error(errno, "ftruncate", path);
    RETURN_IF_ERROR(partial.write_state(partial.size_));
    return std::optional<PartialBlob>(std::move(partial));
  }
  return std::optional<PartialBlob>();
}

PartialBlob::PartialBlob(PartialBlob&& other) noexcept
    : path_(std::exchange(other.path_, {})), boot_id_(std::move(other.boot_id_)), fd_(std::move(other.fd_)), size_(other.size_) {}

PartialBlob::~PartialBlob() {
  if (path_.empty()) return;
  if (size_ == 0) {
    discard();
  } else if (::fdatasync(fd_.get()) == 0) {
    ignore_error(write_state(size_), "then only less is believed after a reboot");
  }
}

Result<void> PartialBlob::write_state(uint64_t synced) const {
  return write_file_atomically(AT_FDCWD, path_ + ".state", fmt::format("{} {}\n", boot_id_, synced), Durability::kNone, 0600);
}

Result<size_t> PartialBlob::read_at(uint64_t offset, std::span<std::byte> buffer) const {
  while (true) {
    const ssize_t n = ::pread(fd_.get(), buffer.data(), std::min<uint64_t>(buffer.size(), size_ - offset), static_cast<off_t>(offset));
    if (n >= 0) return static_cast<size_t>(n);
    if (errno != EINTR) return system_error(errno, "pread", path_);
  }
}

Result<void> PartialBlob::append(std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t n = ::pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(size_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error(errno, "pwrite", path_);
    size_ += static_cast<uint64_t>(n);
    data = data.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<void> PartialBlob::clear() {
  if (::ftruncate(fd_.get(), 0) != 0) return system_error(errno, "ftruncate", path_);
  size_ = 0;
  return {};
}

Result<void> PartialBlob::publish(const std::string& path, bool sync) {
  if (sync && ::fdatasync(fd_.get()) != 0) return system_error(errno, "fdatasync", path_);
  if (::rename(path_.c_str(), path.c_str()) != 0) return system_error(errno, "rename", path);
  ::unlink((path_ + ".state").c_str());
  path_.clear();
  return {};
}

void PartialBlob::discard() {
  if (path_.empty()) return;
  ::unlink((path_ + ".state").c_str());
  ::unlink(path_.c_str());
  path_.clear();
}

namespace {

// What is there already, then the rest from elsewhere; a blob of the store when its end is reached and right.
class ContinuedSource : public ByteSource {
 public:
  ContinuedSource(PartialBlob partial, oci::Descriptor blob, std::unique_ptr<ByteSource> rest, std::string place)
      : partial_(std::move(partial)), blob_(std::move(blob)), rest_(std::move(rest)), kept_(partial_.size()), place_(std::move(place)) {}
  ~ContinuedSource() override { trace_lasting("download", "download " + blob_.digest.text(), reinterpret_cast<uintptr_t>(this), began_); }

  Result<size_t> read(std::span<std::byte> buffer) override {
    if (done_) return size_t{0};
    size_t n = 0;
    if (at_ < kept_) {
      ASSIGN_OR_RETURN(n, partial_.read_at(at_, buffer));
      if (n == 0) return damaged("it became shorter");
    } else if (at_ < blob_.size || rest_) {
      ASSIGN_OR_RETURN(n, rest_->read(buffer));
      if (at_ + n > blob_.size) return damaged("there are more bytes than that");
      auto appended = partial_.append(buffer.first(n));
      if (!appended) return std::move(appended).error().with_context("storing blob " + blob_.digest.text());
    }
    if (n > 0) {
      hash_.update(std::span<const std::byte>(buffer.first(n)));
      at_ += n;
      return n;
    }
    if (at_ != blob_.size) return damaged(fmt::format("there are only {}", at_));
    const oci::Digest digest = oci::Digest::from_bytes(hash_.finish());
    if (digest != blob_.digest) return damaged("the digest is " + digest.text());
    RETURN_IF_ERROR(partial_.publish(place_, blob_.size <= kSyncedSize));
    done_ = true;
    return size_t{0};
  }

 private:
  const TraceTime began_ = std::chrono::steady_clock::now();

  Error damaged(const std::string& how) {
    partial_.discard();
    Error error(ErrorKind::kCorrupt, fmt::format("blob {} of {} bytes is damaged: {}", blob_.digest.text(), blob_.size, how));
    if (kept_ == 0) return error;
    return std::move(error).with_note("a part of it was kept from an earlier download; it is removed now: try again");
  }

  PartialBlob partial_;
  oci::Descriptor blob_;
  std::unique_ptr<ByteSource> rest_;
  uint64_t kept_;
  std::string place_;
  uint64_t at_ = 0;
  Sha256 hash_;
  bool done_ = false;
};

// Reads a blob from elsewhere and keeps it in the store on the way; published when the end is reached.
class KeepingSource : public ByteSource {
 public:
  KeepingSource(std::unique_ptr<ByteSource> source, std::unique_ptr<oci::BlobWriter> writer)
      : source_(std::move(source)), writer_(std::move(writer)) {}

  Result<size_t> read(std::span<std::byte> buffer) override {
    if (!writer_) return size_t{0};
    ASSIGN_OR_RETURN(const size_t n, source_->read(buffer));
    if (n != 0) {
      RETURN_IF_ERROR(writer_->write(buffer.first(n)));
      return n;
    }
    RETURN_IF_ERROR(writer_->commit());
    writer_.reset();
    return size_t{0};
  }

 private:
  std::unique_ptr<ByteSource> source_;
  std::unique_ptr<oci::BlobWriter> writer_;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> Store::open_and_keep(const oci::Descriptor& blob, oci::BlobSource& remote) {
  std::optional<PartialBlob> partial;
  RETURN_IF_ERROR(impl_->scratch.hold("blob " + blob.digest.hex()));
  if (blob.size >= kWorthKeeping) {
    RETURN_IF_ERROR(impl_->make_room(blob.size, true));
    ASSIGN_OR_RETURN(partial, PartialBlob::open(impl_->path + "/partial", impl_->boot_id, blob));
  }
  if (!partial) {
    ASSIGN_OR_RETURN(auto stream, remote.open_blob(blob));
    ASSIGN_OR_RETURN(auto writer, create_blob(blob));
    return std::unique_ptr<ByteSource>(std::make_unique<KeepingSource>(std::move(stream), std::move(writer)));
  }
  std::unique_ptr<ByteSource> rest;
  if (partial->size() < blob.size) {
    auto continued = partial->size() > 0 ? remote.open_blob_from(blob, partial->size()) : Result<std::unique_ptr<ByteSource>>(Error(ErrorKind::kUnsupported, ""));
    if (!continued && continued.error().kind() == ErrorKind::kUnsupported) {
      RETURN_IF_ERROR(partial->clear());
      continued = remote.open_blob(blob);
    }
    ASSIGN_OR_RETURN(rest, std::move(continued));
  }
  return std::unique_ptr<ByteSource>(std::make_unique<ContinuedSource>(*std::move(partial), blob, std::move(rest), impl_->blob_path(blob.digest)));
}

Result<void> Store::fetch_blob(const oci::Descriptor& blob, oci::BlobSource& remote, const std::function<void(uint64_t)>& progress) {
  std::vector<std::byte> block(kCopyBufferSize);
  for (bool again = false; !has_blob(blob); again = true) {
    ASSIGN_OR_RETURN(const auto stream, open_and_keep(blob, remote));
    uint64_t done = 0;
    Result<size_t> n = size_t{0};
    while ((n = stream->read(block)) && *n > 0) {
      done += *n;
      if (progress) progress(done);
    }
    // What was kept from before may have been the damage: it is gone now.
    if (!n && (again || n.error().kind() != ErrorKind::kCorrupt)) return std::move(n).error();
  }
  return {};
}

}  // namespace lamina::layers
