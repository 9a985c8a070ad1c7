#include "parser/internal/typing.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "base/text.h"
#include "parser/internal/line.h"
#include "parser/mount.h"

namespace lamina::parser::internal {

namespace {

const std::vector<std::string> kInstructions = {"ADD",     "ARG",   "CMD",        "COPY",  "ENTRYPOINT", "ENV",        "EXPOSE", "FROM",    "HEALTHCHECK",
                                                "LABEL",   "MAINTAINER", "ONBUILD", "RUN", "SHELL",      "STOPSIGNAL", "USER",   "VOLUME",  "WORKDIR"};

constexpr const char* kHashNote = "a # inside a line does not begin a comment; put the comment on a line of its own";

}  // namespace

void Typer::report(Severity severity, SourceRange range, std::string message, std::vector<std::string> notes, std::string rule, std::optional<Mend> mend) {
  if (++reported_[static_cast<size_t>(severity)] > kMaxDiagnostics) return;
  Diagnostic d;
  d.severity = severity;
  d.rule = std::move(rule);
  d.file = file_;
  d.range = range;
  d.message = std::move(message);
  d.notes = std::move(notes);
  d.mend = std::move(mend);
  d.line_text = std::string(line_text(range.line));
  diagnostics_.push_back(std::move(d));
}

std::string_view Typer::line_text(uint32_t line) {
  if (line_begins_.empty()) {
    for (size_t at = 0; at != std::string::npos; at = text_.find('\n', at)) line_begins_.push_back(at == 0 && line_begins_.empty() ? at : ++at);
  }
  if (line == 0 || line > line_begins_.size()) return {};
  return line_of(std::string_view(text_).substr(line_begins_[line - 1]), 1);
}

std::optional<Instruction> Typer::type(const Node& node) {
  Instruction out;
  out.name = to_upper(node.keyword);
  out.original = node.original;
  out.range = node.range;
  out.flags = node.flags;
  out.comments = node.comments;
  if (!body_of(node, out)) return std::nullopt;
  return out;
}

bool Typer::body_of(const Node& node, Instruction& out) {
  const std::string& k = node.keyword;
  if (k == "from") return type_from(node, out);
  if (k == "run") return type_run(node, out);
  if (k == "copy" || k == "add") return type_copy(node, out);
  if (k == "healthcheck") return type_healthcheck(node, out);
  if (k == "onbuild") return type_onbuild(node, out);
  if (k == "arg") return type_arg(node, out);
  if (std::find(kInstructions.begin(), kInstructions.end(), out.name) == kInstructions.end()) {
    report_unknown(node);
    return false;
  }
  if (!check_flags(node, {}, {}, {})) return false;
  if (k == "env") {
    Env env;
    if (!type_pairs(node, env.pairs, env.legacy)) return false;
    out.body = std::move(env);
  } else if (k == "label") {
    Label label;
    if (!type_pairs(node, label.pairs, label.legacy)) return false;
    out.body = std::move(label);
  } else if (k == "cmd") {
    out.body = Cmd{command_of(node)};
  } else if (k == "entrypoint") {
    out.body = Entrypoint{command_of(node)};
  } else if (k == "expose") {
    if (!at_least(node, 1, "at least one argument")) return false;
    warn_hash(node);
    out.body = Expose{node.args};
  } else if (k == "volume") {
    if (!at_least(node, 1, "at least one argument")) return false;
    Volume volume{node.args};
    for (Word& path : volume.paths) {
      path.text = std::string(trim_space(path.text));
      if (!path.text.empty()) continue;
      report(Severity::kError, node.range, "VOLUME specified can not be an empty string");
      return false;
    }
    warn_hash(node);
    out.body = std::move(volume);
  } else if (k == "shell") {
    if (!node.json || node.args.empty()) {
      report(Severity::kError, node.range, node.json ? "SHELL requires at least one argument" : "SHELL requires the arguments to be in JSON form",
             {"write SHELL [\"/bin/bash\", \"-c\"]"});
      return false;
    }
    Shell shell;
    for (const Word& w : node.args) shell.argv.push_back(w.text);
    out.body = std::move(shell);
  } else {
    if (!exactly_one(node)) return false;
    warn_hash(node);
    const Word& word = node.args[0];
    if (k == "workdir") out.body = Workdir{word};
    if (k == "user") out.body = User{word};
    if (k == "stopsignal") out.body = StopSignal{word};
    if (k == "maintainer") out.body = Maintainer{word};
  }
  return true;
}

void Typer::report_unknown(const Node& node) {
  if (node.keyword.empty()) {
    report(Severity::kError, node.range, "there is no instruction behind the continuation mark");
    return;
  }
  std::vector<std::string> notes;
  size_t plain = 0;
  while (plain < node.keyword.size() && space_length(std::string_view(node.keyword).substr(plain)) == 0) ++plain;
  if (plain < node.keyword.size()) notes.push_back("the word holds a no-break or other special space; put a plain one behind the instruction");
  if (const auto near = nearest_name(to_upper(node.keyword.substr(0, plain)), kInstructions)) notes.push_back("did you mean " + *near + "?");
  report(Severity::kError, node.keyword_range, fmt::format("unknown instruction: {}", printable(node.keyword_text)), std::move(notes));
}

CommandLine Typer::command_of(const Node& node, size_t first_arg) const {
  CommandLine command;
  command.shell_form = !node.json;
  for (size_t i = first_arg; i < node.args.size(); ++i) command.args.push_back(node.args[i].text);
  return command;
}

bool Typer::exactly_one(const Node& node) {
  if (node.args.size() == 1) return true;
  report(Severity::kError, node.keyword_range, fmt::format("{} requires exactly one argument", to_upper(node.keyword)));
  return false;
}

bool Typer::at_least(const Node& node, size_t count, const char* words) {
  if (node.args.size() >= count) return true;
  report(Severity::kError, node.keyword_range, fmt::format("{} requires {}", to_upper(node.keyword), words));
  return false;
}

// Arguments that only exist because somebody meant a comment.
void Typer::warn_hash(const Node& node) {
  if (node.json) return;
  for (const Word& word : node.args) {
    size_t at = word.text.compare(0, 1, "#") == 0 ? 0 : word.text.find(" #");
    if (at == std::string::npos) at = word.text.find("\t#");
    if (at == std::string::npos) continue;
    if (word.text[at] != '#') ++at;
    if (word.text.find_first_of("\"'") < at) continue;  // maybe inside quotes
    SourceRange range = word.range;
    if (range.line == range.end_line) {
      range.column += static_cast<uint32_t>(at);
    } else {
      range.end_line = range.line;
      range.end_column = range.column + 1;
    }
    // Other values may be meant to hold a "#"; a port cannot.
    std::optional<Mend> mend;
    if (node.keyword == "expose") mend = comment_above(node, range);
    report(Severity::kWarning, range, fmt::format("the text from # on is part of the {} instruction's value", to_upper(node.keyword)), {kHashNote}, "CommentInArgument", std::move(mend));
    return;
  }
}

// Puts what stands from `comment` to the end of the line on a line of its own before it.
std::optional<Mend> Typer::comment_above(const Node& node, SourceRange comment) const {
  if (node.range.line != node.range.end_line) return std::nullopt;
  const std::string_view line = line_of(text_, node.range.line);
  const std::string text(lamina::trim(line.substr(comment.column - 1)));
  // "# syntax=x" at the top would be a directive, "# check=x" would switch checks off.
  if (text.find('=') != std::string::npos) return std::nullopt;
  std::string_view kept = line.substr(0, comment.column - 1);
  while (!kept.empty() && is_space(kept.back())) kept.remove_suffix(1);
  const SourceRange whole{node.range.line, 1, node.range.line, static_cast<uint32_t>(line.size() + 1)};
  return Mend{whole, fmt::format("{}\n{}", text, kept)};
}

bool Typer::check_flags(const Node& node, const std::vector<std::string>& with_value, const std::vector<std::string>& booleans,
                        const std::vector<std::string>& repeatable) {
  const auto in = [](const std::vector<std::string>& list, const std::string& name) { return std::find(list.begin(), list.end(), name) != list.end(); };
  bool good = true;
  std::vector<std::string> seen;
  for (const Flag& f : node.flags) {
    const bool takes_value = in(with_value, f.name) || in(repeatable, f.name);
    const bool is_bool = in(booleans, f.name);
    std::vector<std::string> notes;
    std::string message;
    if (!takes_value && !is_bool) {
      message = fmt::format("unknown flag --{} for {}", printable(f.name), to_upper(node.keyword));
      std::vector<std::string> known = with_value;
      known.insert(known.end(), booleans.begin(), booleans.end());
      known.insert(known.end(), repeatable.begin(), repeatable.end());
      if (const auto near = nearest_name(f.name, known)) notes.push_back("did you mean --" + *near + "?");
    } else if (takes_value && !f.value) {
      message = fmt::format("missing a value on flag: --{}", f.name);
    } else if (is_bool && f.value && !iequals(*f.value, "true") && !iequals(*f.value, "false")) {
      message = fmt::format("expecting boolean value for flag --{}, not: {}", f.name, printable(*f.value));
    } else if (!in(repeatable, f.name) && in(seen, f.name)) {
      message = fmt::format("duplicate flag specified: --{}", f.name);
    }
    seen.push_back(f.name);
    if (message.empty()) continue;
    report(Severity::kError, f.range, std::move(message), std::move(notes));
    good = false;
  }
  return good;
}

std::optional<Word> Typer::flag(const Node& node, const std::string& name) const {
  for (const Flag& f : node.flags) {
    if (f.name == name && f.value) return Word{*f.value, f.value_range};
  }
  return std::nullopt;
}

std::vector<Word> Typer::flags(const Node& node, const std::string& name) const {
  std::vector<Word> out;
  for (const Flag& f : node.flags) {
    if (f.name == name && f.value) out.push_back({*f.value, f.value_range});
  }
  return out;
}

std::optional<bool> Typer::bool_flag(const Node& node, const std::string& name) const {
  for (const Flag& f : node.flags) {
    if (f.name == name) return !f.value || iequals(*f.value, "true");
  }
  return std::nullopt;
}

namespace {

// ^[a-z][a-z0-9-_.]*$ after lower-casing.
bool valid_stage_name(const std::string& name) {
  if (name.empty() || name[0] < 'a' || name[0] > 'z') return false;
  return std::all_of(name.begin(), name.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.'; });
}

}  // namespace

bool Typer::type_from(const Node& node, Instruction& out) {
  bool good = check_flags(node, {"platform"}, {}, {});
  const auto& args = node.args;
  // "FROM debian   # base image": Docker only says that it wants one or three arguments.
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i].text.compare(0, 1, "#") != 0) continue;
    SourceRange range = args[i].range;
    range.end_line = args.back().range.end_line;
    range.end_column = args.back().range.end_column;
    report(Severity::kError, range, "FROM has a comment among its arguments", {kHashNote}, {}, comment_above(node, range));
    return false;
  }
  const bool shape = args.size() == 1 || (args.size() == 3 && iequals(args[1].text, "as"));
  if (!shape) {
    std::vector<std::string> notes;
    if (args.size() == 2) notes.push_back("write FROM image AS name");
    if (args.size() == 3) notes.push_back(fmt::format("the second word must be AS, not {}", printable(args[1].text)));
    report(Severity::kError, args.empty() ? node.keyword_range : args[std::min<size_t>(1, args.size() - 1)].range, "FROM requires either one or three arguments", std::move(notes));
    return false;
  }
  From from;
  from.image = args[0];
  from.platform = flag(node, "platform");
  if (args.size() == 3) {
    from.name = Word{to_lower(args[2].text), args[2].range};
    if (!valid_stage_name(from.name->text)) {
      report(Severity::kError, args[2].range, fmt::format("invalid name for build stage: \"{}\", name can't start with a number or contain symbols", printable(args[2].text)));
      good = false;
    }
  }
  out.body = std::move(from);
  return good;
}

bool Typer::type_arg(const Node& node, Instruction& out) {
  if (!check_flags(node, {}, {}, {}) || !at_least(node, 1, "at least one argument")) return false;
  Arg arg;
  for (const Word& word : node.args) {
    const size_t eq = word.text.find('=');
    Arg::Item item;
    item.name = {word.text.substr(0, eq), word.range};
    if (item.name.text.empty()) {
      report(Severity::kError, word.range, "ARG names can not be blank");
      return false;
    }
    if (item.name.text[0] == '#') {
      report(Severity::kWarning, word.range, "the text from # on declares arguments of these names", {kHashNote}, "CommentInArgument");
    }
    if (eq != std::string::npos) {
      SourceRange range = word.range;
      if (range.line == range.end_line) range.column += static_cast<uint32_t>(eq + 1);
      item.value = Word{word.text.substr(eq + 1), range};
    }
    arg.items.push_back(std::move(item));
  }
  out.body = std::move(arg);
  return true;
}

bool Typer::type_pairs(const Node& node, std::vector<KeyValue>& pairs, bool& legacy) {
  if (!at_least(node, 3, "at least one argument")) return false;
  for (size_t i = 0; i + 2 < node.args.size(); i += 3) {
    if (node.args[i].text.empty()) {
      report(Severity::kError, node.keyword_range, fmt::format("{} names can not be blank", to_upper(node.keyword)));
      return false;
    }
    pairs.push_back({node.args[i], node.args[i + 1]});
    legacy = node.args[i + 2].text.empty();
  }
  if (legacy) warn_hash(node);
  return true;
}

bool Typer::type_run(const Node& node, Instruction& out) {
  if (!check_flags(node, {"network", "security"}, {}, {"mount", "device"})) return false;
  Run run;
  run.command = command_of(node);
  run.heredocs = node.heredocs;
  run.mounts = flags(node, "mount");
  run.network = flag(node, "network");
  run.security = flag(node, "security");
  run.devices = flags(node, "device");
  if (run.command.args.empty() && run.heredocs.empty()) {
    // BuildKit accepts an empty RUN with no effect; an empty exec form cannot run.
    if (node.json) {
      report(Severity::kError, node.range, "RUN has an empty command");
      return false;
    }
    run.command.args = {""};
  }
  bool good = true;
  for (const Word& mount : run.mounts) {
    // Values with variables are checked when the plan is made.
    if (mount.text.find('$') != std::string::npos) continue;
    const auto parsed = parse_mount(mount.text, [](std::string_view) { return std::nullopt; });
    if (parsed) continue;
    report(Severity::kError, mount.range, parsed.error().message(), parsed.error().notes());
    good = false;
  }
  for (const Word& device : run.devices) {
    if (const auto parsed = parse_device(device.text); !parsed) {
      report(Severity::kError, device.range, parsed.error().message(), parsed.error().notes());
      good = false;
    }
  }
  out.body = std::move(run);
  return good;
}

bool Typer::type_copy(const Node& node, Instruction& out) {
  const bool add = node.keyword == "add";
  const std::vector<std::string> values = add ? std::vector<std::string>{"chown", "chmod", "checksum"} : std::vector<std::string>{"from", "chown", "chmod"};
  const std::vector<std::string> booleans = add ? std::vector<std::string>{"link", "keep-git-dir", "unpack", "if-exists"} : std::vector<std::string>{"link", "parents", "if-exists"};
  if (!check_flags(node, values, booleans, {"exclude"})) return false;
  if (node.args.size() < 2) {
    report(Severity::kError, node.keyword_range, fmt::format("{} requires at least two arguments, but only {} {} provided", out.name, node.args.size(), node.args.size() == 1 ? "was" : "were"),
           {"the last argument is the destination"});
    return false;
  }
  Copy copy;
  copy.is_add = add;
  copy.destination = node.args.back();
  copy.from = flag(node, "from");
  copy.chown = flag(node, "chown");
  copy.chmod = flag(node, "chmod");
  copy.checksum = flag(node, "checksum");
  copy.link = bool_flag(node, "link").value_or(false);
  copy.parents = bool_flag(node, "parents").value_or(false);
  copy.if_exists = bool_flag(node, "if-exists").value_or(false);
  copy.keep_git_dir = bool_flag(node, "keep-git-dir");
  copy.unpack = bool_flag(node, "unpack");
  copy.excludes = flags(node, "exclude");
  // Words and heredocs stand in the same order. "<< EOF" is two words, the second inside the heredoc's range.
  auto doc = node.heredocs.begin();
  const auto is_heredoc = [&](const Word& word) {
    const auto& r = word.range;
    while (doc != node.heredocs.end() && std::tie(doc->range.end_line, doc->range.end_column) <= std::tie(r.line, r.column)) ++doc;
    return doc != node.heredocs.end() && std::tie(doc->range.line, doc->range.column) <= std::tie(r.line, r.column);
  };
  for (size_t i = 0; i + 1 < node.args.size(); ++i) {
    const Word& word = node.args[i];
    if (is_heredoc(word)) continue;
    if (word.text.compare(0, 1, "#") == 0 && !node.json) {
      report(Severity::kWarning, word.range, fmt::format("# is taken as a source of {}", out.name), {kHashNote}, "CommentInArgument");
    }
    copy.sources.push_back(word);
  }
  if (is_heredoc(copy.destination)) {
    report(Severity::kError, doc->range, fmt::format("{} cannot accept a heredoc as a destination", out.name));
    return false;
  }
  copy.heredocs = node.heredocs;
  out.body = std::move(copy);
  return true;
}

namespace {

// Digits at the front; false when the number does not fit.
bool take_digits(std::string_view& text, uint64_t& value, uint64_t limit) {
  for (; !text.empty() && text[0] >= '0' && text[0] <= '9'; text.remove_prefix(1)) {
    if (value > (limit - static_cast<uint64_t>(text[0] - '0')) / 10) return false;
    value = value * 10 + static_cast<uint64_t>(text[0] - '0');
  }
  return true;
}

// Digits behind the point, as many as a number holds; `scale` is what the result is to be divided by.
double take_fraction(std::string_view& text, double& scale) {
  uint64_t value = 0;
  bool full = false;
  for (; !text.empty() && text[0] >= '0' && text[0] <= '9'; text.remove_prefix(1)) {
    full = full || value > (uint64_t{1} << 63) / 10 - 1;
    if (full) continue;
    value = value * 10 + static_cast<uint64_t>(text[0] - '0');
    scale *= 10;
  }
  return static_cast<double>(value);
}

}  // namespace

// Go's time.ParseDuration, integers kept exact.
std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  constexpr uint64_t kMax = uint64_t{1} << 63;
  static const std::vector<std::pair<std::string_view, uint64_t>> kUnits = {{"ns", 1},         {"us", 1000},       {"\xC2\xB5s", 1000}, {"\xCE\xBCs", 1000},
                                                                            {"ms", 1000000}, {"s", 1000000000}, {"m", 60000000000}, {"h", 3600000000000}};
  const bool negative = text.substr(0, 1) == "-";
  if (negative || text.substr(0, 1) == "+") text.remove_prefix(1);
  if (text == "0") return std::chrono::nanoseconds(0);
  if (text.empty()) return std::nullopt;
  uint64_t total = 0;
  while (!text.empty()) {
    const size_t before = text.size();
    uint64_t value = 0;
    if (!take_digits(text, value, kMax)) return std::nullopt;
    bool digits = text.size() < before;
    double fraction = 0, scale = 1;
    if (text.substr(0, 1) == ".") {
      text.remove_prefix(1);
      const size_t point = text.size();
      fraction = take_fraction(text, scale);
      digits = digits || text.size() < point;
    }
    if (!digits) return std::nullopt;
    size_t length = 0;
    while (length < text.size() && text[length] != '.' && (text[length] < '0' || text[length] > '9')) ++length;
    const auto unit = std::find_if(kUnits.begin(), kUnits.end(), [&](const auto& u) { return u.first == text.substr(0, length); });
    if (unit == kUnits.end() || value > kMax / unit->second) return std::nullopt;
    text.remove_prefix(length);
    value = value * unit->second + static_cast<uint64_t>(fraction * (static_cast<double>(unit->second) / scale));
    if (value > kMax || total + value > kMax) return std::nullopt;
    total += value;
  }
  if (negative) return std::chrono::nanoseconds(static_cast<int64_t>(0 - total));
  if (total >= kMax) return std::nullopt;
  return std::chrono::nanoseconds(static_cast<int64_t>(total));
}

bool Typer::type_healthcheck(const Node& node, Instruction& out) {
  if (!check_flags(node, {"interval", "timeout", "start-period", "start-interval", "retries"}, {}, {})) return false;
  if (!at_least(node, 1, "at least one argument")) return false;
  Healthcheck check;
  const std::string kind = to_upper(node.args[0].text);
  if (kind == "NONE") {
    if (node.args.size() > 1) {
      report(Severity::kError, node.args[1].range, "HEALTHCHECK NONE takes no arguments");
      return false;
    }
    if (!node.flags.empty()) report(Severity::kWarning, node.flags[0].range, "flags of HEALTHCHECK NONE have no effect");
    check.none = true;
    out.body = std::move(check);
    return true;
  }
  if (kind != "CMD") {
    report(Severity::kError, node.args[0].range, fmt::format("Unknown type \"{}\" in HEALTHCHECK (try CMD)", printable(node.args[0].text)));
    return false;
  }
  check.command = command_of(node, 1);
  if (check.command.args.empty()) {
    report(Severity::kError, node.args[0].range, "Missing command after HEALTHCHECK CMD");
    return false;
  }
  bool good = true;
  const std::pair<const char*, std::optional<std::chrono::nanoseconds>*> durations[] = {
      {"interval", &check.interval}, {"timeout", &check.timeout}, {"start-period", &check.start_period}, {"start-interval", &check.start_interval}};
  for (const auto& [name, target] : durations) {
    const auto value = flag(node, name);
    if (!value || value->text.empty()) continue;  // --timeout= is no timeout, as in BuildKit
    *target = parse_duration(value->text);
    const bool in_range = *target && (target->value().count() == 0 || *target >= std::chrono::milliseconds(1));
    if (in_range) continue;
    report(Severity::kError, value->range, fmt::format("invalid --{} \"{}\": it is a duration such as 30s or 1m30s, 0 or at least 1ms", name, printable(value->text)));
    good = false;
  }
  if (const auto retries = flag(node, "retries"); retries && !retries->text.empty()) {
    check.retries = parse_int(std::string_view(retries->text).substr(retries->text[0] == '+' ? 1 : 0));
    if (!check.retries || *check.retries < 0 || *check.retries > INT32_MAX) {
      report(Severity::kError, retries->range, fmt::format("--retries \"{}\" is not a number of 0 or more", printable(retries->text)));
      good = false;
    }
  }
  out.body = std::move(check);
  return good;
}

bool Typer::type_onbuild(const Node& node, Instruction& out) {
  if (!check_flags(node, {}, {}, {})) return false;
  if (!node.child) {
    report(Severity::kError, node.keyword_range, "ONBUILD requires at least one argument");
    return false;
  }
  const std::string trigger = to_upper(node.child->keyword);
  if (trigger == "ONBUILD" || trigger == "FROM" || trigger == "MAINTAINER") {
    report(Severity::kError, node.child->keyword_range, trigger == "ONBUILD" ? "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed" : fmt::format("{} isn't allowed as an ONBUILD trigger", trigger));
    return false;
  }
  if (!type(*node.child)) return false;
  Onbuild onbuild;
  onbuild.trigger = node.child->original;
  for (const Heredoc& d : node.child->heredocs) onbuild.trigger += "\n" + d.raw_content + d.name;  // as BuildKit
  out.body = std::move(onbuild);
  return true;
}

}  // namespace lamina::parser::internal
