// Two texts of a tree: BuildKit's test notation, and canonical Dockerfile text.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "parser/internal/line.h"
#include "parser/tree.h"

namespace lamina::parser {

namespace {

std::string flag_text(const Flag& flag) { return "--" + flag.name + (flag.value ? "=" + *flag.value : ""); }

std::string dump_node(const Node& node) {
  std::string out = node.keyword;
  if (!node.flags.empty()) {
    out += " [";
    for (size_t i = 0; i < node.flags.size(); ++i) out += (i == 0 ? "" : " ") + go_quote(flag_text(node.flags[i]));
    out += "]";
  }
  if (node.child) out += " (" + dump_node(*node.child) + ")";
  for (const Word& arg : node.args) out += (out.empty() ? "" : " ") + go_quote(arg.text);
  return out;
}

std::string json_string(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (u < 0x20) {
      out += fmt::format("\\u{:04x}", u);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string print_json(const Node& node) {
  const size_t first = node.keyword == "healthcheck" ? 1 : 0;
  std::string out = first == 1 ? " " + node.args[0].text + " [" : " [";
  for (size_t i = first; i < node.args.size(); ++i) out += (i == first ? "" : ", ") + json_string(node.args[i].text);
  return out + "]";
}

std::string print_words(const Node& node) {
  if (!node.list_text.empty()) return " " + node.list_text;
  std::string out;
  for (const Word& arg : node.args) out += " " + arg.text;
  return out;
}

std::string print_arguments(const Node& node, char escape) {
  const auto& args = node.args;
  if (node.json) return print_json(node);
  if (std::all_of(args.begin(), args.end(), [](const Word& w) { return w.text.empty(); })) return {};
  if (node.keyword != "env" && node.keyword != "label") return print_words(node);
  std::string out;
  for (size_t i = 0; i + 2 < args.size(); i += 3) {
    out += " " + args[i].text;
    // NAME value: where an escape takes in one blank, another has to part them.
    if (args[i + 2].text.empty() && !args[i].text.empty() && args[i].text.back() == escape) out += " ";
    out += (args[i + 2].text.empty() ? " " : "=") + args[i + 1].text;
  }
  return out;
}

// A quote that is never closed takes in the rest of the line.
bool ends_in_quote(std::string_view flag, char escape) {
  char quote = 0;
  for (size_t i = 0; i < flag.size(); ++i) {
    if (flag[i] == escape) {
      ++i;
    } else if (quote == 0 ? flag[i] == '\'' || flag[i] == '"' : flag[i] == quote) {
      quote = quote == 0 ? flag[i] : 0;
    }
  }
  return quote != 0;
}

std::string print_node(const Node& node, char escape) {
  std::string out = to_upper(node.keyword);
  for (const Flag& flag : node.flags) out += " " + flag.text;
  if (!node.flags.empty() && ends_in_quote(node.flags.back().text, escape)) return out;
  const std::string rest = node.child ? " " + print_node(*node.child, escape) : print_arguments(node, escape);
  // "--" ends the flags: before a text that begins like one, and before nothing, as white space at a line's end (of a
  // flag's value, or the Unicode one that is part of a misspelt keyword) would be lost.
  const bool spaced = rest.empty() && internal::trim_space(out).size() < out.size();
  return out + (spaced || rest.compare(0, 3, " --") == 0 ? " --" : "") + rest;
}

// The logical line as one physical line, or as several when it is too long for one.
std::string print_line(std::string text, char escape) {
  // White space at the end is in an open quote, and there only because an escape stood behind it, which was dropped.
  if (internal::trim_space(text).size() < text.size()) text += escape;
  // A text may end as a continued line does, when another kind of white space stood behind the mark.
  const size_t end = text.find_last_not_of(" \t");
  if (end != std::string::npos && text[end] == escape && (end == 0 || text[end - 1] != escape)) text += '\v';
  if (text.empty()) return std::string(1, escape) + "\n";  // a continuation mark at the end of the file
  constexpr size_t kLength = 60000;
  std::string out;
  std::string_view rest = text;
  while (rest.size() > kLength) {
    size_t cut = kLength;
    // Not behind an escape, and what follows must be neither blank nor a comment.
    while (cut > 1 && (rest[cut - 1] == escape || rest[cut] == '#' || internal::space_length(rest.substr(cut)) > 0)) --cut;
    out.append(rest.substr(0, cut)).append(1, escape).append("\n");
    rest.remove_prefix(cut);
  }
  return out.append(rest).append("\n");
}

}  // namespace

bool operator==(const Node& a, const Node& b) {
  return a.keyword == b.keyword && a.flags == b.flags && a.json == b.json && a.args == b.args && a.heredocs == b.heredocs && a.comments == b.comments &&
         (a.child ? b.child && *a.child == *b.child : !b.child);
}

std::string dump(const Tree& tree) {
  std::string out;
  for (const Node& node : tree.nodes) out += "(" + dump_node(node) + ")\n";
  return out;
}

std::string print(const Tree& tree) {
  std::string out;
  if (tree.directives.syntax) out += "# syntax=" + tree.directives.syntax->text + "\n";
  if (tree.directives.escape != '\\') out += fmt::format("# escape={}\n", tree.directives.escape);
  if (tree.directives.check) out += "# check=" + tree.directives.check->text + "\n";
  out += "#\n";  // no comment below is a directive, no text below the file's byte-order mark
  for (const Node& node : tree.nodes) {
    for (const std::string& comment : node.comments) out += "# " + comment + "\n";
    out += print_line(print_node(node, tree.directives.escape), tree.directives.escape);
    const Node& holder = node.child ? *node.child : node;
    for (const Heredoc& doc : holder.heredocs) out += doc.raw_content + doc.name + "\n";
  }
  return out;
}

}  // namespace lamina::parser
