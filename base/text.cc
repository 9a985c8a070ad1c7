#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace lamina {
namespace {

bool is_control(uint32_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); }

// Control, format, separator and private-use characters, which Go's strconv.IsPrint refuses. Not
// the whole Unicode table: unassigned code points count as printable.
bool go_prints(uint32_t c) {
  struct Range {
    uint32_t first, last;
  };
  static constexpr std::array<Range, 14> kRefused{{{0x00, 0x1f},
                                                   {0x7f, 0xa0},
                                                   {0xad, 0xad},
                                                   {0x1680, 0x1680},
                                                   {0x180e, 0x180e},
                                                   {0x2000, 0x200f},
                                                   {0x2028, 0x202f},
                                                   {0x205f, 0x206f},
                                                   {0x3000, 0x3000},
                                                   {0xe000, 0xf8ff},
                                                   {0xfeff, 0xfeff},
                                                   {0xfff0, 0xfffb},
                                                   {0xe0000, 0xe007f},
                                                   {0xf0000, 0x10ffff}}};
  return std::none_of(kRefused.begin(), kRefused.end(),
                      [c](const Range& r) { return c >= r.first && c <= r.last; });
}

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\v' || c == '\f' || c == '\r';
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

template <typename T>
std::optional<T> parse_number(std::string_view text, int base) {
  T value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// The letter after the backslash in Go's escape of `c`, or 0.
char go_escape_letter(uint32_t c) {
  switch (c) {
    case '\a':
      return 'a';
    case '\b':
      return 'b';
    case '\f':
      return 'f';
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    case '\v':
      return 'v';
    case '"':
      return '"';
    case '\\':
      return '\\';
    default:
      return 0;
  }
}

}  // namespace

CodePoint decode_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {first, 1};
  const size_t length = first < 0xc2   ? 0
                        : first < 0xe0 ? 2
                        : first < 0xf0 ? 3
                        : first < 0xf5 ? 4
                                       : 0;
  if (length == 0 || text.size() - at < length) return {};
  uint32_t value = first & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3f);
  }
  const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  if (overlong || surrogate || value > 0x10ffff) return {};
  return {value, length};
}

void append_utf8(std::string& out, uint32_t c) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

bool valid_utf8(std::string_view text) {
  for (size_t at = 0, n = 0; at < text.size(); at += n) {
    n = static_cast<unsigned char>(text[at]) < 0x80 ? 1 : decode_utf8(text, at).length;
    if (n == 0) return false;
  }
  return true;
}

std::string with_valid_utf8(std::string_view text) {
  if (valid_utf8(text)) return std::string(text);
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t n = decode_utf8(text, at).length;
    out += n == 0 ? kReplacementCharacter : text.substr(at, n);
    at += std::max<size_t>(n, 1);
  }
  return out;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end; (end = text.find(separator, begin)) != std::string_view::npos; begin = end + 1) {
    parts.emplace_back(text.substr(begin, end - begin));
  }
  parts.emplace_back(text.substr(begin));
  return parts;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i != 0) text += separator;
    text += parts[i];
  }
  return text;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string to_lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), lower);
  return result;
}

std::string to_upper(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), upper);
  return result;
}

bool iequals(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

std::optional<uint64_t> parse_uint(std::string_view text, int base) {
  return parse_number<uint64_t>(text, base);
}

std::optional<int64_t> parse_int(std::string_view text) { return parse_number<int64_t>(text, 10); }

std::string go_quote(std::string_view text) {
  std::string quoted = "\"";
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text, at);
    if (c.length == 0) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[at]));
    } else if (const char letter = go_escape_letter(c.value); letter != 0) {
      quoted += {'\\', letter};
    } else if (go_prints(c.value)) {
      quoted += text.substr(at, c.length);
    } else if (c.value < 0x80) {
      quoted += fmt::format("\\x{:02x}", c.value);
    } else if (c.value < 0x10000) {
      quoted += fmt::format("\\u{:04x}", c.value);
    } else {
      quoted += fmt::format("\\U{:08x}", c.value);
    }
    at += std::max<size_t>(c.length, 1);
  }
  return quoted + '"';
}

std::string human_size(uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  static constexpr std::array<const char*, 6> kUnits = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  size_t unit = 0;
  // 999.95 would be printed as 1000.0.
  for (; value >= 999.95 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string encode_base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += k <= count ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string clean_path(std::string_view path) {
  const bool rooted = path.starts_with('/');
  std::vector<std::string> kept;
  for (std::string& part : path_components(path)) {
    if (part == ".." && !kept.empty() && kept.back() != "..") {
      kept.pop_back();
    } else if (part != ".." || !rooted) {
      kept.push_back(std::move(part));
    }
  }
  if (rooted) return "/" + join(kept, "/");
  return kept.empty() ? "." : join(kept, "/");
}

std::vector<std::string> path_components(std::string_view path) {
  std::vector<std::string> parts = split(path, '/');
  std::erase_if(parts, [](const std::string& part) { return part.empty() || part == "."; });
  return parts;
}

std::string printable(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text, at);
    if (c.length == 0 || (is_control(c.value) && c.value != '\t')) {
      result += kReplacementCharacter;
    } else {
      result += text.substr(at, c.length);
    }
    at += std::max<size_t>(c.length, 1);
  }
  return result;
}

}  // namespace lamina
