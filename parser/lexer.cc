#include "parser/internal/lexer.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include "base/text.h"
#include "parser/internal/line.h"
#include "parser/internal/substitute.h"

namespace lamina::parser::internal {

namespace {

// ${a:-${a:-…}} recurses; deeper nesting than this is nobody's Dockerfile.
constexpr int kMaxDepth = 100;
// A doubling chain of variables could grow without end.
constexpr size_t kMaxResult = 16 << 20;

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }
bool is_special(char c) { return std::string_view("@*#?-$!0").find(c) != std::string_view::npos; }

// The length of the character at the front when it is of this Unicode class, else 0.
size_t class_length(std::string_view s, const RE2& members) {
  const size_t n = decode_utf8(s, 0).length;
  return n > 0 && RE2::FullMatch(re2::StringPiece(s.data(), n), members) ? n : 0;
}
size_t digit_length(std::string_view s) {
  if (s.empty()) return 0;
  if (static_cast<unsigned char>(s[0]) < 0x80) return is_ascii_digit(s[0]) ? 1 : 0;
  static const RE2 kDigit("\\p{Nd}");
  return class_length(s, kDigit);
}
size_t name_length(std::string_view s) {
  if (s.empty()) return 0;
  if (static_cast<unsigned char>(s[0]) < 0x80) return is_ascii_letter(s[0]) || is_ascii_digit(s[0]) || s[0] == '_' ? 1 : 0;
  static const RE2 kLetterOrDigit("[\\p{L}\\p{Nd}]");
  return class_length(s, kLetterOrDigit);
}

Error bad(std::string message) { return Error(ErrorKind::kInvalidInput, std::move(message)); }
Error unclosed() { return bad("syntax error: missing '}'"); }
Error bad_substitution() { return bad("syntax error: bad substitution"); }

Result<void> append(std::string& out, std::string_view s) {
  if (out.size() + s.size() > kMaxResult) return bad("the expanded text is too long");
  out += s;
  return {};
}

// One pass over a text. `depth` is 0 outside of ${…} and quotes: only there words are collected.
class Lexer {
 public:
  Lexer(std::string_view text, const Lookup& lookup, const LexOptions& options) : text_(text), lookup_(lookup), options_(options) {}

  Result<Lexed> run() {
    ASSIGN_OR_RETURN(out_.text, until('\0', options_.raw_escapes, 0));
    end_word(text_.size());
    return std::move(out_);
  }

 private:
  bool done() const { return at_ >= text_.size(); }
  char peek() const { return text_[at_]; }
  std::string_view rest() const { return text_.substr(at_); }

  void add_raw(std::string_view s, size_t begin) {
    if (word_.text.empty()) word_.begin = begin;
    word_.text += s;
  }
  // Text that white space splits.
  void add_split(std::string_view s, size_t begin) {
    for (size_t i = 0; i < s.size(); ++i) {
      if (const size_t n = space_length(s.substr(i)); n > 0) {
        end_word(begin);
        i += n - 1;
      } else {
        add_raw(s.substr(i, 1), begin);
      }
    }
  }
  void end_word(size_t end) {
    if (word_.text.empty()) return;
    word_.end = end;
    out_.words.push_back(std::exchange(word_, {}));
  }

  // Up to the character `stop`, which is consumed; '\0': up to the end.
  Result<std::string> until(char stop, bool raw_escapes, int depth) {
    if (depth > kMaxDepth) return bad("variables are nested too deeply");
    std::string out;
    while (!done()) {
      const char c = peek();
      if (stop != '\0' && c == stop) {
        ++at_;
        return out;
      }
      const size_t begin = at_;
      if (c == '$') {
        ASSIGN_OR_RETURN(const std::string s, dollar(depth));
        RETURN_IF_ERROR(append(out, s));
        if (depth == 0) add_split(s, begin);
        continue;
      }
      std::string piece;
      bool plain = false;
      if (!options_.skip_quotes && (c == '\'' || c == '"')) {
        ASSIGN_OR_RETURN(piece, c == '"' ? double_quoted(raw_escapes, depth) : single_quoted());
      } else if (c == '<') {
        piece = arrows();
      } else if (c == options_.escape) {
        piece = escaped(raw_escapes);
      } else {
        plain = true;
        const size_t n = std::max<size_t>(space_length(rest()), 1);
        piece = text_.substr(at_, n);
        at_ += n;
      }
      RETURN_IF_ERROR(append(out, piece));
      if (depth == 0 && plain) add_split(piece, begin);
      if (depth == 0 && !plain) add_raw(piece, begin);
    }
    if (stop != '\0') return bad(fmt::format("unexpected end of statement while looking for matching {}", stop));
    return out;
  }

  // The escape and the character behind it. One at the very end stands for nothing.
  std::string escaped(bool raw_escapes) {
    std::string out;
    if (raw_escapes) out += options_.escape;
    if (++at_ < text_.size()) out += text_[at_++];
    return out;
  }

  // "<<" keeps the white space that follows, so that "<< EOF" is one word.
  std::string arrows() {
    const size_t begin = at_++;
    if (done() || peek() != '<') return "<";
    ++at_;
    while (!done() && (peek() == ' ' || peek() == '\t' || peek() == '\r')) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  Result<std::string> single_quoted() {
    const size_t begin = at_ + (options_.raw_quotes ? 0 : 1);
    const size_t end = text_.find('\'', at_ + 1);
    if (end == std::string_view::npos) {
      at_ = text_.size();
      return bad("unexpected end of statement while looking for matching single-quote");
    }
    at_ = end + 1;
    return std::string(text_.substr(begin, end + (options_.raw_quotes ? 1 : 0) - begin));
  }

  Result<std::string> double_quoted(bool raw_escapes, int depth) {
    std::string out;
    ++at_;
    if (options_.raw_quotes) out += '"';
    while (!done()) {
      const char c = peek();
      if (c == '$') {
        ASSIGN_OR_RETURN(const std::string s, dollar(depth + 1));
        RETURN_IF_ERROR(append(out, s));
        continue;
      }
      ++at_;
      if (c == '"') {
        if (options_.raw_quotes) out += c;
        return out;
      }
      if (c != options_.escape) {
        out += c;
        continue;
      }
      // The escape protects only ", $ and itself; before anything else it is a plain character (which, kept raw, needs
      // an escape of its own).
      if (raw_escapes) out += c;
      if (done()) break;
      const bool protects = peek() == '"' || peek() == '$' || peek() == c;
      out += protects ? text_[at_++] : c;
    }
    return bad("unexpected end of statement while looking for matching double-quote");
  }

  std::string name() {
    const size_t begin = at_;
    if (size_t n = digit_length(rest()); n > 0) {
      for (; n > 0; n = digit_length(rest())) at_ += n;
    } else if (!done() && is_special(peek())) {
      ++at_;
    } else {
      while ((n = name_length(rest())) > 0) at_ += n;
    }
    return std::string(text_.substr(begin, at_ - begin));
  }

  std::optional<std::string> value_of(const std::string& n) {
    auto value = lookup_(n);
    if (!value) out_.unset.push_back(n);
    return value;
  }

  Result<std::string> dollar(int depth) {
    ++at_;
    if (done() || peek() != '{') {
      const std::string n = name();
      if (n.empty()) return std::string("$");
      auto value = value_of(n);
      if (!value && options_.keep_unset) return "$" + n;
      return std::move(value).value_or("");
    }
    ++at_;
    if (done()) return unclosed();
    if (peek() == '{' || peek() == '}' || peek() == ':') return bad_substitution();
    const std::string n = name();
    if (done()) return unclosed();
    const char op = text_[at_++];
    // BuildKit takes ${+x} and ${%x} for operations on a variable without a name.
    if (n.empty()) return bad_substitution();
    switch (op) {
      case '}': {
        auto value = value_of(n);
        if (!value && options_.keep_unset) return "${" + n + "}";
        return std::move(value).value_or("");
      }
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

  // A part of ${…} up to `stop`. Whatever is wrong inside, an end that never comes is what to say.
  Result<std::string> part(char stop, bool raw_escapes, int depth) {
    auto out = until(stop, raw_escapes, depth + 1);
    if (!out && done()) return stop == '/' ? bad("syntax error: missing '/' in ${}") : unclosed();
    return out;
  }

  Result<std::string> with_default(const std::string& n, char op, int depth) {
    const bool empty_counts = op == ':';
    std::string operation(1, op);
    if (empty_counts) {
      if (done()) return unclosed();
      op = text_[at_++];
      operation += op;
    }
    if (op != '-' && op != '+' && op != '?') return bad(fmt::format("unsupported modifier ({}) in substitution", printable(operation)));
    ASSIGN_OR_RETURN(const std::string word, part('}', false, depth));
    const auto value = lookup_(n);
    if (!value && options_.keep_unset) return "${" + n + operation + word + "}";
    const bool set = value && !(empty_counts && value->empty());
    if (op == '-') return set ? *value : word;
    if (op == '+') return set ? word : std::string();
    if (set) return *value;
    return bad(n + ": " + (!word.empty() ? word : value ? "is not allowed to be empty" : "is not allowed to be unset"));
  }

  // The pattern keeps its escapes: they are the pattern's.
  Result<std::string> trimmed(const std::string& n, char op, int depth) {
    ASSIGN_OR_RETURN(std::string pattern, part('}', true, depth));
    const auto value = value_of(n);
    if (!value && options_.keep_unset) return "${" + n + op + pattern + "}";
    const bool longest = !pattern.empty() && pattern[0] == op;
    if (longest) pattern.erase(0, 1);
    return op == '#' ? trim_prefix(value.value_or(""), pattern, longest) : trim_suffix(value.value_or(""), pattern, longest);
  }

  // The replacement keeps its escapes, too, as BuildKit has it.
  Result<std::string> replaced(const std::string& n, int depth) {
    const bool all = !done() && peek() == '/';
    if (all) ++at_;
    ASSIGN_OR_RETURN(const std::string pattern, part('/', true, depth));
    ASSIGN_OR_RETURN(const std::string with, part('}', true, depth));
    const auto value = value_of(n);
    if (!value && options_.keep_unset) return fmt::format("${{{}/{}/{}}}", n, pattern, with);
    return replace_matches(value.value_or(""), pattern, with, all, kMaxResult);
  }

  std::string_view text_;
  const Lookup& lookup_;
  const LexOptions& options_;
  size_t at_ = 0;
  Lexed out_;
  LexedWord word_;
};

}  // namespace

Result<Lexed> lex(std::string_view text, const Lookup& lookup, const LexOptions& options) { return Lexer(text, lookup, options).run(); }

}  // namespace lamina::parser::internal
