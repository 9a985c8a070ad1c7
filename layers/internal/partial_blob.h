// A download that may break off and be continued, also by a later program.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/blob.h"

namespace lamina::layers {

//   partial/<hex>         the bytes so far, in order; locked (flock) by whoever writes them
//   partial/<hex>.state   "<boot id> <bytes that are on the disk for sure>\n"
// In the boot that wrote them all bytes of the file count: the kernel has them, however the program ended. After
// another boot only those that were synced. The digest of the whole is checked at the end in any case.
class PartialBlob {
 public:
  // Nothing when somebody else is fetching the same blob.
  static Result<std::optional<PartialBlob>> open(const std::string& directory, const std::string& boot_id, const oci::Descriptor& blob);
  PartialBlob(PartialBlob&&) noexcept;
  PartialBlob& operator=(PartialBlob&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(boot_id_, other.boot_id_);
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    return *this;
  }
  // Makes what there is last, for the next one.
  ~PartialBlob();

  uint64_t size() const { return size_; }
  Result<size_t> read_at(uint64_t offset, std::span<std::byte> buffer) const;
  Result<void> append(std::span<const std::byte> data);
  Result<void> clear();
  // The file becomes `path`; nothing partial is left.
  Result<void> publish(const std::string& path, bool sync);
  void discard();

 private:
  PartialBlob(std::string path, std::string boot_id, UniqueFd fd) : path_(std::move(path)), boot_id_(std::move(boot_id)), fd_(std::move(fd)) {}
  Result<void> write_state(uint64_t synced) const;

  std::string path_;
  std::string boot_id_;
  UniqueFd fd_;
  uint64_t size_ = 0;
};

}  // namespace lamina::layers
