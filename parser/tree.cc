#include "parser/tree.h"

#include <fmt/format.h>

#include <cctype>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <map>
#include <set>

#include "base/text.h"
#include "parser/internal/line.h"

namespace lamina::parser {

namespace {

using internal::LogicalLine;
using internal::Span;

// BuildKit's scanner refuses longer physical lines (Go's bufio.MaxScanTokenSize - 1).
constexpr size_t kMaxLine = 65535;

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

size_t leading_space(std::string_view s) {
  size_t n = 0;
  while (n < s.size() && internal::is_space(s[n])) ++n;
  return n;
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
  void report(Severity severity, SourceRange range, std::string message, std::vector<std::string> notes = {}, std::string rule = {}) {
    Diagnostic d;
    d.severity = severity;
    d.rule = std::move(rule);
    d.file = out_.tree.file;
    d.range = range;
    d.message = std::move(message);
    d.notes = std::move(notes);
    if (range.line >= 1 && range.line <= lines_.size()) d.line_text = std::string(lines_[range.line - 1].bare);
    out_.diagnostics.push_back(std::move(d));
  }

  // Known directives at the very top; anything else ends them. dockerfile-language 1.1.
  void read_directives() {
    std::set<std::string> seen;
    for (uint32_t n = 0; n < lines_.size(); ++n) {
      const std::string_view line = lines_[n].bare;
      if (n == 0 && line.substr(0, 2) == "#!") continue;
      size_t i = leading_space(line);
      if (i >= line.size() || line[i] != '#') return;
      i += 1 + leading_space(line.substr(i + 1));
      const size_t key_begin = i;
      while (i < line.size() && std::isalnum(static_cast<unsigned char>(line[i]))) ++i;
      const std::string key = to_lower(line.substr(key_begin, i - key_begin));
      i += leading_space(line.substr(i));
      if (key.empty() || i >= line.size() || line[i] != '=') return;
      i += 1 + leading_space(line.substr(i + 1));
      const std::string value(lamina::trim(line.substr(std::min(i, line.size()))));
      if (value.empty() || (key != "syntax" && key != "escape" && key != "check")) return;
      const SourceRange range{n + 1, static_cast<uint32_t>(i + 1), n + 1, static_cast<uint32_t>(i + 1 + value.size())};
      at_ = n + 1;  // it is no comment of the first instruction
      if (!seen.insert(key).second) {
        report(Severity::kError, range, fmt::format("only one {} parser directive can be used", key));
        continue;
      }
      set_directive(key, value, range);
    }
  }

  void set_directive(const std::string& key, const std::string& value, SourceRange range) {
    Directives& d = out_.tree.directives;
    if (key == "check") {
      d.check = Word{value, range};
    } else if (key == "syntax") {
      d.syntax = Word{value.substr(0, value.find(' ')), range};
    } else if (value == "\\" || value == "`") {
      d.escape = value[0];
    } else {
      report(Severity::kError, range, fmt::format("invalid escape token \"{}\": it is \\ or `", printable(value)));
    }
  }

  bool too_long(size_t index) {
    if (lines_[index].text.size() <= kMaxLine) return false;
    const auto line = static_cast<uint32_t>(index + 1);
    report(Severity::kError, {line, 1, line, 2}, fmt::format("dockerfile line greater than max allowed size of {}", kMaxLine));
    return true;
  }

  void read_instruction() {
    const size_t first = at_++;
    if (too_long(first)) return;
    const std::string_view bare = lines_[first].bare;
    if (is_comment(bare)) {
      const std::string_view body = lamina::trim(bare);
      comments_.emplace_back(lamina::trim(body.substr(1)));
      return;
    }
    const size_t indent = leading_space(bare);
    if (indent == bare.size()) {
      comments_.clear();
      return;
    }
    LogicalLine line;
    bool more = append(line, first, indent);
    bool empty_line = false;
    while (more && at_ < lines_.size()) {
      const size_t index = at_++;
      if (too_long(index)) continue;
      const std::string_view next = lines_[index].bare;
      if (is_comment(next)) continue;
      if (leading_space(next) == next.size()) {
        empty_line = true;
        continue;
      }
      more = append(line, index, 0);
    }
    line.last_line = static_cast<uint32_t>(at_);
    if (lamina::trim(line.text).empty()) return;
    if (empty_line) {
      const auto at = static_cast<uint32_t>(first + 1);
      report(Severity::kWarning, {at, 1, at, static_cast<uint32_t>(bare.size() + 1)}, "empty continuation line",
             {"empty lines inside a continued instruction will become errors in a future release"}, "NoEmptyContinuation");
    }
    Node node;
    const bool good = make_node(line, Span{line.text, 0}, node);
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
    std::vector<Heredoc> docs = internal::find_heredocs(line, Span{line.text, 0});
    bool good = true;
    for (Heredoc& doc : docs) {
      bool terminated = false;
      while (at_ < lines_.size() && !terminated) {
        const PhysicalLine& body = lines_[at_++];
        std::string_view candidate = body.bare;
        std::string_view content = body.text;
        while (doc.chomp && !content.empty() && content.front() == '\t') content.remove_prefix(1);
        while (doc.chomp && !candidate.empty() && candidate.front() == '\t') candidate.remove_prefix(1);
        terminated = candidate == doc.name;
        doc.raw_content += body.text;
        if (!terminated) doc.content += content;
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

  bool make_node(const LogicalLine& line, Span whole, Node& node) {
    whole = internal::trim(whole);
    size_t end = 0;
    while (end < whole.text.size() && !internal::is_space(whole.text[end])) ++end;
    node.original = std::string(whole.text);
    node.keyword_text = std::string(whole.text.substr(0, end));
    node.keyword = to_lower(node.keyword_text);
    node.keyword_range = line.range(whole.offset, whole.offset + end);
    node.range = line.range(whole.offset, whole.offset + whole.text.size());
    const Span rest = internal::trim(internal::take_flags(line, whole.sub(end), node.flags));
    return parse_arguments(line, rest, node);
  }

  bool parse_arguments(const LogicalLine& line, Span rest, Node& node) {
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
        for (Span s : internal::split_words(rest, out_.tree.directives.escape)) node.args.push_back(word_of(line, s));
        return true;
      case Grammar::kNameValues: return parse_name_values(line, rest, node);
      case Grammar::kMaybeJson: return parse_maybe_json(line, rest, node, false);
      case Grammar::kMaybeJsonList: return parse_maybe_json(line, rest, node, true);
      case Grammar::kHealthcheck: return parse_healthcheck(line, rest, node);
      case Grammar::kOnbuild: {
        if (rest.text.empty()) return true;
        node.child = std::make_unique<Node>();
        return make_node(line, rest, *node.child);
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
      while (end < rest.text.size() && !internal::is_space(rest.text[end])) ++end;
      const Span value = internal::trim_left(rest.sub(end));
      if (value.text.empty()) {
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
      node.args.push_back(word_of(line, word.sub(0, eq)));
      node.args.push_back(word_of(line, word.sub(eq + 1)));
      node.args.push_back(Word{"=", node.args.back().range});
    }
    return good;
  }

  // A JSON array of strings; else the text as it stands, or its words.
  bool parse_maybe_json(const LogicalLine& line, Span rest, Node& node, bool list) {
    if (rest.text.empty()) return true;
    if (rest.text.front() == '[') {
      const auto json = nlohmann::json::parse(rest.text.begin(), rest.text.end(), nullptr, false);
      if (!json.is_discarded() && json.is_array()) return take_json(line, rest, json, node);
    }
    if (list) {
      for (Span s : internal::split_blanks(rest)) node.args.push_back(word_of(line, s));
    } else {
      node.args.push_back(word_of(line, rest));
    }
    return true;
  }

  bool take_json(const LogicalLine& line, Span rest, const nlohmann::json& json, Node& node) {
    const SourceRange range = line.range(rest.offset, rest.offset + rest.text.size());
    node.json = true;
    for (const auto& item : json) {
      if (!item.is_string()) {
        report(Severity::kError, range, "when using JSON array syntax, arrays must be comprised of strings only");
        return false;
      }
      node.args.push_back({item.get_ref<const std::string&>(), range});
    }
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
  size_t at_ = 0;
};

}  // namespace

ParsedTree parse_tree(std::string file, std::string text) { return TreeParser(std::move(file), std::move(text)).run(); }

bool has_errors(const std::vector<Diagnostic>& diagnostics) {
  return std::any_of(diagnostics.begin(), diagnostics.end(), [](const Diagnostic& d) { return d.severity == Severity::kError; });
}

}  // namespace lamina::parser
