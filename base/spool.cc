#include "base/spool.h"

#include <algorithm>
#include <cstring>

#include "base/files.h"

namespace lamina {

namespace {

class Reader : public ByteSource {
 public:
  explicit Reader(const Spool& spool) : spool_(spool) {}
  Result<size_t> read(std::span<std::byte> buffer) override {
    ASSIGN_OR_RETURN(const size_t got, spool_.read_at(offset_, buffer));
    offset_ += got;
    return got;
  }

 private:
  const Spool& spool_;
  uint64_t offset_ = 0;
};

}  // namespace

Result<void> Spool::append(std::string_view bytes) {
  tail_ += bytes;
  if (tail_.size() <= kMemory || !temporary_file_) return {};
  if (!file_) {
    ASSIGN_OR_RETURN(file_, temporary_file_());
  }
  RETURN_IF_ERROR(write_all(file_.get(), tail_));
  written_ += tail_.size();
  tail_.clear();
  return {};
}

Result<size_t> Spool::read_at(uint64_t offset, std::span<std::byte> buffer) const {
  size_t have = 0;
  if (offset < written_) {
    have = static_cast<size_t>(std::min<uint64_t>(buffer.size(), written_ - offset));
    RETURN_IF_ERROR_WITH(read_exactly_at(file_.get(), offset, buffer.first(have)), "reading a temporary file");
  }
  if (have == buffer.size() || offset + have >= size()) return have;
  const size_t at = static_cast<size_t>(offset + have - written_);
  const size_t count = std::min(buffer.size() - have, tail_.size() - at);
  std::memcpy(buffer.data() + have, tail_.data() + at, count);
  return have + count;
}

std::unique_ptr<ByteSource> Spool::reader() const { return std::make_unique<Reader>(*this); }

}  // namespace lamina
