#include "parser/internal/json_array.h"

#include <cmath>
#include <cstdlib>
#include <optional>

#include "base/text.h"

namespace lamina::parser::internal {

namespace {

// encoding/json refuses deeper nesting.
constexpr size_t kMaxNesting = 10000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_surrogate(uint32_t c) { return c >= 0xD800 && c < 0xE000; }

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  JsonArray run() {
    JsonArray out;
    skip_space();
    if (!take('[')) return out;
    bool strings_only = true;
    skip_space();
    if (!take(']')) {
      do {
        skip_space();
        if (peek() == '"') {
          out.strings.emplace_back();
          if (!string(&out.strings.back())) return {};
        } else {
          strings_only = false;
          if (!skip_value()) return {};
        }
        skip_space();
      } while (take(','));
      if (!take(']')) return {};
    }
    skip_space();
    if (at_ != text_.size()) return {};
    out.kind = strings_only ? JsonArray::kStrings : JsonArray::kMixed;
    return out;
  }

 private:
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\r' || text_[at_] == '\n')) ++at_;
  }

  // Any value, with a list of open brackets instead of recursion.
  bool skip_value() {
    std::string closers;
    while (true) {
      skip_space();
      const char c = peek();
      if (c == '[' || c == '{') {
        ++at_;
        closers += c == '[' ? ']' : '}';
        if (closers.size() + 1 > kMaxNesting) return false;
        skip_space();
        if (peek() != closers.back()) {
          if (c == '{' && !key()) return false;
          continue;
        }
      } else if (c == '"' ? !string(nullptr) : !scalar()) {
        return false;
      }
      if (!after_value(closers)) return false;
      if (closers.empty()) return true;
    }
  }

  // Closes what ends here; false on a syntax error. Stands before the next value when something is still open.
  bool after_value(std::string& closers) {
    while (!closers.empty()) {
      skip_space();
      if (take(closers.back())) {
        closers.pop_back();
        continue;
      }
      return take(',') && (closers.back() == ']' || key());
    }
    return true;
  }

  bool key() {
    skip_space();
    if (!string(nullptr)) return false;
    skip_space();
    return take(':');
  }

  bool scalar() { return take("true") || take("false") || take("null") || number(); }

  bool number() {
    const size_t begin = at_;
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      if (!digits()) return false;
    }
    // Out of float64's range is an error of its own in Go, which leaves the text a shell form.
    return !std::isinf(std::strtod(std::string(text_.substr(begin, at_ - begin)).c_str(), nullptr));
  }

  bool digits() {
    const size_t begin = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    return at_ > begin;
  }

  bool string(std::string* out) {
    if (!take('"')) return false;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c == '"') {
        ++at_;
        return true;
      }
      if (c == '\\') {
        ++at_;
        if (!escape(out)) return false;
        continue;
      }
      const size_t n = decode_utf8(text_, at_).length;
      if (out != nullptr) *out += n == 0 ? kReplacementCharacter : text_.substr(at_, n);
      at_ += n == 0 ? 1 : n;
    }
    return false;
  }

  bool escape(std::string* out) {
    const char c = peek();
    if (c == 'u') {
      const auto unit = hex4(at_ + 1);
      if (!unit) return false;
      at_ += 5;
      if (out != nullptr) append_utf8(*out, combine(*unit));
      return true;
    }
    static constexpr std::string_view kLetters = "\"\\/bfnrt";
    static constexpr std::string_view kMeaning = "\"\\/\b\f\n\r\t";
    const size_t which = at_ < text_.size() ? kLetters.find(c) : std::string_view::npos;
    if (which == std::string_view::npos) return false;
    ++at_;
    if (out != nullptr) *out += kMeaning[which];
    return true;
  }

  std::optional<uint32_t> hex4(size_t at) const {
    const std::string_view digits = text_.substr(std::min(at, text_.size()), 4);
    for (char c : digits) {
      if (!std::isxdigit(static_cast<unsigned char>(c))) return std::nullopt;
    }
    if (digits.size() < 4) return std::nullopt;
    return static_cast<uint32_t>(*parse_uint(digits, 16));
  }

  // A surrogate and the one that follows it, or U+FFFD.
  uint32_t combine(uint32_t unit) {
    if (!is_surrogate(unit)) return unit;
    if (unit >= 0xDC00 || text_.substr(at_, 2) != "\\u") return 0xFFFD;
    const auto low = hex4(at_ + 2);
    if (!low || *low < 0xDC00 || *low >= 0xE000) return 0xFFFD;
    at_ += 6;
    return 0x10000 + ((unit - 0xD800) << 10) + (*low - 0xDC00);
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

JsonArray parse_json_array(std::string_view text) { return JsonReader(text).run(); }

}  // namespace lamina::parser::internal
