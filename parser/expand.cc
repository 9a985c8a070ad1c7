#include "parser/expand.h"

#include <fmt/format.h>

#include "base/text.h"

namespace lamina::parser {

namespace {

// ${a:-${a:-…}} recurses; deeper nesting than this is nobody's Dockerfile.
constexpr int kMaxDepth = 100;
// A doubling chain of defaults could grow without end.
constexpr size_t kMaxResult = 16 << 20;

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_special(char c) { return std::string_view("@*#?-$!0").find(c) != std::string_view::npos; }
bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// A glob pattern of ${v#p}: * and ?, "\" escapes. Iterative, no backtracking blow-up.
struct GlobToken {
  enum Kind { kChar, kAny, kStar } kind;
  char c;
};
std::vector<GlobToken> compile_glob(std::string_view p) {
  std::vector<GlobToken> out;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == '\\' && i + 1 < p.size()) {
      out.push_back({GlobToken::kChar, p[++i]});
    } else if (p[i] == '*') {
      if (out.empty() || out.back().kind != GlobToken::kStar) out.push_back({GlobToken::kStar, 0});
    } else {
      out.push_back({p[i] == '?' ? GlobToken::kAny : GlobToken::kChar, p[i]});
    }
  }
  return out;
}

// Lengths of prefixes of `s` that the whole pattern matches, as a set of states walked byte by byte.
std::vector<size_t> matching_prefixes(const std::vector<GlobToken>& p, std::string_view s) {
  std::vector<bool> at(p.size() + 1), next(p.size() + 1);
  const auto close = [&](std::vector<bool>& states) {
    for (size_t k = 0; k < p.size(); ++k) {
      if (states[k] && p[k].kind == GlobToken::kStar) states[k + 1] = true;
    }
  };
  at[0] = true;
  close(at);
  std::vector<size_t> lengths;
  for (size_t i = 0;; ++i) {
    if (at[p.size()]) lengths.push_back(i);
    if (i == s.size()) return lengths;
    std::fill(next.begin(), next.end(), false);
    for (size_t k = 0; k < p.size(); ++k) {
      if (!at[k]) continue;
      if (p[k].kind == GlobToken::kStar) next[k] = true;
      if (p[k].kind == GlobToken::kAny || (p[k].kind == GlobToken::kChar && p[k].c == s[i])) next[k + 1] = true;
    }
    close(next);
    at.swap(next);
  }
}

std::string trim_prefix(std::string_view s, std::string_view pattern, bool longest) {
  const std::vector<size_t> lengths = matching_prefixes(compile_glob(pattern), s);
  if (lengths.empty()) return std::string(s);
  return std::string(s.substr(longest ? lengths.back() : lengths.front()));
}

std::string trim_suffix(std::string_view s, std::string_view pattern, bool longest) {
  std::vector<GlobToken> tokens = compile_glob(pattern);
  std::string reversed(s.rbegin(), s.rend());
  std::vector<GlobToken> backwards(tokens.rbegin(), tokens.rend());
  const std::vector<size_t> lengths = matching_prefixes(backwards, reversed);
  if (lengths.empty()) return std::string(s);
  return std::string(s.substr(0, s.size() - (longest ? lengths.back() : lengths.front())));
}

std::string replace_matches(std::string_view s, std::string_view pattern, std::string_view with, bool all) {
  const std::vector<GlobToken> tokens = compile_glob(pattern);
  if (tokens.empty()) return std::string(s);
  std::string out;
  size_t i = 0;
  while (i < s.size()) {
    const std::vector<size_t> lengths = matching_prefixes(tokens, s.substr(i));
    if (lengths.empty() || lengths.back() == 0) {
      out += s[i++];
      continue;
    }
    out += with;
    i += lengths.back();
    if (!all) break;
  }
  return out + std::string(s.substr(std::min(i, s.size())));
}

Error bad(std::string message) { return Error(ErrorKind::kInvalidInput, std::move(message)); }

// One pass over a text. Collects words as well, for those who want them.
class Expander {
 public:
  Expander(std::string_view text, const Lookup& lookup, char escape, bool raw)
      : text_(text), lookup_(lookup), escape_(escape), raw_(raw) {}

  Result<void> run() {
    ASSIGN_OR_RETURN(result_, until('\0', 0));
    end_word();
    return {};
  }

  std::string result_;
  std::vector<std::string> words_;
  std::vector<std::string> unset_;

 private:
  bool done() const { return at_ >= text_.size(); }
  char peek() const { return text_[at_]; }

  // Words: unquoted white space ends one; quoted text belongs to one, even when empty.
  void add_plain(char c, int depth) {
    if (depth > 0) return;
    if (is_space(c)) {
      end_word();
    } else {
      word_ += c;
      in_word_ = true;
    }
  }
  void add_quoted(std::string_view s, int depth) {
    if (depth > 0) return;
    word_ += s;
    in_word_ = true;
  }
  void add_value(std::string_view s, int depth) {
    for (char c : s) add_plain(c, depth);
  }
  void end_word() {
    if (in_word_) words_.push_back(std::exchange(word_, {}));
    in_word_ = false;
  }

  Result<std::string> until(char stop, int depth) {
    if (depth > kMaxDepth) return bad("variables are nested too deeply");
    std::string out;
    while (!done()) {
      if (out.size() > kMaxResult) return bad("the expanded text is too long");
      const char c = peek();
      if (stop != '\0' && c == stop) {
        ++at_;
        return out;
      }
      if (!raw_ && c == '\'') {
        ASSIGN_OR_RETURN(const std::string s, single_quoted());
        out += s;
        add_quoted(s, depth);
      } else if (!raw_ && c == '"') {
        ASSIGN_OR_RETURN(const std::string s, double_quoted(depth));
        out += s;
        add_quoted(s, depth);
      } else if (c == '$') {
        ASSIGN_OR_RETURN(const std::string s, dollar(depth));
        out += s;
        add_value(s, depth);
      } else if (c == escape_) {
        ++at_;
        if (done()) break;
        const char escaped = text_[at_++];
        out += escaped;
        add_quoted(std::string_view(&escaped, 1), depth);
      } else {
        ++at_;
        out += c;
        add_plain(c, depth);
      }
    }
    if (stop != '\0') return bad(fmt::format("unexpected end of statement while looking for matching {}", stop));
    return out;
  }

  Result<std::string> single_quoted() {
    const size_t end = text_.find('\'', at_ + 1);
    if (end == std::string_view::npos) return bad("unexpected end of statement while looking for matching single-quote");
    std::string out(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return out;
  }

  Result<std::string> double_quoted(int depth) {
    std::string out;
    ++at_;
    while (!done()) {
      const char c = peek();
      if (c == '"') {
        ++at_;
        return out;
      }
      if (c == '$') {
        ASSIGN_OR_RETURN(const std::string s, dollar(depth + 1));
        out += s;
      } else if (c == escape_) {
        ++at_;
        if (done()) break;
        const char escaped = text_[at_++];
        if (escaped != '"' && escaped != '$' && escaped != escape_) out += c;
        out += escaped;
      } else {
        out += c;
        ++at_;
      }
    }
    return bad("unexpected end of statement while looking for matching double-quote");
  }

  std::string name() {
    const size_t begin = at_;
    if (!done() && is_digit(peek())) {
      while (!done() && is_digit(peek())) ++at_;
    } else if (!done() && is_name_start(peek())) {
      while (!done() && (is_name_start(peek()) || is_digit(peek()))) ++at_;
    } else if (!done() && is_special(peek())) {
      ++at_;
    }
    return std::string(text_.substr(begin, at_ - begin));
  }

  std::string value_of(const std::string& n) {
    auto value = lookup_(n);
    if (!value) unset_.push_back(n);
    return value.value_or("");
  }

  Result<std::string> dollar(int depth) {
    ++at_;
    if (done() || peek() != '{') {
      const std::string n = name();
      if (n.empty()) return std::string("$");
      return value_of(n);
    }
    ++at_;
    if (done()) return bad("syntax error: missing '}'");
    if (peek() == '{') return bad("syntax error: bad substitution");
    if (peek() == '}') return bad("syntax error: bad substitution");
    if (peek() == ':') return bad("syntax error: bad substitution");
    const std::string n = name();
    if (n.empty()) return bad("syntax error: bad substitution");
    if (done()) return bad("syntax error: missing '}'");
    const char op = text_[at_++];
    switch (op) {
      case '}': return value_of(n);
      case ':':
      case '+':
      case '-':
      case '?': return with_default(n, op, depth);
      case '#':
      case '%': return trimmed(n, op, depth);
      case '/': return replaced(n, depth);
      default: return bad(fmt::format("unsupported modifier ({}) in substitution", printable(std::string(1, op))));
    }
  }

  Result<std::string> with_default(const std::string& n, char op, int depth) {
    const bool empty_counts = op == ':';
    if (empty_counts) {
      if (done()) return bad("syntax error: missing '}'");
      op = text_[at_++];
    }
    if (op != '-' && op != '+' && op != '?') return bad(fmt::format("unsupported modifier (:{}) in substitution", printable(std::string(1, op))));
    ASSIGN_OR_RETURN(const std::string word, until('}', depth + 1));
    const auto value = lookup_(n);
    const bool set = value && !(empty_counts && value->empty());
    if (op == '-') return set ? *value : word;
    if (op == '+') return set ? word : std::string();
    if (set) return *value;
    return bad(n + ": " + (!word.empty() ? word : empty_counts ? "is not allowed to be empty" : "is not allowed to be unset"));
  }

  // The pattern keeps its escapes: they are the glob's.
  Result<std::string> pattern_until(char stop, int depth) {
    std::string out;
    while (!done()) {
      const char c = peek();
      if (c == stop) {
        ++at_;
        return out;
      }
      if (c == escape_ && at_ + 1 < text_.size()) {
        out += '\\';
        out += text_[at_ + 1];
        at_ += 2;
      } else if (c == '$') {
        ASSIGN_OR_RETURN(const std::string s, dollar(depth + 1));
        out += s;
      } else if (!raw_ && c == '\'') {
        ASSIGN_OR_RETURN(const std::string s, single_quoted());
        out += s;
      } else if (!raw_ && c == '"') {
        ASSIGN_OR_RETURN(const std::string s, double_quoted(depth + 1));
        out += s;
      } else {
        out += c;
        ++at_;
      }
      if (depth > kMaxDepth) return bad("variables are nested too deeply");
    }
    return bad(fmt::format("unexpected end of statement while looking for matching {}", stop));
  }

  Result<std::string> trimmed(const std::string& n, char op, int depth) {
    const bool longest = !done() && peek() == op;
    if (longest) ++at_;
    ASSIGN_OR_RETURN(const std::string pattern, pattern_until('}', depth));
    const std::string value = value_of(n);
    return op == '#' ? trim_prefix(value, pattern, longest) : trim_suffix(value, pattern, longest);
  }

  Result<std::string> replaced(const std::string& n, int depth) {
    const bool all = !done() && peek() == '/';
    if (all) ++at_;
    ASSIGN_OR_RETURN(const std::string pattern, pattern_until('/', depth));
    ASSIGN_OR_RETURN(const std::string with, until('}', depth + 1));
    return replace_matches(value_of(n), pattern, with, all);
  }

  std::string_view text_;
  const Lookup& lookup_;
  char escape_;
  bool raw_;
  size_t at_ = 0;
  std::string word_;
  bool in_word_ = false;
};

}  // namespace

Result<Expanded> expand_word(std::string_view text, const Lookup& lookup, char escape) {
  Expander expander(text, lookup, escape, false);
  RETURN_IF_ERROR(expander.run());
  return Expanded{std::move(expander.result_), std::move(expander.unset_)};
}

Result<ExpandedWords> expand_words(std::string_view text, const Lookup& lookup, char escape) {
  Expander expander(text, lookup, escape, false);
  RETURN_IF_ERROR(expander.run());
  return ExpandedWords{std::move(expander.words_), std::move(expander.unset_)};
}

Result<Expanded> expand_raw(std::string_view text, const Lookup& lookup) {
  Expander expander(text, lookup, '\\', true);
  RETURN_IF_ERROR(expander.run());
  return Expanded{std::move(expander.result_), std::move(expander.unset_)};
}

}  // namespace lamina::parser
