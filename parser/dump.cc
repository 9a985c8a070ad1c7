// Two texts of a tree: BuildKit's test notation, and canonical Dockerfile text.
#include <fmt/format.h>

#include "base/text.h"
#include "parser/tree.h"

namespace lamina::parser {

namespace {

// Length of the valid UTF-8 sequence at the front, 0 when there is none.
size_t sequence_length(std::string_view s, uint32_t& rune) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char c = byte(0);
  size_t n = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
  if (n == 0 || s.size() < n) return 0;
  rune = n == 1 ? c : c & (0xFFU >> (n + 1));
  for (size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    rune = rune << 6 | (byte(i) & 0x3F);
  }
  if ((n == 3 && rune < 0x800) || (n == 4 && (rune < 0x10000 || rune > 0x10FFFF)) || (rune >= 0xD800 && rune < 0xE000)) return 0;
  return n;
}

// The part of unicode.IsPrint that Dockerfiles meet: control, format and space characters are not.
bool printable_rune(uint32_t r) {
  if (r < 0x80) return r >= 0x20 && r != 0x7f;
  return !(r <= 0xA0 || r == 0xAD || r == 0x1680 || (r >= 0x2000 && r <= 0x200F) || (r >= 0x2028 && r <= 0x202F) || (r >= 0x205F && r <= 0x206F) ||
           r == 0x3000 || r == 0xFEFF || (r >= 0xE000 && r <= 0xF8FF) || (r >= 0xFFF0 && r <= 0xFFFB) || r >= 0xE0000);
}

// Go's strconv.Quote.
std::string quote(std::string_view s) {
  std::string out = "\"";
  while (!s.empty()) {
    uint32_t rune = 0;
    const size_t n = sequence_length(s, rune);
    if (n == 0) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(s[0]));
      s.remove_prefix(1);
      continue;
    }
    if (n == 1) {
      const std::string one = go_quote(s.substr(0, 1));
      out += one.substr(1, one.size() - 2);
    } else if (printable_rune(rune)) {
      out += s.substr(0, n);
    } else {
      out += rune < 0x10000 ? fmt::format("\\u{:04x}", rune) : fmt::format("\\U{:08x}", rune);
    }
    s.remove_prefix(n);
  }
  return out + "\"";
}

std::string flag_text(const Flag& flag) { return "--" + flag.name + (flag.value ? "=" + *flag.value : ""); }

std::string dump_node(const Node& node) {
  std::string out = node.keyword;
  if (!node.flags.empty()) {
    out += " [";
    for (size_t i = 0; i < node.flags.size(); ++i) out += (i == 0 ? "" : " ") + quote(flag_text(node.flags[i]));
    out += "]";
  }
  if (node.child) out += " (" + dump_node(*node.child) + ")";
  for (const Word& arg : node.args) out += " " + quote(arg.text);
  return out;
}

// A flag's value survives re-reading when what is special in flags is escaped.
std::string print_flag(const Flag& flag) {
  std::string out = "--";
  for (char c : flag_text(flag).substr(2)) {
    if (c == '\\' || c == '"' || c == '\'' || c == ' ' || (c >= '\t' && c <= '\r')) out += '\\';
    out += c;
  }
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

std::string print_arguments(const Node& node) {
  if (node.json) {
    std::string out = node.keyword == "healthcheck" ? " " + node.args[0].text : "";
    out += " [";
    for (size_t i = node.keyword == "healthcheck" ? 1 : 0; i < node.args.size(); ++i) {
      out += (out.back() == '[' ? "" : ", ") + json_string(node.args[i].text);
    }
    return out + "]";
  }
  std::string out;
  if (node.keyword == "env" || node.keyword == "label") {
    for (size_t i = 0; i + 2 < node.args.size(); i += 3) {
      out += " " + node.args[i].text + (node.args[i + 2].text.empty() ? " " : "=") + node.args[i + 1].text;
    }
    return out;
  }
  // A shell-form text that begins like a flag would be read as one.
  if (!node.args.empty() && node.args[0].text.compare(0, 2, "--") == 0) out += " --";
  for (const Word& arg : node.args) out += " " + arg.text;
  return out;
}

std::string print_node(const Node& node) {
  std::string out = to_upper(node.keyword);
  for (const Flag& flag : node.flags) out += " " + print_flag(flag);
  if (node.child) {
    out += " " + print_node(*node.child);
    return out;
  }
  return out + print_arguments(node);
}

}  // namespace

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
  for (const Node& node : tree.nodes) {
    for (const std::string& comment : node.comments) out += "# " + comment + "\n";
    out += print_node(node) + "\n";
    const Node& holder = node.child ? *node.child : node;
    for (const Heredoc& doc : holder.heredocs) out += doc.raw_content + (doc.raw_content.empty() || doc.raw_content.back() != '\n' ? "\n" : "");
  }
  return out;
}

}  // namespace lamina::parser
