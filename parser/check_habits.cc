// Rules of our own about single instructions: habits that cost users time.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "parser/internal/checker.h"

namespace lamina::parser::internal {

namespace {

bool contains_word_pair(const std::string& text, const std::string& program, const std::set<std::string>& actions) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '"' || c == '\'' || c == ','; };
  for (size_t at = text.find(program); at != std::string::npos; at = text.find(program, at + 1)) {
    const auto is_part = [](char c) { return (c >= 'a' && c <= 'z') || c == '-' || c == '_'; };
    if (at > 0 && is_part(text[at - 1])) continue;
    size_t i = at + program.size();
    if (i < text.size() && !blank(text[i])) continue;
    // Options may stand between the program and what it is to do.
    while (i < text.size()) {
      while (i < text.size() && blank(text[i])) ++i;
      size_t end = i;
      while (end < text.size() && !blank(text[end]) && text[end] != ';' && text[end] != '&' && text[end] != '|' && text[end] != ')') ++end;
      const std::string word = text.substr(i, end - i);
      if (actions.contains(word)) return true;
      if (word.empty() || word[0] != '-') break;
      i = end;
    }
  }
  return false;
}

class HabitChecker {
 public:
  HabitChecker(const HabitScope& scope, const Instruction& instruction, Findings& findings) : scope_(scope), instruction_(instruction), findings_(findings) {}

  template <typename Body>
  void check(const Body&) {}

  void check(const From& body) {
    const GlobalValues global(scope_.dockerfile, scope_.input, true);
    const std::string image = global.look(body.image.text).text;
    if (stage_named(scope_.dockerfile, image, scope_.stage, false) < 0) check_tag(image, body.image.range);
  }

  void check(const Run& body) {
    std::string text = join(body.command.args, " ");
    for (const Heredoc& doc : body.heredocs) text += "\n" + doc.content;
    for (const Word& mount : body.mounts) {
      if (mount.text.find("/var/lib/apt") != std::string::npos) return;  // the list outlives the layer
    }
    for (const char* program : {"apt-get", "apt", "aptitude"}) {
      if (!contains_word_pair(text, program, {"update"})) continue;
      for (const char* other : {"apt-get", "apt", "aptitude"}) {
        if (contains_word_pair(text, other, {"install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep", "download", "source", "satisfy"})) return;
      }
      findings_.add("AptGetUpdateAlone", keyword_range(), fmt::format("{} update is alone in its layer", program),
                    {"a later install uses the list that the cache has kept, however old; write update && install in one RUN"});
      return;
    }
  }

  void check(const Copy& body) {
    const auto lookup = [&](std::string_view n) { return scope_.values.get(n); };
    if (body.from) {
      const std::string from = look(body.from->text, lookup, scope_.dockerfile.directives.escape).text;
      if (stage_named(scope_.dockerfile, from, scope_.stage, true) < 0 && !parse_uint(from)) check_tag(from, body.from->range);
    }
    check_slash(body);
    check_portable(body);
  }

 private:
  SourceRange keyword_range() const {
    SourceRange range = instruction_.range;
    range.end_line = range.line;
    range.end_column = range.column + static_cast<uint32_t>(instruction_.name.size());
    return range;
  }

  void check_tag(const std::string& image, SourceRange range) {
    if (image.empty() || image == "scratch" || image.find('@') != std::string::npos || scope_.input.named_contexts.contains(image)) return;
    const size_t slash = image.rfind('/');
    const size_t colon = image.find(':', slash == std::string::npos ? 0 : slash);
    if (colon != std::string::npos && image.substr(colon) != ":latest") return;
    findings_.add("LatestBaseImage", range,
                  colon == std::string::npos ? fmt::format("{} has no tag, so it is whatever latest is at the time", printable(image)) : fmt::format("{} is another image from time to time", printable(image)),
                  {"name a version, or a digest, so that the same Dockerfile gives the same image"});
  }

  // Several sources that are each one file or directory need a directory; a single pattern may match several as well.
  void check_slash(const Copy& body) {
    const size_t count = body.sources.size() + body.heredocs.size();
    const std::string& to = body.destination.text;
    if (count < 2 || body.parents || to.ends_with("/") || to == "." || to == ".." || to.ends_with("/.") || to.ends_with("/..")) return;
    // A value may end with the slash.
    if (to.find('$') != std::string::npos) return;
    std::optional<Mend> mend;
    if (findings_.text_of(body.destination.range) == to && to.find_first_of("\"'\\`") == std::string::npos) mend = Mend{body.destination.range, to + "/"};
    findings_.add("MissingTrailingSlash", body.destination.range, fmt::format("{} has {} sources, so {} must be a directory", instruction_.name, count, printable(to)),
                  {"without a / at the end some builders write all of them into one file of this name"}, std::move(mend));
  }

  void not_portable(SourceRange range, std::string what) {
    findings_.add("NotPortable", range, std::move(what), {"this is an extension: docker build and others refuse it or do something else"});
  }

  SourceRange flag_range(std::string_view name) const {
    for (const Flag& flag : instruction_.flags) {
      if (flag.name == name) return flag.range;
    }
    return instruction_.range;
  }

  void check_portable(const Copy& body) {
    const std::string& name = instruction_.name;
    if (body.if_exists) not_portable(flag_range("if-exists"), fmt::format("{} --if-exists is not known to other builders", name));
    if (body.from && body.from->text.find('$') != std::string::npos) not_portable(flag_range("from"), "other builders do not expand variables in --from");
    for (const Flag& flag : instruction_.flags) {
      if (flag.name == "exclude" && flag.value && flag.value->find('$') != std::string::npos) not_portable(flag.range, "other builders do not expand variables in --exclude");
    }
    if (body.link && body.chmod) not_portable(flag_range("link"), "other builders drop --link when --chmod is given");
    for (const Word& source : body.sources) {
      if (body.is_add && (source.text.starts_with("git+https://") || source.text.starts_with("git+http://") || source.text.starts_with("git+ssh://"))) {
        not_portable(source.range, "other builders do not know git+https:// sources");
      }
    }
  }

  const HabitScope& scope_;
  const Instruction& instruction_;
  Findings& findings_;
};

}  // namespace

void check_habits(const HabitScope& scope, const Instruction& instruction, Findings& findings) {
  HabitChecker checker(scope, instruction, findings);
  std::visit([&](const auto& body) { checker.check(body); }, instruction.body);
}

}  // namespace lamina::parser::internal
