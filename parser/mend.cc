#include "parser/mend.h"

#include <algorithm>
#include <optional>

namespace lamina::parser {

namespace {

// Every round mends something; more rounds than this would be a mend that undoes another.
constexpr int kMaxRounds = 20;

// The offset of a place, or nothing when the text has no such place. The column behind the last byte of a line counts.
std::optional<size_t> offset_of(std::string_view text, uint32_t line, uint32_t column) {
  if (line == 0 || column == 0) return std::nullopt;
  size_t begin = 0;
  for (uint32_t i = 1; i < line; ++i) {
    const size_t newline = text.find('\n', begin);
    if (newline == std::string_view::npos) return std::nullopt;
    begin = newline + 1;
  }
  const size_t end = std::min(text.find('\n', begin), text.size());
  if (column - 1 > end - begin) return std::nullopt;
  return begin + column - 1;
}

struct Edit {
  size_t begin, end;
  const std::string* replacement;
};

size_t count_errors(const std::vector<Diagnostic>& diagnostics) {
  return static_cast<size_t>(std::count_if(diagnostics.begin(), diagnostics.end(), [](const Diagnostic& d) { return d.severity == Severity::kError; }));
}

}  // namespace

Mended apply_mends(std::string_view text, const std::string& file, const std::vector<Diagnostic>& diagnostics) {
  std::vector<Edit> edits;
  for (const Diagnostic& d : diagnostics) {
    if (!d.mend || d.file != file) continue;
    const auto begin = offset_of(text, d.mend->range.line, d.mend->range.column);
    const auto end = offset_of(text, d.mend->range.end_line, d.mend->range.end_column);
    if (!begin || !end || *end < *begin) continue;
    const bool clashes = std::any_of(edits.begin(), edits.end(), [&](const Edit& e) { return *begin < e.end && e.begin < *end; });
    if (!clashes) edits.push_back({*begin, *end, &d.mend->replacement});
  }
  std::sort(edits.begin(), edits.end(), [](const Edit& a, const Edit& b) { return a.begin < b.begin; });
  Mended out;
  size_t at = 0;
  for (const Edit& edit : edits) {
    out.text += text.substr(at, edit.begin - at);
    out.text += *edit.replacement;
    at = edit.end;
  }
  out.text += text.substr(at);
  out.count = edits.size();
  return out;
}

Mended mend_all(std::string text, const std::string& file, const FindDiagnostics& find) {
  Mended all{std::move(text), 0};
  for (int round = 0; round < kMaxRounds; ++round) {
    const std::vector<Diagnostic> found = find(all.text);
    const size_t errors = count_errors(found);
    Mended next = apply_mends(all.text, file, found);
    if (next.count == 0 || next.text == all.text) break;
    if (count_errors(find(next.text)) > errors) {
      // One of them is wrong: the first that is right on its own is taken, the rest has another round.
      next.count = 0;
      for (const Diagnostic& d : found) {
        if (!d.mend) continue;
        Mended one = apply_mends(all.text, file, {d});
        if (one.count == 0 || one.text == all.text || count_errors(find(one.text)) > errors) continue;
        next = std::move(one);
        break;
      }
      if (next.count == 0) break;
    }
    all.text = std::move(next.text);
    all.count += next.count;
  }
  return all;
}

}  // namespace lamina::parser
