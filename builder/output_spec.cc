#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <set>

#include "base/text.h"
#include "builder/build.h"

namespace lamina::builder {

namespace {

const std::vector<std::pair<std::string, OutputSpec::Type>> kTypes = {
    {"image", OutputSpec::Type::kImage}, {"registry", OutputSpec::Type::kRegistry}, {"oci", OutputSpec::Type::kOci},
    {"docker", OutputSpec::Type::kDocker}, {"tar", OutputSpec::Type::kTar}, {"local", OutputSpec::Type::kLocal}};

Error unknown(std::string_view what, const std::string& word, const std::vector<std::string>& known) {
  Error error(ErrorKind::kInvalidInput, fmt::format("unknown {} \"{}\" in --output", what, word));
  if (const auto near = nearest_name(word, known)) return std::move(error).with_note("did you mean " + *near + "?");
  return std::move(error).with_note("known: " + join(known, ", "));
}

Result<bool> parse_bool(const std::string& key, const std::string& value) {
  if (value == "true" || value == "1") return true;
  if (value == "false" || value == "0") return false;
  return Error(ErrorKind::kInvalidInput, fmt::format("{}={} in --output: it is true or false", key, value));
}

Result<void> set_option(OutputSpec& spec, const std::string& key, const std::string& value) {
  if (key == "type") {
    std::vector<std::string> names;
    for (const auto& [name, type] : kTypes) {
      names.push_back(name);
      if (name == value) {
        spec.type = type;
        return {};
      }
    }
    return unknown("type", value, names);
  }
  if (key == "dest") {
    spec.dest = value;
  } else if (key == "name") {
    spec.names.push_back(value);
  } else if (key == "push") {
    ASSIGN_OR_RETURN(spec.push, parse_bool(key, value));
  } else if (key == "rewrite-timestamp") {
    ASSIGN_OR_RETURN(spec.rewrite_timestamp, parse_bool(key, value));
  } else if (key == "push-by-digest") {
    ASSIGN_OR_RETURN(spec.by_digest, parse_bool(key, value));
  } else if (key == "tar") {
    ASSIGN_OR_RETURN(spec.tar, parse_bool(key, value));
  } else if (key == "force-compression") {
    ASSIGN_OR_RETURN(spec.compression.force, parse_bool(key, value));
  } else if (key == "oci-mediatypes") {
    ASSIGN_OR_RETURN(const bool oci_types, parse_bool(key, value));
    spec.docker_types = !oci_types;
  } else if (key == "compression") {
    spec.compression_given = true;
    RETURN_IF_ERROR(layers::set_compression(spec.compression, value, "--output"));
  } else if (key == "compression-level") {
    const auto level = parse_uint(value);
    if (!level || *level > 22) return Error(ErrorKind::kInvalidInput, fmt::format("compression-level={} in --output: it is a number from 0 to 22", value));
    spec.compression.level = static_cast<int>(*level);
  } else {
    return unknown("option", key, {"type", "dest", "name", "push", "push-by-digest", "tar", "compression", "compression-level", "force-compression", "oci-mediatypes", "rewrite-timestamp"});
  }
  return {};
}

// An option that would silently do nothing.
Result<void> check_use(const OutputSpec& spec, const std::set<std::string>& given) {
  using Type = OutputSpec::Type;
  const bool named = spec.type == Type::kImage || spec.type == Type::kRegistry;
  const bool flat = spec.type == Type::kTar || spec.type == Type::kLocal;
  const auto type_name = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& t) { return t.second == spec.type; })->first;
  const auto useless = [&](const char* key, bool useful) { return given.contains(key) && !useful; };
  for (const auto& [key, useful] : std::initializer_list<std::pair<const char*, bool>>{{"dest", !named},
                                                                                     {"push", named},
                                                                                     {"push-by-digest", named},
                                                                                     {"tar", spec.type == Type::kOci},
                                                                                     {"name", !flat},
                                                                                     {"compression", !flat},
                                                                                     {"compression-level", !flat},
                                                                                     {"force-compression", !flat},
                                                                                     {"oci-mediatypes", !flat}}) {
    if (!useless(key, useful)) continue;
    Error error(ErrorKind::kInvalidInput, fmt::format("{}= has no meaning for an output of type={}", key, type_name));
    if (std::string_view(key) == "dest") return std::move(error).with_note("type=oci writes an image to a file, type=local its files to a directory");
    return error;
  }
  if (spec.by_digest && spec.type == Type::kImage && !spec.push) return Error(ErrorKind::kInvalidInput, "push-by-digest=true in --output needs push=true");
  return {};
}

}  // namespace

Result<OutputSpec> parse_output(std::string_view text) {
  OutputSpec spec;
  if (text.find('=') == std::string_view::npos) {
    // Docker's short forms: "-" is a tar on standard output, anything else a directory.
    spec.type = text == "-" ? OutputSpec::Type::kTar : OutputSpec::Type::kLocal;
    spec.dest = text;
    if (text.empty()) return Error(ErrorKind::kInvalidInput, "--output is empty");
    return spec;
  }
  std::set<std::string> given;
  for (std::string part : split(text, ',')) {
    const size_t eq = part.find('=');
    if (eq == std::string::npos) {
      if (!spec.names.empty()) {  // name=a,b
        spec.names.push_back(part);
        continue;
      }
      return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" in --output has no value", part)).with_note("write type=oci,dest=image.tar");
    }
    if (part.front() == '"') part = part.substr(1);
    if (!part.empty() && part.back() == '"') part.pop_back();
    const size_t at = part.find('=');
    const std::string key = to_lower(trim(part.substr(0, at)));
    given.insert(key);
    RETURN_IF_ERROR(set_option(spec, key, part.substr(at + 1)));
  }
  const bool needs_dest = spec.type == OutputSpec::Type::kOci || spec.type == OutputSpec::Type::kTar || spec.type == OutputSpec::Type::kLocal;
  if (needs_dest && spec.dest.empty()) {
    return Error(ErrorKind::kInvalidInput, fmt::format("--output {} needs dest=", text)).with_note("dest=FILE, dest=DIRECTORY, or dest=- for standard output");
  }
  RETURN_IF_ERROR(check_use(spec, given));
  if (spec.type == OutputSpec::Type::kLocal && spec.dest == "-") return Error(ErrorKind::kInvalidInput, "a directory cannot go to standard output").with_note("type=tar writes the same files as a tar");
  // As buildx: a tar, unless tar=false or the destination is written as a directory.
  if (spec.type == OutputSpec::Type::kOci && !given.contains("tar")) spec.tar = spec.dest.back() != '/';
  if (spec.type == OutputSpec::Type::kOci && !spec.tar && spec.dest == "-") {
    return Error(ErrorKind::kInvalidInput, "a layout directory cannot go to standard output; leave tar=false out");
  }
  if (spec.compression.indexed && spec.docker_types) {
    return Error(ErrorKind::kInvalidInput, fmt::format("compression={} cannot go with oci-mediatypes=false: Docker's manifests have no annotations, which say where the table of contents is", layers::name_of(spec.compression)));
  }
  if (spec.type == OutputSpec::Type::kDocker && spec.compression.type == oci::Compression::kZstd) {
    return Error(ErrorKind::kInvalidInput, fmt::format("compression={}: a docker archive cannot hold zstd layers", layers::name_of(spec.compression))).with_note("use type=oci, or compression=gzip");
  }
  RETURN_IF_ERROR(layers::check(spec.compression));
  return spec;
}

Result<std::vector<CacheFilter>> parse_cache_filter(std::string_view text) {
  std::vector<CacheFilter> filters;
  for (const std::string& part : split(text, ',')) {
    const auto bad = [&](const char* why) {
      return Error(ErrorKind::kInvalidInput, fmt::format("--no-cache-filter {}: {}", printable(part), why)).with_note("write a stage, or lines of the Dockerfile: build, build:12-20, build:12, :12-");
    };
    CacheFilter filter;
    const size_t colon = part.find(':');
    filter.stage = trim(std::string_view(part).substr(0, colon));
    if (colon != std::string::npos) {
      const std::string lines = part.substr(colon + 1);
      const size_t dash = lines.find('-');
      const std::string first = lines.substr(0, dash), last = dash == std::string::npos ? first : lines.substr(dash + 1);
      const auto from = parse_uint(first), to = parse_uint(last);
      if ((first.empty() && last.empty()) || (!first.empty() && !from) || (!last.empty() && !to)) return bad("the lines are numbers");
      if (from.value_or(1) == 0 || to.value_or(1) == 0) return bad("lines are counted from 1");
      if (from && to && *from > *to) return bad("the first line comes after the last");
      filter.first_line = static_cast<uint32_t>(std::min<uint64_t>(from.value_or(0), UINT32_MAX));
      filter.last_line = static_cast<uint32_t>(std::min<uint64_t>(to.value_or(UINT32_MAX), UINT32_MAX));
    } else if (filter.stage.empty()) {
      return bad("it is empty");
    }
    filters.push_back(std::move(filter));
  }
  return filters;
}

}  // namespace lamina::builder
