#include "builder/key.h"

#include <fmt/format.h>

#include <map>

#include "base/sha256.h"
#include "base/text.h"
#include "builder/build.h"

namespace lamina::builder {

namespace {

// Format of keys and records; a change in what enters a key needs a new number.
constexpr std::string_view kKeyFormat = "lamina-key 2";
constexpr std::string_view kRecordFormat = "lamina-record 2";

void append_field(std::string& out, std::string_view text) {
  const uint64_t size = text.size();
  for (int i = 0; i < 8; ++i) out += static_cast<char>(size >> (8 * i));
  out += text;
}

// A value or name may hold anything; records are line-based.
void append_escaped(std::string& out, std::string_view text) {
  if (text.find_first_of("\\\n\t") == std::string_view::npos) {
    out += text;
    return;
  }
  for (char c : text) {
    switch (c) {
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\t': out += "\\t"; break;
      default: out += c;
    }
  }
}

std::string unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    ++i;
    out += text[i] == 'n' ? '\n' : text[i] == 't' ? '\t' : text[i];
  }
  return out;
}

std::string inputs_key(const std::string& step_identity) {
  return sha256_hex("newest inputs of " + step_identity);
}

// How an input is called when it is told to a user.
std::string describe(const std::string& name) {
  const auto starts = [&](std::string_view p) { return name.compare(0, p.size(), p) == 0; };
  if (name == "parent") return "the step before it";
  if (name == "base") return "the base image";
  if (starts("env.")) return "variable " + name.substr(4);
  if (starts("context:/")) return name.substr(9).empty() ? "the context directory" : name.substr(9);
  return name;
}

}  // namespace

void KeyInputs::add_text(std::string name, std::string_view value) {
  constexpr size_t kReadable = 200;
  if (value.size() <= kReadable) {
    add(std::move(name), std::string(value));
  } else {
    add(std::move(name), "sha256:" + sha256_hex(value));
  }
}

const std::string& KeyInputs::key() const {
  if (!key_.empty()) return key_;
  // A call of the hash costs more than a short field, so they are collected.
  constexpr size_t kCollected = 64 * 1024;
  Sha256 hash;
  std::string fields(kKeyFormat);
  for (const auto& [name, value] : inputs_) {
    append_field(fields, name);
    append_field(fields, value);
    if (fields.size() < kCollected) continue;
    hash.update(fields);
    fields.clear();
  }
  hash.update(fields);
  key_ = to_hex(hash.finish());
  return key_;
}

std::string KeyInputs::serialise() const {
  std::string out;
  for (const auto& [name, value] : inputs_) {
    append_escaped(out, name);
    out += '\t';
    append_escaped(out, value);
    out += '\n';
  }
  return out;
}

KeyInputs KeyInputs::deserialise(std::string_view text) {
  KeyInputs inputs;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    const size_t tab = line.find('\t');
    if (tab != std::string_view::npos) {
      inputs.add(unescape(line.substr(0, tab)), unescape(line.substr(tab + 1)));
    }
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return inputs;
}

std::string KeyInputs::difference_to(const KeyInputs& before) const {
  const std::map<std::string, std::string> old(before.inputs_.begin(), before.inputs_.end());
  const std::map<std::string, std::string> now(inputs_.begin(), inputs_.end());
  std::vector<std::string> found;
  for (const auto& [name, value] : inputs_) {
    const auto it = old.find(name);
    if (it == old.end()) {
      found.push_back(describe(name) + " is new");
    } else if (it->second != value) {
      const bool readable = name != "parent" && name != "base" && value.size() <= 60 &&
                            it->second.size() <= 60 && value.rfind("sha256:", 0) != 0 &&
                            name.rfind("context:", 0) != 0 && name.rfind("from:", 0) != 0;
      found.push_back(readable ? fmt::format("{} changed: {} -> {}", describe(name),
                                             go_quote(it->second), go_quote(value))
                               : describe(name) + " changed");
    }
  }
  for (const auto& [name, value] : before.inputs_) {
    if (!now.contains(name)) found.push_back(describe(name) + " is gone");
  }
  if (found.empty()) return "nothing differs, but its layer is no longer in the store";
  constexpr size_t kNamed = 3;
  if (found.size() > kNamed) {
    const size_t more = found.size() - kNamed;
    found.resize(kNamed);
    return join(found, "; ") + fmt::format("; and {} more", more);
  }
  return join(found, "; ");
}

// Record file: "lamina-record 2\n<layer id>\n<created>\n<chain>\n".
std::optional<StepRecord> RecordBook::last(const std::string& key) {
  const auto text = store_.record(key);
  if (!text || !*text) return std::nullopt;
  const std::vector<std::string> lines = split(**text, '\n');
  if (lines.size() < 4 || lines[0] != kRecordFormat) return std::nullopt;
  return StepRecord{layers::LayerId{lines[1]}, lines[2], lines[3]};
}

std::optional<StepRecord> RecordBook::find(const std::string& key) {
  std::optional<StepRecord> record = last(key);
  if (record && !record->layer.empty() && !store_.layer_info(record->layer)) return std::nullopt;
  return record;
}

Result<void> RecordBook::put(const KeyInputs& inputs, const StepRecord& record,
                             const std::string& step_identity) {
  RETURN_IF_ERROR(store_.put_record(
      inputs.key(), fmt::format("{}\n{}\n{}\n{}\n", kRecordFormat, record.layer.value, record.created, record.chain)));
  return store_.put_record(inputs_key(step_identity), inputs.serialise());
}

bool RecordBook::knows(const std::string& step_identity) { return store_.has_record(inputs_key(step_identity)); }

std::string RecordBook::explain_miss(const KeyInputs& inputs, const std::string& step_identity) {
  const auto text = store_.record(inputs_key(step_identity));
  if (!text || !*text) return "not built before";
  return inputs.difference_to(KeyInputs::deserialise(**text));
}

std::vector<layers::LayerId> layers_of_record(std::string_view record) {
  const std::vector<std::string> lines = split(record, '\n');
  if (lines.size() < 4 || lines[0] != kRecordFormat || lines[1].empty()) return {};
  return {layers::LayerId{lines[1]}};
}

}  // namespace lamina::builder
