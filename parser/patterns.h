// Path patterns: .dockerignore, COPY --exclude and --parents, and Go's filepath.Match for COPY wildcards.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/diagnostic.h"
#include "base/result.h"

namespace lamina::parser {

// Go's path/filepath.Match: * ? [class] \escape; "*" does not cross "/". Fails with kInvalidInput on
// a malformed pattern.
Result<bool> match_glob(std::string_view pattern, std::string_view name);
// Whether a COPY source has wildcards (unescaped * ? [).
bool has_wildcards(std::string_view pattern);
// Removes the escapes of a pattern without wildcards.
std::string unescape_glob(std::string_view pattern);

// One line of an ignore file.
struct IgnoreRule {
  std::string text;      // as written
  std::string pattern;   // cleaned, without "!" and leading "/"
  bool negated = false;
  uint32_t line = 0;     // 1-based in the ignore file, 0 when it came from elsewhere
};

// An ordered list of ignore patterns (moby/patternmatcher semantics): anchored at the root, "**" for any
// depth, the last match wins, "!" re-includes, a path is also matched when a parent is.
// Immutable after construction; any thread.
class IgnoreList {
 public:
  IgnoreList();
  IgnoreList(IgnoreList&&) noexcept;
  IgnoreList& operator=(IgnoreList&&) noexcept;
  ~IgnoreList();

  // Fails with kInvalidInput when a pattern is malformed; the message names it.
  static Result<IgnoreList> from_patterns(const std::vector<std::string>& patterns);
  // The text of an ignore file; `file` is for messages.
  static Result<IgnoreList> parse(const std::string& file, std::string_view text);

  bool empty() const;
  const std::string& file() const;
  const std::vector<IgnoreRule>& rules() const;

  // The rule that decides about `path` (relative, "a/b/c", cleaned), or null when none matches.
  // The path is ignored when the rule is not negated. Looks at every parent too.
  const IgnoreRule* decide(std::string_view path) const;
  bool ignored(std::string_view path) const {
    const IgnoreRule* r = decide(path);
    return r != nullptr && !r->negated;
  }
  // Whether something below an ignored directory could be re-included by a "!" rule, so that the
  // directory has to be walked.
  bool may_reinclude_below(std::string_view directory) const;

  // For walks: carries each rule's verdict on the parent directory so that a child costs one match
  // per rule and not one per rule and ancestor.
  struct WalkState {
    std::vector<bool> parent_matched;  // per rule
  };
  WalkState walk_root() const;
  // The same answer as decide(path), given the state of the parent; fills the state for children.
  const IgnoreRule* decide_in_walk(std::string_view path, const WalkState& parent, WalkState& self) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace lamina::parser
