#include "parser/patterns.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>

#include "base/text.h"

namespace lamina::parser {

namespace {

Error malformed(std::string_view pattern) {
  return Error(ErrorKind::kInvalidInput, fmt::format("the pattern \"{}\" is malformed", printable(pattern)));
}

// Length of the UTF-8 sequence at the front (1 for a stray byte): "?" and classes take whole characters.
size_t rune_length(std::string_view s) {
  const auto c = static_cast<unsigned char>(s[0]);
  size_t n = c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
  return std::min(n, s.size());
}

// [class] at the front of `p`; moves past it. Sets `match` for the character `c`.
bool match_class(std::string_view& p, std::string_view c, bool& match) {
  p.remove_prefix(1);
  bool negated = false;
  if (!p.empty() && p[0] == '^') {
    negated = true;
    p.remove_prefix(1);
  }
  bool found = false;
  int ranges = 0;
  const auto element = [&](std::string& out) {
    if (p.empty() || p[0] == '-' || (p[0] == ']' && ranges == 0)) return false;
    if (p[0] == '\\') {
      p.remove_prefix(1);
      if (p.empty()) return false;
    }
    const size_t n = rune_length(p);
    out = std::string(p.substr(0, n));
    p.remove_prefix(n);
    return !p.empty();
  };
  while (true) {
    if (!p.empty() && p[0] == ']' && ranges > 0) {
      p.remove_prefix(1);
      match = found != negated;
      return true;
    }
    std::string low;
    if (!element(low)) return false;
    std::string high = low;
    if (p[0] == '-') {
      p.remove_prefix(1);
      if (!element(high)) return false;
    }
    // UTF-8 sorts as its code points do.
    if (c.size() == low.size() || c.size() == high.size() || low.size() != high.size()) {
      if (std::string_view(low) <= c && c <= std::string_view(high) && (c.size() >= low.size() && c.size() <= high.size())) found = true;
    }
    ++ranges;
  }
}

// Checks the rest of a pattern after the match has failed: malformed patterns are always reported.
bool well_formed(std::string_view p) {
  while (!p.empty()) {
    if (p[0] == '[') {
      bool ignored = false;
      if (!match_class(p, "a", ignored)) return false;
    } else if (p[0] == '\\') {
      if (p.size() == 1) return false;
      p.remove_prefix(2);
    } else {
      p.remove_prefix(1);
    }
  }
  return true;
}

}  // namespace

// Greedy with one point to come back to (the last "*"): linear in practice, quadratic at worst.
Result<bool> match_glob(std::string_view pattern, std::string_view name) {
  if (!well_formed(pattern)) return malformed(pattern);
  std::string_view p = pattern, n = name;
  std::optional<std::pair<std::string_view, std::string_view>> star;
  const auto step = [&]() -> bool {
    if (p.empty()) return false;
    if (p[0] == '[') {
      if (n.empty() || n[0] == '/') return false;
      std::string_view rest = p;
      bool match = false;
      const size_t length = rune_length(n);
      if (!match_class(rest, n.substr(0, length), match) || !match) return false;
      p = rest;
      n.remove_prefix(length);
      return true;
    }
    if (n.empty()) return false;
    if (p[0] == '?') {
      if (n[0] == '/') return false;
      p.remove_prefix(1);
      n.remove_prefix(rune_length(n));
      return true;
    }
    const size_t skip = p[0] == '\\' ? 1 : 0;
    if (p[skip] != n[0]) return false;
    p.remove_prefix(skip + 1);
    n.remove_prefix(1);
    return true;
  };
  while (true) {
    if (!p.empty() && p[0] == '*') {
      while (!p.empty() && p[0] == '*') p.remove_prefix(1);
      star = {p, n};
      continue;
    }
    if (p.empty() && n.empty()) return true;
    if (step()) continue;
    if (!star || star->second.empty() || star->second[0] == '/') return false;
    star->second.remove_prefix(1);
    p = star->first;
    n = star->second;
  }
}

bool has_wildcards(std::string_view pattern) {
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\') {
      ++i;
    } else if (pattern[i] == '*' || pattern[i] == '?' || pattern[i] == '[') {
      return true;
    }
  }
  return false;
}

std::string unescape_glob(std::string_view pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\' && i + 1 < pattern.size()) ++i;
    out += pattern[i];
  }
  return out;
}

namespace {

// moby/patternmatcher's translation of one pattern to a regular expression. Valid UTF-8 in, see Rule::matches.
Result<std::string> to_regex(std::string_view pattern) {
  std::string out = "^";
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '*' && i + 1 < pattern.size() && pattern[i + 1] == '*') {
      ++i;
      if (i + 1 < pattern.size() && pattern[i + 1] == '/') ++i;  // "**/" is as "**"
      out += i + 1 == pattern.size() ? ".*" : "(.*/)?";
    } else if (c == '*') {
      out += "[^/]*";
    } else if (c == '?') {
      out += "[^/]";
    } else if (c == '\\') {
      if (i + 1 == pattern.size()) return malformed(pattern);
      out += RE2::QuoteMeta(pattern.substr(++i, 1));
    } else if (c == '[' || c == ']') {
      out += c;
    } else if (static_cast<unsigned char>(c) >= 0x80 || c == '^' || c == '-') {
      out += c == '^' && (i == 0 || pattern[i - 1] != '[') ? "\\^" : std::string(1, c);
    } else {
      out += RE2::QuoteMeta(pattern.substr(i, 1));
    }
  }
  return out + "$";
}

// moby/patternmatcher's kinds of patterns. Most ignore files need hardly any regular expression. The kinds differ in more
// than speed: "**x" matches "ax" as a suffix, and would not as an expression (nor does "**x?" match "axy").
enum class Kind { kLiteral, kPrefix, kSuffix, kRegex };

struct Rule {
  IgnoreRule shown;
  Kind kind = Kind::kRegex;
  std::string text;    // what is compared: the pattern without "**" of a prefix or suffix
  std::string prefix;  // components before the first wildcard: nothing below others can match
  std::shared_ptr<const RE2> regex;

  // `valid` is the path with U+FFFD for what is no UTF-8, as Go's regular expressions see it: "*" matches any byte.
  bool matches(std::string_view path, std::string_view valid) const {
    switch (kind) {
      case Kind::kLiteral: return path == text;
      case Kind::kPrefix: return path.starts_with(text);
      case Kind::kSuffix: return path.ends_with(text) || (text.starts_with('/') && path == std::string_view(text).substr(1));
      case Kind::kRegex: break;
    }
    return RE2::FullMatch(re2::StringPiece(valid.data(), valid.size()), *regex);
  }
};

void choose_kind(Rule& rule) {
  const std::string_view p = rule.shown.pattern;
  const auto literal = [](std::string_view s) { return s.find_first_of("*?[]\\") == std::string_view::npos; };
  if (literal(p)) {
    rule.kind = Kind::kLiteral;
    rule.text = p;
  } else if (p.starts_with("**") && literal(p.substr(2))) {
    rule.kind = Kind::kSuffix;
    rule.text = p.substr(2);
  } else if (p.ends_with("**") && literal(p.substr(0, p.size() - 2))) {
    rule.kind = Kind::kPrefix;
    rule.text = p.substr(0, p.size() - 2);
  }
}

std::string literal_prefix(const std::string& pattern) {
  std::string out;
  for (const std::string& part : split(pattern, '/')) {
    if (part.find_first_of("*?[\\") != std::string::npos) break;
    out += (out.empty() ? "" : "/") + part;
  }
  return out;
}

// No path is longer (PATH_MAX is 4096), and RE2 works long and complains on stderr about expressions of megabytes.
constexpr size_t kMaxPattern = 16 << 10;

Error too_long(std::string_view pattern) { return Error(ErrorKind::kInvalidInput, fmt::format("a pattern of {} bytes is too long", pattern.size())); }

Result<Rule> compile(IgnoreRule shown) {
  Rule rule;
  rule.shown = std::move(shown);
  rule.prefix = literal_prefix(rule.shown.pattern);
  choose_kind(rule);
  if (rule.kind != Kind::kRegex) return rule;
  if (rule.shown.pattern.size() > kMaxPattern) return too_long(rule.shown.pattern);
  if (!well_formed(rule.shown.pattern)) return malformed(rule.shown.text);
  ASSIGN_OR_RETURN(const std::string text, to_regex(with_valid_utf8(rule.shown.pattern)));
  RE2::Options options;
  options.set_log_errors(false);
  options.set_dot_nl(true);
  options.set_max_mem(1 << 20);  // each of thousands of rules may use that much
  rule.regex = std::make_shared<const RE2>(text, options);
  if (rule.regex->error_code() == RE2::ErrorPatternTooLarge) return too_long(rule.shown.pattern);
  if (!rule.regex->ok()) return malformed(rule.shown.text);
  return rule;
}

}  // namespace

struct IgnoreList::Impl {
  std::string file;
  std::vector<Rule> rules;
  std::vector<IgnoreRule> shown;
  bool has_negation = false;
};

IgnoreList::IgnoreList() : impl_(std::make_unique<const Impl>()) {}
IgnoreList::IgnoreList(IgnoreList&&) noexcept = default;
IgnoreList& IgnoreList::operator=(IgnoreList&&) noexcept = default;
IgnoreList::~IgnoreList() = default;

bool IgnoreList::empty() const { return impl_->rules.empty(); }
const std::string& IgnoreList::file() const { return impl_->file; }
const std::vector<IgnoreRule>& IgnoreList::rules() const { return impl_->shown; }

namespace {

// A line of an ignore file, already known to be no comment: trimmed, cleaned, "!" and leading "/" taken off.
Result<std::optional<IgnoreRule>> rule_of(std::string_view text, uint32_t line) {
  IgnoreRule rule;
  rule.text = std::string(trim(text));
  rule.line = line;
  std::string pattern = rule.text;
  if (pattern.empty()) return std::optional<IgnoreRule>();
  if (pattern[0] == '!') {
    rule.negated = true;
    pattern = std::string(trim(std::string_view(pattern).substr(1)));
    if (pattern.empty()) return Error(ErrorKind::kInvalidInput, "illegal exclusion pattern: \"!\"");
  }
  pattern = clean_path(pattern);
  if (pattern.size() > 1 && pattern[0] == '/') pattern.erase(0, 1);
  rule.pattern = std::move(pattern);
  return std::optional<IgnoreRule>(std::move(rule));
}

}  // namespace

Result<IgnoreList> IgnoreList::from_patterns(const std::vector<std::string>& patterns) {
  auto impl = std::make_unique<Impl>();
  for (const std::string& text : patterns) {
    ASSIGN_OR_RETURN(std::optional<IgnoreRule> rule, rule_of(text, 0));
    if (!rule) continue;
    impl->has_negation = impl->has_negation || rule->negated;
    impl->shown.push_back(*rule);
    ASSIGN_OR_RETURN(Rule compiled, compile(std::move(*rule)));
    impl->rules.push_back(std::move(compiled));
  }
  IgnoreList list;
  list.impl_ = std::move(impl);
  return list;
}

Result<IgnoreList> IgnoreList::parse(const std::string& file, std::string_view text) {
  auto impl = std::make_unique<Impl>();
  impl->file = file;
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);
  uint32_t number = 0;
  for (const std::string& line : split(text, '\n')) {
    ++number;
    if (!line.empty() && line[0] == '#') continue;
    const auto fail = [&](Error error) { return Error(ErrorKind::kInvalidInput, fmt::format("{}:{}: {}", file, number, error.message())); };
    auto rule = rule_of(line, number);
    if (!rule) return fail(std::move(rule).error());
    if (!*rule) continue;
    impl->has_negation = impl->has_negation || (*rule)->negated;
    impl->shown.push_back(**rule);
    auto compiled = compile(std::move(**rule));
    if (!compiled) return fail(std::move(compiled).error());
    impl->rules.push_back(std::move(*compiled));
  }
  IgnoreList list;
  list.impl_ = std::move(impl);
  return list;
}

IgnoreList::WalkState IgnoreList::walk_root() const { return {std::vector<bool>(impl_->rules.size(), false)}; }

// Last match wins; a rule also matches what lies below a path it matches.
const IgnoreRule* IgnoreList::decide_in_walk(std::string_view path, const WalkState& parent, WalkState& self) const {
  self.parent_matched = parent.parent_matched;
  const IgnoreRule* decision = nullptr;
  std::string mended;
  std::string_view valid = path;
  if (!valid_utf8(path)) valid = mended = with_valid_utf8(path);
  for (size_t i = 0; i < impl_->rules.size(); ++i) {
    if (!self.parent_matched[i]) self.parent_matched[i] = impl_->rules[i].matches(path, valid);
    if (self.parent_matched[i]) decision = &impl_->rules[i].shown;
  }
  return decision;
}

const IgnoreRule* IgnoreList::decide(std::string_view path) const {
  WalkState state = walk_root(), next;
  const IgnoreRule* decision = nullptr;
  for (size_t end = 0; end != std::string_view::npos;) {
    end = path.find('/', end + 1);
    decision = decide_in_walk(path.substr(0, end), state, next);
    std::swap(state, next);
  }
  return decision;
}

bool IgnoreList::may_reinclude_below(std::string_view directory) const {
  if (!impl_->has_negation) return false;
  return std::any_of(impl_->rules.begin(), impl_->rules.end(), [&](const Rule& rule) {
    if (!rule.shown.negated) return false;
    // One must be able to reach the other: a/b and a/b/c, or a and a/b.
    const std::string_view p = rule.prefix;
    const auto below = [](std::string_view a, std::string_view b) { return b.empty() || (a.substr(0, b.size()) == b && (a.size() == b.size() || a[b.size()] == '/')); };
    return below(p, directory) || below(directory, p);
  });
}

}  // namespace lamina::parser
