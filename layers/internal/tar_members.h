// A tar's members as an index of it has to describe them, with every byte of the tar.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/stream.h"
#include "base/time.h"
#include "layers/internal/tar_header.h"

namespace lamina::layers {

// What the headers say, not cleaned and not cut: readers compare an index with what Go's archive/tar makes of them.
struct TarMember {
  std::string raw;     // the bytes of the tar from the content before to the content of this one
  size_t padding = 0;  // how many of them belong to the content before
  char type = '0';     // '0' to '6'
  std::string name, link_name;
  std::string path;      // the name cleaned, without "." and doubled "/"
  uint64_t size = 0;     // of the content; '0' only
  int64_t mode = 0;      // as it is written: some writers put the file's type there
  uint64_t uid = 0, gid = 0;
  int64_t dev_major = 0, dev_minor = 0;
  Timestamp mtime;
  std::optional<Timestamp> atime, ctime;
  std::map<std::string, std::string> xattrs;  // names as they are written
};

// Reads a tar that may be hostile. One thread.
class TarMembers {
 public:
  explicit TarMembers(ByteSource& source);

  enum class Step {
    kMember,  // member() is the next one, and content() gives its bytes
    kEnd,     // member().raw is the rest of the tar, from the content before on
    kOpaque,  // here is something that no index can describe; member().raw are the bytes up to now, rest() gives the others
  };
  // What was not read of the last content is skipped.
  Result<Step> next();
  TarMember& member() { return member_; }
  // Some bytes of the content; none at its end. Valid until the next call.
  Result<std::span<const std::byte>> content();
  // After kOpaque: some of the bytes that are left; none at the end.
  Result<std::span<const std::byte>> rest();
  // Passes over the content, and over its padding too: what follows then has none.
  Result<void> leave_out();

 private:
  enum class Part { kHeader, kEndMarker, kExtension, kOther };

  Result<bool> fill();
  Result<bool> take_raw(uint64_t count);
  Result<bool> take_block(tar::Header& header);
  Result<Part> read_part(tar::Header& header);
  Result<bool> take_extension(const tar::Header& header, char type);
  Result<bool> take_end();
  bool describe(const tar::Header& header);
  bool describe_header(const tar::Header& header);
  bool describe_pax();

  ByteSource& source_;
  std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0, end_ = 0;
  TarMember member_;
  uint64_t left_ = 0, padding_ = 0;  // bytes of the content that are not read yet, and after it
  // Of the headers before a member.
  tar::PaxRecords pax_;
  std::optional<std::string> long_name_, long_link_;
};

}  // namespace lamina::layers
