// Rules that follow variables and state through the stages, as the build does.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "parser/internal/checker.h"
#include "parser/mount.h"

namespace lamina::parser::internal {

namespace {

// Names whose words say that the value is a secret; each word is a part between underscores.
bool names_a_secret(const std::string& name) {
  static const std::set<std::string> kSecret = {"apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"};
  static const std::set<std::string> kHarmless = {"public", "file", "version"};
  const std::vector<std::string> words = split(to_lower(name), '_');
  const auto any_of = [&](const std::set<std::string>& set) {
    return std::any_of(words.begin(), words.end(), [&](const std::string& w) { return set.contains(w); });
  };
  return any_of(kSecret) && !any_of(kHarmless);
}

// Operating system and architecture of os/arch[/variant], os or arch, as containerd reads them.
std::optional<std::pair<std::string, std::string>> os_and_arch(const std::string& platform) {
  std::vector<std::string> parts = split(to_lower(platform), '/');
  const auto invalid = [](const std::string& p) {
    return p.empty() || !std::all_of(p.begin(), p.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-'; });
  };
  if (parts.size() > 3 || std::any_of(parts.begin(), parts.end(), invalid)) return std::nullopt;
  static const std::set<std::string> kSystems = {"linux", "windows", "darwin", "freebsd"};
  if (parts.size() == 1) parts.insert(kSystems.contains(parts[0]) ? parts.end() : parts.begin(), kSystems.contains(parts[0]) ? "amd64" : "linux");
  static const std::map<std::string, std::string> kAliases = {{"x86_64", "amd64"}, {"x86-64", "amd64"}, {"aarch64", "arm64"}, {"armhf", "arm"}, {"armel", "arm"}, {"i386", "386"}};
  if (const auto alias = kAliases.find(parts[1]); alias != kAliases.end()) parts[1] = alias->second;
  return std::pair(parts[0], parts[1]);
}

class StageChecker {
 public:
  StageChecker(const Dockerfile& dockerfile, const CheckInput& input, Findings& findings)
      : dockerfile_(dockerfile), input_(input), findings_(findings), global_(dockerfile, input, true) {}

  void run() {
    check_default_bases();
    reached_ = input_.all_stages ? std::vector<bool>(dockerfile_.stages.size(), true) : reached_stages(dockerfile_, global_, input_.target);
    for (stage_ = 0; stage_ < dockerfile_.stages.size(); ++stage_) {
      const Stage& stage = dockerfile_.stages[stage_];
      used_once_.clear();
      values_ = begin(stage);
      for (const Instruction& i : stage.instructions) {
        instruction_ = &i;
        std::visit([&](const auto& body) { apply(body); }, i.body);
        if (reached_[stage_]) check_habits({dockerfile_, input_, stage_, values_}, i, findings_);
      }
      finished_.push_back(std::move(values_));
    }
  }

  std::vector<ContextCopy> take_copies() { return std::move(copies_); }

 private:
  void add(std::string_view rule, SourceRange range, std::string message, std::vector<std::string> notes = {}, std::optional<Mend> mend = {}) {
    if (reached_[stage_]) findings_.add(rule, range, std::move(message), std::move(notes), std::move(mend));
  }

  // --- FROM ---

  void check_default_bases() {
    const GlobalValues defaults(dockerfile_, input_, false);
    if (defaults.failed() || !input_.valid_image_name) return;
    for (const Stage& stage : dockerfile_.stages) {
      const Word& image = std::get<From>(stage.from.body).image;
      const Looked looked = defaults.look(image.text);
      if (looked.failed) return;
      if (input_.valid_image_name(looked.text)) continue;
      findings_.add("InvalidDefaultArgInFrom", image.range, fmt::format("Default value for ARG {} results in empty or invalid base image name", image.text),
                    {fmt::format("without --build-arg the name is \"{}\"; give the ARG a default that names an image", printable(looked.text))});
    }
  }

  void check_declared(const Looked& looked, SourceRange range) {
    for (const std::string& name : looked.missing) {
      if (global_.declared(name)) continue;
      std::string message = fmt::format("FROM argument '{}' is not declared", name);
      if (const auto near = nearest_name(name, global_.names())) message += fmt::format(" (did you mean {}?)", *near);
      findings_.add("UndefinedArgInFrom", place_of(name, range), std::move(message), {"FROM sees the ARGs before the first FROM only"});
    }
  }

  void check_platform(const Stage& stage, const Word& platform) {
    const Looked looked = global_.look(platform.text);
    check_declared(looked, platform.range);
    if (looked.found.size() == 1 && looked.missing.empty() && looked.found[0] == "TARGETPLATFORM" && looked.text == global_.get("TARGETPLATFORM")) {
      findings_.add("RedundantTargetPlatform", platform.range,
                    fmt::format("Setting platform to predefined {} in FROM is redundant as this is the default behavior", platform.text), {}, without_flag(stage.from, "platform"));
    }
    if (!looked.found.empty() || !looked.missing.empty()) return;
    const auto parts = os_and_arch(looked.text);
    if (!parts || stage.name.find(parts->first) != std::string::npos || stage.name.find(parts->second) != std::string::npos) return;
    findings_.add("FromPlatformFlagConstDisallowed", platform.range, fmt::format("FROM --platform flag should not use constant value \"{}\"", looked.text),
                  {"$BUILDPLATFORM and $TARGETPLATFORM follow what is asked for; a stage with the platform in its name may name it"});
  }

  // Takes the flag and the blanks behind it away.
  std::optional<Mend> without_flag(const Instruction& instruction, std::string_view name) const {
    for (const Flag& flag : instruction.flags) {
      if (flag.name != name || flag.range.line != flag.range.end_line) continue;
      const std::string_view line = line_of(*dockerfile_.text, flag.range.line);
      SourceRange range = flag.range;
      while (range.end_column <= line.size() && (line[range.end_column - 1] == ' ' || line[range.end_column - 1] == '\t')) ++range.end_column;
      return Mend{range, ""};
    }
    return std::nullopt;
  }

  StageValues begin(const Stage& stage) {
    instruction_ = &stage.from;
    const auto& from = std::get<From>(stage.from.body);
    const Looked base = global_.look(from.image.text);
    check_declared(base, from.image.range);
    std::string platform = input_.target_platform;
    if (from.platform) {
      check_platform(stage, *from.platform);
      platform = global_.look(from.platform->text).text;
    }
    if (reached_[stage_]) check_habits({dockerfile_, input_, stage_, values_}, stage.from, findings_);
    if (const int parent = stage_named(dockerfile_, base.text, stage_, false); parent >= 0) return finished_[static_cast<size_t>(parent)];
    StageValues values;
    values.env["PATH"] = "";
    if (base.text == "scratch" || base.text.empty()) return values;
    std::optional<BaseImage> image;
    if (input_.base_image) image = input_.base_image(base.text, platform);
    values.complete = image.has_value();
    if (!image) return values;
    for (const std::string& name : image->env_names) values.env[name] = "";
    values.shell = image->has_shell;
    const auto expected = os_and_arch(platform), actual = os_and_arch(image->platform);
    if (expected && actual && *expected != *actual) {
      add("InvalidBaseImagePlatform", from.image.range,
          fmt::format("Base image {} was pulled with platform \"{}\", expected \"{}\" for current build", base.text, image->platform, platform));
    }
    return values;
  }

  // --- variables ---

  // Where `name` stands in a text on one line; the whole range when that cannot be told.
  SourceRange place_of(const std::string& name, SourceRange range) const {
    const std::string_view text = findings_.text_of(range);
    for (size_t at = text.find('$'); at != std::string_view::npos; at = text.find('$', at + 1)) {
      const size_t begin = at + (text.substr(at + 1, 1) == "{" ? 2 : 1);
      if (text.substr(begin, name.size()) != name) continue;
      const size_t end = begin + name.size();
      const auto is_name = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; };
      if (end < text.size() && is_name(text[end])) continue;
      range.end_column = range.column + static_cast<uint32_t>(end);
      range.column += static_cast<uint32_t>(at);
      return range;
    }
    return range;
  }

  // The line of an ARG or ENV of this stage that comes after the instruction, or 0.
  uint32_t declared_later(const std::string& name) const {
    bool after = false;
    for (const Instruction& i : dockerfile_.stages[stage_].instructions) {
      if (&i == instruction_) after = true;
      if (!after || &i == instruction_) continue;
      if (const auto* arg = std::get_if<Arg>(&i.body)) {
        if (std::any_of(arg->items.begin(), arg->items.end(), [&](const Arg::Item& item) { return item.name.text == name; })) return i.range.line;
      }
      if (const auto* env = std::get_if<Env>(&i.body)) {
        if (std::any_of(env->pairs.begin(), env->pairs.end(), [&](const KeyValue& kv) { return kv.key.text == name; })) return i.range.line;
      }
    }
    return 0;
  }

  void report_missing(const std::vector<std::string>& missing, SourceRange range) {
    for (const std::string& name : missing) {
      if (values_.declared.contains(name)) continue;
      std::vector<std::string> known;
      for (const auto& [n, value] : values_.env) known.push_back(n);
      const auto near = nearest_name(name, known);
      const uint32_t later = declared_later(name);
      const bool outside = global_.declared(name);
      // The base image may set it: only what looks like a mistake is worth a word.
      if (!values_.complete && !near && later == 0 && !outside) continue;
      std::string message = fmt::format("Usage of undefined variable '${}'", name);
      if (near) message += fmt::format(" (did you mean ${}?)", *near);
      std::vector<std::string> notes;
      if (later != 0) notes.push_back(fmt::format("line {} declares it, which is after its use", later));
      if (outside) notes.push_back(fmt::format("ARG {0} before the first FROM is for FROM only; repeat ARG {0} in this stage", name));
      add("UndefinedVar", place_of(name, range), std::move(message), std::move(notes));
    }
  }

  std::string expand(const Word& word) {
    const Looked looked = look(word.text, [this](std::string_view n) { return values_.get(n); }, dockerfile_.directives.escape);
    report_missing(looked.missing, word.range);
    return looked.text;
  }
  void expand(const std::optional<Word>& word) {
    if (word) expand(*word);
  }

  void check_secret(const char* instruction, const std::string& key, SourceRange range) {
    if (!names_a_secret(key)) return;
    add("SecretsUsedInArgOrEnv", range, fmt::format("Do not use ARG or ENV instructions for sensitive data ({} \"{}\")", instruction, key),
        {"the value can be read in the image; give it to a RUN with --mount=type=secret"});
  }

  // --- instructions ---

  void apply(const From&) {}
  void apply(const Onbuild&) {}
  void apply(const Maintainer&) {}

  void apply(const Arg& body) {
    for (const Arg::Item& item : body.items) {
      check_secret("ARG", item.name.text, item.name.range);
      if (item.value && !input_.build_args.contains(item.name.text)) {
        const Looked looked = look(item.value->text, [this](std::string_view n) { return values_.get(n); }, dockerfile_.directives.escape);
        report_missing(looked.missing, item.value->range);
      }
      declare(item, input_, global_, values_, dockerfile_.directives.escape);
    }
  }

  void apply(const Env& body) {
    std::vector<std::pair<std::string, std::string>> pairs;
    for (const KeyValue& kv : body.pairs) {
      std::string key = expand(kv.key);
      std::string value = expand(kv.value);
      if (body.legacy) check_legacy(kv);
      check_secret("ENV", key, kv.key.range);
      pairs.emplace_back(std::move(key), std::move(value));
    }
    for (auto& [key, value] : pairs) values_.env[key] = std::move(value);
  }

  void apply(const Label& body) {
    for (const KeyValue& kv : body.pairs) {
      expand(kv.key);
      expand(kv.value);
      if (body.legacy) check_legacy(kv);
    }
  }

  void check_legacy(const KeyValue& kv) {
    const std::string name = keyword_of(*instruction_);
    std::optional<Mend> mend;
    SourceRange range = kv.key.range;
    range.end_line = kv.value.range.end_line;
    range.end_column = kv.value.range.end_column;
    if (const auto value = as_one_word(kv.value.text); value && !findings_.text_of(range).empty()) mend = Mend{range, kv.key.text + "=" + *value};
    add("LegacyKeyValueFormat", range, fmt::format("\"{0} key=value\" should be used instead of legacy \"{0} key value\" format", name),
        {"in the old form everything up to the end of the line is the value"}, std::move(mend));
  }

  // The same value as a word of the new form; nothing when it would be expanded to something else.
  std::optional<std::string> as_one_word(const std::string& text) const {
    const bool plain = text.find_first_of(" \t\"'\\`") == std::string::npos;
    if (plain) return text;
    if (text.find_first_of("\"'\\`") != std::string::npos) {
      // One quoted word stays one.
      const bool quoted = text.size() >= 2 && (text[0] == '"' || text[0] == '\'') && text.find(text[0], 1) == text.size() - 1 && text.find_first_of("\\`") == std::string::npos;
      return quoted ? std::optional(text) : std::nullopt;
    }
    const std::string word = "\"" + text + "\"";
    const char escape = dockerfile_.directives.escape;
    for (const char* value : {"", "one  two", "$x"}) {
      const Lookup lookup = [&](std::string_view) { return std::optional<std::string>(value); };
      if (look(text, lookup, escape).text != look(word, lookup, escape).text) return std::nullopt;
    }
    return word;
  }

  void apply(const Run& body) {
    for (const Word& mount : body.mounts) {
      std::vector<std::string> missing;
      const Lookup lookup = [&](std::string_view name) {
        auto value = values_.get(name);
        if (!value && std::find(missing.begin(), missing.end(), name) == missing.end()) missing.emplace_back(name);
        return value;
      };
      ignore_error(parse_mount(mount.text, lookup, dockerfile_.directives.escape), "the build says what is wrong");
      report_missing(missing, mount.range);
    }
  }

  void apply(const Copy& body) {
    for (const std::optional<Word>* word : {&body.chown, &body.chmod, &body.checksum, &body.from}) expand(*word);
    ContextCopy copy{instruction_, {}};
    for (const Word& source : body.sources) {
      std::string text = expand(source);
      if (!text.empty() && !is_remote_source(text)) copy.sources.push_back({std::move(text), source.range});
    }
    if (!body.from && reached_[stage_]) copies_.push_back(std::move(copy));
    for (const Word& exclude : body.excludes) expand(exclude);
    expand(body.destination);
    for (const Heredoc& doc : body.heredocs) {
      if (!doc.expand) continue;
      std::vector<std::string> missing;
      const Lookup lookup = [&](std::string_view name) {
        auto value = values_.get(name);
        if (!value && std::find(missing.begin(), missing.end(), name) == missing.end()) missing.emplace_back(name);
        return value;
      };
      ignore_error(expand_raw(doc.content, lookup), "the build says what is wrong");
      report_missing(missing, doc.range);
    }
  }

  void apply(const Workdir& body) {
    const std::string path = expand(body.path);
    if (!values_.workdir && !path.starts_with("/")) {
      add("WorkdirRelativePath", body.path.range, fmt::format("Relative workdir {} can have unexpected results if the base image changes", go_quote(path)),
          {"begin the path with /"});
    }
    values_.workdir = true;
  }

  void apply(const User& body) { expand(body.user); }
  void apply(const StopSignal& body) { expand(body.signal); }
  void apply(const Volume& body) {
    for (const Word& path : body.paths) expand(path);
  }
  void apply(const Shell&) { values_.shell = true; }

  void apply(const Cmd& body) {
    check_once();
    check_command(body.command);
  }
  void apply(const Entrypoint& body) {
    check_once();
    check_command(body.command);
  }
  void apply(const Healthcheck&) { check_once(); }

  // The earlier one is reported: it is the one without effect.
  void check_once() {
    const Instruction*& earlier = used_once_[instruction_->name];
    if (earlier != nullptr) {
      SourceRange range = earlier->range;
      range.end_line = range.line;
      range.end_column = range.column + static_cast<uint32_t>(earlier->name.size());
      add("MultipleInstructionsDisallowed", range,
          fmt::format("Multiple {} instructions should not be used in the same stage because only the last one will be used", keyword_of(*instruction_)),
          {fmt::format("line {} replaces it", instruction_->range.line)});
    }
    earlier = instruction_;
  }

  void check_command(const CommandLine& command) {
    if (!command.shell_form || values_.shell) return;
    add("JSONArgsRecommended", instruction_->range,
        fmt::format("JSON arguments recommended for {} to prevent unintended behavior related to OS signals", keyword_of(*instruction_)),
        {"this form runs a shell, which does not pass signals on; write a JSON array, or set SHELL when the shell is meant"});
  }

  void apply(const Expose& body) {
    for (const Word& word : body.ports) {
      auto expanded = expand_words(word.text, [this](std::string_view n) { return values_.get(n); }, dockerfile_.directives.escape);
      if (!expanded) continue;
      for (const std::string& port : expanded->words) check_port(word, port);
    }
  }

  void check_port(const Word& word, const std::string& port) {
    const bool literal = word.text == port && findings_.text_of(word.range) == port;
    const std::string container = port.substr(port.rfind(':') == std::string::npos ? 0 : port.rfind(':') + 1);
    const size_t slash = container.find('/');
    const std::string lower = to_lower(container);
    if (slash != std::string::npos && lower != container) {
      add("ExposeProtoCasing", word.range, fmt::format("Defined protocol '{}' in EXPOSE instruction should be lowercase", port), {},
          literal ? std::optional(Mend{word.range, to_lower(port)}) : std::nullopt);
    }
    if (container.size() != port.size()) {
      add("ExposeInvalidFormat", word.range, fmt::format("EXPOSE instruction should not define an IP address or host-port mapping, found '{}'", port),
          {"an image names the container's port; the host's is chosen when it runs"}, literal ? std::optional(Mend{word.range, lower}) : std::nullopt);
    }
  }

  const Dockerfile& dockerfile_;
  const CheckInput& input_;
  Findings& findings_;
  GlobalValues global_;
  std::vector<bool> reached_;
  size_t stage_ = 0;
  const Instruction* instruction_ = nullptr;
  StageValues values_;
  std::vector<StageValues> finished_;
  std::map<std::string, const Instruction*> used_once_;
  std::vector<ContextCopy> copies_;
};

}  // namespace

void check_stages(const Dockerfile& dockerfile, const CheckInput& input, Findings& findings) { StageChecker(dockerfile, input, findings).run(); }

}  // namespace lamina::parser::internal

namespace lamina::parser {

std::vector<ContextCopy> context_copies(const Dockerfile& dockerfile, const CheckInput& input) {
  const Tree nowhere{dockerfile.file, dockerfile.text, dockerfile.directives, {}};
  internal::Findings unused(nowhere);
  internal::StageChecker checker(dockerfile, input, unused);
  checker.run();
  return checker.take_copies();
}

std::vector<Diagnostic> check_dockerfile(const ParsedDockerfile& parsed, const Tree& tree, const CheckInput& input) {
  internal::Findings findings(tree);
  internal::check_lines(findings);
  internal::check_stages(parsed.dockerfile, input, findings);
  std::vector<Diagnostic> all;
  for (const Diagnostic& d : parsed.diagnostics) {
    if (d.severity != Severity::kError) all.push_back(d);
  }
  std::vector<Diagnostic> own = findings.take();
  std::move(own.begin(), own.end(), std::back_inserter(all));
  sort_by_place(all);
  return all;
}

}  // namespace lamina::parser
