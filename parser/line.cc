#include <algorithm>
#include <tuple>

#include "parser/internal/line.h"

namespace lamina::parser::internal {

namespace {

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

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

Span trim_left(Span s) {
  size_t n = 0;
  while (n < s.text.size() && is_space(s.text[n])) ++n;
  return s.sub(n);
}

Span trim(Span s) {
  s = trim_left(s);
  while (!s.text.empty() && is_space(s.text.back())) s.text.remove_suffix(1);
  return s;
}

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
    while (i < t.size() && is_space(t[i])) ++i;
    if (i >= t.size()) return words;
    const size_t begin = i;
    size_t end = t.size();
    char quote = 0;
    for (; i < t.size(); ++i) {
      const char c = t[i];
      if (quote == 0 && is_space(c)) break;
      if (c == escape && quote != '\'') {
        if (i + 1 == t.size()) {  // an escape at the very end is dropped
          end = i;
          i = t.size();
          break;
        }
        ++i;
      } else if (quote == 0 && (c == '\'' || c == '"')) {
        quote = c;
      } else if (c == quote) {
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

Span take_flags(const LogicalLine& line, Span rest, std::vector<Flag>& flags) {
  const std::string_view t = rest.text;
  size_t i = 0;
  while (true) {
    while (i < t.size() && is_space(t[i])) ++i;
    if (t.substr(i, 2) != "--") return rest.sub(std::min(i, t.size()));
    const size_t begin = i;
    std::string word;
    char quote = 0;
    for (; i < t.size(); ++i) {
      const char c = t[i];
      if (quote == 0 && is_space(c)) break;
      if (c == '\\') {  // here the escape is always the backslash
        if (i + 1 < t.size()) word += t[++i];
      } else if (quote == 0 && (c == '\'' || c == '"')) {
        quote = c;
      } else if (c == quote) {
        quote = 0;
      } else {
        word += c;
      }
    }
    if (word == "--") return rest.sub(i);
    flags.push_back(make_flag(line, rest.sub(begin, i - begin), word));
  }
}

namespace {

// The heredoc's word without quotes and escapes; whether there were quotes.
struct HeredocName {
  std::string name;
  bool quoted = false;
  bool valid = true;
};

HeredocName cook_name(std::string_view raw) {
  HeredocName out;
  char quote = 0;
  for (size_t i = 0; i < raw.size(); ++i) {
    const char c = raw[i];
    if (quote == 0 && (c == '\'' || c == '"')) {
      quote = c;
      out.quoted = true;
    } else if (quote != 0 && c == quote) {
      quote = 0;
    } else if (c == '\\' && quote != '\'' && i + 1 < raw.size()) {
      out.quoted = true;
      out.name += raw[++i];
    } else {
      out.name += c;
    }
  }
  out.valid = quote == 0 && !out.name.empty();
  return out;
}

}  // namespace

// dockerfile-language 1.2: ^(\d*)<<(-?)\s*([^<]*)$ on each word of the line.
std::vector<Heredoc> find_heredocs(const LogicalLine& line, Span rest) {
  std::vector<Heredoc> found;
  const std::vector<Span> words = split_words(rest, '\\');
  for (size_t w = 0; w < words.size(); ++w) {
    const Span word = words[w];
    const std::string_view t = word.text;
    size_t i = 0;
    while (i < t.size() && is_digit(t[i])) ++i;
    if (t.substr(i, 2) != "<<") continue;
    Heredoc doc;
    doc.descriptor = std::string(t.substr(0, i));
    i += 2;
    if (i < t.size() && t[i] == '-') {
      doc.chomp = true;
      ++i;
    }
    Span name = word.sub(i);
    if (name.text.empty()) {  // "<< EOF"
      if (w + 1 == words.size()) continue;
      name = words[++w];
    }
    if (name.text.find('<') != std::string_view::npos) continue;
    HeredocName cooked = cook_name(name.text);
    if (!cooked.valid) continue;
    doc.name = std::move(cooked.name);
    doc.expand = !cooked.quoted;
    doc.range = line.range(word.offset, name.offset + name.text.size());
    found.push_back(std::move(doc));
  }
  return found;
}

}  // namespace lamina::parser::internal
