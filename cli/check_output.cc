#include "cli/check_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/table.h"

namespace lamina::cli {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSyntaxRule = "DockerfileError";  // SARIF wants a rule for what has none

std::string dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

std::string plural(size_t count, const std::string& what) { return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s"); }

size_t count_errors(const builder::CheckReport& report) {
  return static_cast<size_t>(std::count_if(report.diagnostics.begin(), report.diagnostics.end(), [](const Diagnostic& d) { return d.severity == Severity::kError; }));
}

// --- text -------------------------------------------------------------------------------------------

std::string mend_text(const Mend& mend) {
  if (mend.replacement.empty()) return "--fix removes it";
  std::string text;
  for (const std::string& line : split(mend.replacement, '\n')) text += (text.empty() ? "" : " / ") + printable(line);
  return "--fix writes " + text;
}

// --- JSON -------------------------------------------------------------------------------------------

Json position(uint32_t line, uint32_t column) {
  Json json = {{"line", line}};
  if (column > 1) json["character"] = column - 1;
  return json;
}

Json range_json(const SourceRange& range) { return {{"start", position(range.line, range.column)}, {"end", position(range.end_line, range.end_column)}}; }

Json location_json(const SourceRange& range, size_t source = 0) {
  Json json = Json::object();
  if (source != 0) json["sourceIndex"] = source;
  if (range.valid()) json["ranges"] = Json::array({range_json(range)});
  return json;
}

Json source_json(const std::string& file, const std::string& language, const std::string& text) {
  Json json = {{"filename", file}};
  if (!language.empty()) json["language"] = language;
  json["data"] = encode_base64(text);
  return json;
}

// --- SARIF ------------------------------------------------------------------------------------------

// The column in code points of a column in bytes.
uint32_t code_point_column(std::string_view line, uint32_t column) {
  const std::string_view before = line.substr(0, std::min<size_t>(column == 0 ? 0 : column - 1, line.size()));
  return 1 + static_cast<uint32_t>(std::count_if(before.begin(), before.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

Json region_json(const builder::CheckReport& report, const std::string& file, const SourceRange& range) {
  Json region = {{"startLine", range.line}};
  if (file != report.file || range.column == 0) return region;
  region["startColumn"] = code_point_column(line_of(*report.text, range.line), range.column);
  if (range.end_line != 0) {
    region["endLine"] = range.end_line;
    region["endColumn"] = code_point_column(line_of(*report.text, range.end_line), range.end_column);
  }
  return region;
}

// A path as a URI reference: what may not stand in one is escaped.
std::string uri_of(const std::string& file) {
  if (file == "-") return "Dockerfile";
  std::string uri = file.starts_with("/") ? "file://" : "";
  for (const char c : file) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("-._~/").find(c) != std::string_view::npos;
    uri += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return uri;
}

Json result_json(const builder::CheckReport& report, const Diagnostic& d) {
  std::string text = d.message;
  for (const std::string& note : d.notes) text += "\n" + note;
  const std::string rule = d.rule.empty() ? kSyntaxRule : d.rule;
  Json result = {{"ruleId", rule}, {"level", d.severity == Severity::kError ? "error" : "warning"}, {"message", {{"text", text}}}};
  const Json artifact = {{"uri", uri_of(d.file)}};
  Json physical = {{"artifactLocation", artifact}};
  if (d.range.valid()) physical["region"] = region_json(report, d.file, d.range);
  result["locations"] = Json::array({{{"physicalLocation", physical}}});
  if (d.mend && d.file == report.file) {
    const Json replacement = {{"deletedRegion", region_json(report, d.file, d.mend->range)}, {"insertedContent", {{"text", d.mend->replacement}}}};
    const Json change = {{"artifactLocation", artifact}, {"replacements", Json::array({replacement})}};
    result["fixes"] = Json::array({{{"description", {{"text", mend_text(*d.mend)}}}, {"artifactChanges", Json::array({change})}}});
  }
  return result;
}

Json rule_json(const std::string& id, const std::string& description, const std::string& url) {
  Json json = {{"id", id}, {"shortDescription", {{"text", description}}}};
  if (!url.empty()) json["helpUri"] = url;
  return json;
}

}  // namespace

std::string check_text(const builder::CheckReport& report) {
  std::string out;
  for (const Diagnostic& d : report.diagnostics) {
    out += d.render() + "\n";
    if (d.mend) out += "mend: " + mend_text(*d.mend) + "\n";
    out += "\n";
  }
  if (report.diagnostics.empty()) return "Check complete, no warnings found.\n";
  const size_t errors = count_errors(report), warnings = report.diagnostics.size() - errors;
  std::string counts = errors > 0 ? plural(errors, "error") : "";
  if (warnings > 0) counts += (counts.empty() ? "" : " and ") + plural(warnings, "warning");
  return out + "Check complete, " + counts + " found.\n";
}

std::string check_json(const builder::CheckReport& report) {
  Json json = {{"warnings", Json::array()}, {"sources", Json::array({source_json(report.file, "Dockerfile", *report.text)})}};
  std::vector<std::string> files = {report.file};
  for (const Diagnostic& d : report.diagnostics) {
    auto at = std::find(files.begin(), files.end(), d.file);
    if (at == files.end()) {
      files.push_back(d.file);
      json["sources"].push_back(source_json(d.file, "", ""));
      at = std::prev(files.end());
    }
    const auto source = static_cast<size_t>(at - files.begin());
    if (d.severity == Severity::kError) {
      if (!json.contains("buildError")) json["buildError"] = {{"message", d.message}, {"location", location_json(d.range, source)}};
      json["errors"].push_back({{"message", d.message}, {"notes", d.notes}, {"location", location_json(d.range, source)}});
      continue;
    }
    Json warning = {{"ruleName", d.rule}};
    if (const parser::CheckRule* rule = parser::find_check_rule(d.rule)) {
      warning["description"] = rule->description;
      if (!rule->url().empty()) warning["url"] = rule->url();
    }
    warning["detail"] = d.message;
    warning["location"] = location_json(d.range, source);
    if (!d.notes.empty()) warning["notes"] = d.notes;
    if (d.mend) warning["fix"] = {{"range", range_json(d.mend->range)}, {"replacement", d.mend->replacement}};
    json["warnings"].push_back(std::move(warning));
  }
  return dump(json);
}

std::string check_sarif(const builder::CheckReport& report, const std::string& version) {
  Json rules = Json::array({rule_json(kSyntaxRule, "The Dockerfile cannot be used as it is", "")});
  for (const parser::CheckRule& rule : parser::check_rules()) rules.push_back(rule_json(std::string(rule.name), std::string(rule.description), rule.url()));
  Json results = Json::array();
  for (const Diagnostic& d : report.diagnostics) results.push_back(result_json(report, d));
  const Json driver = {{"name", "Lamina"}, {"version", version}, {"rules", std::move(rules)}};
  const Json run = {{"tool", {{"driver", driver}}}, {"columnKind", "unicodeCodePoints"}, {"results", std::move(results)}};
  return dump({{"$schema", "https://json.schemastore.org/sarif-2.1.0.json"}, {"version", "2.1.0"}, {"runs", Json::array({run})}});
}

std::string outline_text(const parser::Outline& outline) {
  std::string out;
  if (!outline.name.empty() || !outline.description.empty()) {
    out += "TARGET: " + outline.name + "\n";
    if (!outline.description.empty()) out += "DESCRIPTION: " + printable(outline.description) + "\n";
    out += "\n";
  }
  if (!outline.args.empty()) {
    std::vector<std::vector<std::string>> rows = {{"BUILD ARG", "VALUE", "DESCRIPTION"}};
    for (const parser::OutlineArg& a : outline.args) rows.push_back({printable(a.name), printable(a.value), printable(a.description)});
    out += table(rows) + "\n";
  }
  const auto list = [&](const char* title, const std::vector<parser::OutlineMount>& mounts) {
    if (mounts.empty()) return;
    std::vector<std::vector<std::string>> rows = {{title, "REQUIRED"}};
    for (const parser::OutlineMount& m : mounts) rows.push_back({printable(m.id), m.required ? "true" : ""});
    out += table(rows) + "\n";
  };
  list("SECRET", outline.secrets);
  list("SSH", outline.ssh);
  if (!outline.caches.empty()) {
    out += "CACHE MOUNT\n";
    for (const parser::OutlineMount& m : outline.caches) out += printable(m.id) + "\n";
    out += "\n";
  }
  if (out.empty()) return "The target takes no arguments, secrets, ssh agents or cache mounts.\n";
  out.pop_back();  // the empty line after the last table
  return out;
}

std::string outline_json(const parser::Outline& outline, const std::string& source) {
  Json json = Json::object();
  if (!outline.name.empty()) json["name"] = outline.name;
  if (!outline.description.empty()) json["description"] = outline.description;
  for (const parser::OutlineArg& a : outline.args) {
    Json arg = {{"name", a.name}};
    if (!a.description.empty()) arg["description"] = a.description;
    if (!a.value.empty()) arg["value"] = a.value;
    arg["location"] = location_json(a.range);
    json["args"].push_back(std::move(arg));
  }
  const auto list = [&](const char* member, const char* id, const std::vector<parser::OutlineMount>& mounts) {
    for (const parser::OutlineMount& m : mounts) {
      Json mount = {{id, m.id}};
      if (m.required) mount["required"] = true;
      mount["location"] = location_json(m.range);
      json[member].push_back(std::move(mount));
    }
  };
  list("secrets", "name", outline.secrets);
  list("ssh", "name", outline.ssh);
  list("cache", "ID", outline.caches);
  json["sources"] = Json::array({encode_base64(source)});
  return dump(json);
}

std::string targets_text(const std::vector<parser::Target>& targets) {
  std::vector<std::vector<std::string>> rows = {{"TARGET", "DESCRIPTION"}};
  for (const parser::Target& t : targets) {
    std::string name = t.name;
    if (t.is_default) name += name.empty() ? "(default)" : " (default)";
    rows.push_back({std::move(name), printable(t.description)});
  }
  return table(rows);
}

std::string targets_json(const std::vector<parser::Target>& targets, const std::string& source) {
  Json json = {{"targets", Json::array()}, {"sources", Json::array({encode_base64(source)})}};
  for (const parser::Target& t : targets) {
    Json target = Json::object();
    if (!t.name.empty()) target["name"] = t.name;
    if (t.is_default) target["default"] = true;
    if (!t.description.empty()) target["description"] = t.description;
    if (!t.base.empty()) target["base"] = t.base;
    if (!t.platform.empty()) target["platform"] = t.platform;
    target["location"] = location_json(t.range);
    json["targets"].push_back(std::move(target));
  }
  return dump(json);
}

}  // namespace lamina::cli
