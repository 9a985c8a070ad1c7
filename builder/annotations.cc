#include <fmt/format.h>

#include "base/text.h"
#include "builder/build.h"

namespace lamina::builder {

namespace {

using Level = AnnotationSpec::Level;

const std::vector<std::pair<std::string, Level>> kLevels = {
    {"manifest", Level::kManifest}, {"index", Level::kIndex}, {"manifest-descriptor", Level::kManifestDescriptor}, {"index-descriptor", Level::kIndexDescriptor}};

Result<Level> parse_level(const std::string& text) {
  std::vector<std::string> names;
  for (const auto& [name, level] : kLevels) {
    if (name == text) return level;
    names.push_back(name);
  }
  Error error(ErrorKind::kInvalidInput, fmt::format("unknown level \"{}\" in --annotation", printable(text)));
  if (const auto near = nearest_name(text, names)) return std::move(error).with_note("did you mean " + *near + "?");
  return std::move(error).with_note("known: " + join(names, ", "));
}

}  // namespace

Result<std::vector<AnnotationSpec>> parse_annotation(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return Error(ErrorKind::kInvalidInput, fmt::format("--annotation \"{}\" is not NAME=VALUE", printable(std::string(text)))).with_note("write NAME=VALUE, or LEVEL:NAME=VALUE");
  }
  AnnotationSpec spec;
  spec.value = text.substr(equals + 1);
  std::string_view name = text.substr(0, equals);
  std::vector<std::string> levels = {"manifest"};
  if (const size_t colon = name.find(':'); colon != std::string_view::npos) {
    std::string_view prefix = name.substr(0, colon);
    name.remove_prefix(colon + 1);
    if (const size_t bracket = prefix.find('['); bracket != std::string_view::npos && prefix.back() == ']') {
      ASSIGN_OR_RETURN(spec.platform, oci::Platform::parse(prefix.substr(bracket + 1, prefix.size() - bracket - 2)));
      prefix = prefix.substr(0, bracket);
    }
    levels = split(prefix, ',');
  }
  if (name.empty()) return Error(ErrorKind::kInvalidInput, fmt::format("--annotation \"{}\" has no name", printable(std::string(text))));
  spec.name = name;
  std::vector<AnnotationSpec> out;
  for (const std::string& level : levels) {
    ASSIGN_OR_RETURN(spec.level, parse_level(level));
    const bool of_index = spec.level == Level::kIndex || spec.level == Level::kIndexDescriptor;
    if (of_index && spec.platform) return Error(ErrorKind::kInvalidInput, fmt::format("--annotation {}: an index has no platform", printable(std::string(text))));
    out.push_back(spec);
  }
  return out;
}

std::map<std::string, std::string> annotations_of(const std::vector<AnnotationSpec>& all, Level level, const std::optional<oci::Platform>& platform) {
  std::map<std::string, std::string> out;
  for (const AnnotationSpec& spec : all) {
    if (spec.level == level && (!spec.platform || spec.platform == platform)) out[spec.name] = spec.value;
  }
  return out;
}

}  // namespace lamina::builder
