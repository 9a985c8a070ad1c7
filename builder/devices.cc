#include "builder/devices.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <yaml.h>

#include <algorithm>
#include <cerrno>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"

namespace lamina::builder {

namespace {

using json::Json;

constexpr const char* kClassAnnotation = "org.mobyproject.buildkit.device.class";
constexpr const char* kAllowAnnotation = "org.mobyproject.buildkit.device.autoallow";
constexpr size_t kMaxNodes = 200'000;  // aliases can multiply

Error bad(std::string message) { return Error(ErrorKind::kInvalidInput, std::move(message)); }

// YAML (and so JSON) as a JSON value, by the core schema of YAML 1.2.
class YamlReader {
 public:
  static Result<Json> read(std::string_view text) {
    YamlReader reader;
    if (yaml_parser_initialize(&reader.parser_) == 0) return Error(ErrorKind::kSystem, "no memory for a YAML parser");
    yaml_parser_set_input_string(&reader.parser_, reinterpret_cast<const unsigned char*>(text.data()), text.size());
    if (yaml_parser_load(&reader.parser_, &reader.document_) == 0) {
      const yaml_parser_t& p = reader.parser_;
      return bad(fmt::format("line {}: {}", p.problem_mark.line + 1, p.problem == nullptr ? "this is no YAML" : p.problem));
    }
    reader.loaded_ = true;
    yaml_node_t* root = yaml_document_get_root_node(&reader.document_);
    if (root == nullptr) return bad("the file is empty");
    return reader.value(*root, 0);
  }

 private:
  YamlReader() = default;
  YamlReader(const YamlReader&) = delete;
  ~YamlReader() {
    if (loaded_) yaml_document_delete(&document_);
    yaml_parser_delete(&parser_);
  }

  static std::string text_of(const yaml_node_t& node) {
    return std::string(reinterpret_cast<const char*>(node.data.scalar.value), node.data.scalar.length);
  }

  static Json scalar(const yaml_node_t& node) {
    std::string text = text_of(node);
    if (node.data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return text;
    if (text.empty() || text == "~" || text == "null") return nullptr;
    if (text == "true" || text == "false") return text == "true";
    // File modes are written as 0666 (octal in YAML 1.1, which Go's readers keep) or 0o666.
    const bool octal = text.size() > 1 && text[0] == '0';
    const auto number = octal ? parse_uint(text.compare(1, 1, "o") == 0 ? text.substr(2) : text.substr(1), 8) : std::nullopt;
    if (number) return static_cast<int64_t>(*number);
    if (const auto decimal = parse_int(text)) return *decimal;
    return text;
  }

  Result<Json> value(const yaml_node_t& node, int depth) {
    if (depth > 50 || ++nodes_ > kMaxNodes) return bad("the file is nested too deeply or too large");
    if (node.type == YAML_SCALAR_NODE) return scalar(node);
    if (node.type == YAML_SEQUENCE_NODE) {
      Json list = Json::array();
      for (auto* item = node.data.sequence.items.start; item < node.data.sequence.items.top; ++item) {
        ASSIGN_OR_RETURN(Json element, value(*yaml_document_get_node(&document_, *item), depth + 1));
        list.push_back(std::move(element));
      }
      return list;
    }
    Json object = Json::object();
    for (auto* pair = node.data.mapping.pairs.start; pair < node.data.mapping.pairs.top; ++pair) {
      const yaml_node_t* key = yaml_document_get_node(&document_, pair->key);
      if (key->type != YAML_SCALAR_NODE) return bad("a key is no text");
      ASSIGN_OR_RETURN(Json member, value(*yaml_document_get_node(&document_, pair->value), depth + 1));
      object[text_of(*key)] = std::move(member);
    }
    return object;
  }

  yaml_parser_t parser_{};
  yaml_document_t document_{};
  bool loaded_ = false;
  size_t nodes_ = 0;
};

Result<std::vector<const Json*>> objects_of(const Json& object, const char* name) {
  std::vector<const Json*> out;
  ASSIGN_OR_RETURN(const Json* list, json::get_array(object, name));
  if (list == nullptr) return out;
  for (const Json& item : *list) {
    if (!item.is_object()) return bad(fmt::format("{} has a member that is no object", name));
    out.push_back(&item);
  }
  return out;
}

Result<std::optional<uint32_t>> get_number(const Json& object, const char* name) {
  ASSIGN_OR_RETURN(const auto number, json::get_integer(object, name));
  if (!number) return std::optional<uint32_t>();
  if (*number < 0 || *number > UINT32_MAX) return bad(fmt::format("{} is out of range", name));
  return std::optional(static_cast<uint32_t>(*number));
}

Result<std::string> required_path(const Json& object, const char* name) {
  ASSIGN_OR_RETURN(const auto path, json::get_string(object, name));
  if (!path || path->empty() || path->front() != '/') return bad(fmt::format("{} is no absolute path", name));
  return clean_path(*path);
}

Result<DeviceNode> read_node(const Json& item) {
  DeviceNode node;
  ASSIGN_OR_RETURN(node.path, required_path(item, "path"));
  ASSIGN_OR_RETURN(const auto host, json::get_string(item, "hostPath"));
  node.host_path = host && !host->empty() ? *host : node.path;
  ASSIGN_OR_RETURN(const auto type, json::get_string(item, "type"));
  ASSIGN_OR_RETURN(const auto major, get_number(item, "major"));
  ASSIGN_OR_RETURN(const auto minor, get_number(item, "minor"));
  ASSIGN_OR_RETURN(node.mode, get_number(item, "fileMode"));
  ASSIGN_OR_RETURN(node.uid, get_number(item, "uid"));
  ASSIGN_OR_RETURN(node.gid, get_number(item, "gid"));
  struct stat st {};
  if (::stat(node.host_path.c_str(), &st) != 0) return system_error(errno, "stat", node.host_path);
  if (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode)) return bad(fmt::format("{} is no device", node.host_path));
  node.block = S_ISBLK(st.st_mode);
  if (type && !type->empty() && (*type == "b") != node.block) return bad(fmt::format("{} is not of type {}", node.host_path, printable(*type)));
  node.major = major.value_or(gnu_dev_major(st.st_rdev));
  node.minor = minor.value_or(gnu_dev_minor(st.st_rdev));
  if (!node.mode) node.mode = st.st_mode & 0777;
  return node;
}

Result<DeviceBind> read_bind(const Json& item, std::string& unsupported) {
  DeviceBind bind;
  ASSIGN_OR_RETURN(bind.host_path, required_path(item, "hostPath"));
  ASSIGN_OR_RETURN(bind.path, required_path(item, "containerPath"));
  ASSIGN_OR_RETURN(const auto type, json::get_string(item, "type"));
  ASSIGN_OR_RETURN(const auto options, json::get_strings(item, "options"));
  if (type && !type->empty() && *type != "bind" && *type != "none") unsupported = fmt::format("a mount of type {}", printable(*type));
  for (const std::string& option : options.value_or(std::vector<std::string>())) bind.read_only = bind.read_only || option == "ro";
  return bind;
}

// One "containerEdits" object, added to what is there.
Result<void> read_edits(const Json& holder, DeviceEdits& edits, std::string& unsupported) {
  ASSIGN_OR_RETURN(const Json* object, json::get_object(holder, "containerEdits"));
  if (object == nullptr) return {};
  ASSIGN_OR_RETURN(const auto environment, json::get_strings(*object, "env"));
  for (const std::string& e : environment.value_or(std::vector<std::string>())) {
    const size_t eq = e.find('=');
    if (eq == std::string::npos || eq == 0) return bad(fmt::format("env has \"{}\", which is no NAME=value", printable(e)));
    edits.env.emplace_back(e.substr(0, eq), e.substr(eq + 1));
  }
  ASSIGN_OR_RETURN(const auto nodes, objects_of(*object, "deviceNodes"));
  for (const Json* item : nodes) {
    ASSIGN_OR_RETURN(DeviceNode node, read_node(*item));
    edits.nodes.push_back(std::move(node));
  }
  ASSIGN_OR_RETURN(const auto mounts, objects_of(*object, "mounts"));
  for (const Json* item : mounts) {
    ASSIGN_OR_RETURN(DeviceBind bind, read_bind(*item, unsupported));
    edits.binds.push_back(std::move(bind));
  }
  ASSIGN_OR_RETURN(const auto hooks, objects_of(*object, "hooks"));
  if (!hooks.empty()) unsupported = "a hook, that is a program of this machine to be run beside the command";
  ASSIGN_OR_RETURN(const Json* groups, json::get_array(*object, "additionalGids"));
  if (groups != nullptr) {
    for (const Json& g : *groups) {
      if (!g.is_number_integer() || g.get<int64_t>() < 0 || g.get<int64_t>() > UINT32_MAX) return bad("additionalGids has a member that is no group id");
      edits.groups.push_back(g.get<uint32_t>());
    }
  }
  ASSIGN_OR_RETURN(const Json* rdt, json::get_object(*object, "intelRdt"));
  if (rdt != nullptr) unsupported = "intelRdt";
  return {};
}

bool is_description(const std::string& name) {
  for (const std::string_view end : {".json", ".yaml", ".yml"}) {
    if (name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0) return true;
  }
  return false;
}

// "vendor.com/class".
bool is_kind(const std::string& kind) {
  const size_t slash = kind.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < kind.size() && kind.find('/', slash + 1) == std::string::npos;
}

void append(DeviceEdits& to, const DeviceEdits& more) {
  to.names.insert(to.names.end(), more.names.begin(), more.names.end());
  to.env.insert(to.env.end(), more.env.begin(), more.env.end());
  to.nodes.insert(to.nodes.end(), more.nodes.begin(), more.nodes.end());
  to.binds.insert(to.binds.end(), more.binds.begin(), more.binds.end());
  to.groups.insert(to.groups.end(), more.groups.begin(), more.groups.end());
}

}  // namespace

Result<void> DeviceRegistry::read(const std::string& file) {
  ASSIGN_OR_RETURN(const std::string text, read_file(AT_FDCWD, file, 16 << 20));
  ASSIGN_OR_RETURN(const Json root, YamlReader::read(text));
  if (!root.is_object()) return bad("it is no object");
  ASSIGN_OR_RETURN(const auto version, json::get_string(root, "cdiVersion"));
  ASSIGN_OR_RETURN(const auto kind, json::get_string(root, "kind"));
  if (!version) return bad("cdiVersion is missing");
  if (!kind || !is_kind(*kind)) return bad("kind is not vendor.com/class");
  DeviceEdits common;
  std::string common_unsupported;
  RETURN_IF_ERROR(read_edits(root, common, common_unsupported));
  ASSIGN_OR_RETURN(const auto annotations, json::get_string_map(root, "annotations"));
  ASSIGN_OR_RETURN(const auto devices, objects_of(root, "devices"));
  for (const Json* item : devices) {
    ASSIGN_OR_RETURN(const auto name, json::get_string(*item, "name"));
    if (!name || name->empty()) return bad("a device has no name");
    Device device;
    device.file = file;
    device.edits = common;
    device.edits.names = {*kind + "=" + *name};
    device.unsupported = common_unsupported;
    RETURN_IF_ERROR(read_edits(*item, device.edits, device.unsupported));
    ASSIGN_OR_RETURN(device.annotations, json::get_string_map(*item, "annotations"));
    device.annotations.insert(annotations.begin(), annotations.end());  // the device's own win
    devices_.insert_or_assign(device.edits.names.front(), std::move(device));
  }
  return {};
}

Result<DeviceRegistry> DeviceRegistry::load(const std::vector<std::string>& directories) {
  DeviceRegistry registry;
  for (const std::string& directory : directories.empty() ? std::vector<std::string>{"/etc/cdi", "/var/run/cdi"} : directories) {
    const auto fd = open_directory(AT_FDCWD, directory);
    if (!fd && fd.error().error_number() == ENOENT) continue;
    if (!fd) {
      registry.problems_.push_back(fd.error().message());
      continue;
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(fd->get()));
    for (const std::string& name : names) {
      if (!is_description(name)) continue;
      const std::string file = directory + "/" + name;
      if (const auto read = registry.read(file); !read) registry.problems_.push_back(fmt::format("{} was not used: {}", file, read.error().message()));
    }
  }
  return registry;
}

// As BuildKit: vendor/class is the first of its kind, vendor/class=* all, else the one of that name; then those whose
// class annotation is the name.
std::vector<std::string> DeviceRegistry::select(const std::string& name) const {
  std::vector<std::string> found;
  const size_t eq = name.find('=');
  const std::string kind = name.substr(0, eq);
  const std::string rest = eq == std::string::npos ? "" : name.substr(eq + 1);
  if (is_kind(kind)) {
    for (const auto& [full, device] : devices_) {
      const bool same_kind = full.compare(0, kind.size() + 1, kind + "=") == 0;
      if (!same_kind || (!rest.empty() && rest != "*" && full != name)) continue;
      found.push_back(full);
      if (rest.empty()) break;
    }
  }
  if (!found.empty()) return found;
  for (const auto& [full, device] : devices_) {
    const auto annotation = device.annotations.find(kClassAnnotation);
    if (annotation != device.annotations.end() && annotation->second == name) found.push_back(full);
  }
  return found;
}

Result<DeviceEdits> DeviceRegistry::find(const parser::DeviceWish& wish, const std::vector<std::string>& allow) const {
  DeviceEdits edits;
  const std::vector<std::string> found = select(wish.name);
  if (found.empty()) {
    if (!wish.required) return edits;
    Error error(ErrorKind::kNotFound, fmt::format("the required device {} is not registered on this machine", printable(wish.name)));
    for (const std::string& problem : problems_) error = std::move(error).with_note(problem);
    std::vector<std::string> known;
    for (const auto& [full, device] : devices_) known.push_back(full);
    return std::move(error).with_note(known.empty() ? "no device is described in /etc/cdi or /var/run/cdi" : "there are: " + join(known, ", "));
  }
  for (const std::string& full : found) {
    const Device& device = devices_.at(full);
    const auto automatic = device.annotations.find(kAllowAnnotation);
    const bool by_file = automatic != device.annotations.end() && (automatic->second == "true" || automatic->second == "1" || automatic->second == "t");
    const bool allowed = by_file || std::any_of(allow.begin(), allow.end(), [&](const std::string& a) {
      return a == "device" || a == "device=" + full || a == "device=" + wish.name || a == "device=" + full.substr(0, full.find('='));
    });
    if (!allowed) {
      return Error(ErrorKind::kDenied, fmt::format("the device {} is not allowed", full)).with_note("allow it for this build with --allow device=" + full + ", or all with --allow device");
    }
    if (!device.unsupported.empty()) {
      return Error(ErrorKind::kUnsupported, fmt::format("the device {} cannot be used: {} asks for {}", full, device.file, device.unsupported));
    }
    append(edits, device.edits);
  }
  return edits;
}

}  // namespace lamina::builder
