// A message about a place in a text file that the user wrote (Dockerfile, ignore file).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lamina {

// Lines and columns are 1-based; columns count bytes. The end is exclusive. line 0 means "no
// place".
struct SourceRange {
  uint32_t line = 0;
  uint32_t column = 0;
  uint32_t end_line = 0;
  uint32_t end_column = 0;

  bool valid() const { return line != 0; }
  bool operator==(const SourceRange&) const = default;
};

enum class Severity { kNote, kWarning, kError };

// A replacement that would mend the problem: put `replacement` where `range` is.
struct Mend {
  SourceRange range;
  std::string replacement;
};

struct Diagnostic {
  Severity severity = Severity::kError;
  std::string rule;  // lint rule name such as "StageNameCasing", or empty
  std::string file;  // as the user named it
  SourceRange range;
  std::string message;  // one sentence, lower case, no period
  std::vector<std::string> notes;
  std::optional<Mend> mend;
  std::string line_text;  // the source line at range.line, without its newline (for the excerpt)

  // Without a trailing newline:
  //   Dockerfile:7:6: error: unknown flag --form for COPY
  //       7 | COPY --form=deps /out /app
  //         |      ^~~~~~
  //   note: did you mean --from?
  // Tabs in the excerpt are kept and repeated in the caret line so that the caret stays in place;
  // control characters are shown as '?'. A range over several lines is underlined to the line's
  // end.
  std::string render() const;
};

// The text of line `line` (1-based) of `text` without line ending; empty when there is none.
std::string_view line_of(std::string_view text, uint32_t line);

// The candidate nearest to `word` by edit distance, when near enough to be worth suggesting
// (distance at most 2, or 3 for words of 8 letters and more, or half of a word of up to 2 letters;
// case is ignored; the first of several equally near ones).
std::optional<std::string> nearest_name(std::string_view word,
                                        const std::vector<std::string>& candidates);

}  // namespace lamina
