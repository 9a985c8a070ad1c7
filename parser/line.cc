#include <algorithm>
#include <optional>
#include <tuple>

#include "parser/internal/lexer.h"
#include "parser/internal/line.h"

namespace lamina::parser::internal {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_blank(char c) { return is_space(c) && c != '\n'; }

size_t space_length(std::string_view s) {
  if (s.empty()) return 0;
  if (is_space(s[0])) return 1;
  if (static_cast<unsigned char>(s[0]) < 0xC2) return 0;
  if (s.substr(0, 2) == "\xC2\x85" || s.substr(0, 2) == "\xC2\xA0") return 2;  // U+0085, U+00A0
  s = s.substr(0, 3);
  if (s == "\xE1\x9A\x80" || s == "\xE3\x80\x80" || s == "\xE2\x81\x9F") return 3;  // U+1680, U+3000, U+205F
  if (s.size() < 3 || s.substr(0, 2) != "\xE2\x80") return 0;
  const auto last = static_cast<unsigned char>(s[2]);
  return last <= 0x8A || last == 0xA8 || last == 0xA9 || last == 0xAF ? 3 : 0;  // U+2000 to U+200A, U+2028, U+2029, U+202F
}

size_t leading_space(std::string_view s) {
  size_t n = 0;
  while (const size_t length = space_length(s.substr(n))) n += length;
  return n;
}

namespace {

size_t trailing_space(std::string_view s) {
  size_t kept = s.size();
  while (true) {
    size_t n = 1;
    while (n <= 3 && (n > kept || space_length(s.substr(kept - n, n)) != n)) ++n;
    if (n > 3) return s.size() - kept;
    kept -= n;
  }
}

}  // namespace

SourceRange LogicalLine::range(size_t begin, size_t end) const {
  const auto place = [&](size_t offset) {
    auto it = std::upper_bound(segments.begin(), segments.end(), offset, [](size_t o, const Segment& s) { return o < s.offset; });
    if (it != segments.begin()) --it;
    return std::pair(it->line, it->column + static_cast<uint32_t>(offset - it->offset));
  };
  SourceRange r;
  if (segments.empty()) return r;
  std::tie(r.line, r.column) = place(begin);
  // The end belongs to the last byte inside, not to the line after a continuation.
  std::tie(r.end_line, r.end_column) = place(end > begin ? end - 1 : begin);
  if (end > begin) ++r.end_column;
  return r;
}

Span trim_left(Span s) { return s.sub(leading_space(s.text)); }

Span trim(Span s) {
  s = trim_left(s);
  s.text.remove_suffix(trailing_space(s.text));
  return s;
}

std::string_view trim_space(std::string_view s) { return trim(Span{s, 0}).text; }

std::vector<Span> split_blanks(Span rest) {
  std::vector<Span> words;
  size_t i = 0;
  const std::string_view t = rest.text;
  while (i < t.size()) {
    while (i < t.size() && is_blank(t[i])) ++i;
    const size_t begin = i;
    while (i < t.size() && !is_blank(t[i])) ++i;
    if (i > begin) words.push_back(rest.sub(begin, i - begin));
  }
  return words;
}

std::vector<Span> split_words(Span rest, char escape) {
  std::vector<Span> words;
  const std::string_view t = rest.text;
  size_t i = 0;
  while (true) {
    i += leading_space(t.substr(i));
    if (i >= t.size()) return words;
    const size_t begin = i;
    size_t end = t.size();
    char quote = 0;
    for (; i < t.size(); ++i) {
      const char c = t[i];
      if (quote == 0 && space_length(t.substr(i)) > 0) break;
      if (c == escape && quote != '\'') {
        if (i + 1 == t.size()) {  // an escape at the very end is dropped
          end = i;
          i = t.size();
          break;
        }
        ++i;
      } else if (quote == 0 && (c == '\'' || c == '"')) {
        quote = c;
      } else if (quote != 0 && c == quote) {
        quote = 0;
      }
    }
    end = std::min(end, i);
    if (end > begin) words.push_back(rest.sub(begin, end - begin));
  }
}

namespace {

Flag make_flag(const LogicalLine& line, Span raw, const std::string& cooked) {
  Flag flag;
  const size_t eq = cooked.find('=');
  flag.name = cooked.substr(2, eq == std::string::npos ? eq : eq - 2);
  flag.text = std::string(raw.text);
  flag.range = line.range(raw.offset, raw.offset + raw.text.size());
  flag.value_range = flag.range;
  if (eq != std::string::npos) {
    flag.value = cooked.substr(eq + 1);
    const size_t raw_eq = raw.text.find('=');
    if (raw_eq != std::string_view::npos) flag.value_range = line.range(raw.offset + raw_eq + 1, raw.offset + raw.text.size());
  }
  return flag;
}

}  // namespace

Span take_flags(const LogicalLine& line, Span rest, char escape, std::vector<Flag>& flags) {
  const std::string_view t = rest.text;
  size_t i = 0;
  while (true) {
    while (i < t.size() && is_space(t[i])) ++i;
    if (t.substr(i, 2) != "--") return rest.sub(std::min(i, t.size()));
    const size_t begin = i;
    std::string word;
    char quote = 0;
    size_t end = t.size();
    for (; i < t.size(); ++i) {
      const char c = t[i];
      if (quote == 0 && is_space(c)) break;
      if (c == escape) {
        if (i + 1 == t.size()) {  // an escape at the very end is dropped
          end = i;
          continue;
        }
        word += t[++i];
      } else if (quote == 0 && (c == '\'' || c == '"')) {
        quote = c;
      } else if (quote != 0 && c == quote) {
        quote = 0;
      } else {
        word += c;
      }
    }
    if (word == "--") return rest.sub(i);
    flags.push_back(make_flag(line, rest.sub(begin, std::min(i, end) - begin), word));
  }
}

namespace {

std::optional<std::string> unset(std::string_view) { return std::nullopt; }

size_t quotes_in(std::string_view s) { return static_cast<size_t>(std::count_if(s.begin(), s.end(), [](char c) { return c == '\'' || c == '"'; })); }

// ^(\d*)<<(-?)\s*([^<]*)$ on one word; nothing when it announces no heredoc.
std::optional<Heredoc> heredoc_of(std::string_view word) {
  size_t i = 0;
  while (i < word.size() && is_digit(word[i])) ++i;
  if (word.substr(i, 2) != "<<") return std::nullopt;
  Heredoc doc;
  doc.descriptor = std::string(word.substr(0, i));
  i += 2;
  if (i < word.size() && word[i] == '-') {
    doc.chomp = true;
    ++i;
  }
  while (i < word.size() && is_space(word[i]) && word[i] != '\v') ++i;
  const std::string_view name = word.substr(i);
  if (name.empty() || name.find('<') != std::string_view::npos) return std::nullopt;
  // Lexed twice: quotes that are gone the second time quoted the name. An escape does not count as quoting.
  const auto cooked = lex(name, unset, {.keep_unset = true});
  const auto raw = lex(name, unset, {.raw_quotes = true, .keep_unset = true});
  if (!cooked || !raw || cooked->words.size() != 1 || raw->words.size() != 1) return std::nullopt;
  doc.name = cooked->words[0].text;
  doc.expand = quotes_in(doc.name) == quotes_in(raw->words[0].text);
  return doc;
}

}  // namespace

// dockerfile-language 1.2. The escape is "\" here, whatever the file's is.
std::vector<Heredoc> find_heredocs(const LogicalLine& line) {
  std::vector<Heredoc> found;
  if (line.text.find("<<") == std::string::npos) return found;
  const auto lexed = lex(line.text, unset, {.raw_quotes = true, .raw_escapes = true, .keep_unset = true});
  if (!lexed) return found;
  for (const LexedWord& word : lexed->words) {
    auto doc = heredoc_of(word.text);
    if (!doc) continue;
    doc->range = line.range(word.begin, word.end);
    found.push_back(std::move(*doc));
  }
  return found;
}

}  // namespace lamina::parser::internal
