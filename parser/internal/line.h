// A logical line: physical lines joined at their continuation marks, with the place of every byte.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/diagnostic.h"
#include "parser/tree.h"

namespace lamina::parser::internal {

struct LogicalLine {
  std::string text;
  struct Segment {
    size_t offset;    // where the physical line's text begins in `text`
    uint32_t line;    // 1-based
    uint32_t column;  // of its first byte
  };
  std::vector<Segment> segments;
  uint32_t last_line = 0;  // the physical line it ends on

  // The place of text[begin, end).
  SourceRange range(size_t begin, size_t end) const;
};

// A piece of a logical line.
struct Span {
  std::string_view text;
  size_t offset = 0;

  Span sub(size_t begin, size_t count = std::string_view::npos) const { return {text.substr(begin, count), offset + begin}; }
};

// [\t\v\f\r ], and \n: Go's unicode.IsSpace for ASCII.
bool is_space(char c);
// [\t\v\f\r ]: what parts the instruction word and the words of a list. A no-break space does not.
bool is_blank(char c);
// The length of the white space character at the front of `s`, no-break and other Unicode spaces included (Go's
// unicode.IsSpace, which trims lines and parts ENV's words); 0 when there is none.
size_t space_length(std::string_view s);
// The length of all white space at the front.
size_t leading_space(std::string_view s);
Span trim(Span s);
Span trim_left(Span s);
std::string_view trim_space(std::string_view s);

// Words at runs of blanks, nothing else looked at.
std::vector<Span> split_blanks(Span rest);
// Words at white space outside quotes, escapes and quotes kept: ENV, LABEL, ARG.
std::vector<Span> split_words(Span rest, char escape);

// Takes --flags off the front of `rest`; what is left is returned.
Span take_flags(const LogicalLine& line, Span rest, char escape, std::vector<Flag>& flags);

// The heredocs that a RUN, COPY or ADD line announces, without their bodies. `line` is looked at as a whole: where
// the shell-like lexer fails (an open quote, ${x^^}), there are none.
std::vector<Heredoc> find_heredocs(const LogicalLine& line);

}  // namespace lamina::parser::internal
