// An ignore file, then a NUL byte, then paths, one a line.
#include <string>
#include <vector>

#include "base/text.h"
#include "fuzz/fuzz.h"
#include "parser/patterns.h"

using namespace lamina;

namespace {

void check_path(const parser::IgnoreList& list, const std::string& path) {
  parser::IgnoreList::WalkState state = list.walk_root(), next;
  const parser::IgnoreRule* walked = nullptr;
  std::string parent;
  for (const std::string& part : path_components(path)) {
    const std::string here = parent.empty() ? part : parent + "/" + part;
    const bool reachable = parent.empty() || !list.ignored(parent) || list.may_reinclude_below(parent);
    fuzz::require(reachable || list.ignored(here), "what is not walked is ignored");
    walked = list.decide_in_walk(here, state, next);
    std::swap(state, next);
    parent = here;
  }
  fuzz::require(parent.empty() || walked == list.decide(parent), "a walk decides as a look-up does");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  const size_t nul = text.find('\0');
  const std::string_view rules = text.substr(0, nul);
  const std::vector<std::string> paths = split(nul == std::string_view::npos ? "a/b.c" : text.substr(nul + 1), '\n');
  const auto list = parser::IgnoreList::parse(".dockerignore", rules);
  if (!list) fuzz::require(!list.error().message().empty(), "an error has a text");
  for (const std::string& path : paths) {
    if (list) check_path(*list, clean_path("/" + path).substr(1));
  }
  for (const std::string& pattern : split(rules, '\n')) {
    for (const std::string& path : paths) ignore_error(parser::match_glob(pattern, path), "only that it ends");
    if (parser::has_wildcards(pattern)) continue;
    const std::string literal = parser::unescape_glob(pattern);
    const auto match = parser::match_glob(pattern, literal);
    fuzz::require(!match || *match, "a pattern without wildcards matches itself");
  }
  return 0;
}
