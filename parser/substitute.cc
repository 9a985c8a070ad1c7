#include "parser/internal/substitute.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>

#include "base/text.h"

namespace lamina::parser::internal {

namespace {

// RE2 works long and complains on stderr about expressions of megabytes.
constexpr size_t kMaxPattern = 64 << 10;

Error bad(std::string message) { return Error(ErrorKind::kInvalidInput, std::move(message)); }

size_t rune_length(std::string_view s, size_t at) { return std::max<size_t>(decode_utf8(s, at).length, 1); }

// BuildKit translates to Go's regular expressions; RE2 has the same rules ("*" and "?" do not match a newline), and its
// time is linear where backtracking would not be.
Result<std::string> regex_text(std::string_view pattern, bool greedy) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '*') {
      out += greedy ? ".*" : ".*?";
    } else if (c == '?') {
      out += '.';
    } else if (c != '\\') {
      out += static_cast<unsigned char>(c) < 0x80 ? RE2::QuoteMeta(pattern.substr(i, 1)) : std::string(1, c);
    } else if (++i == pattern.size()) {
      return bad(fmt::format("invalid pattern ({}) in substitution: it ends with an escape", printable(pattern)));
    } else if (pattern[i] == '}' || pattern[i] == '/' || pattern[i] == '*' || pattern[i] == '?' || pattern[i] == '\\') {
      out += RE2::QuoteMeta(pattern.substr(i, 1));
    } else {
      return bad(fmt::format("invalid pattern ({}) in substitution: invalid escape '\\{}'", printable(pattern), printable(pattern.substr(i, rune_length(pattern, i)))));
    }
  }
  return out;
}

class Pattern {
 public:
  static Result<Pattern> compile(std::string_view pattern, std::string_view value, bool greedy) {
    if (pattern.size() > kMaxPattern) return bad("the pattern in the substitution is too long");
    ASSIGN_OR_RETURN(const std::string text, regex_text(pattern, greedy));
    RE2::Options options;
    options.set_log_errors(false);
    if (!valid_utf8(pattern) || !valid_utf8(value)) options.set_encoding(RE2::Options::EncodingLatin1);
    Pattern out;
    out.regex_ = std::make_unique<const RE2>(text, options);
    if (!out.regex_->ok()) return bad("the pattern in the substitution is too long");
    return out;
  }

  // The leftmost match from `from` on; false when there is none.
  bool find(std::string_view value, size_t from, RE2::Anchor anchor, size_t& begin, size_t& end) const {
    re2::StringPiece match;
    const re2::StringPiece text(value.data(), value.size());
    if (!regex_->Match(text, from, value.size(), anchor, &match, 1)) return false;
    begin = static_cast<size_t>(match.data() - value.data());
    end = begin + match.size();
    return true;
  }

 private:
  std::unique_ptr<const RE2> regex_;
};

// The characters backwards; with `escapes`, an escape stays before its character.
std::string reversed(std::string_view s, bool escapes) {
  std::string out(s.size(), '\0');
  size_t to = s.size();
  for (size_t i = 0; i < s.size();) {
    size_t n = rune_length(s, i);
    if (escapes && s[i] == '\\' && i + 1 < s.size()) n = 1 + rune_length(s, i + 1);
    to -= n;
    std::copy_n(s.begin() + static_cast<std::ptrdiff_t>(i), n, out.begin() + static_cast<std::ptrdiff_t>(to));
    i += n;
  }
  return out;
}

}  // namespace

Result<std::string> trim_prefix(std::string_view value, std::string_view pattern, bool longest) {
  ASSIGN_OR_RETURN(const Pattern compiled, Pattern::compile(pattern, value, longest));
  size_t begin = 0, end = 0;
  if (!compiled.find(value, 0, RE2::ANCHOR_START, begin, end)) return std::string(value);
  return std::string(value.substr(end));
}

// A regular expression finds the leftmost match, and a suffix wants the rightmost: both sides are reversed.
Result<std::string> trim_suffix(std::string_view value, std::string_view pattern, bool longest) {
  ASSIGN_OR_RETURN(const std::string kept, trim_prefix(reversed(value, false), reversed(pattern, true), longest));
  return reversed(kept, false);
}

// Go's rules for matches of nothing: one counts at the beginning, and elsewhere when it does not touch the match before.
Result<std::string> replace_matches(std::string_view value, std::string_view pattern, std::string_view with, bool all, size_t limit) {
  ASSIGN_OR_RETURN(const Pattern compiled, Pattern::compile(pattern, value, true));
  std::string out;
  size_t kept = 0, from = 0, begin = 0, end = 0;
  while (from <= value.size() && compiled.find(value, from, RE2::UNANCHORED, begin, end)) {
    out += value.substr(kept, begin - kept);
    if (end > kept || begin == 0) out += with;
    kept = end;
    if (out.size() > limit) return bad("the expanded text is too long");
    if (!all) break;
    if (end > from) {
      from = end;
    } else {
      from += from < value.size() ? rune_length(value, from) : 1;
    }
  }
  out += value.substr(kept);
  return out;
}

}  // namespace lamina::parser::internal
