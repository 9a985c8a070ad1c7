#include "oci/image_config.h"

#include "base/json.h"

namespace lamina::oci {

namespace {

using json::Json;

Result<std::set<std::string>> keys_of(const Json& json, const char* name) {
  std::set<std::string> out;
  ASSIGN_OR_RETURN(const Json* object, json::get_object(json, name));
  if (object == nullptr) return out;
  for (const auto& item : object->items()) out.insert(item.key());
  return out;
}

Json set_of(const std::set<std::string>& names) {
  Json json = Json::object();
  for (const std::string& n : names) json[n] = Json::object();
  return json;
}

Result<HealthcheckConfig> healthcheck_from(const Json& json) {
  HealthcheckConfig h;
  ASSIGN_OR_RETURN(auto test, json::get_strings(json, "Test"));
  ASSIGN_OR_RETURN(const auto interval, json::get_integer(json, "Interval"));
  ASSIGN_OR_RETURN(const auto timeout, json::get_integer(json, "Timeout"));
  ASSIGN_OR_RETURN(const auto start_period, json::get_integer(json, "StartPeriod"));
  ASSIGN_OR_RETURN(const auto start_interval, json::get_integer(json, "StartInterval"));
  ASSIGN_OR_RETURN(const auto retries, json::get_integer(json, "Retries"));
  if (test) h.test = std::move(*test);
  h.interval = std::chrono::nanoseconds(interval.value_or(0));
  h.timeout = std::chrono::nanoseconds(timeout.value_or(0));
  h.start_period = std::chrono::nanoseconds(start_period.value_or(0));
  h.start_interval = std::chrono::nanoseconds(start_interval.value_or(0));
  h.retries = retries.value_or(0);
  return h;
}

Json healthcheck_to(const HealthcheckConfig& h) {
  Json json = Json::object();
  if (!h.test.empty()) json["Test"] = h.test;
  if (h.interval.count() != 0) json["Interval"] = h.interval.count();
  if (h.timeout.count() != 0) json["Timeout"] = h.timeout.count();
  if (h.start_period.count() != 0) json["StartPeriod"] = h.start_period.count();
  if (h.start_interval.count() != 0) json["StartInterval"] = h.start_interval.count();
  if (h.retries != 0) json["Retries"] = h.retries;
  return json;
}

// What is left in the object after the known members were read is kept as text.
void keep_unknown(const Json& json, const std::set<std::string>& known, std::map<std::string, std::string>& out) {
  for (const auto& [name, value] : json.items()) {
    if (!known.contains(name) && !value.is_null()) out.emplace(name, json::dump(value));
  }
}

const std::set<std::string> kConfigMembers = {
    "User",   "ExposedPorts", "Env",         "Entrypoint",  "Cmd",     "Volumes", "WorkingDir",
    "Labels", "StopSignal",   "Healthcheck", "OnBuild",     "Shell",   "ArgsEscaped"};
const std::set<std::string> kTopMembers = {"created",    "author",      "architecture", "os",     "os.version",
                                           "os.features", "variant",     "config",       "rootfs", "history"};

Result<void> read_config(const Json& json, ImageConfig& c) {
  ASSIGN_OR_RETURN(const auto user, json::get_string(json, "User"));
  ASSIGN_OR_RETURN(c.exposed_ports, keys_of(json, "ExposedPorts"));
  ASSIGN_OR_RETURN(auto env, json::get_strings(json, "Env"));
  ASSIGN_OR_RETURN(c.entrypoint, json::get_strings(json, "Entrypoint"));
  ASSIGN_OR_RETURN(c.cmd, json::get_strings(json, "Cmd"));
  ASSIGN_OR_RETURN(c.volumes, keys_of(json, "Volumes"));
  ASSIGN_OR_RETURN(const auto working_dir, json::get_string(json, "WorkingDir"));
  ASSIGN_OR_RETURN(c.labels, json::get_string_map(json, "Labels"));
  ASSIGN_OR_RETURN(const auto stop_signal, json::get_string(json, "StopSignal"));
  ASSIGN_OR_RETURN(auto on_build, json::get_strings(json, "OnBuild"));
  ASSIGN_OR_RETURN(c.shell, json::get_strings(json, "Shell"));
  ASSIGN_OR_RETURN(const auto escaped, json::get_bool(json, "ArgsEscaped"));
  ASSIGN_OR_RETURN(const Json* healthcheck, json::get_object(json, "Healthcheck"));
  if (healthcheck != nullptr) {
    ASSIGN_OR_RETURN(c.healthcheck, healthcheck_from(*healthcheck));
  }
  c.user = user.value_or("");
  if (env) c.env = std::move(*env);
  c.working_dir = working_dir.value_or("");
  c.stop_signal = stop_signal.value_or("");
  if (on_build) c.on_build = std::move(*on_build);
  c.args_escaped = escaped.value_or(false);
  keep_unknown(json, kConfigMembers, c.config_extra);
  return {};
}

Result<std::vector<HistoryEntry>> read_history(const Json& json) {
  std::vector<HistoryEntry> out;
  ASSIGN_OR_RETURN(const Json* array, json::get_array(json, "history"));
  if (array == nullptr) return out;
  for (const Json& item : *array) {
    if (!item.is_object()) return Error(ErrorKind::kCorrupt, "a history entry is not an object");
    ASSIGN_OR_RETURN(const auto created, json::get_string(item, "created"));
    ASSIGN_OR_RETURN(const auto created_by, json::get_string(item, "created_by"));
    ASSIGN_OR_RETURN(const auto author, json::get_string(item, "author"));
    ASSIGN_OR_RETURN(const auto comment, json::get_string(item, "comment"));
    ASSIGN_OR_RETURN(const auto empty, json::get_bool(item, "empty_layer"));
    out.push_back({created.value_or(""), created_by.value_or(""), author.value_or(""),
                   comment.value_or(""), empty.value_or(false)});
  }
  return out;
}

Json history_to(const std::vector<HistoryEntry>& history) {
  Json array = Json::array();
  for (const HistoryEntry& h : history) {
    Json item = Json::object();
    if (!h.created.empty()) item["created"] = h.created;
    if (!h.created_by.empty()) item["created_by"] = h.created_by;
    if (!h.author.empty()) item["author"] = h.author;
    if (!h.comment.empty()) item["comment"] = h.comment;
    if (h.empty_layer) item["empty_layer"] = true;
    array.push_back(std::move(item));
  }
  return array;
}

Json config_to(const ImageConfig& c) {
  Json json = Json::object();
  for (const auto& [name, text] : c.config_extra) json[name] = Json::parse(text, nullptr, false);
  if (!c.user.empty()) json["User"] = c.user;
  if (!c.exposed_ports.empty()) json["ExposedPorts"] = set_of(c.exposed_ports);
  if (!c.env.empty()) json["Env"] = c.env;
  if (c.entrypoint) json["Entrypoint"] = *c.entrypoint;
  if (c.cmd) json["Cmd"] = *c.cmd;
  if (!c.volumes.empty()) json["Volumes"] = set_of(c.volumes);
  if (!c.working_dir.empty()) json["WorkingDir"] = c.working_dir;
  if (!c.labels.empty()) json["Labels"] = c.labels;
  if (!c.stop_signal.empty()) json["StopSignal"] = c.stop_signal;
  if (c.healthcheck) json["Healthcheck"] = healthcheck_to(*c.healthcheck);
  if (!c.on_build.empty()) json["OnBuild"] = c.on_build;
  if (c.shell) json["Shell"] = *c.shell;
  if (c.args_escaped) json["ArgsEscaped"] = true;
  return json;
}

}  // namespace

Result<ImageConfig> ImageConfig::parse(std::string_view bytes) {
  ASSIGN_OR_RETURN(const Json json, json::parse_object(bytes, "the image config"));
  ImageConfig c;
  ASSIGN_OR_RETURN(const auto created, json::get_string(json, "created"));
  ASSIGN_OR_RETURN(const auto author, json::get_string(json, "author"));
  ASSIGN_OR_RETURN(const auto os, json::get_string(json, "os"));
  ASSIGN_OR_RETURN(const auto architecture, json::get_string(json, "architecture"));
  ASSIGN_OR_RETURN(const auto variant, json::get_string(json, "variant"));
  ASSIGN_OR_RETURN(const auto os_version, json::get_string(json, "os.version"));
  ASSIGN_OR_RETURN(auto os_features, json::get_strings(json, "os.features"));
  c.created = created.value_or("");
  c.author = author.value_or("");
  c.platform.os = os.value_or("linux");
  c.platform.architecture = architecture.value_or("");
  c.platform.variant = variant.value_or("");
  c.platform.os_version = os_version.value_or("");
  if (os_features) c.platform.os_features = std::move(*os_features);
  ASSIGN_OR_RETURN(const Json* config, json::get_object(json, "config"));
  if (config != nullptr) RETURN_IF_ERROR(read_config(*config, c));
  ASSIGN_OR_RETURN(const Json* rootfs, json::get_object(json, "rootfs"));
  if (rootfs != nullptr) {
    ASSIGN_OR_RETURN(const auto ids, json::get_strings(*rootfs, "diff_ids"));
    if (ids) {
      for (const std::string& id : *ids) {
        auto parsed = DiffId::parse(id);
        if (!parsed) return Error(ErrorKind::kCorrupt, "diff_ids: " + parsed.error().message());
        c.diff_ids.push_back(std::move(*parsed));
      }
    }
  }
  ASSIGN_OR_RETURN(c.history, read_history(json));
  keep_unknown(json, kTopMembers, c.extra);
  return c;
}

std::string ImageConfig::to_json() const {
  Json json = Json::object();
  for (const auto& [name, text] : extra) json[name] = Json::parse(text, nullptr, false);
  if (!created.empty()) json["created"] = created;
  if (!author.empty()) json["author"] = author;
  json["os"] = platform.os;
  json["architecture"] = platform.architecture;
  if (!platform.variant.empty()) json["variant"] = platform.variant;
  if (!platform.os_version.empty()) json["os.version"] = platform.os_version;
  if (!platform.os_features.empty()) json["os.features"] = platform.os_features;
  json["config"] = config_to(*this);
  Json ids = Json::array();
  for (const DiffId& id : diff_ids) ids.push_back(id.text());
  json["rootfs"] = {{"type", "layers"}, {"diff_ids", std::move(ids)}};
  json["history"] = history_to(history);
  return json::dump(json);
}

std::optional<std::string> ImageConfig::env_value(std::string_view name) const {
  for (const std::string& e : env) {
    if (e.size() > name.size() && e[name.size()] == '=' && e.compare(0, name.size(), name) == 0) {
      return e.substr(name.size() + 1);
    }
  }
  return std::nullopt;
}

void ImageConfig::set_env(std::string_view name, std::string_view value) {
  std::string text = std::string(name) + "=" + std::string(value);
  for (std::string& e : env) {
    if (e.size() > name.size() && e[name.size()] == '=' && e.compare(0, name.size(), name) == 0) {
      e = std::move(text);
      return;
    }
  }
  env.push_back(std::move(text));
}

}  // namespace lamina::oci
