#include "builder/key.h"

#include <fmt/format.h>

#include <map>

#include "base/sha256.h"
#include "base/text.h"
#include "builder/build.h"
#include "layers/entry.h"

namespace lamina::builder {

namespace {

// Format of keys and records; a change in what enters a key needs a new number.
constexpr std::string_view kKeyFormat = "lamina-key 2";
constexpr std::string_view kRecordFormat = "lamina-record 2";
constexpr std::string_view kUndigestedFormat = "lamina-undigested 1";

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

// Lines of a text of inputs; one longer than `longest` bytes ends it.
class LineReader {
 public:
  LineReader(ByteSource& text, size_t longest) : text_(text), longest_(longest) {}

  // False at the end.
  Result<bool> next(std::string& name, std::string& value) {
    while (true) {
      const size_t end = buffer_.find('\n', at_);
      if (end != std::string::npos) {
        const std::string_view line = std::string_view(buffer_).substr(at_, end - at_);
        at_ = end + 1;
        const size_t tab = line.find('\t');
        if (tab == std::string_view::npos) continue;
        name = unescape(line.substr(0, tab));
        value = unescape(line.substr(tab + 1));
        return true;
      }
      buffer_.erase(0, at_);
      at_ = 0;
      if (buffer_.size() > longest_) return false;
      const size_t have = buffer_.size();
      buffer_.resize(have + kRead);
      ASSIGN_OR_RETURN(const size_t got, text_.read(std::as_writable_bytes(std::span(buffer_.data() + have, kRead))));
      buffer_.resize(have + got);
      if (got == 0) return false;
    }
  }

 private:
  static constexpr size_t kRead = 64 * 1024;
  ByteSource& text_;
  const size_t longest_;
  std::string buffer_;
  size_t at_ = 0;
};

std::string inputs_key(const std::string& step_identity) {
  return sha256_hex("newest inputs of " + step_identity);
}

// How an input is called when it is told to a user.
std::string describe(const std::string& name) {
  const auto starts = [&](std::string_view p) { return name.compare(0, p.size(), p) == 0; };
  if (name == "parent") return "the step before it";
  if (name == "base") return "the base image";
  if (name == "from") return "what it copies from";
  if (starts("mount[") && name.ends_with("].stage")) return "the stage of " + name.substr(0, name.rfind('.'));
  if (starts("env.")) return "variable " + name.substr(4);
  if (starts("context:/")) return name.substr(9).empty() ? "the context directory" : name.substr(9);
  return name;
}

}  // namespace

KeyInputs::KeyInputs(TemporaryFile temporary_file) : temporary_file_(std::move(temporary_file)), text_(temporary_file_), fields_(kKeyFormat) {}

Result<KeyInputs> KeyInputs::fork() const {
  KeyInputs copy(temporary_file_);
  const auto text = text_.reader();
  LineReader lines(*text, SIZE_MAX);  // nothing of what enters a key may be missing
  std::string name, value;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, lines.next(name, value));
    if (!more) break;
    copy.add(name, value);
  }
  if (failed_) copy.failed_ = failed_;
  return copy;
}

void KeyInputs::add_text(std::string_view name, std::string_view value) {
  constexpr size_t kReadable = 200;
  if (value.size() <= kReadable) {
    add(name, value);
  } else {
    add(name, "sha256:" + sha256_hex(value));
  }
}

void KeyInputs::add(std::string_view name, std::string_view value) {
  constexpr size_t kCollected = 64 * 1024;
  if (!key_.empty()) failed_ = Error(ErrorKind::kInternal, "an input came after the key");
  append_field(fields_, name);
  append_field(fields_, value);
  if (fields_.size() >= kCollected) {
    hash_.update(fields_);
    fields_.clear();
  }
  line_.clear();
  append_escaped(line_, name);
  line_ += '\t';
  append_escaped(line_, value);
  line_ += '\n';
  if (auto kept = text_.append(line_); !kept && !failed_) failed_ = std::move(kept).error();
}

Result<std::string> KeyInputs::key() const {
  if (failed_) return *failed_;
  if (key_.empty()) {
    hash_.update(fields_);
    key_ = to_hex(hash_.finish());
  }
  return key_;
}

namespace {

// What differs, in a few words.
class Differences {
 public:
  void add(std::string text) {
    if (++count_ <= kNamed) found_.push_back(std::move(text));
  }
  void changed(const std::string& name, const std::string& before, const std::string& now) {
    const bool readable = name != "parent" && name != "base" && now.size() <= 60 && before.size() <= 60 && now.rfind("sha256:", 0) != 0 &&
                          name.rfind("context:", 0) != 0 && name.rfind("from:", 0) != 0;
    add(readable ? fmt::format("{} changed: {} -> {}", describe(name), go_quote(before), go_quote(now)) : describe(name) + " changed");
  }
  void is_new(const std::string& name) { add(describe(name) + " is new"); }
  void is_gone(const std::string& name) { add(describe(name) + " is gone"); }

  void append(const Differences& more) {
    count_ += more.count_;
    for (const std::string& text : more.found_) {
      if (found_.size() < kNamed) found_.push_back(text);
    }
  }

  size_t count() const { return count_; }
  std::string text() const {
    if (found_.empty()) return "nothing differs, but its layer is no longer in the store";
    const std::string named = join(found_, "; ");
    return count_ > kNamed ? named + fmt::format("; and {} more", count_ - kNamed) : named;
  }

 private:
  static constexpr size_t kNamed = 3;
  std::vector<std::string> found_;
  size_t count_ = 0;
};

// One of two texts, line by line. Files of a source come in path order; what has no order is put aside, as far as it is
// not more than anybody writes into a Dockerfile.
class InputReader {
 public:
  enum class At { kFile, kSource, kEnd };
  explicit InputReader(ByteSource& text) : lines_(text, kLongest) {}

  // Goes on to the next file of the section, the next "source", or the end.
  Result<void> advance() {
    while (true) {
      ASSIGN_OR_RETURN(const bool more, lines_.next(name_, value_));
      if (!more) {
        at_ = At::kEnd;
        return {};
      }
      if (name_ == "source") {
        at_ = At::kSource;
        in_section_ = true;
        last_.clear();
        return {};
      }
      // What --parents repeats stands behind the files, out of their order.
      const size_t colon = name_.find(":/");
      if (in_section_ && colon != std::string::npos && (last_.empty() || layers::path_less(last_, name_))) {
        at_ = At::kFile;
        last_ = name_;
        return {};
      }
      if (others_.size() < kOthers) others_.emplace(name_, value_);
    }
  }

  At at() const { return at_; }
  const std::string& name() const { return name_; }
  const std::string& value() const { return value_; }
  const std::map<std::string, std::string>& others() const { return others_; }

 private:
  static constexpr size_t kOthers = 20000;
  static constexpr size_t kLongest = 1 << 20;  // of a line; a damaged record may have none
  LineReader lines_;
  std::string name_, value_, last_;
  bool in_section_ = false;
  At at_ = At::kEnd;
  std::map<std::string, std::string> others_;
};

// The files of one section of each.
Result<void> compare_files(InputReader& before, InputReader& now, Differences& differences) {
  using At = InputReader::At;
  while (before.at() == At::kFile || now.at() == At::kFile) {
    const bool only_before = now.at() != At::kFile || (before.at() == At::kFile && layers::path_less(before.name(), now.name()));
    const bool only_now = before.at() != At::kFile || (now.at() == At::kFile && layers::path_less(now.name(), before.name()));
    if (only_before) {
      differences.is_gone(before.name());
    } else if (only_now) {
      differences.is_new(now.name());
    } else if (before.value() != now.value()) {
      differences.changed(now.name(), before.value(), now.value());
    }
    if (!only_now) RETURN_IF_ERROR(before.advance());
    if (!only_before) RETURN_IF_ERROR(now.advance());
  }
  return {};
}

// The key of a stage or image whose files count: Executor::reading_of.
bool names_source(std::string_view name) { return name == "from" || (name.starts_with("mount[") && name.ends_with("].stage")); }

struct Compared {
  Differences all;
  Differences apart;  // from which sources are read
};

Result<Compared> compare(ByteSource& before_text, ByteSource& now_text) {
  using At = InputReader::At;
  InputReader before(before_text), now(now_text);
  Differences files;
  RETURN_IF_ERROR(before.advance());
  RETURN_IF_ERROR(now.advance());
  while (before.at() != At::kEnd || now.at() != At::kEnd) {
    if (before.at() == At::kSource && now.at() == At::kSource) {
      if (before.value() != now.value()) files.changed("source", before.value(), now.value());
      RETURN_IF_ERROR(before.advance());
      RETURN_IF_ERROR(now.advance());
    } else if (before.at() == At::kSource) {
      files.is_gone("source " + before.value());
      RETURN_IF_ERROR(before.advance());
    } else if (now.at() == At::kSource) {
      files.is_new("source " + now.value());
      RETURN_IF_ERROR(now.advance());
    }
    RETURN_IF_ERROR(compare_files(before, now, files));
  }
  Compared compared;
  for (Differences* const into : {&compared.all, &compared.apart}) {
    const auto counts = [&](const std::string& name) { return into == &compared.all || !names_source(name); };
    for (const auto& [name, value] : now.others()) {
      if (!counts(name)) continue;
      const auto it = before.others().find(name);
      if (it == before.others().end()) {
        into->is_new(name);
      } else if (it->second != value) {
        into->changed(name, it->second, value);
      }
    }
    for (const auto& [name, value] : before.others()) {
      if (counts(name) && !now.others().contains(name)) into->is_gone(name);
    }
    into->append(files);
  }
  return compared;
}

}  // namespace

Result<std::string> difference_between(ByteSource& before, ByteSource& now) {
  ASSIGN_OR_RETURN(const Compared compared, compare(before, now));
  return compared.all.text();
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

Result<void> RecordBook::put(const KeyInputs& inputs, const StepRecord& record, const std::string& step_identity) {
  ASSIGN_OR_RETURN(const std::string key, inputs.key());
  RETURN_IF_ERROR(store_.put_record(key, fmt::format("{}\n{}\n{}\n{}\n", kRecordFormat, record.layer.value, record.created, record.chain)));
  return store_.put_record(inputs_key(step_identity), *inputs.text());
}

// File: "lamina-undigested 1\n<key or nothing>\n<number of sources>\n", and a line for each: the ids of its layers, " " between.
std::optional<Undigested> RecordBook::undigested(const std::string& key) {
  const auto text = store_.record(key);
  if (!text || !*text) return std::nullopt;
  const std::vector<std::string> lines = split(**text, '\n');
  // One layer less would be other files.
  if (lines.size() < 4 || lines[0] != kUndigestedFormat || lines[2] != std::to_string(lines.size() - 4) || !lines.back().empty()) return std::nullopt;
  Undigested step{lines[1], {}};
  for (size_t i = 3; i + 1 < lines.size(); ++i) {
    std::vector<layers::LayerId>& source = step.sources.emplace_back();
    if (lines[i].empty()) continue;
    for (std::string& layer : split(lines[i], ' ')) source.push_back(layers::LayerId{std::move(layer)});
  }
  return step;
}

Result<void> RecordBook::put_undigested(const std::string& key, const Undigested& step) {
  std::string text = fmt::format("{}\n{}\n{}\n", kUndigestedFormat, step.record_key, step.sources.size());
  for (const auto& source : step.sources) {
    std::vector<std::string> layers;
    for (const layers::LayerId& layer : source) layers.push_back(layer.value);
    text += join(layers, " ") + "\n";
  }
  return store_.put_record(key, text);
}

bool RecordBook::knows(const std::string& step_identity) { return store_.has_record(inputs_key(step_identity)); }

std::string RecordBook::explain_miss(const KeyInputs& inputs, const std::string& step_identity) {
  const auto before = store_.open_record(inputs_key(step_identity));
  if (!before || !*before) return "not built before";
  const auto now = inputs.text();
  return difference_between(**before, *now).value_or("not known: what it was made from cannot be read");
}

std::string RecordBook::explain_reading(const KeyInputs& inputs, const std::string& step_identity, std::string_view by_content) {
  const auto before = store_.open_record(inputs_key(step_identity));
  if (!before || !*before) return std::string(by_content);
  const auto now = inputs.text();
  const auto compared = compare(**before, *now);
  if (!compared || compared->apart.count() == 0) return std::string(by_content);
  std::string all = compared->apart.text();
  if (compared->all.count() == compared->apart.count()) return all;  // the sources are those of the last time
  for (const std::string_view between = "; "; !by_content.empty();) {
    const std::string_view one = by_content.substr(0, by_content.find(between));
    if (all.find(one) == std::string::npos) all.append(between).append(one);
    by_content.remove_prefix(std::min(by_content.size(), one.size() + between.size()));
  }
  return all;
}

std::vector<layers::LayerId> layers_of_record(std::string_view record) {
  const std::vector<std::string> lines = split(record, '\n');
  if (lines.size() < 4 || lines[0] != kRecordFormat || lines[1].empty()) return {};
  return {layers::LayerId{lines[1]}};
}

}  // namespace lamina::builder
