#include "base/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/text.h"

namespace lamina {

namespace {

constexpr size_t kContext = 3;
// Larger changes are shown as one removal and one addition: the table below has the square of this.
constexpr size_t kMaxTable = 4000;

// Lines with their newline, which the last may lack.
std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    lines.push_back(text.substr(0, newline == std::string_view::npos ? newline : newline + 1));
    text.remove_prefix(lines.back().size());
  }
  return lines;
}

struct Line {
  char mark;  // ' ', '-', '+'
  std::string_view text;
};

using Lines = std::vector<std::string_view>;

// The longest common subsequence of the part between the common beginning and the common end.
void add_changes(const Lines& a, const Lines& b, size_t first, size_t a_end, size_t b_end, std::vector<Line>& out) {
  const size_t n = a_end - first, m = b_end - first;
  std::vector<uint16_t> length;
  if (n <= kMaxTable && m <= kMaxTable) {
    length.assign((n + 1) * (m + 1), 0);
    for (size_t i = n; i-- > 0;) {
      for (size_t j = m; j-- > 0;) {
        length[i * (m + 1) + j] = a[first + i] == b[first + j] ? static_cast<uint16_t>(length[(i + 1) * (m + 1) + j + 1] + 1)
                                                               : std::max(length[(i + 1) * (m + 1) + j], length[i * (m + 1) + j + 1]);
      }
    }
  }
  size_t i = 0, j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && !length.empty() && a[first + i] == b[first + j]) {
      out.push_back({' ', a[first + i]});
      ++i, ++j;
    } else if (i < n && (j == m || length.empty() || length[(i + 1) * (m + 1) + j] >= length[i * (m + 1) + j + 1])) {
      out.push_back({'-', a[first + i++]});
    } else {
      out.push_back({'+', b[first + j++]});
    }
  }
}

std::vector<Line> compare(const Lines& a, const Lines& b) {
  size_t first = 0, a_end = a.size(), b_end = b.size();
  while (first < a_end && first < b_end && a[first] == b[first]) ++first;
  while (a_end > first && b_end > first && a[a_end - 1] == b[b_end - 1]) --a_end, --b_end;
  std::vector<Line> out;
  for (size_t i = 0; i < first; ++i) out.push_back({' ', a[i]});
  add_changes(a, b, first, a_end, b_end, out);
  for (size_t i = a_end; i < a.size(); ++i) out.push_back({' ', a[i]});
  return out;
}

// "start,count" of a side: the start is the line before when there are no lines.
std::string side(size_t start, size_t count) {
  return count == 1 ? std::to_string(start + 1) : fmt::format("{},{}", count == 0 ? start : start + 1, count);
}

}  // namespace

std::string unified_diff(std::string_view before, std::string_view after, std::string_view name) {
  if (before == after) return {};
  const Lines a = lines_of(before), b = lines_of(after);
  const std::vector<Line> lines = compare(a, b);
  std::string out = fmt::format("--- {0}\n+++ {0}\n", printable(name));
  size_t a_line = 0, b_line = 0;  // lines of either side before lines[at]
  for (size_t at = 0; at < lines.size();) {
    const auto is_change = [](const Line& l) { return l.mark != ' '; };
    const size_t change = static_cast<size_t>(std::find_if(lines.begin() + static_cast<ptrdiff_t>(at), lines.end(), is_change) - lines.begin());
    if (change == lines.size()) break;
    const size_t begin = change - std::min(kContext, change - at);
    a_line += begin - at;
    b_line += begin - at;
    size_t end = change, last = change;
    for (; end < lines.size() && end <= last + 2 * kContext; ++end) {
      if (is_change(lines[end])) last = end;
    }
    end = std::min(last + 1 + kContext, lines.size());
    size_t removed = 0, added = 0;
    std::string body;
    for (size_t i = begin; i < end; ++i) {
      removed += lines[i].mark != '+';
      added += lines[i].mark != '-';
      body += lines[i].mark;
      std::string_view text = lines[i].text;
      const bool newline = text.ends_with('\n');
      if (newline) text.remove_suffix(1);
      const bool carriage_return = text.ends_with('\r');
      if (carriage_return) text.remove_suffix(1);
      body += printable(text);
      if (carriage_return) body += '\r';
      body += newline ? "\n" : "\n\\ No newline at end of file\n";
    }
    out += fmt::format("@@ -{} +{} @@\n{}", side(a_line, removed), side(b_line, added), body);
    a_line += removed;
    b_line += added;
    at = end;
  }
  return out;
}

}  // namespace lamina
