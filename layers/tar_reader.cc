#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "layers/internal/holes.h"
#include "layers/internal/paths.h"
#include "layers/internal/tar_header.h"
#include "layers/internal/xattrs.h"
#include "layers/tar.h"

namespace lamina::layers {
namespace {

using namespace tar;

constexpr uint64_t kMaxExtendedHeader = 1 << 20;  // bytes of long names and pax records before one member
constexpr size_t kMaxSparseExtents = 65536;

Error corrupt(std::string message) { return Error(ErrorKind::kCorrupt, "damaged tar: " + std::move(message)); }

Error truncated() { return corrupt("it ends in the middle of a member"); }

// Reads through one buffer, so that headers cost no call of the source each.
class BufferedInput {
 public:
  explicit BufferedInput(ByteSource& source) : source_(source), buffer_(new std::byte[kCopyBufferSize]) {}

  // Fewer bytes than asked for only at the end.
  Result<size_t> read_full(std::span<std::byte> out) {
    size_t done = 0;
    while (done < out.size()) {
      ASSIGN_OR_RETURN(const size_t got, read_some(out.subspan(done)));
      if (got == 0) break;
      done += got;
    }
    return done;
  }

  Result<size_t> read_some(std::span<std::byte> out) {
    if (begin_ == end_) {
      if (out.size() >= kCopyBufferSize) return source_.read(out);
      RETURN_IF_ERROR(refill());
    }
    const size_t count = std::min(out.size(), end_ - begin_);
    if (count != 0) std::memcpy(out.data(), buffer_.get() + begin_, count);
    begin_ += count;
    return count;
  }

  Result<void> skip(uint64_t count) {
    while (count != 0) {
      if (begin_ == end_) RETURN_IF_ERROR(refill());
      if (begin_ == end_) return truncated();
      const size_t step = static_cast<size_t>(std::min<uint64_t>(count, end_ - begin_));
      begin_ += step;
      count -= step;
    }
    return {};
  }

 private:
  Result<void> refill() {
    ASSIGN_OR_RETURN(end_, source_.read({buffer_.get(), kCopyBufferSize}));
    begin_ = 0;
    return {};
  }

  ByteSource& source_;
  std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0, end_ = 0;
};

// The bytes of the current member, holes filled with zeros.
class Content : public HoleySource {
 public:
  explicit Content(BufferedInput& input) : input_(input) {}

  void start(uint64_t stored, uint64_t size, SparseMap map) {
    left_ = stored;
    padding_ = padding(stored);
    size_ = size;
    map_ = std::move(map);
    position_ = 0;
    extent_ = 0;
  }

  Result<size_t> read(std::span<std::byte> out) override {
    if (position_ == size_ || out.empty()) return size_t{0};
    const uint64_t hole = hole_at_position();
    size_t count = static_cast<size_t>(std::min<uint64_t>(out.size(), hole != 0 ? hole : data_at_position()));
    if (hole != 0) {
      std::memset(out.data(), 0, count);
    } else {
      ASSIGN_OR_RETURN(count, input_.read_some(out.first(count)));
      if (count == 0) return truncated();
      left_ -= count;
    }
    position_ += count;
    return count;
  }

  uint64_t skip_hole() override {
    const uint64_t hole = hole_at_position();
    position_ += hole;
    return hole;
  }

  // Reads past what is left of the member.
  Result<void> finish() {
    const uint64_t rest = left_ + padding_;
    left_ = padding_ = 0;
    position_ = size_;
    return input_.skip(rest);
  }

 private:
  // Bytes of data from here on; moves on to the extent that is here. Not called in a hole.
  uint64_t data_at_position() const {
    if (map_.empty()) return left_;
    return map_[extent_].offset + map_[extent_].size - position_;
  }

  uint64_t hole_at_position() {
    if (map_.empty()) return left_ == 0 ? size_ - position_ : 0;  // no data at all: one hole
    while (extent_ < map_.size() && position_ >= map_[extent_].offset + map_[extent_].size) ++extent_;
    if (extent_ == map_.size()) return size_ - position_;
    return position_ < map_[extent_].offset ? map_[extent_].offset - position_ : 0;
  }

  BufferedInput& input_;
  uint64_t left_ = 0, padding_ = 0;     // stored bytes not read yet
  uint64_t size_ = 0, position_ = 0;    // of the file
  SparseMap map_;
  size_t extent_ = 0;
};

}  // namespace

struct TarReader::Impl {
  explicit Impl(ByteSource& source) : input(source), content(input) {}

  Result<std::optional<Entry>> next();

  BufferedInput input;
  Content content;

 private:
  // Of the headers before a member; cleared after it.
  struct Pending {
    PaxRecords pax;
    std::string long_name, long_link;
    uint64_t bytes = 0;
  };

  Result<bool> read_header(Header& header);
  Result<std::string> read_body(uint64_t size);
  // Whether the header only describes the next one.
  Result<bool> take_extension(const Header& header, char type);
  Result<std::optional<Entry>> member(const Header& header, char type);
  Result<void> set_numbers(const Header& header, Entry& entry) const;
  Result<std::string> name_of(const Header& header) const;
  Result<void> start_content(const Header& header, char type, Entry& entry);
  Result<SparseMap> old_gnu_sparse(const Header& header, Entry& entry);
  Result<SparseMap> pax_sparse(Entry& entry, uint64_t& stored);
  Result<SparseMap> sparse_from_data(uint64_t& stored);

  const std::string* pax(std::string_view key) const {
    const auto find = [&](const PaxRecords& records) -> const std::string* {
      const auto it = records.find(std::string(key));
      return it == records.end() ? nullptr : &it->second;
    };
    const std::string* own = find(pending_.pax);
    return own != nullptr ? own : find(global_);
  }

  PaxRecords global_;
  Pending pending_;
  bool ended_ = false;
};

Result<bool> TarReader::Impl::read_header(Header& header) {
  const auto bytes = std::as_writable_bytes(std::span(header));
  ASSIGN_OR_RETURN(size_t got, input.read_full(bytes));
  if (got == 0) return false;  // no end marker: several writers leave it out
  if (got < kBlock) return truncated();
  if (!is_zero(header)) {
    if (!checksum_ok(header)) return corrupt("a header has a wrong checksum");
    return true;
  }
  ASSIGN_OR_RETURN(got, input.read_full(bytes));
  if (got != 0 && (got < kBlock || !is_zero(header))) return corrupt("there is something after the end marker");
  return false;
}

Result<std::string> TarReader::Impl::read_body(uint64_t size) {
  pending_.bytes += size;
  if (size > kMaxExtendedHeader || pending_.bytes > kMaxExtendedHeader) {
    return corrupt(fmt::format("the names and attributes of a member take more than {} bytes", kMaxExtendedHeader));
  }
  std::string body(size, '\0');
  ASSIGN_OR_RETURN(const size_t got, input.read_full(std::as_writable_bytes(std::span(body))));
  if (got != size) return truncated();
  RETURN_IF_ERROR(input.skip(padding(size)));
  return body;
}

Result<bool> TarReader::Impl::take_extension(const Header& header, char type) {
  if (type != 'x' && type != 'X' && type != 'g' && type != 'L' && type != 'K') return false;
  ASSIGN_OR_RETURN(const int64_t size, number_field(header, kSize, "size"));
  if (size < 0) return corrupt("a size is negative");
  ASSIGN_OR_RETURN(std::string body, read_body(static_cast<uint64_t>(size)));
  if (type == 'g') {
    RETURN_IF_ERROR(parse_pax(body, global_));
    uint64_t total = 0;
    for (const auto& [key, value] : global_) total += key.size() + value.size();
    if (total > kMaxExtendedHeader) return corrupt("its global headers are too large");
    pending_.bytes = 0;
  } else if (type == 'L' || type == 'K') {
    body.resize(std::min(body.find('\0'), body.size()));
    (type == 'L' ? pending_.long_name : pending_.long_link) = std::move(body);
  } else {
    RETURN_IF_ERROR(parse_pax(body, pending_.pax));
  }
  return true;
}

Result<std::string> TarReader::Impl::name_of(const Header& header) const {
  if (const std::string* name = pax("GNU.sparse.name")) return clean_member_path(*name);
  if (const std::string* name = pax("path")) return clean_member_path(*name);
  if (!pending_.long_name.empty()) return clean_member_path(pending_.long_name);
  std::string name(text_field(header, kName));
  const std::string_view magic(header.data() + kMagic.offset, 6);
  if (magic == kUstarMagic.substr(0, 6)) {  // GNU keeps other things where the prefix is
    const bool star = std::string_view(header.data() + 508, 4) == std::string_view("tar\0", 4);
    const std::string_view prefix = text_field(header, {kPrefix.offset, star ? size_t{131} : kPrefix.size});
    if (!prefix.empty()) name = std::string(prefix) + "/" + name;
  }
  return clean_member_path(name);
}

Result<void> TarReader::Impl::set_numbers(const Header& header, Entry& entry) const {
  ASSIGN_OR_RETURN(const int64_t mode, number_field(header, kMode, "mode"));
  entry.mode = static_cast<uint32_t>(mode) & 07777;
  const auto id = [&](Field field, const char* key, uint32_t& out) -> Result<void> {
    uint64_t value = 0;
    if (const std::string* text = pax(key)) {
      ASSIGN_OR_RETURN(value, parse_pax_uint(*text, key));
    } else {
      ASSIGN_OR_RETURN(const int64_t number, number_field(header, field, key));
      if (number < 0) return corrupt(fmt::format("the {} of \"{}\" is negative", key, printable(entry.path)));
      value = static_cast<uint64_t>(number);
    }
    // (uid_t)-1 means "leave it" to chown(2).
    if (value >= UINT32_MAX) return corrupt(fmt::format("the {} of \"{}\" is too large", key, printable(entry.path)));
    out = static_cast<uint32_t>(value);
    return {};
  };
  RETURN_IF_ERROR(id(kUid, "uid", entry.uid));
  RETURN_IF_ERROR(id(kGid, "gid", entry.gid));
  if (const std::string* text = pax("mtime")) {
    ASSIGN_OR_RETURN(entry.mtime, parse_pax_time(*text));
  } else {
    ASSIGN_OR_RETURN(entry.mtime.seconds, number_field(header, kMtime, "mtime"));
  }
  if (entry.type == EntryType::kCharDevice || entry.type == EntryType::kBlockDevice) {
    ASSIGN_OR_RETURN(const int64_t major, number_field(header, kDevMajor, "device number"));
    ASSIGN_OR_RETURN(const int64_t minor, number_field(header, kDevMinor, "device number"));
    // Linux: 12 and 20 bits.
    if (major < 0 || major > 0xfff || minor < 0 || minor > 0xfffff) {
      return corrupt(fmt::format("the device number of \"{}\" is too large", printable(entry.path)));
    }
    entry.dev_major = static_cast<uint32_t>(major);
    entry.dev_minor = static_cast<uint32_t>(minor);
  }
  return {};
}

namespace {

std::optional<EntryType> entry_type(char type, bool named_as_directory) {
  switch (type) {
    case '\0': return named_as_directory ? EntryType::kDirectory : EntryType::kFile;  // before POSIX
    case '0':
    case '7':  // contiguous
    case 'S': return EntryType::kFile;
    case '1': return EntryType::kHardlink;
    case '2': return EntryType::kSymlink;
    case '3': return EntryType::kCharDevice;
    case '4': return EntryType::kBlockDevice;
    case '5':
    case 'D': return EntryType::kDirectory;  // GNU: with a list of names as content
    case '6': return EntryType::kFifo;
    default: return std::nullopt;
  }
}

// Members that are whiteouts by name. Gives false for what has to be left out: aufs' own files.
Result<bool> apply_whiteout_name(Entry& entry) {
  const std::string_view path = entry.path;
  const size_t begin = path.starts_with(kWhiteoutPrefix) ? 0 : path.find("/.wh.");
  if (begin == std::string_view::npos) return true;
  const std::string parent(parent_path(path)), name(base_name(path));
  const std::string shown = printable(path);
  if (parent.starts_with(kWhiteoutPrefix) || parent.find("/.wh.") != std::string::npos) {
    const bool meta = parent.starts_with(kWhiteoutMetaPrefix) || parent.find("/.wh..wh.") != std::string::npos;
    if (meta) return false;
    return corrupt(fmt::format("\"{}\" is inside of a whiteout", shown));
  }
  if (name == kOpaqueName) {
    entry.type = EntryType::kOpaqueWhiteout;
    entry.path = parent;
  } else if (name.starts_with(kWhiteoutMetaPrefix)) {
    return false;
  } else {
    const std::string hidden = name.substr(kWhiteoutPrefix.size());
    if (hidden.empty() || hidden == "." || hidden == "..") {
      return corrupt(fmt::format("the whiteout \"{}\" names no file", shown));
    }
    entry.type = EntryType::kWhiteout;
    entry.path = join_path(parent, hidden);
  }
  entry.size = 0;
  return true;
}

}  // namespace

Result<std::optional<Entry>> TarReader::Impl::member(const Header& header, char type) {
  Entry entry;
  ASSIGN_OR_RETURN(entry.path, name_of(header));
  const std::string_view raw = text_field(header, kName);
  const auto known = entry_type(type, raw.ends_with('/'));
  if (!known) {
    return Error(ErrorKind::kUnsupported, fmt::format("the tar member \"{}\" has the unknown type '{}'",
                                                      printable(entry.path), printable(std::string(1, type))));
  }
  entry.type = *known;
  RETURN_IF_ERROR_WITH(set_numbers(header, entry), "reading the header of \"" + printable(entry.path) + "\"");
  if (entry.type == EntryType::kSymlink || entry.type == EntryType::kHardlink) {
    const std::string* target = pax("linkpath");
    entry.link_target = target != nullptr              ? *target
                        : !pending_.long_link.empty() ? pending_.long_link
                                                       : std::string(text_field(header, kLinkName));
    if (entry.link_target.empty() || entry.link_target.find('\0') != std::string::npos) {
      return corrupt(fmt::format("the link \"{}\" has no target", printable(entry.path)));
    }
    if (entry.type == EntryType::kHardlink) {
      ASSIGN_OR_RETURN(entry.link_target, clean_member_path(entry.link_target));
      if (entry.link_target.empty()) {
        return corrupt(fmt::format("\"{}\" is a hard link to the root", printable(entry.path)));
      }
    }
  }
  for (const PaxRecords* records : {&global_, &pending_.pax}) {
    for (auto it = records->lower_bound(std::string(kXattrKey)); it != records->end() && it->first.starts_with(kXattrKey); ++it) {
      std::string name = xattr_name(it->first);
      // What would be overlay's or ours, or belongs to another machine, ends here.
      if (is_layer_xattr(entry.type, name)) entry.xattrs.insert_or_assign(std::move(name), it->second);
    }
  }
  RETURN_IF_ERROR(start_content(header, type, entry));
  ASSIGN_OR_RETURN(const bool wanted, apply_whiteout_name(entry));
  if (!wanted) return std::optional<Entry>();
  return std::optional<Entry>(std::move(entry));
}

Result<void> TarReader::Impl::start_content(const Header& header, char type, Entry& entry) {
  ASSIGN_OR_RETURN(const int64_t field, number_field(header, kSize, "size"));
  if (field < 0) return corrupt(fmt::format("the size of \"{}\" is negative", printable(entry.path)));
  auto stored = static_cast<uint64_t>(field);
  if (const std::string* text = pax("size")) {
    ASSIGN_OR_RETURN(stored, parse_pax_uint(*text, "size"));
  }
  if (entry.type != EntryType::kFile) {
    // Links, devices and directories have no content whatever their size says; GNU's 'D' has names.
    content.start(type == 'D' ? stored : 0, 0, {});
    return {};
  }
  entry.size = stored;
  SparseMap map;
  if (type == 'S') {
    ASSIGN_OR_RETURN(map, old_gnu_sparse(header, entry));
  } else if (pax("GNU.sparse.major") != nullptr || pax(kSparsePairs) != nullptr || pax("GNU.sparse.size") != nullptr) {
    ASSIGN_OR_RETURN(map, pax_sparse(entry, stored));
  } else {
    content.start(stored, stored, {});
    return {};
  }
  RETURN_IF_ERROR(check_sparse(map, entry.size, stored));
  // Extents of no bytes only mark the end of the file.
  std::erase_if(map, [](const Extent& extent) { return extent.size == 0; });
  content.start(stored, entry.size, std::move(map));
  return {};
}

// GNU tar, "Old GNU Format": four extents in the header, 21 in each block that follows.
Result<SparseMap> TarReader::Impl::old_gnu_sparse(const Header& header, Entry& entry) {
  ASSIGN_OR_RETURN(const int64_t size, number_field(header, {483, 12}, "size"));
  if (size < 0) return corrupt("a size is negative");
  entry.size = static_cast<uint64_t>(size);
  SparseMap map;
  const auto add = [&](const Header& block, size_t offset, int count) -> Result<void> {
    for (int i = 0; i < count; ++i, offset += 24) {
      if (block[offset] == '\0') continue;
      ASSIGN_OR_RETURN(const int64_t at, number_field(block, {offset, 12}, "sparse offset"));
      ASSIGN_OR_RETURN(const int64_t length, number_field(block, {offset + 12, 12}, "sparse size"));
      if (at < 0 || length < 0) return corrupt("a sparse map is malformed");
      map.push_back({static_cast<uint64_t>(at), static_cast<uint64_t>(length)});
    }
    return {};
  };
  RETURN_IF_ERROR(add(header, 386, 4));
  for (bool extended = header[482] != '\0'; extended;) {
    Header block;
    ASSIGN_OR_RETURN(const size_t got, input.read_full(std::as_writable_bytes(std::span(block))));
    if (got < kBlock) return truncated();
    RETURN_IF_ERROR(add(block, 0, 21));
    if (map.size() > kMaxSparseExtents) return corrupt("a sparse map is too large");
    extended = block[504] != '\0';
  }
  return map;
}

// GNU tar, "PAX Format, Versions 0.0 and 0.1" (map in the header) and "1.0" (map before the data).
Result<SparseMap> TarReader::Impl::pax_sparse(Entry& entry, uint64_t& stored) {
  const std::string* real_size = pax("GNU.sparse.realsize");
  if (real_size == nullptr) real_size = pax("GNU.sparse.size");
  if (real_size == nullptr) return corrupt("a sparse file has no size");
  ASSIGN_OR_RETURN(entry.size, parse_pax_uint(*real_size, "GNU.sparse.size"));
  const std::string* major = pax("GNU.sparse.major");
  if (major != nullptr && *major == "1") return sparse_from_data(stored);
  const std::string* text = pax(kSparsePairs);
  if (text == nullptr) return corrupt("a sparse file has no map");
  const std::vector<std::string> numbers = split(*text, ',');
  if (numbers.size() % 2 != 0 || numbers.size() / 2 > kMaxSparseExtents) return corrupt("a sparse map is malformed");
  SparseMap map;
  for (size_t i = 0; i < numbers.size(); i += 2) {
    ASSIGN_OR_RETURN(const uint64_t offset, parse_pax_uint(numbers[i], kSparsePairs));
    ASSIGN_OR_RETURN(const uint64_t size, parse_pax_uint(numbers[i + 1], kSparsePairs));
    map.push_back({offset, size});
  }
  return map;
}

// Decimal numbers, each ended by a newline: the count, then offset and size of each; padded to a block.
Result<SparseMap> TarReader::Impl::sparse_from_data(uint64_t& stored) {
  SparseMap map;
  uint64_t wanted = 0, numbers = 0, value = 0;
  size_t digits = 0;
  for (bool have_count = false; !have_count || numbers < 2 * wanted;) {
    std::array<char, kBlock> block;
    if (stored < kBlock) return corrupt("a sparse map is cut short");
    ASSIGN_OR_RETURN(const size_t got, input.read_full(std::as_writable_bytes(std::span(block))));
    if (got < kBlock) return truncated();
    stored -= kBlock;
    for (const char c : block) {
      if (have_count && numbers == 2 * wanted) break;
      if (c != '\n') {
        if (c < '0' || c > '9' || ++digits > 18) return corrupt("a sparse map is malformed");
        value = value * 10 + static_cast<uint64_t>(c - '0');
        continue;
      }
      if (digits == 0) return corrupt("a sparse map is malformed");
      if (!have_count) {
        if (value > kMaxSparseExtents) return corrupt("a sparse map is too large");
        wanted = value;
        have_count = true;
      } else if (numbers++ % 2 == 0) {
        map.push_back({value, 0});
      } else {
        map.back().size = value;
      }
      value = digits = 0;
    }
  }
  return map;
}

Result<std::optional<Entry>> TarReader::Impl::next() {
  if (ended_) return std::optional<Entry>();
  RETURN_IF_ERROR(content.finish());
  while (true) {
    Header header;
    ASSIGN_OR_RETURN(const bool more, read_header(header));
    if (!more) {
      ended_ = true;
      if (pending_.bytes != 0) return truncated();
      return std::optional<Entry>();
    }
    const char type = header[kType.offset];
    ASSIGN_OR_RETURN(const bool extension, take_extension(header, type));
    if (extension) continue;
    if (type == 'V') {  // GNU: name of the volume
      pending_ = {};
      continue;
    }
    ASSIGN_OR_RETURN(auto entry, member(header, type));
    pending_ = {};
    if (entry) return entry;
    RETURN_IF_ERROR(content.finish());
  }
}

TarReader::TarReader(ByteSource& source) : impl_(std::make_unique<Impl>(source)) {}
TarReader::~TarReader() = default;
Result<std::optional<Entry>> TarReader::next() { return impl_->next(); }
ByteSource& TarReader::content() { return impl_->content; }

}  // namespace lamina::layers
