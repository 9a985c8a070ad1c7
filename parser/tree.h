// Text → tree: the lexical level of the Dockerfile language (lines, continuation, comments,
// directives, flags, JSON form, heredocs). Pure: text in, values and diagnostics out.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/diagnostic.h"

namespace lamina::parser {

// A piece of source as written: quotes, escapes and $variables are still in it; continuation marks
// are not.
struct Word {
  std::string text;
  SourceRange range;
  bool operator==(const Word& other) const { return text == other.text; }
};

// --name=value or --name, between the instruction word and its arguments.
struct Flag {
  std::string name;                  // without the dashes
  std::optional<std::string> value;  // quotes and escapes processed, $variables not
  std::string text;                  // the whole flag as written
  SourceRange range;                 // of text
  SourceRange value_range;           // what follows "="
  bool operator==(const Flag& o) const { return name == o.name && value == o.value; }
};

// <<NAME, <<-NAME, <<"NAME", 3<<NAME.
struct Heredoc {
  std::string name;         // quotes removed
  std::string descriptor;   // digits before "<<", or empty
  std::string content;      // the body; for "<<-" with leading tabs already removed
  std::string raw_content;  // the body as it stands in the file; the terminator is no part of it
  bool chomp = false;       // "<<-"
  bool expand = true;       // false when any part of the word was quoted
  SourceRange range;        // of the word on the instruction line
  bool operator==(const Heredoc& o) const {
    return name == o.name && descriptor == o.descriptor && content == o.content &&
           chomp == o.chomp && expand == o.expand;
  }
};

// One instruction.
struct Node {
  std::string keyword;       // lower case
  std::string keyword_text;  // as written
  SourceRange keyword_range;
  SourceRange range;         // from the keyword to the end of the last line (heredocs included)
  std::vector<Flag> flags;
  bool json = false;         // arguments came from a JSON array
  // By keyword, as BuildKit's parser splits them. Shell form (RUN, CMD, ENTRYPOINT, …): one word, the
  // rest of the logical line. ENV and LABEL: triples name, value, separator ("=" or ""). JSON: the
  // decoded elements. Others: words.
  std::vector<Word> args;
  // Words of COPY, ADD and VOLUME: the list as written. Blanks between words are not all alike: "<< E" announces a
  // heredoc, "<<\vE" does not.
  std::string list_text;
  // The logical line as written, continuation joined, flags and keyword included.
  std::string original;
  std::vector<Heredoc> heredocs;
  std::vector<std::string> comments;  // comment lines directly above, without "#" and one blank
  std::unique_ptr<Node> child;        // the instruction after ONBUILD
};

// Places and the texts as written aside.
bool operator==(const Node& a, const Node& b);

// # syntax=, # escape=, # check=
struct Directives {
  char escape = '\\';
  std::optional<Word> syntax;
  std::optional<Word> check;
};

struct Tree {
  std::string file;                         // as the user named it, for diagnostics
  std::shared_ptr<const std::string> text;  // the whole file
  Directives directives;
  std::vector<Node> nodes;
};

struct ParsedTree {
  Tree tree;
  std::vector<Diagnostic> diagnostics;
};

// A file can be wrong in a million places; nobody reads more than this many messages of one severity.
constexpr size_t kMaxDiagnostics = 1000;

// Never fails as a whole: a line that cannot be understood gives a diagnostic and is left out. Time and memory are
// linear in the text. BuildKit's parser accepts the file exactly when no diagnostic is an error (docs/parser.md).
ParsedTree parse_tree(std::string file, std::string text);

// One instruction a line in the notation of BuildKit's parser tests: (copy ["--from=a"] "foo" "/").
std::string dump(const Tree& tree);

// Canonical text. When parse_tree gave `t` without errors, parse_tree(print(t)) gives the same nodes and directives
// (as operator== has it) without errors.
std::string print(const Tree& tree);

bool has_errors(const std::vector<Diagnostic>& diagnostics);

}  // namespace lamina::parser
