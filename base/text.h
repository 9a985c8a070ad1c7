// Small text helpers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lamina {

// U+FFFD, which stands for what is no UTF-8.
constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

struct CodePoint {
  uint32_t value = 0;
  size_t length = 0;  // 0: no well-formed sequence starts here
};
// The sequence that begins at text[at], by RFC 3629 (shortest form, no surrogates). REQUIRES: at < text.size().
CodePoint decode_utf8(std::string_view text, size_t at);
void append_utf8(std::string& out, uint32_t code_point);
bool valid_utf8(std::string_view text);
// Every byte that is no UTF-8 replaced by U+FFFD, as Go does when it walks over a string's characters.
std::string with_valid_utf8(std::string_view text);

std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::string_view trim(std::string_view text);  // ASCII white space on both sides
std::string to_lower(std::string_view text);   // ASCII only
std::string to_upper(std::string_view text);   // ASCII only
bool iequals(std::string_view a, std::string_view b);
// The whole of `text` as a decimal number; nothing when it is not one or does not fit.
std::optional<uint64_t> parse_uint(std::string_view text, int base = 10);
std::optional<int64_t> parse_int(std::string_view text);
// Go's strconv.Quote for the ASCII cases that Docker's history shows: "a\"b".
std::string go_quote(std::string_view text);
// "1.2 MB": decimal units, as docker prints sizes.
std::string human_size(uint64_t bytes);
std::string encode_base64(std::string_view bytes);  // RFC 4648, with padding
// "a/../b//c" → "b/c"; "" → "."; keeps a leading "/"; never goes above "/". Go's path.Clean.
std::string clean_path(std::string_view path);
// Splits at "/" into components without "" and "."; ".." is kept.
std::vector<std::string> path_components(std::string_view path);
// For terminals: control characters except tab become U+FFFD, so that untrusted text cannot steer
// one.
std::string printable(std::string_view text);

}  // namespace lamina
