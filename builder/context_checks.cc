#include "builder/internal/context_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/files.h"
#include "base/text.h"
#include "builder/copy.h"
#include "builder/internal/paths.h"

namespace lamina::builder::internal {

namespace {

// Relative to the root, ".." stops there.
std::string in_context(const std::string& source) { return clean_path("/" + source).substr(1); }

// Go's path.Match by components.
void expand(const SourceTree& tree, const std::vector<std::string>& parts, size_t at, const std::string& here, std::vector<std::string>& out) {
  if (at == parts.size()) {
    out.push_back(here);
    return;
  }
  if (!parser::has_wildcards(parts[at])) {
    const std::string next = child_of(here, parser::unescape_glob(parts[at]));
    const auto info = tree.lstat(next);
    if (info && *info) expand(tree, parts, at + 1, next, out);
    return;
  }
  const auto entries = tree.list(here);
  if (!entries) return;
  for (const DirectoryEntry& entry : *entries) {
    const auto match = parser::match_glob(parts[at], entry.name);
    if (match && *match) expand(tree, parts, at + 1, child_of(here, entry.name), out);
  }
}

// A .pem or .key file that holds certificates or public keys only is no secret.
bool is_public(const SourceTree& tree, const std::string& path) {
  if (!path.ends_with(".pem") && !path.ends_with(".key")) return false;
  const auto fd = tree.opener()->open_file(path);
  if (!fd) return false;
  constexpr uint64_t kLargest = 1 << 20;
  const auto text = read_fd(fd->get(), kLargest);
  return text && text->find("-----BEGIN ") != std::string::npos && text->find("PRIVATE KEY") == std::string::npos;
}

bool is_secret(const SourceTree& tree, const std::string& path) { return is_secret_name(path) && !is_public(tree, path); }

}  // namespace

bool is_secret_name(std::string_view path) {
  const std::string name = to_lower(name_of(path));
  static const std::set<std::string, std::less<>> kNames = {".env",   ".npmrc",           ".netrc",      "_netrc",    ".pypirc",     ".pgpass",  ".my.cnf",    ".git-credentials",
                                                           ".htpasswd", ".dockercfg", ".vault-token", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_ecdsa_sk", "id_ed25519_sk"};
  if (kNames.contains(name)) return true;
  for (const char* suffix : {".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk"}) {
    if (name.size() > std::string_view(suffix).size() && name.ends_with(suffix)) return true;
  }
  if (name.starts_with(".env.")) {
    static const std::set<std::string, std::less<>> kHarmless = {"example", "sample", "template", "dist", "defaults", "default", "tmpl"};
    return !kHarmless.contains(std::string_view(name).substr(name.rfind('.') + 1));
  }
  for (const char* tail : {".aws/credentials", ".docker/config.json", ".kube/config", ".config/gcloud/application_default_credentials.json"}) {
    if (path == tail || path.ends_with(std::string("/") + tail)) return true;
  }
  return false;
}

void ContextChecks::add(std::string_view rule, SourceRange range, std::string message, std::vector<std::string> notes, std::optional<Mend> mend) {
  Diagnostic d = parser::diagnostic_at(dockerfile_, Severity::kWarning, range, std::move(message), std::move(notes));
  d.rule = rule;
  d.mend = std::move(mend);
  about_dockerfile.push_back(std::move(d));
}

std::vector<std::string> ContextChecks::matches(const SourceTree& tree, const std::string& path) const {
  std::vector<std::string> out;
  expand(tree, path_components(path), 0, "", out);
  return out;
}

void ContextChecks::run(const std::vector<parser::ContextCopy>& copies) {
  if (deep_ && (filter_.may_report("SecretCopied") || filter_.may_report("IgnoreOnlyMatchesRoot"))) check_directories();
  std::shared_ptr<const SourceTree> all;
  if (context_.ignore_list() != nullptr && filter_.may_report("CopyIgnoredFile")) all = context_.unfiltered();
  for (const parser::ContextCopy& copy : copies) {
    for (const parser::Word& source : copy.sources) {
      if (all) check_ignored(copy, source, *all);
      if (filter_.may_report("SecretCopied")) check_secrets(copy, source);
    }
    if (deep_ && copy.instruction->name == "ADD" && filter_.may_report("AddWhereCopySuffices")) check_add(copy);
  }
}

// Judged per path: a source is hidden when nothing of what it names can be seen.
void ContextChecks::check_ignored(const parser::ContextCopy& copy, const parser::Word& source, const SourceTree& all) {
  const parser::IgnoreList& ignore = *context_.ignore_list();
  const std::string path = in_context(source.text);
  std::string hidden = path;  // a path that the rule decides about
  if (path.empty()) {
    const auto entries = all.list(""), visible = context_.list("");
    if (!entries || !visible || entries->empty() || !visible->empty()) return;
    hidden = entries->front().name;
  } else if (parser::has_wildcards(path)) {
    const std::vector<std::string> found = matches(all, path);
    if (found.empty() || !matches(context_, path).empty()) return;
    hidden = found.front();
  } else {
    hidden = parser::unescape_glob(path);
    const auto visible = context_.lstat(hidden);
    if (!visible || *visible) return;
  }
  const parser::IgnoreRule* rule = ignore.decide(hidden);
  if (rule == nullptr || rule->negated) return;
  add("CopyIgnoredFile", source.range,
      fmt::format("Attempting to {} file {} that is excluded by .dockerignore", copy.instruction->name == "ADD" ? "Add" : "Copy", go_quote(clean_path(source.text))),
      {fmt::format("{}:{} hides it: {}", ignore.file(), rule->line, printable(rule->text)),
       fmt::format("take that line away, or add !{} below it", printable(path.empty() ? hidden : path))});
}

void ContextChecks::check_secrets(const parser::ContextCopy& copy, const parser::Word& source) {
  const auto* body = std::get_if<parser::Copy>(&copy.instruction->body);
  std::vector<std::string> patterns;
  for (const parser::Word& exclude : body->excludes) patterns.push_back(exclude.text);
  const auto excludes = parser::IgnoreList::from_patterns(patterns);
  if (!excludes) return;
  std::vector<std::string> secrets;
  for (const std::string& path : matches(context_, in_context(source.text))) {
    const auto info = context_.lstat(path);
    if (!info || !*info) continue;
    if ((*info)->type != EntryType::kDirectory) {
      if (is_secret(context_, path) && !excludes->ignored(std::string(name_of(path)))) secrets.push_back(path);
      continue;
    }
    for (const std::string& secret : secrets_) {
      if ((path.empty() || is_below(secret, path)) && !excludes->ignored(path.empty() ? secret : secret.substr(path.size() + 1))) secrets.push_back(secret);
    }
  }
  if (secrets.empty()) return;
  constexpr size_t kShown = 3;
  std::string names;
  for (size_t i = 0; i < std::min(secrets.size(), kShown); ++i) names += (i == 0 ? "" : ", ") + printable(secrets[i]);
  if (secrets.size() > kShown) names += fmt::format(" and {} more", secrets.size() - kShown);
  add("SecretCopied", source.range, fmt::format("{} puts {} into a layer, which usually holds a secret", copy.instruction->name, names),
      {"removing it in a later layer does not take it out of the image", "name it in .dockerignore; a RUN that needs it gets it with --mount=type=secret"});
}

// Known to be neither an archive nor missing.
bool ContextChecks::is_plain(const std::string& path) const {
  const auto resolved = context_.resolve(path, true);
  if (!resolved) return false;
  const auto info = context_.lstat(*resolved);
  if (!info || !*info) return false;
  if ((*info)->type == EntryType::kDirectory) return true;
  const auto archive = is_archive(context_, *resolved);
  return archive && !*archive;
}

void ContextChecks::check_add(const parser::ContextCopy& copy) {
  const parser::Instruction& i = *copy.instruction;
  const auto* body = std::get_if<parser::Copy>(&i.body);
  const bool plain_flags = !body->checksum && !body->keep_git_dir && !body->unpack;
  // Something that is fetched is not among the sources.
  if (!plain_flags || copy.sources.size() != body->sources.size()) return;
  for (const parser::Word& source : copy.sources) {
    const std::vector<std::string> found = matches(context_, in_context(source.text));
    if (found.empty() || !std::all_of(found.begin(), found.end(), [&](const std::string& p) { return is_plain(p); })) return;
  }
  SourceRange range = i.range;
  range.end_line = range.line;
  range.end_column = range.column + static_cast<uint32_t>(i.name.size());
  const bool lower = i.original.starts_with("add");
  // What a variable or a pattern names can be an archive another time.
  const bool fixed = std::all_of(body->sources.begin(), body->sources.end(), [](const parser::Word& s) { return s.text.find_first_of("$*?[") == std::string::npos; });
  add("AddWhereCopySuffices", range, "this ADD fetches and unpacks nothing, so COPY does the same", {"ADD would unpack the file if it became an archive one day"},
      fixed ? std::optional(Mend{range, lower ? "copy" : "COPY"}) : std::nullopt);
}

// A rule that can match at the root only, and what it does not match further down.
struct ContextChecks::Rooted {
  const parser::IgnoreRule* rule;
  std::string first;
  size_t count = 0;
};

void ContextChecks::walk(const std::string& directory, std::vector<Rooted>& rules) {
  const auto entries = context_.list(directory);
  if (!entries) return;
  for (const DirectoryEntry& entry : *entries) {
    const std::string path = child_of(directory, entry.name);
    for (Rooted& rooted : rules) {
      if (directory.empty()) break;
      const auto match = parser::match_glob(rooted.rule->pattern, entry.name);
      if (!match || !*match) continue;
      if (rooted.count++ == 0) rooted.first = path;
    }
    if (entry.type == EntryType::kDirectory) {
      walk(path, rules);
    } else if (is_secret(context_, path)) {
      secrets_.push_back(path);
    }
  }
}

void ContextChecks::check_directories() {
  std::vector<Rooted> rules;
  const parser::IgnoreList* ignore = context_.ignore_list();
  if (ignore != nullptr) {
    for (const parser::IgnoreRule& rule : ignore->rules()) {
      const bool everything = rule.pattern == "*" || rule.pattern == "." || rule.pattern.find("**") != std::string::npos;
      const bool on_purpose = rule.text.starts_with("/");
      if (!rule.negated && !everything && !on_purpose && rule.pattern.find('/') == std::string::npos) rules.push_back({&rule, {}, 0});
    }
  }
  walk("", rules);
  for (const Rooted& rooted : rules) {
    if (rooted.count == 0) continue;
    Diagnostic d;
    d.severity = Severity::kWarning;
    d.rule = "IgnoreOnlyMatchesRoot";
    d.file = ignore->file();
    d.range = {rooted.rule->line, 1, rooted.rule->line, static_cast<uint32_t>(rooted.rule->text.size() + 1)};
    d.line_text = rooted.rule->text;
    d.message = fmt::format("{} matches at the root of the context only, not {}{}", printable(rooted.rule->text), printable(rooted.first),
                            rooted.count > 1 ? fmt::format(" and {} more", rooted.count - 1) : "");
    d.notes = {fmt::format("write **/{} to match at every depth", printable(rooted.rule->pattern))};
    about_ignore_file.push_back(std::move(d));
  }
}

}  // namespace lamina::builder::internal
