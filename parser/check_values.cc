// The values of ARG and ENV as far as the text and the command line tell them, for the checks and the outline.
#include <algorithm>

#include "base/text.h"
#include "parser/internal/checker.h"
#include "parser/mount.h"

namespace lamina::parser::internal {

namespace {

void add_once(std::vector<std::string>& list, std::string_view name) {
  if (std::find(list.begin(), list.end(), name) == list.end()) list.emplace_back(name);
}

// os/arch[/variant] as the variables of that prefix.
void put_platform(std::map<std::string, std::string, std::less<>>& values, const std::string& prefix, const std::string& platform) {
  const std::vector<std::string> parts = split(platform, '/');
  values[prefix + "PLATFORM"] = platform;
  values[prefix + "OS"] = parts[0];
  values[prefix + "OSVERSION"] = "";
  values[prefix + "ARCH"] = parts.size() > 1 ? parts[1] : "";
  values[prefix + "VARIANT"] = parts.size() > 2 ? parts[2] : "";
}

}  // namespace

Looked look(std::string_view text, const Lookup& lookup, char escape) {
  Looked out;
  const Lookup recording = [&](std::string_view name) {
    auto value = lookup(name);
    add_once(value ? out.found : out.missing, name);
    return value;
  };
  auto expanded = expand_word(text, recording, escape);
  out.failed = !expanded;
  if (expanded) out.text = std::move(expanded->text);
  return out;
}

GlobalValues::GlobalValues(const Dockerfile& dockerfile, const CheckInput& input, bool use_build_args) : escape_(dockerfile.directives.escape) {
  put_platform(values_, "BUILD", input.build_platform);
  put_platform(values_, "TARGET", input.target_platform);
  values_["TARGETSTAGE"] = "default";
  if (!dockerfile.stages.empty()) {
    const std::string& name = dockerfile.stages[target_stage(dockerfile, input.target)].name;
    if (!name.empty()) values_["TARGETSTAGE"] = name;
  }
  for (auto& [name, value] : values_) {
    if (const auto given = input.build_args.find(name); given != input.build_args.end()) value = given->second;
  }
  for (const Instruction& i : dockerfile.global_args) {
    const auto* arg = std::get_if<Arg>(&i.body);
    if (arg == nullptr) continue;
    for (const Arg::Item& item : arg->items) {
      declared_.insert(item.name.text);
      const auto given = input.build_args.find(item.name.text);
      if (use_build_args && given != input.build_args.end()) {
        values_[item.name.text] = given->second;
      } else if (item.value) {
        Looked looked = look(item.value->text);
        failed_ = failed_ || looked.failed;
        values_[item.name.text] = std::move(looked.text);
      }
    }
  }
}

std::optional<std::string> GlobalValues::get(std::string_view name) const {
  const auto it = values_.find(name);
  return it == values_.end() ? std::nullopt : std::optional(it->second);
}

Looked GlobalValues::look(std::string_view text) const {
  return internal::look(text, [this](std::string_view name) { return get(name); }, escape_);
}

std::vector<std::string> GlobalValues::names() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : values_) names.push_back(name);
  for (const std::string& name : declared_) add_once(names, name);
  return names;
}

std::optional<std::string> StageValues::get(std::string_view name) const {
  const auto it = env.find(name);
  return it == env.end() ? std::nullopt : std::optional(it->second);
}

std::optional<std::string> declare(const Arg::Item& item, const CheckInput& input, const GlobalValues& global, StageValues& values, char escape) {
  const std::string& name = item.name.text;
  std::optional<std::string> value;
  if (const auto given = input.build_args.find(name); given != input.build_args.end()) {
    value = given->second;
  } else if (item.value) {
    value = look(item.value->text, [&](std::string_view n) { return values.get(n); }, escape).text;
  } else {
    value = global.get(name);
  }
  values.declared.insert(name);
  if (value) values.env[name] = *value;
  return value;
}

int stage_named(const Dockerfile& dockerfile, const std::string& name, size_t before, bool indexes) {
  if (const auto index = parse_uint(name); indexes && index) return *index < before ? static_cast<int>(*index) : -1;
  const std::string lower = to_lower(name);
  for (size_t k = before; k-- > 0;) {
    if (!dockerfile.stages[k].name.empty() && dockerfile.stages[k].name == lower) return static_cast<int>(k);
  }
  return -1;
}

size_t target_stage(const Dockerfile& dockerfile, const std::string& target) {
  const size_t count = dockerfile.stages.size();
  if (!target.empty()) {
    if (const int k = stage_named(dockerfile, target, count, true); k >= 0) return static_cast<size_t>(k);
  }
  return count - 1;
}

std::vector<bool> reached_stages(const Dockerfile& dockerfile, const GlobalValues& global, const std::string& target) {
  std::vector<bool> reached(dockerfile.stages.size());
  if (reached.empty()) return reached;
  reached[target_stage(dockerfile, target)] = true;
  // Stages need earlier ones only.
  for (size_t k = reached.size(); k-- > 0;) {
    if (!reached[k]) continue;
    const auto need = [&](const std::string& name, bool indexes) {
      if (const int other = stage_named(dockerfile, name, k, indexes); other >= 0) reached[static_cast<size_t>(other)] = true;
    };
    need(global.look(std::get<From>(dockerfile.stages[k].from.body).image.text).text, false);
    for (const Instruction& i : dockerfile.stages[k].instructions) {
      const auto* copy = std::get_if<Copy>(&i.body);
      if (copy != nullptr && copy->from) need(global.look(copy->from->text).text, true);
      const auto* run = std::get_if<Run>(&i.body);
      if (run == nullptr) continue;
      for (const Word& mount : run->mounts) {
        if (const auto from = mount_from(mount.text)) need(*from, false);
      }
    }
  }
  return reached;
}

std::string keyword_of(const Instruction& instruction) { return instruction.original.substr(0, instruction.name.size()); }

bool is_remote_source(std::string_view text) {
  const auto starts = [&](std::string_view p) { return text.starts_with(p); };
  return starts("http://") || starts("https://") || starts("git://") || starts("ssh://") || starts("git@") || starts("git+https://") || starts("git+http://") || starts("git+ssh://");
}

}  // namespace lamina::parser::internal
