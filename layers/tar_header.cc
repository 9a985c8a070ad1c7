#include "layers/internal/tar_header.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace lamina::layers::tar {
namespace {

Error corrupt(std::string message) { return Error(ErrorKind::kCorrupt, "damaged tar: " + std::move(message)); }

Result<int64_t> base256(std::string_view bytes, std::string_view what) {
  const bool negative = (static_cast<unsigned char>(bytes[0]) & 0x40) != 0;
  // Two's complement over the whole field without its first bit.
  uint64_t value = negative ? ~uint64_t{0} : 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto byte = static_cast<unsigned char>(i == 0 ? (bytes[0] & 0x7f) | (negative ? 0x80 : 0) : bytes[i]);
    const uint64_t top = value >> 56;
    if (top != (negative ? 0xff : 0)) return corrupt(fmt::format("the {} is too large", what));
    value = value << 8 | byte;
  }
  const auto number = static_cast<int64_t>(value);
  if ((number < 0) != negative) return corrupt(fmt::format("the {} is too large", what));
  return number;
}

}  // namespace

std::string_view text_field(const Header& header, Field field) {
  const std::string_view text(header.data() + field.offset, field.size);
  return text.substr(0, text.find('\0'));
}

Result<int64_t> number_field(const Header& header, Field field, std::string_view what) {
  const std::string_view bytes(header.data() + field.offset, field.size);
  if ((static_cast<unsigned char>(bytes[0]) & 0x80) != 0) return base256(bytes, what);
  const auto blank = [](char c) { return c == ' ' || c == '\0'; };
  size_t begin = 0, end = bytes.size();
  while (begin < end && blank(bytes[begin])) ++begin;
  size_t stop = begin;
  while (stop < end && !blank(bytes[stop])) ++stop;
  if (begin == stop) return int64_t{0};
  const auto value = parse_uint(bytes.substr(begin, stop - begin), 8);
  if (!value || *value > INT64_MAX) return corrupt(fmt::format("the {} is no octal number", what));
  return static_cast<int64_t>(*value);
}

bool is_zero(const Header& header) {
  return std::all_of(header.begin(), header.end(), [](char c) { return c == '\0'; });
}

bool checksum_ok(const Header& header) {
  int64_t unsigned_sum = 0, signed_sum = 0;
  for (size_t i = 0; i < kBlock; ++i) {
    const bool blanked = i - kChecksum.offset < kChecksum.size;
    const char c = blanked ? ' ' : header[i];
    unsigned_sum += static_cast<unsigned char>(c);
    signed_sum += static_cast<signed char>(c);
  }
  const auto stored = number_field(header, kChecksum, "checksum");
  return stored && (*stored == unsigned_sum || *stored == signed_sum);
}

Result<void> parse_pax(std::string_view body, PaxRecords& records) {
  std::string pairs;
  size_t pair_parts = 0;
  while (!body.empty()) {
    const size_t space = body.find(' ');
    const auto length = parse_uint(body.substr(0, space));
    if (space == std::string_view::npos || space > 20 || !length || *length < space + 3 || *length > body.size() ||
        body[*length - 1] != '\n') {
      return corrupt("a pax header is malformed");
    }
    const std::string_view record = body.substr(space + 1, *length - space - 2);
    body.remove_prefix(*length);
    const size_t equals = record.find('=');
    if (equals == std::string_view::npos || equals == 0) return corrupt("a pax record has no name");
    const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key == "GNU.sparse.offset" || key == "GNU.sparse.numbytes") {
      if ((key == "GNU.sparse.numbytes") != (pair_parts++ % 2 == 1)) return corrupt("a sparse map is malformed");
      if (!pairs.empty()) pairs += ',';
      pairs += value;
    } else if (value.empty() && !key.starts_with(kXattrKey)) {
      records.erase(std::string(key));
    } else {
      records.insert_or_assign(std::string(key), std::string(value));
    }
  }
  if (!pairs.empty()) records.insert_or_assign(kSparsePairs, std::move(pairs));
  return {};
}

Result<Timestamp> parse_pax_time(std::string_view text) {
  const Error bad = corrupt(fmt::format("\"{}\" is no time", printable(text.substr(0, 40))));
  const size_t dot = text.find('.');
  std::string_view whole = text.substr(0, dot);
  const bool negative = whole.starts_with('-');
  const auto seconds = parse_int(whole);
  if (!seconds) return bad;
  uint32_t nanoseconds = 0;
  if (dot != std::string_view::npos) {
    uint32_t scale = 100'000'000;
    for (const char c : text.substr(dot + 1)) {
      if (c < '0' || c > '9') return bad;
      nanoseconds += static_cast<uint32_t>(c - '0') * scale;
      scale /= 10;
    }
  }
  if (!negative || nanoseconds == 0) return Timestamp{*seconds, nanoseconds};
  if (*seconds == INT64_MIN) return bad;
  return Timestamp{*seconds - 1, 1'000'000'000 - nanoseconds};
}

Result<uint64_t> parse_pax_uint(std::string_view text, std::string_view key) {
  const auto value = parse_uint(text);
  if (!value || *value > INT64_MAX) {
    return corrupt(fmt::format("the pax value {}={} is no number", printable(key), printable(text.substr(0, 40))));
  }
  return *value;
}

std::string xattr_name(std::string_view key) {
  std::string_view name = key.substr(kXattrKey.size());
  if (name.find("%3D") == std::string_view::npos && name.find("%25") == std::string_view::npos) {
    return std::string(name);
  }
  std::string decoded;
  for (; !name.empty(); name.remove_prefix(1)) {
    const bool equals = name.starts_with("%3D"), percent = name.starts_with("%25");
    decoded += equals ? '=' : name.front();  // "%25" begins with what it means
    if (equals || percent) name.remove_prefix(2);
  }
  return decoded;
}

Result<void> check_sparse(const SparseMap& map, uint64_t file_size, uint64_t data_size) {
  uint64_t end = 0, total = 0;
  for (const Extent& extent : map) {
    if (extent.offset < end || extent.offset > file_size || extent.size > file_size - extent.offset) {
      return corrupt("a sparse map is malformed");
    }
    end = extent.offset + extent.size;
    total += extent.size;
  }
  if (total != data_size) return corrupt("a sparse map does not match its data");
  return {};
}

}  // namespace lamina::layers::tar
