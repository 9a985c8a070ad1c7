#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/text.h"
#include "layers/internal/paths.h"
#include "layers/internal/tar_format.h"
#include "layers/internal/xattrs.h"
#include "layers/tar.h"

namespace lamina::layers {
namespace {

using tar::Field;
using tar::Header;
using tar::kBlock;

constexpr uint64_t kLargest7 = 07777777;        // 7 octal digits: uid, gid, devices
constexpr uint64_t kLargest11 = 077777777777;   // 11 octal digits: size, mtime
constexpr std::array<std::byte, 2 * kBlock> kZeros{};

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

void put_text(Header& header, Field field, std::string_view text) {
  std::memcpy(header.data() + field.offset, text.data(), std::min(text.size(), field.size));
}

// Zero-padded octal digits and NUL.
void put_octal(Header& header, Field field, uint64_t value) {
  char* const begin = header.data() + field.offset;
  begin[field.size - 1] = '\0';
  for (size_t i = field.size - 1; i-- > 0; value >>= 3) begin[i] = static_cast<char>('0' + (value & 7));
}

void put_checksum(Header& header) {
  std::memset(header.data() + tar::kChecksum.offset, ' ', tar::kChecksum.size);
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  put_octal(header, {tar::kChecksum.offset, 7}, sum);  // six digits, NUL, and the space that is there
}

// What a reader without pax sees of a name that does not fit: its beginning.
std::string ascii_beginning(std::string_view text, size_t size) {
  std::string shown(text.substr(0, size));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) >= 0x80) c = '_';
  }
  return shown;
}

// "<length> <key>=<value>\n", where length counts itself.
void append_record(std::string& out, std::string_view key, std::string_view value) {
  const size_t rest = key.size() + value.size() + 3;
  size_t length = rest + 1;
  while (length != rest + fmt::formatted_size("{}", length)) length = rest + fmt::formatted_size("{}", length);
  fmt::format_to(std::back_inserter(out), "{} {}=", length, key);
  out += value;
  out += '\n';
}

// "=" ends a pax key, so it is written as GNU tar does it: "=" → "%3D", "%" → "%25". Other names with "%"
// stay as they are, because readers in Go do not decode anything.
std::string xattr_key(std::string_view name) {
  std::string key(tar::kXattrKey);
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (!has("=") && !has("%3D") && !has("%25")) return key.append(name);
  for (const char c : name) {
    if (c == '=') {
      key += "%3D";
    } else if (c == '%') {
      key += "%25";
    } else {
      key += c;
    }
  }
  return key;
}

char type_flag(EntryType type) {
  switch (type) {
    case EntryType::kDirectory: return '5';
    case EntryType::kSymlink: return '2';
    case EntryType::kHardlink: return '1';
    case EntryType::kCharDevice: return '3';
    case EntryType::kBlockDevice: return '4';
    case EntryType::kFifo: return '6';
    case EntryType::kFile:
    case EntryType::kWhiteout:
    case EntryType::kOpaqueWhiteout: return '0';
  }
  return '0';
}

bool is_whiteout(EntryType type) { return type == EntryType::kWhiteout || type == EntryType::kOpaqueWhiteout; }

std::string member_name(const Entry& entry) {
  switch (entry.type) {
    case EntryType::kDirectory: return entry.path.empty() ? "./" : entry.path + "/";
    case EntryType::kOpaqueWhiteout: return join_path(entry.path, kOpaqueName);
    case EntryType::kWhiteout:
      return join_path(parent_path(entry.path), std::string(kWhiteoutPrefix).append(base_name(entry.path)));
    default: return entry.path;
  }
}

// OCI image-spec layer.md: such names are whiteouts, so no file can have one.
Result<void> check_name(const Entry& entry) {
  const std::string_view path = entry.path;
  if (path.size() > kMaxPathBytes) {
    return Error(ErrorKind::kUnsupported,
                 fmt::format("\"{}…\" has a path of {} bytes; a layer may hold {}",
                             printable(path.substr(0, 100)), path.size(), kMaxPathBytes));
  }
  const bool reserved = path.starts_with(kWhiteoutPrefix) || path.find("/.wh.") != std::string_view::npos;
  if (!reserved) return {};
  return Error(ErrorKind::kUnsupported,
               fmt::format("\"{}\" cannot be part of an image: names that begin with \".wh.\" mean that a file "
                           "was deleted",
                           printable(path)))
      .with_note("remove or rename it in the step that makes it");
}

// Fills a header and collects what only pax can hold.
class HeaderWriter {
 public:
  HeaderWriter(const Entry& entry, std::optional<int64_t> clamp) : entry_(entry), clamp_(clamp) {}

  Result<void> write(ByteSink& sink) {
    put_name(member_name(entry_));
    header_[tar::kType.offset] = type_flag(entry_.type);
    put_text(header_, tar::kMagic, tar::kUstarMagic);
    // What an overlay whiteout happens to have as owner and time is no property of the layer.
    if (!is_whiteout(entry_.type)) RETURN_IF_ERROR(put_metadata());
    fill_numbers();
    put_checksum(header_);
    if (!records_.empty()) RETURN_IF_ERROR(write_records(sink));
    return sink.write(std::as_bytes(std::span(header_)));
  }

 private:
  struct Record {
    std::string key, value;
  };

  void add(std::string key, std::string value) { records_.push_back({std::move(key), std::move(value)}); }

  void put_name(const std::string& name) {
    if (is_ascii(name)) {
      if (name.size() <= tar::kName.size) return put_text(header_, tar::kName, name);
      // The last "/" that leaves a prefix of at most 155 and a name of at most 100 bytes.
      const size_t split = std::string_view(name).substr(0, name.size() - 1).rfind('/', tar::kPrefix.size);
      if (split != std::string::npos && split > 0 && name.size() - split - 1 <= tar::kName.size) {
        put_text(header_, tar::kPrefix, std::string_view(name).substr(0, split));
        return put_text(header_, tar::kName, std::string_view(name).substr(split + 1));
      }
    }
    put_text(header_, tar::kName, ascii_beginning(name, tar::kName.size));
    add("path", name);
  }

  Result<void> put_metadata() {
    // Linux gives every symlink these bits; sources may say otherwise.
    mode_ = entry_.type == EntryType::kSymlink ? 0777 : entry_.mode & 07777;
    put_small(uid_, entry_.uid, kLargest7, "uid");
    put_small(gid_, entry_.gid, kLargest7, "gid");
    if (entry_.type == EntryType::kFile) put_small(size_, entry_.size, kLargest11, "size");
    const int64_t mtime = std::min(entry_.mtime.seconds, clamp_.value_or(entry_.mtime.seconds));
    if (mtime < 0) {
      add("mtime", std::to_string(mtime));
    } else {
      put_small(mtime_, static_cast<uint64_t>(mtime), kLargest11, "mtime");
    }
    if (entry_.type == EntryType::kSymlink || entry_.type == EntryType::kHardlink) put_link_name();
    if (entry_.type == EntryType::kCharDevice || entry_.type == EntryType::kBlockDevice) {
      if (entry_.dev_major > kLargest7 || entry_.dev_minor > kLargest7) {
        return Error(ErrorKind::kUnsupported,
                     fmt::format("the device number {}:{} of \"{}\" does not fit into a tar", entry_.dev_major,
                                 entry_.dev_minor, printable(entry_.path)));
      }
      major_ = entry_.dev_major;
      minor_ = entry_.dev_minor;
    }
    for (const auto& [name, value] : entry_.xattrs) {
      if (is_layer_xattr(entry_.type, name)) add(xattr_key(name), value);
    }
    return {};
  }

  void put_link_name() {
    put_text(header_, tar::kLinkName, ascii_beginning(entry_.link_target, tar::kLinkName.size));
    if (entry_.link_target.size() > tar::kLinkName.size || !is_ascii(entry_.link_target)) {
      add("linkpath", entry_.link_target);
    }
  }

  void put_small(uint64_t& field, uint64_t value, uint64_t largest, const char* key) {
    if (value <= largest) {
      field = value;
    } else {
      add(key, std::to_string(value));
    }
  }

  void fill_numbers() {
    put_octal(header_, tar::kMode, mode_);
    put_octal(header_, tar::kUid, uid_);
    put_octal(header_, tar::kGid, gid_);
    put_octal(header_, tar::kSize, size_);
    put_octal(header_, tar::kMtime, mtime_);
    put_octal(header_, tar::kDevMajor, major_);
    put_octal(header_, tar::kDevMinor, minor_);
  }

  Result<void> write_records(ByteSink& sink) {
    std::sort(records_.begin(), records_.end(), [](const Record& a, const Record& b) { return a.key < b.key; });
    std::string body;
    for (const Record& record : records_) append_record(body, record.key, record.value);
    Header header{};
    const std::string_view base = entry_.path.empty() ? std::string_view(".") : base_name(entry_.path);
    put_text(header, tar::kName, "PaxHeaders/" + ascii_beginning(base, 80));
    put_octal(header, tar::kMode, 0644);
    put_octal(header, tar::kUid, 0);
    put_octal(header, tar::kGid, 0);
    put_octal(header, tar::kSize, body.size());
    put_octal(header, tar::kMtime, 0);
    header[tar::kType.offset] = 'x';
    put_text(header, tar::kMagic, tar::kUstarMagic);
    put_octal(header, tar::kDevMajor, 0);
    put_octal(header, tar::kDevMinor, 0);
    put_checksum(header);
    RETURN_IF_ERROR(sink.write(std::as_bytes(std::span(header))));
    body.resize(body.size() + tar::padding(body.size()), '\0');
    return sink.write(as_bytes(body));
  }

  const Entry& entry_;
  const std::optional<int64_t> clamp_;
  Header header_{};
  uint64_t mode_ = 0, uid_ = 0, gid_ = 0, size_ = 0, mtime_ = 0, major_ = 0, minor_ = 0;
  std::vector<Record> records_;
};

}  // namespace

Error content_changed(const Entry& entry, std::string_view how) {
  return Error(ErrorKind::kCorrupt, fmt::format("\"{}\" changed while it was read: it has {} than {} bytes", printable(entry.path), how, entry.size));
}

struct TarWriter::Buffer {
  std::unique_ptr<std::byte[]> data{new std::byte[kCopyBufferSize]};
};

TarWriter::TarWriter(ByteSink& sink, std::optional<int64_t> clamp_mtime)
    : sink_(sink), clamp_(clamp_mtime), buffer_(std::make_unique<Buffer>()) {}
TarWriter::~TarWriter() = default;

Result<void> TarWriter::add(const Entry& entry, ByteSource* content) {
  RETURN_IF_ERROR(check_name(entry));
  RETURN_IF_ERROR(HeaderWriter(entry, clamp_).write(sink_));
  if (entry.type != EntryType::kFile || entry.size == 0) return {};
  return add_content(entry, *content);
}

Result<void> TarWriter::add_content(const Entry& entry, ByteSource& content) {
  uint64_t left = entry.size;
  while (true) {
    // One byte more than is expected: so the read that gets the rest also shows that it is the rest.
    const size_t want = static_cast<size_t>(std::min<uint64_t>(kCopyBufferSize, left + 1));
    ASSIGN_OR_RETURN(const size_t got, content.read({buffer_->data.get(), want}));
    if (got == 0 && left != 0) return content_changed(entry, "fewer");
    if (got > left) return content_changed(entry, "more");
    if (got != 0) RETURN_IF_ERROR(sink_.write({buffer_->data.get(), got}));
    left -= got;
    if (left == 0 && got == 0) break;
  }
  return sink_.write(std::span(kZeros).first(tar::padding(entry.size)));
}

Result<void> TarWriter::add(const Entry& entry, std::string_view content) {
  if (content.size() != entry.size) return content_changed(entry, content.size() < entry.size ? "fewer" : "more");
  RETURN_IF_ERROR(check_name(entry));
  RETURN_IF_ERROR(HeaderWriter(entry, clamp_).write(sink_));
  RETURN_IF_ERROR(sink_.write(as_bytes(content)));
  return sink_.write(std::span(kZeros).first(tar::padding(entry.size)));
}

Result<void> TarWriter::add(const Entry& entry, ThreadPool* pool) {
  if (entry.type != EntryType::kFile || entry.size == 0) return add(entry, static_cast<ByteSource*>(nullptr));
  if (entry.bytes) return add(entry, *entry.bytes);
  if (!entry.opener) {
    return Error(ErrorKind::kInternal, fmt::format("the entry \"{}\" has no content", printable(entry.path)));
  }
  ASSIGN_OR_RETURN(UniqueFd fd, entry.opener->open_file(entry.source_path));
  const int borrowed = fd.get();
  const auto examine = [&] { return entry.opener->examine(entry.source_path, borrowed); };
  std::future<Result<void>> examined;
  if (pool != nullptr) examined = pool->submit(examine);
  FdSource content(std::move(fd));
  auto added = add(entry, &content);
  RETURN_IF_ERROR(examined.valid() ? examined.get() : examine());
  RETURN_IF_ERROR(std::move(added));
  return entry.opener->confirm(entry.source_path, borrowed, std::nullopt);
}

Result<void> TarWriter::finish() { return sink_.write(kZeros); }

}  // namespace lamina::layers
