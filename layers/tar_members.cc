#include "layers/internal/tar_members.h"

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "layers/internal/paths.h"

namespace lamina::layers {
namespace {

using namespace tar;

constexpr uint64_t kMaxExtensions = 1 << 20;  // bytes of headers before one member, as TarReader takes them
constexpr uint64_t kMaxTail = 1 << 20;        // bytes from the end marker on; GNU tar fills up to 10 KiB
// What RFC 3339 can hold: the years 1 to 9999.
constexpr int64_t kFirstTime = -62135596800, kLastTime = 253402300799;

bool representable(const Timestamp& time) { return time.seconds >= kFirstTime && time.seconds <= kLastTime; }

// JSON holds text.
bool is_text(std::string_view text) { return valid_utf8(text) && text.find('\0') == std::string_view::npos; }

}  // namespace

TarMembers::TarMembers(ByteSource& source) : source_(source), buffer_(new std::byte[kCopyBufferSize]) {}

// False at the end of the source.
Result<bool> TarMembers::fill() {
  if (begin_ != end_) return true;
  ASSIGN_OR_RETURN(end_, source_.read({buffer_.get(), kCopyBufferSize}));
  begin_ = 0;
  return end_ != 0;
}

// Appends the next bytes to member_.raw. False when there are fewer.
Result<bool> TarMembers::take_raw(uint64_t count) {
  while (count != 0) {
    ASSIGN_OR_RETURN(const bool more, fill());
    if (!more) return false;
    const size_t step = static_cast<size_t>(std::min<uint64_t>(count, end_ - begin_));
    member_.raw.append(reinterpret_cast<const char*>(buffer_.get() + begin_), step);
    begin_ += step;
    count -= step;
  }
  return true;
}

Result<bool> TarMembers::take_block(Header& header) {
  const size_t at = member_.raw.size();
  ASSIGN_OR_RETURN(const bool whole, take_raw(kBlock));
  if (whole) std::memcpy(header.data(), member_.raw.data() + at, kBlock);
  return whole;
}

Result<std::span<const std::byte>> TarMembers::content() {
  if (left_ == 0) return std::span<const std::byte>();
  ASSIGN_OR_RETURN(const bool more, fill());
  if (!more) return Error(ErrorKind::kCorrupt, "damaged tar: it ends in the middle of a member");
  const size_t size = static_cast<size_t>(std::min<uint64_t>(left_, end_ - begin_));
  const std::span<const std::byte> bytes(buffer_.get() + begin_, size);
  begin_ += size;
  left_ -= size;
  return bytes;
}

Result<std::span<const std::byte>> TarMembers::rest() {
  ASSIGN_OR_RETURN(const bool more, fill());
  const std::span<const std::byte> bytes(buffer_.get() + begin_, more ? end_ - begin_ : 0);
  begin_ = end_;
  return bytes;
}

Result<void> TarMembers::leave_out() {
  while (true) {
    ASSIGN_OR_RETURN(const auto bytes, content());
    if (bytes.empty()) break;
  }
  const size_t before = member_.raw.size();
  ASSIGN_OR_RETURN(const bool whole, take_raw(padding_));
  member_.raw.resize(before);
  if (!whole) return Error(ErrorKind::kCorrupt, "damaged tar: it ends in the middle of a member");
  padding_ = 0;
  return {};
}

Result<TarMembers::Step> TarMembers::next() {
  while (true) {
    ASSIGN_OR_RETURN(const auto bytes, content());
    if (bytes.empty()) break;
  }
  member_ = TarMember();
  member_.padding = padding_;
  pax_.clear();
  long_name_.reset();
  long_link_.reset();
  ASSIGN_OR_RETURN(const bool padded, take_raw(padding_));
  padding_ = 0;
  if (!padded) return Step::kOpaque;
  while (true) {
    Header header;
    ASSIGN_OR_RETURN(const Part part, read_part(header));
    if (part == Part::kExtension) continue;
    if (part == Part::kEndMarker) return Step::kEnd;
    if (part == Part::kOther || !describe(header)) return Step::kOpaque;
    left_ = member_.size;
    padding_ = tar::padding(member_.size);
    return Step::kMember;
  }
}

Result<TarMembers::Part> TarMembers::read_part(Header& header) {
  const size_t before = member_.raw.size();
  ASSIGN_OR_RETURN(const bool whole, take_block(header));
  if (!whole) return member_.raw.size() == before && before == member_.padding ? Part::kEndMarker : Part::kOther;
  if (is_zero(header)) {
    if (before != member_.padding) return Part::kOther;  // extensions of nothing
    ASSIGN_OR_RETURN(const bool sound, take_end());
    return sound ? Part::kEndMarker : Part::kOther;
  }
  if (!checksum_ok(header)) return Part::kOther;
  const char type = header[kType.offset];
  if (type >= '0' && type <= '6') return Part::kHeader;
  ASSIGN_OR_RETURN(const bool known, take_extension(header, type));
  return known ? Part::kExtension : Part::kOther;
}

// A second block of zeros, and whatever fills up the file after it.
Result<bool> TarMembers::take_end() {
  Header second;
  const size_t before = member_.raw.size();
  ASSIGN_OR_RETURN(const bool whole, take_block(second));
  if (!whole) return member_.raw.size() == before;
  if (!is_zero(second)) return false;
  ASSIGN_OR_RETURN(const bool more, take_raw(kMaxTail));
  return !more;
}

// Global headers, and the old forms of extended ones, are left to kOpaque.
Result<bool> TarMembers::take_extension(const Header& header, char type) {
  const auto size = number_field(header, kSize, "size");
  if (!size || *size < 0 || static_cast<uint64_t>(*size) > kMaxExtensions || member_.raw.size() > kMaxExtensions) return false;
  if (type != 'x' && type != 'L' && type != 'K') return false;
  const size_t at = member_.raw.size();
  const auto length = static_cast<uint64_t>(*size);
  ASSIGN_OR_RETURN(const bool whole, take_raw(length + tar::padding(length)));
  if (!whole) return false;
  const std::string_view body = std::string_view(member_.raw).substr(at, length);
  if (type == 'x') return pax_.empty() && parse_pax(body, pax_).has_value();
  std::optional<std::string>& text = type == 'L' ? long_name_ : long_link_;
  if (text) return false;
  text = body.substr(0, body.find('\0'));
  return true;
}

bool TarMembers::describe(const Header& header) {
  if (!describe_header(header) || !describe_pax()) return false;
  const bool file = member_.type == '0';
  if (!file && member_.size != 0) return false;
  if (!representable(member_.mtime) || !representable(member_.atime.value_or(Timestamp{})) || !representable(member_.ctime.value_or(Timestamp{}))) return false;
  auto path = clean_member_path(member_.name);
  if (!path || !is_text(member_.name) || !is_text(member_.link_name)) return false;
  member_.path = *std::move(path);
  return !(file && member_.name.ends_with('/'));  // before POSIX: a directory
}

bool TarMembers::describe_header(const Header& header) {
  const std::string_view magic(header.data() + kMagic.offset, kMagic.size);
  const bool ustar = magic.substr(0, 6) == kUstarMagic.substr(0, 6), gnu = magic == kGnuMagic;
  // star and GNU tar keep times where the prefix of a name is.
  if (ustar && std::string_view(header.data() + 508, 4) == std::string_view("tar\0", 4)) return false;
  if (gnu && std::any_of(header.begin() + kPrefix.offset, header.end(), [](char c) { return c != '\0'; })) return false;
  const auto number = [&](Field field, int64_t& out) {
    const auto value = number_field(header, field, "");
    if (value) out = *value;
    return value && (*value >= 0 || field.offset == kMtime.offset);
  };
  int64_t uid = 0, gid = 0, size = 0;
  const bool numbers = number(kMode, member_.mode) && number(kUid, uid) && number(kGid, gid) && number(kSize, size) && number(kMtime, member_.mtime.seconds);
  if (!numbers || ((ustar || gnu) && !(number(kDevMajor, member_.dev_major) && number(kDevMinor, member_.dev_minor)))) return false;
  member_.type = header[kType.offset];
  member_.uid = static_cast<uint64_t>(uid);
  member_.gid = static_cast<uint64_t>(gid);
  member_.size = static_cast<uint64_t>(size);
  member_.name = text_field(header, kName);
  member_.link_name = text_field(header, kLinkName);
  const std::string_view prefix = ustar ? text_field(header, kPrefix) : std::string_view();
  if (!prefix.empty()) member_.name.insert(0, std::string(prefix) + "/");
  if (long_name_) member_.name = *long_name_;
  if (long_link_) member_.link_name = *long_link_;
  return true;
}

bool TarMembers::describe_pax() {
  for (const auto& [key, value] : pax_) {
    const auto number = [&](uint64_t& out) {
      const auto parsed = parse_pax_uint(value, key);
      if (parsed) out = *parsed;
      return parsed.has_value();
    };
    const auto time = [&](auto& out) {
      const auto parsed = parse_pax_time(value);
      if (parsed) out = *parsed;
      return parsed.has_value();
    };
    bool known = true;
    if (key == "path") {
      member_.name = value;
    } else if (key == "linkpath") {
      member_.link_name = value;
    } else if (key == "size") {
      known = number(member_.size);
    } else if (key == "uid") {
      known = number(member_.uid);
    } else if (key == "gid") {
      known = number(member_.gid);
    } else if (key == "mtime") {
      known = time(member_.mtime);
    } else if (key == "atime") {
      known = time(member_.atime);
    } else if (key == "ctime") {
      known = time(member_.ctime);
    } else if (key.starts_with(kXattrKey)) {
      known = is_text(key);
      member_.xattrs.emplace(key.substr(kXattrKey.size()), value);
    } else {
      known = !key.starts_with("GNU.sparse.");
    }
    if (!known) return false;
  }
  return (!long_name_ || !pax_.contains("path")) && (!long_link_ || !pax_.contains("linkpath"));
}

}  // namespace lamina::layers
