#include <fmt/format.h>

#include "base/json.h"

namespace lamina::json {

namespace {

constexpr int kMaxDepth = 100;

// nlohmann's parser recurses; a hostile document of 100,000 brackets would use up the stack.
bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

Error wrong_type(const char* name, const char* wanted) {
  return Error(ErrorKind::kCorrupt, fmt::format("\"{}\" is not {}", name, wanted));
}

const Json* find(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

Result<Json> parse_object(std::string_view text, std::string_view what) {
  if (too_deep(text)) return Error(ErrorKind::kCorrupt, fmt::format("{} is nested too deeply", what));
  Json value = Json::parse(text.begin(), text.end(), nullptr, false);
  if (value.is_discarded()) return Error(ErrorKind::kCorrupt, fmt::format("{} is not valid JSON", what));
  if (!value.is_object()) return Error(ErrorKind::kCorrupt, fmt::format("{} is not a JSON object", what));
  return value;
}

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::optional<std::string>> get_string(const Json& object, const char* name) {
  const Json* v = find(object, name);
  if (v == nullptr) return std::optional<std::string>();
  if (!v->is_string()) return wrong_type(name, "a string");
  return std::optional<std::string>(v->get_ref<const std::string&>());
}

Result<std::optional<int64_t>> get_integer(const Json& object, const char* name) {
  const Json* v = find(object, name);
  if (v == nullptr) return std::optional<int64_t>();
  if (v->is_number_unsigned() && v->get<uint64_t>() > INT64_MAX) return wrong_type(name, "in range");
  if (!v->is_number_integer()) return wrong_type(name, "an integer");
  return std::optional<int64_t>(v->get<int64_t>());
}

Result<std::optional<bool>> get_bool(const Json& object, const char* name) {
  const Json* v = find(object, name);
  if (v == nullptr) return std::optional<bool>();
  if (!v->is_boolean()) return wrong_type(name, "true or false");
  return std::optional<bool>(v->get<bool>());
}

Result<std::optional<std::vector<std::string>>> get_strings(const Json& object, const char* name) {
  const Json* v = find(object, name);
  if (v == nullptr) return std::optional<std::vector<std::string>>();
  if (!v->is_array()) return wrong_type(name, "a list");
  std::vector<std::string> out;
  for (const Json& item : *v) {
    if (!item.is_string()) return wrong_type(name, "a list of strings");
    out.push_back(item.get_ref<const std::string&>());
  }
  return std::optional<std::vector<std::string>>(std::move(out));
}

Result<std::map<std::string, std::string>> get_string_map(const Json& object, const char* name) {
  std::map<std::string, std::string> out;
  const Json* v = find(object, name);
  if (v == nullptr) return out;
  if (!v->is_object()) return wrong_type(name, "an object");
  for (const auto& [key, value] : v->items()) {
    if (!value.is_string()) return wrong_type(name, "an object of strings");
    out.emplace(key, value.get_ref<const std::string&>());
  }
  return out;
}

Result<const Json*> get_array(const Json& object, const char* name) {
  const Json* v = find(object, name);
  if (v != nullptr && !v->is_array()) return wrong_type(name, "a list");
  return v;
}

Result<const Json*> get_object(const Json& object, const char* name) {
  const Json* v = find(object, name);
  if (v != nullptr && !v->is_object()) return wrong_type(name, "an object");
  return v;
}

}  // namespace lamina::json
