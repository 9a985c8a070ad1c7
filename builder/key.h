// Cache keys: a hash over named inputs, and records that keep the names, so that a miss can say why.
// docs/cache-keys.md
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"
#include "base/spool.h"
#include "layers/store.h"

namespace lamina::builder {

// The inputs of one step in a fixed order. A name says what the value is ("parent", "env.PATH",
// "context:/src/a.c"); values are short texts or digests. Any number of them: what grows with it is in a Spool.
class KeyInputs {
 public:
  // `temporary_file` as a Spool takes it.
  explicit KeyInputs(TemporaryFile temporary_file = {});
  // The same inputs once more, to go on with others.
  Result<KeyInputs> fork() const;

  // What cannot be kept is said by key(). REQUIRES: key() was not called.
  void add(std::string_view name, std::string_view value);
  // For long values: the digest is kept.
  void add_text(std::string_view name, std::string_view value);

  // 64 hexadecimal digits: SHA-256 over the format version and every name and value with its length.
  Result<std::string> key() const;

  // One input a line; for explanations only. Borrows the inputs.
  std::unique_ptr<ByteSource> text() const { return text_.reader(); }

 private:
  TemporaryFile temporary_file_;
  Spool text_;
  std::string fields_;  // not hashed yet: a call of the hash costs more than a short field
  std::string line_;
  mutable Sha256 hash_;
  mutable std::string key_;  // empty: not computed yet
  std::optional<Error> failed_;
};

// "COPY src/: src/a.c changed": what differs between two texts of inputs, in a few words; at most three differences
// are named. Reads each once, whatever they hold; the files of a source (what follows an input "source") are compared in
// path order, so that nothing is held for them.
Result<std::string> difference_between(ByteSource& before, ByteSource& now);

// What a step left behind.
struct StepRecord {
  layers::LayerId layer;  // empty: the step changed no file
  std::string created;    // RFC 3339
  // The "parent" input of the steps on top. The step's key, or something else when the step was executed once
  // more and came to other files: what was built on the former ones must not be taken for what is on these.
  std::string chain;
};

// Says that a step was recorded without what it reads of stages and images being digested, or that it was and was digested
// since.
struct Undigested {
  std::string record_key;                             // of its record; empty: digested since
  std::vector<std::vector<layers::LayerId>> sources;  // what it read, in its order; the layers of each bottom first
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
  // Under a key of their own; nothing when there is none, or it cannot be read.
  std::optional<Undigested> undigested(const std::string& key);
  Result<void> put_undigested(const std::string& key, const Undigested& step);
  // Whether a step of this name was ever recorded.
  bool knows(const std::string& step_identity);
  // Why this step has no record: the difference to the newest inputs of the same step.
  std::string explain_miss(const KeyInputs& inputs, const std::string& step_identity);
  // The same of a step whose inputs name stages and images, and that was looked for by their content, too: what else differs,
  // and then what explain_miss said `by_content`.
  std::string explain_reading(const KeyInputs& inputs, const std::string& step_identity, std::string_view by_content);

 private:
  layers::Store& store_;
};

}  // namespace lamina::builder
