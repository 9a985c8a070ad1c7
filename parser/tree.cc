#include "parser/tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "base/text.h"
#include "parser/internal/directives.h"
#include "parser/internal/json_array.h"
#include "parser/internal/line.h"

namespace lamina::parser {

namespace {

using internal::leading_space;
using internal::LogicalLine;
using internal::Span;

// BuildKit's scanner refuses longer physical lines (Go's bufio.MaxScanTokenSize - 1), the newline not counted.
constexpr size_t kMaxLine = 65535;
// ONBUILD ONBUILD is refused anyway, one level later; a million of them must not use up the stack here.
constexpr int kMaxOnbuild = 64;

struct PhysicalLine {
  std::string_view text;  // with its line ending
  std::string_view bare;  // without
};

std::string_view without_newline(std::string_view s) {
  while (!s.empty() && (s.back() == '\n' || s.back() == '\r')) s.remove_suffix(1);
  return s;
}

std::vector<PhysicalLine> split_lines(std::string_view text) {
  std::vector<PhysicalLine> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end == std::string_view::npos ? end : end + 1);
    lines.push_back({line, without_newline(line)});
    text.remove_prefix(line.size());
  }
  return lines;
}

bool is_comment(std::string_view s) {
  const size_t n = leading_space(s);
  return n < s.size() && s[n] == '#';
}

// ([^\\])\\[ \t]*$ or ^\\[ \t]*$: the length of the line without its continuation mark, or npos.
size_t continued_length(std::string_view s, char escape) {
  size_t end = s.size();
  while (end > 0 && (s[end - 1] == ' ' || s[end - 1] == '\t')) --end;
  if (end == 0 || s[end - 1] != escape) return std::string_view::npos;
  if (end >= 2 && s[end - 2] == escape) return std::string_view::npos;
  return end - 1;
}

enum class Grammar { kNone, kWords, kNameValues, kArgs, kMaybeJson, kMaybeJsonList, kText, kHealthcheck, kOnbuild };

Grammar grammar_of(std::string_view keyword) {
  static const std::map<std::string_view, Grammar> kGrammars = {
      {"add", Grammar::kMaybeJsonList}, {"arg", Grammar::kArgs},          {"cmd", Grammar::kMaybeJson},
      {"copy", Grammar::kMaybeJsonList}, {"entrypoint", Grammar::kMaybeJson}, {"env", Grammar::kNameValues},
      {"expose", Grammar::kWords},      {"from", Grammar::kWords},        {"healthcheck", Grammar::kHealthcheck},
      {"label", Grammar::kNameValues},  {"maintainer", Grammar::kText},   {"onbuild", Grammar::kOnbuild},
      {"run", Grammar::kMaybeJson},     {"shell", Grammar::kMaybeJson},   {"stopsignal", Grammar::kText},
      {"user", Grammar::kText},         {"volume", Grammar::kMaybeJsonList}, {"workdir", Grammar::kText}};
  const auto it = kGrammars.find(keyword);
  return it == kGrammars.end() ? Grammar::kNone : it->second;
}

class TreeParser {
 public:
  TreeParser(std::string file, std::string text) {
    out_.tree.file = std::move(file);
    constexpr std::string_view kBom = "\xEF\xBB\xBF";
    if (text.compare(0, kBom.size(), kBom) == 0) text.erase(0, kBom.size());
    out_.tree.text = std::make_shared<const std::string>(std::move(text));
    lines_ = split_lines(*out_.tree.text);
  }

  ParsedTree run() {
    if (out_.tree.text->empty()) {
      report(Severity::kError, {1, 1, 1, 1}, "the Dockerfile cannot be empty");
      return std::move(out_);
    }
    read_directives();
    while (at_ < lines_.size()) read_instruction();
    if (out_.tree.nodes.empty() && !has_errors(out_.diagnostics)) {
      report(Severity::kError, {1, 1, 1, 1}, "file with no instructions");
    }
    return std::move(out_);
  }

 private:
  void report(Severity severity, SourceRange range, std::string message, std::vector<std::string> notes = {}, std::string rule = {}, std::optional<Mend> mend = {}) {
    if (++reported_[static_cast<size_t>(severity)] > kMaxDiagnostics) return;
    Diagnostic d;
    d.severity = severity;
    d.rule = std::move(rule);
    d.file = out_.tree.file;
    d.range = range;
    d.message = std::move(message);
    d.notes = std::move(notes);
    d.mend = std::move(mend);
    if (range.line >= 1 && range.line <= lines_.size()) d.line_text = std::string(lines_[range.line - 1].bare);
    out_.diagnostics.push_back(std::move(d));
  }

  // Known directives at the very top; anything else ends them. dockerfile-language 1.1.
  void read_directives() {
    std::set<std::string> seen;
    for (uint32_t n = 0; n < lines_.size(); ++n) {
      const std::string_view line = lines_[n].bare;
      const size_t indent = leading_space(line);
      const auto directive = internal::directive_of(line.substr(indent), "#", n + 1, static_cast<uint32_t>(indent + 1));
      if (!directive) break;
      at_ = n + 1;  // it is no comment of the first instruction
      const Word& value = directive->value;
      if (!seen.insert(directive->key).second) {
        report(Severity::kError, value.range, fmt::format("only one {} parser directive can be used", directive->key));
      } else if (directive->key != "escape") {
        continue;  // found below, by rules of their own
      } else if (value.text == "\\" || value.text == "`") {
        out_.tree.directives.escape = value.text[0];
      } else {
        report(Severity::kError, value.range, fmt::format("invalid escape token \"{}\": it is \\ or `", printable(value.text)));
      }
    }
    out_.tree.directives.syntax = internal::detect_syntax(*out_.tree.text);
    out_.tree.directives.check = internal::detect_check(*out_.tree.text);
  }

  bool too_long(size_t index) {
    const std::string_view text = lines_[index].text;
    if (text.size() <= kMaxLine || (text.size() == kMaxLine + 1 && text.back() == '\n')) return false;
    const auto line = static_cast<uint32_t>(index + 1);
    report(Severity::kError, {line, 1, line, 2}, fmt::format("dockerfile line greater than max allowed size of {}", kMaxLine));
    return true;
  }

  void read_instruction() {
    const size_t first = at_++;
    if (too_long(first)) return;
    const std::string_view bare = lines_[first].bare;
    if (is_comment(bare)) {
      const std::string_view body = internal::trim_space(bare);
      comments_.emplace_back(internal::trim_space(body.substr(1)));
      if (comments_.back().empty()) comments_.clear();  // a bare # parts what is above from what follows
      return;
    }
    const size_t indent = leading_space(bare);
    if (indent == bare.size()) {
      comments_.clear();
      return;
    }
    LogicalLine line;
    bool more = append(line, first, indent);
    uint32_t empty_line = 0, empty_end = 0;  // the first run of empty lines
    while (more && at_ < lines_.size()) {
      const size_t index = at_++;
      if (too_long(index)) continue;
      const std::string_view next = lines_[index].bare;
      if (is_comment(next)) continue;
      if (leading_space(next) == next.size()) {
        const auto number = static_cast<uint32_t>(index + 1);
        if (empty_line == 0) empty_line = empty_end = number;
        if (number == empty_end) ++empty_end;
        continue;
      }
      more = append(line, index, 0);
    }
    line.last_line = static_cast<uint32_t>(at_);
    if (empty_line != 0) {
      // As docker/dockerfile, the place is the instruction's last line.
      const auto at = static_cast<uint32_t>(at_);
      report(Severity::kWarning, {at, 1, at, static_cast<uint32_t>(lines_[at_ - 1].bare.size() + 1)}, "Empty continuation line",
             {fmt::format("line {} is empty, although the line before it says that the instruction goes on", empty_line)}, "NoEmptyContinuation",
             Mend{{empty_line, 1, empty_end, 1}, ""});
    }
    Node node;
    const bool good = make_node(line, Span{line.text, 0}, node, 0);
    node.comments = std::exchange(comments_, {});
    const bool bodies = read_heredocs(line, node);
    node.range.end_line = line.last_line;
    if (good && bodies) out_.tree.nodes.push_back(std::move(node));
  }

  // Adds a physical line without its continuation mark; true when another line follows.
  bool append(LogicalLine& line, size_t index, size_t skip) {
    std::string_view text = lines_[index].bare.substr(skip);
    const size_t continued = continued_length(text, out_.tree.directives.escape);
    line.segments.push_back({line.text.size(), static_cast<uint32_t>(index + 1), static_cast<uint32_t>(skip + 1)});
    line.text += continued == std::string_view::npos ? text : text.substr(0, continued);
    return continued != std::string_view::npos;
  }

  bool read_heredocs(LogicalLine& line, Node& node) {
    Node& holder = node.child ? *node.child : node;
    const bool allowed = holder.keyword == "run" || holder.keyword == "copy" || holder.keyword == "add";
    if (!allowed || holder.json) return true;
    std::vector<Heredoc> docs = internal::find_heredocs(line);
    bool good = true;
    for (Heredoc& doc : docs) {
      bool terminated = false;
      while (at_ < lines_.size()) {
        if (too_long(at_)) good = false;
        const PhysicalLine& body = lines_[at_++];
        std::string_view candidate = body.bare;
        std::string_view content = body.text;
        while (doc.chomp && !content.empty() && content.front() == '\t') content.remove_prefix(1);
        while (doc.chomp && !candidate.empty() && candidate.front() == '\t') candidate.remove_prefix(1);
        terminated = candidate == doc.name;
        if (terminated) break;
        doc.raw_content += body.text;
        doc.content += content;
      }
      if (!terminated) {
        report(Severity::kError, doc.range, "unterminated heredoc", {fmt::format("no line holds just {}", doc.name)});
        good = false;
      }
    }
    line.last_line = static_cast<uint32_t>(at_);
    holder.heredocs = std::move(docs);
    return good;
  }

  Word word_of(const LogicalLine& line, Span s) const { return {std::string(s.text), line.range(s.offset, s.offset + s.text.size())}; }

  // Words that BuildKit takes apart character by character, which makes U+FFFD of what is no UTF-8.
  Word unicode_word_of(const LogicalLine& line, Span s) const {
    Word word = word_of(line, s);
    word.text = with_valid_utf8(word.text);
    return word;
  }

  bool make_node(const LogicalLine& line, Span whole, Node& node, int depth) {
    whole = internal::trim(whole);
    size_t end = 0;
    while (end < whole.text.size() && !internal::is_blank(whole.text[end])) ++end;
    node.original = std::string(whole.text);
    node.keyword_text = std::string(whole.text.substr(0, end));
    node.keyword = to_lower(node.keyword_text);
    node.keyword_range = line.range(whole.offset, whole.offset + end);
    node.range = line.range(whole.offset, whole.offset + whole.text.size());
    const Span rest = internal::trim(internal::take_flags(line, whole.sub(end), out_.tree.directives.escape, node.flags));
    return parse_arguments(line, rest, node, depth);
  }

  bool parse_arguments(const LogicalLine& line, Span rest, Node& node, int depth) {
    switch (grammar_of(node.keyword)) {
      case Grammar::kNone:
        node.args.push_back({});  // as BuildKit: the rest is not looked at
        return true;
      case Grammar::kText:
        if (!rest.text.empty()) node.args.push_back(word_of(line, rest));
        return true;
      case Grammar::kWords:
        for (Span s : internal::split_blanks(rest)) node.args.push_back(word_of(line, s));
        return true;
      case Grammar::kArgs:
        for (Span s : internal::split_words(rest, out_.tree.directives.escape)) node.args.push_back(unicode_word_of(line, s));
        return true;
      case Grammar::kNameValues: return parse_name_values(line, rest, node);
      case Grammar::kMaybeJson: return parse_maybe_json(line, rest, node, false);
      case Grammar::kMaybeJsonList: return parse_maybe_json(line, rest, node, true);
      case Grammar::kHealthcheck: return parse_healthcheck(line, rest, node);
      case Grammar::kOnbuild: {
        if (rest.text.empty()) return true;
        if (depth == kMaxOnbuild) {
          report(Severity::kError, node.keyword_range, "ONBUILD is nested too deeply");
          return false;
        }
        node.child = std::make_unique<Node>();
        const bool good = make_node(line, rest, *node.child, depth + 1);
        // The image keeps the trigger as it stands, blanks at its end included.
        node.child->original = line.text.substr(rest.offset);
        return good;
      }
    }
    return true;
  }

  bool parse_name_values(const LogicalLine& line, Span rest, Node& node) {
    const std::vector<Span> words = internal::split_words(rest, out_.tree.directives.escape);
    if (words.empty()) return true;
    const std::string name = to_upper(node.keyword);
    if (words[0].text.find('=') == std::string_view::npos) {  // the old form: NAME rest of the line
      size_t end = 0;
      while (end < rest.text.size() && !internal::is_blank(rest.text[end])) ++end;
      size_t begin = end;
      while (begin < rest.text.size() && internal::is_blank(rest.text[begin])) ++begin;
      const Span value = rest.sub(begin);
      if (begin == end) {
        report(Severity::kError, line.range(words[0].offset, words[0].offset + words[0].text.size()), fmt::format("{} must have two arguments", name),
               {fmt::format("write {} {}=VALUE", name, printable(words[0].text))});
        return false;
      }
      node.args = {word_of(line, rest.sub(0, end)), word_of(line, value), Word{}};
      return true;
    }
    bool good = true;
    for (Span word : words) {
      const size_t eq = word.text.find('=');
      if (eq == std::string_view::npos) {
        const SourceRange range = line.range(word.offset, word.offset + word.text.size());
        std::vector<std::string> notes;
        if (word.text.front() == '#') notes.push_back("a # inside a line does not begin a comment; put the comment on a line of its own");
        report(Severity::kError, range, fmt::format("Syntax error - can't find = in \"{}\". Must be of the form: name=value", printable(word.text)), std::move(notes));
        good = false;
        break;
      }
      node.args.push_back(unicode_word_of(line, word.sub(0, eq)));
      node.args.push_back(unicode_word_of(line, word.sub(eq + 1)));
      node.args.push_back(Word{"=", node.args.back().range});
    }
    return good;
  }

  // A JSON array of strings; else the text as it stands, or its words.
  bool parse_maybe_json(const LogicalLine& line, Span rest, Node& node, bool list) {
    if (rest.text.empty()) return true;
    internal::JsonArray json = internal::parse_json_array(rest.text);
    if (json.kind != internal::JsonArray::kNone) return take_json(line.range(rest.offset, rest.offset + rest.text.size()), std::move(json), node);
    if (list) {
      node.list_text = std::string(rest.text);
      for (Span s : internal::split_blanks(rest)) node.args.push_back(word_of(line, s));
    } else {
      node.args.push_back(word_of(line, rest));
    }
    return true;
  }

  bool take_json(SourceRange range, internal::JsonArray json, Node& node) {
    node.json = true;
    if (json.kind == internal::JsonArray::kMixed) {
      report(Severity::kError, range, "when using JSON array syntax, arrays must be comprised of strings only");
      return false;
    }
    for (std::string& item : json.strings) node.args.push_back({std::move(item), range});
    return true;
  }

  bool parse_healthcheck(const LogicalLine& line, Span rest, Node& node) {
    size_t end = 0;
    while (end < rest.text.size() && !internal::is_space(rest.text[end])) ++end;
    if (end == 0) return true;
    node.args.push_back(word_of(line, rest.sub(0, end)));
    return parse_maybe_json(line, internal::trim_left(rest.sub(end)), node, false);
  }

  ParsedTree out_;
  std::vector<PhysicalLine> lines_;
  std::vector<std::string> comments_;
  std::array<size_t, 3> reported_{};  // by severity
  size_t at_ = 0;
};

}  // namespace

ParsedTree parse_tree(std::string file, std::string text) { return TreeParser(std::move(file), std::move(text)).run(); }

bool has_errors(const std::vector<Diagnostic>& diagnostics) {
  return std::any_of(diagnostics.begin(), diagnostics.end(), [](const Diagnostic& d) { return d.severity == Severity::kError; });
}

}  // namespace lamina::parser
