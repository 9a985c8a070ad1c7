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

// Go's unicode.IsSpace for ASCII; [\t\v\f\r ] is the narrower set that splits words.
bool is_space(char c);
Span trim(Span s);
Span trim_left(Span s);

// Words at runs of [\t\v\f\r ], nothing else looked at.
std::vector<Span> split_blanks(Span rest);
// Words at white space outside quotes, escapes and quotes kept: ENV, LABEL, ARG.
std::vector<Span> split_words(Span rest, char escape);

// Takes --flags off the front of `rest`; what is left is returned.
Span take_flags(const LogicalLine& line, Span rest, std::vector<Flag>& flags);

// A heredoc in the making: its word was seen, its body follows.
std::vector<Heredoc> find_heredocs(const LogicalLine& line, Span rest);

}  // namespace lamina::parser::internal
