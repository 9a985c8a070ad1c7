#include "base/diagnostic.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace lamina {
namespace {

std::string_view name_of(Severity severity) {
  switch (severity) {
    case Severity::kNote:
      return "note";
    case Severity::kWarning:
      return "warning";
    case Severity::kError:
      return "error";
  }
  return "error";
}

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

// The second and later bytes of a UTF-8 sequence take no column of their own on the screen.
bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

std::string shown(std::string_view line) {
  std::string text(line);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c != '\t' && is_control(c); }, '?');
  return printable(text);
}

// The line under the excerpt: what is before the range blank, the range as ^~~~.
std::string caret_line(std::string_view line, const SourceRange& range) {
  const size_t begin = std::min<size_t>(range.column - 1, line.size());
  size_t end = line.size();
  if (range.end_line <= range.line) {
    end = std::clamp<size_t>(range.end_column == 0 ? 0 : range.end_column - 1, begin, line.size());
  }
  std::string text;
  for (const char c : line.substr(0, begin)) {
    if (!is_continuation(c)) text += c == '\t' ? '\t' : ' ';
  }
  text += '^';
  const std::string_view marked = line.substr(begin, end - begin);
  const auto width =
      std::count_if(marked.begin(), marked.end(), [](char c) { return !is_continuation(c); });
  if (width > 1) text.append(static_cast<size_t>(width) - 1, '~');
  return text;
}

// A very long line is shown around its range.
struct Excerpt {
  std::string line;
  SourceRange range;
};

Excerpt excerpt_of(const std::string& line, const SourceRange& range) {
  constexpr size_t kWidth = 160, kBefore = 60;  // bytes
  constexpr std::string_view kMore = "…";
  if (line.size() <= kWidth) return {line, range};
  const size_t begin = std::min<size_t>(range.column == 0 ? 0 : range.column - 1, line.size());
  size_t from = std::min(begin > kBefore ? begin - kBefore : 0, line.size() - kWidth);
  size_t to = from + kWidth;
  while (from > 0 && is_continuation(line[from])) --from;
  while (to < line.size() && is_continuation(line[to])) ++to;
  Excerpt excerpt{line.substr(from, to - from), range};
  const size_t added = from > 0 ? kMore.size() : 0;
  const auto shifted = [&](uint32_t column) { return column == 0 ? column : static_cast<uint32_t>(std::clamp<size_t>(column - 1, from, to) - from + added + 1); };
  excerpt.range.column = shifted(range.column);
  excerpt.range.end_column = shifted(range.end_column);
  // What goes on in later lines is marked to the end of the first.
  if (range.end_line > range.line) {
    excerpt.range.end_line = range.line;
    excerpt.range.end_column = static_cast<uint32_t>(to - from + added + 1);
  }
  if (added > 0) excerpt.line.insert(0, kMore);
  if (to < line.size()) excerpt.line += kMore;
  return excerpt;
}

std::string place_of(const Diagnostic& d) {
  std::string place = printable(d.file);
  if (d.range.valid()) {
    if (!place.empty()) place += ':';
    place += std::to_string(d.range.line);
    if (d.range.column != 0) place += fmt::format(":{}", d.range.column);
  }
  return place.empty() ? place : place + ": ";
}

// Edit distance where swapping two neighbours counts once (Damerau-Levenshtein in the restricted
// form: no substring is edited twice).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace

std::string Diagnostic::render() const {
  std::string text =
      fmt::format("{}{}: {}", place_of(*this), name_of(severity), printable(message));
  if (!rule.empty()) text += fmt::format(" [{}]", rule);
  if (range.valid() && !line_text.empty()) {
    const Excerpt excerpt = excerpt_of(line_text, range);
    text += fmt::format("\n{:>5} | {}", range.line, shown(excerpt.line));
    if (range.column != 0) text += fmt::format("\n{:>5} | {}", "", caret_line(excerpt.line, excerpt.range));
  }
  for (const std::string& note : notes) text += "\nnote: " + printable(note);
  return text;
}

std::string_view line_of(std::string_view text, uint32_t line) {
  if (line == 0) return {};
  for (uint32_t i = 1; i < line; ++i) {
    const size_t newline = text.find('\n');
    if (newline == std::string_view::npos) return {};
    text.remove_prefix(newline + 1);
  }
  text = text.substr(0, text.find('\n'));
  if (text.ends_with('\r')) text.remove_suffix(1);
  return text;
}

std::optional<std::string> nearest_name(std::string_view word,
                                        const std::vector<std::string>& candidates) {
  // A word of two letters is two edits from every other one: nothing worth saying.
  const size_t allowed = word.size() >= 8 ? 3 : word.size() > 2 ? 2 : word.size() / 2;
  const std::string wanted = to_lower(word);
  size_t best = allowed + 1;
  std::optional<std::string> nearest;
  for (const std::string& candidate : candidates) {
    // The distance is never less than the difference of the lengths; spares hostile long words.
    if (candidate.size() > word.size() + allowed || word.size() > candidate.size() + allowed) {
      continue;
    }
    const size_t distance = edit_distance(wanted, to_lower(candidate));
    if (distance >= best) continue;
    best = distance;
    nearest = candidate;
  }
  return nearest;
}

}  // namespace lamina
