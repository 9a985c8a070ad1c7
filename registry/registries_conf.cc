#include "registry/internal/registries_conf.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include "base/files.h"
#include "base/text.h"

namespace lamina::registry::internal {

namespace {

constexpr uint64_t kMaxFile = 4 << 20;
constexpr const char* kSystem = "/etc/containers/registries.conf";

std::string environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets it
  return value == nullptr ? std::string() : std::string(value);
}

// "registry/repository[:tag][@digest]": what prefixes are compared with.
std::string whole_name(const oci::Reference& name) {
  std::string text = name.registry() + "/" + name.repository();
  if (name.tag()) text += ":" + *name.tag();
  if (name.digest()) text += "@" + name.digest()->text();
  return text;
}

// How many bytes of `name` the prefix covers; npos when it does not apply.
size_t match(const std::string& name, const std::string& prefix) {
  if (prefix.compare(0, 2, "*.") == 0) {
    // "*.example.com": any host below it, whole hosts only.
    const size_t host = name.find('/');
    const std::string suffix = prefix.substr(1);
    if (host > suffix.size() && name.compare(host - suffix.size(), suffix.size(), suffix) == 0) return host;
    return std::string::npos;
  }
  if (name.compare(0, prefix.size(), prefix) != 0) return std::string::npos;
  if (name.size() == prefix.size()) return prefix.size();
  const char next = name[prefix.size()];
  return next == '/' || next == ':' || next == '@' ? prefix.size() : std::string::npos;
}

std::string without_slash(std::string text) {
  while (!text.empty() && text.back() == '/') text.pop_back();
  return text;
}

Error wrong(const std::string& file, const toml::node& node, const std::string& what) {
  return Error(ErrorKind::kInvalidInput, fmt::format("{}:{}: {}", file, node.source().begin.line, what));
}

Result<std::string> text_of(const toml::table& table, const char* key, const std::string& file) {
  const toml::node* node = table.get(key);
  if (node == nullptr) return std::string();
  const auto* text = node->as_string();
  if (text == nullptr) return wrong(file, *node, fmt::format("{} is not a text", key));
  return text->get();
}

Result<bool> flag_of(const toml::table& table, const char* key, const std::string& file) {
  const toml::node* node = table.get(key);
  if (node == nullptr) return false;
  const auto* flag = node->as_boolean();
  if (flag == nullptr) return wrong(file, *node, fmt::format("{} is neither true nor false", key));
  return flag->get();
}

Result<void> add_file(RegistriesConf& conf, const std::string& path) {
  ASSIGN_OR_RETURN_WITH(const auto text, read_file_if_exists(AT_FDCWD, path, kMaxFile), "reading the settings of registries");
  if (text) RETURN_IF_ERROR(conf.add(*text, path));
  return {};
}

Result<void> add_directory(RegistriesConf& conf, const std::string& path) {
  const auto directory = open_directory(AT_FDCWD, path);
  if (!directory) return {};  // it need not exist
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(directory->get()));
  for (const std::string& name : names) {
    if (name.ends_with(".conf")) RETURN_IF_ERROR(add_file(conf, path + "/" + name));
  }
  return {};
}

}  // namespace

// From a parsed file to entries.
struct RegistriesConf::Reader {
  const std::string& file;

  Result<Place> mirror(const toml::table& table, bool digest_only) const {
    Place place;
    ASSIGN_OR_RETURN(place.location, text_of(table, "location", file));
    ASSIGN_OR_RETURN(place.insecure, flag_of(table, "insecure", file));
    ASSIGN_OR_RETURN(const std::string use, text_of(table, "pull-from-mirror", file));
    place.location = without_slash(place.location);
    if (place.location.empty()) return wrong(file, table, "a mirror has no location");
    if (!use.empty() && use != "all" && use != "digest-only" && use != "tag-only") {
      return wrong(file, table, fmt::format("pull-from-mirror is all, digest-only or tag-only, not \"{}\"", printable(use)));
    }
    place.by_digest = use != "tag-only";
    place.by_tag = use != "digest-only" && !digest_only;
    return place;
  }

  Result<Registry> registry(const toml::table& table) const {
    Registry out;
    out.file = file;
    ASSIGN_OR_RETURN(out.prefix, text_of(table, "prefix", file));
    ASSIGN_OR_RETURN(out.self.location, text_of(table, "location", file));
    ASSIGN_OR_RETURN(out.self.insecure, flag_of(table, "insecure", file));
    ASSIGN_OR_RETURN(out.blocked, flag_of(table, "blocked", file));
    ASSIGN_OR_RETURN(const bool digest_only, flag_of(table, "mirror-by-digest-only", file));
    out.prefix = without_slash(out.prefix);
    out.self.location = without_slash(out.self.location);
    const bool wildcard = out.prefix.compare(0, 2, "*.") == 0;
    if (out.prefix.empty() && out.self.location.empty()) return wrong(file, table, "a registry has neither prefix nor location");
    if (out.prefix.empty()) out.prefix = out.self.location;
    if (out.self.location.empty() && !wildcard) out.self.location = out.prefix;
    if (out.prefix.find("://") != std::string::npos || out.self.location.find("://") != std::string::npos) {
      return wrong(file, table, "prefix and location are written without a scheme such as https://");
    }
    if (const toml::node* node = table.get("mirror")) {
      const toml::array* mirrors = node->as_array();
      if (mirrors == nullptr) return wrong(file, *node, "write [[registry.mirror]]");
      for (const toml::node& one : *mirrors) {
        const toml::table* entry = one.as_table();
        if (entry == nullptr) return wrong(file, one, "write [[registry.mirror]]");
        ASSIGN_OR_RETURN(Place place, mirror(*entry, digest_only));
        out.mirrors.push_back(std::move(place));
      }
    }
    return out;
  }

  // Version 1: [registries.insecure] registries = ["host"], [registries.block] alike.
  Result<std::vector<Registry>> old_lists(const toml::table& root) const {
    std::vector<Registry> out;
    for (const char* list : {"insecure", "block"}) {
      const toml::array* hosts = root["registries"][list]["registries"].as_array();
      if (hosts == nullptr) continue;
      for (const toml::node& host : *hosts) {
        if (!host.is_string()) return wrong(file, host, "a host is not a text");
        const std::string name = without_slash(host.as_string()->get());
        auto known = std::find_if(out.begin(), out.end(), [&](const Registry& r) { return r.prefix == name; });
        if (known == out.end()) known = out.insert(out.end(), Registry{name, {name}, false, {}, file});
        (std::string_view(list) == "block" ? known->blocked : known->self.insecure) = true;
      }
    }
    return out;
  }
};

Result<void> RegistriesConf::add(std::string_view text, const std::string& file) {
  const toml::parse_result parsed = toml::parse(text, file);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return Error(ErrorKind::kInvalidInput, fmt::format("{}:{}:{}: {}", file, error.source().begin.line, error.source().begin.column, printable(std::string(error.description()))));
  }
  const toml::table& root = parsed.table();
  const Reader reader{file};
  ASSIGN_OR_RETURN(std::vector<Registry> found, reader.old_lists(root));
  if (const toml::node* node = root.get("registry")) {
    const toml::array* entries = node->as_array();
    if (entries == nullptr) return wrong(file, *node, "write [[registry]]");
    for (const toml::node& one : *entries) {
      const toml::table* entry = one.as_table();
      if (entry == nullptr) return wrong(file, one, "write [[registry]]");
      ASSIGN_OR_RETURN(Registry registry, reader.registry(*entry));
      found.push_back(std::move(registry));
    }
  }
  for (Registry& fresh : found) {
    std::erase_if(registries_, [&](const Registry& old) { return old.prefix == fresh.prefix && old.file != file; });
    registries_.push_back(std::move(fresh));
  }
  return {};
}

Result<RegistriesConf> RegistriesConf::load() {
  RegistriesConf conf;
  std::string user = environment("XDG_CONFIG_HOME");
  if (user.empty() && !environment("HOME").empty()) user = environment("HOME") + "/.config";
  if (!user.empty()) user += "/containers/registries.conf";
  std::string main = environment("CONTAINERS_REGISTRIES_CONF");
  const bool own = main.empty() && !user.empty() && ::access(user.c_str(), F_OK) == 0;
  if (main.empty()) main = own ? user : kSystem;
  RETURN_IF_ERROR(add_file(conf, main));
  // A user's own file also hides the system's drop-ins.
  if (!own) RETURN_IF_ERROR(add_directory(conf, std::string(kSystem) + ".d"));
  if (!user.empty()) RETURN_IF_ERROR(add_directory(conf, user + ".d"));
  return conf;
}

const RegistriesConf::Registry* RegistriesConf::find(const oci::Reference& name) const {
  const std::string whole = whole_name(name);
  const Registry* best = nullptr;
  for (const Registry& registry : registries_) {
    if (match(whole, registry.prefix) == std::string::npos) continue;
    if (best == nullptr || registry.prefix.size() > best->prefix.size()) best = &registry;
  }
  return best;
}

Result<oci::Reference> RegistriesConf::rewrite(const oci::Reference& name, const Registry& registry, const std::string& location) {
  if (location.empty()) return name;
  const std::string whole = whole_name(name);
  const std::string text = location + whole.substr(match(whole, registry.prefix));
  auto reference = oci::Reference::parse(text);
  if (!reference || reference->registry() != location.substr(0, location.find('/'))) {
    return Error(ErrorKind::kInvalidInput, fmt::format("{} rewrites {} to {}, which is no image name with a host", registry.file, name.familiar(), printable(text)));
  }
  return reference;
}

Result<std::vector<Endpoint>> RegistriesConf::for_pull(const oci::Reference& name) const {
  const Registry* registry = find(name);
  if (registry == nullptr) return std::vector{Endpoint{name, false, false}};
  if (registry->blocked) return Error(ErrorKind::kDenied, fmt::format("{} is blocked by {}", registry->prefix, registry->file));
  std::vector<Endpoint> out;
  for (const Place& mirror : registry->mirrors) {
    if (name.digest() ? !mirror.by_digest : !mirror.by_tag) continue;
    ASSIGN_OR_RETURN(oci::Reference reference, rewrite(name, *registry, mirror.location));
    out.push_back({std::move(reference), mirror.insecure, true});
  }
  ASSIGN_OR_RETURN(oci::Reference self, rewrite(name, *registry, registry->self.location));
  out.push_back({std::move(self), registry->self.insecure, false});
  return out;
}

Result<Endpoint> RegistriesConf::for_push(const oci::Reference& name) const {
  const Registry* registry = find(name);
  if (registry == nullptr) return Endpoint{name, false, false};
  if (registry->blocked) return Error(ErrorKind::kDenied, fmt::format("{} is blocked by {}", registry->prefix, registry->file));
  // The place's own "insecure" is about its location, which is another host when the prefix is rewritten.
  const bool same_host = registry->self.location.empty() || registry->self.location.substr(0, registry->self.location.find('/')) == name.registry();
  return Endpoint{name, same_host && registry->self.insecure, false};
}

}  // namespace lamina::registry::internal
