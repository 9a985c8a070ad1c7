// The image configuration. OCI image-spec v1.1, config.md, with Docker's additions (Healthcheck, OnBuild,
// Shell, ArgsEscaped). Fields that we do not know are kept and written back.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/digest.h"
#include "oci/platform.h"

namespace lamina::oci {

struct HealthcheckConfig {
  std::vector<std::string> test;  // {"NONE"}, {"CMD", …} or {"CMD-SHELL", text}
  std::chrono::nanoseconds interval{0}, timeout{0}, start_period{0}, start_interval{0};
  int64_t retries = 0;
  bool operator==(const HealthcheckConfig&) const = default;
};

struct HistoryEntry {
  std::string created;  // RFC 3339, or empty
  std::string created_by;
  std::string author;
  std::string comment;
  bool empty_layer = false;
  bool operator==(const HistoryEntry&) const = default;
};

struct ImageConfig {
  std::string created;  // RFC 3339, or empty
  std::string author;
  Platform platform;

  // Members of "config".
  std::string user;
  std::set<std::string> exposed_ports;  // "8080/tcp"
  std::vector<std::string> env;         // "NAME=value", order kept
  std::optional<std::vector<std::string>> entrypoint;
  std::optional<std::vector<std::string>> cmd;
  std::set<std::string> volumes;
  std::string working_dir;
  std::map<std::string, std::string> labels;
  std::string stop_signal;
  std::optional<HealthcheckConfig> healthcheck;
  std::vector<std::string> on_build;
  std::optional<std::vector<std::string>> shell;
  bool args_escaped = false;

  std::vector<DiffId> diff_ids;
  std::vector<HistoryEntry> history;

  // Unknown members as JSON text, by name: of the top level and of "config".
  std::map<std::string, std::string> extra;
  std::map<std::string, std::string> config_extra;

  // kCorrupt with the reason when it is not an image config; `bytes` may be hostile. Wrong types of
  // known members are errors, null counts as absent.
  static Result<ImageConfig> parse(std::string_view bytes);
  // Canonical JSON: keys in byte order, no white space, absent members left out.
  std::string to_json() const;

  // The value of an environment variable, or nothing.
  std::optional<std::string> env_value(std::string_view name) const;
  // Sets or adds; the position of an existing one is kept.
  void set_env(std::string_view name, std::string_view value);
};

}  // namespace lamina::oci
