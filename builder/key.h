// Cache keys: a hash over named inputs, and records that keep the names, so that a miss can say why.
// docs/cache-keys.md
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "layers/store.h"

namespace lamina::builder {

// The inputs of one step in a fixed order. A name says what the value is ("parent", "env.PATH",
// "context:/src/a.c"); values are short texts or digests.
class KeyInputs {
 public:
  void add(std::string name, std::string value) {
    inputs_.emplace_back(std::move(name), std::move(value));
    key_.clear();
  }
  // For long values: the digest is kept.
  void add_text(std::string name, std::string_view value);

  // 64 hexadecimal digits: SHA-256 over the format version and every name and value with its length. Kept until
  // an input is added.
  const std::string& key() const;

  const std::vector<std::pair<std::string, std::string>>& all() const { return inputs_; }
  // One input a line; for explanations only.
  std::string serialise() const;
  static KeyInputs deserialise(std::string_view text);

  // "COPY src/: src/a.c changed": what differs between `before` and these, in a few words; at most
  // three differences are named.
  std::string difference_to(const KeyInputs& before) const;

 private:
  std::vector<std::pair<std::string, std::string>> inputs_;
  mutable std::string key_;  // empty: not computed yet
};

// What a step left behind.
struct StepRecord {
  layers::LayerId layer;  // empty: the step changed no file
  std::string created;    // RFC 3339
  // The "parent" input of the steps on top. The step's key, or something else when the step was executed once
  // more and came to other files: what was built on the former ones must not be taken for what is on these.
  std::string chain;
};

// The records of a store. Any thread.
class RecordBook {
 public:
  explicit RecordBook(layers::Store& store) : store_(store) {}

  // Nothing when there is none, or its layer is gone.
  std::optional<StepRecord> find(const std::string& key);
  // The last record under the key, also when its layer is gone.
  std::optional<StepRecord> last(const std::string& key);
  // Also remembers these inputs as the newest of `step_identity` (which names the step across builds).
  Result<void> put(const KeyInputs& inputs, const StepRecord& record, const std::string& step_identity);
  // Whether a step of this name was ever recorded.
  bool knows(const std::string& step_identity);
  // Why this step has no record: the difference to the newest inputs of the same step.
  std::string explain_miss(const KeyInputs& inputs, const std::string& step_identity);

 private:
  layers::Store& store_;
};

}  // namespace lamina::builder
