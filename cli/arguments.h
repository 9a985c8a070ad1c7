// The command line as values. CLI11 is used in arguments.cc only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "builder/build.h"

namespace lamina::cli {

// Options that every command has.
struct CommonOptions {
  std::string store;  // --store; empty: the default place
  std::string auth_file;
  std::vector<std::string> insecure_registries;
  bool debug = false;
  std::string trace_file;
};

enum class ProgressMode { kAuto, kPlain, kTty, kQuiet, kRawJson };

// What to say about the Dockerfile instead of building it: `build check`, --check, --call.
struct CallOptions {
  enum class What { kCheck, kOutline, kTargets };
  enum class Format { kText, kJson, kSarif };
  What what = What::kCheck;
  Format format = Format::kText;
  bool warnings_are_errors = false;  // --check=error
  bool fix = false;                  // with BuildOptions::dry_run: only show what would change
};

struct BuildOptions {
  CommonOptions common;
  builder::BuildRequest request;
  ProgressMode progress = ProgressMode::kAuto;
  bool quiet = false;
  std::string iid_file;
  std::string metadata_file;
  std::string digest_file;
  bool explain = false;
  bool dry_run = false;
  std::optional<CallOptions> call;
};

struct RunOptions {
  CommonOptions common;
  builder::RunRequest request;
};

// images, inspect, history, rmi, tag, tags, push, pull, copy, diff, prune, du, fsck, login, logout.
struct ImageOptions {
  CommonOptions common;
  std::vector<std::string> names;
  bool quiet = false;
  bool no_truncation = false;
  std::string format;    // "json" or empty
  std::string raw;       // inspect --raw manifest|config
  bool all = false;      // prune --all
  bool force = false;
  std::string platform;
  std::string compression;
  std::optional<int> compression_level;
  bool force_compression = false;
  ProgressMode progress = ProgressMode::kAuto;
  std::string digest_file;  // push, pull, copy
  bool remote = false;      // inspect --remote
  bool referrers = false;   // copy --referrers
  std::vector<std::string> filters;  // prune
  std::string max_used_space, keep_duration;
  bool check_only = false;  // fsck
  std::string user_name;  // login
  bool password_stdin = false;
  std::string password;
};

// What a parse gives when it has nothing to run: the text of --help.
struct HelpText {
  std::string text;
};

template <typename T>
struct Parsed {
  std::optional<HelpText> help;
  T options;
};

// `arguments` without the program and the command. Errors are kInvalidInput, with the nearest flag as a note.
// `check`: the command is `build check`, which has the same flags.
Result<Parsed<BuildOptions>> parse_build(const std::vector<std::string>& arguments, bool check = false);
Result<Parsed<RunOptions>> parse_run(const std::vector<std::string>& arguments);
Result<Parsed<ImageOptions>> parse_image_command(const std::string& command, const std::vector<std::string>& arguments);

// The sub-commands in the first place.
const std::vector<std::string>& command_names();
std::string overview();  // `build --help` without a command

// "name:address" or "name=address"; an IPv6 address may stand in brackets. host-gateway is the loopback: the
// network is the host's.
Result<std::pair<std::string, std::string>> parse_extra_host(const std::string& text);
// "id=npm,src=file", "id=x,env=Y", "src=file".
Result<builder::SecretSpec> parse_secret(const std::string& text);
// "source:target[:ro]"; a relative source is taken from the working directory.
Result<builder::SandboxMount> parse_volume(const std::string& text);
Result<uint64_t> parse_bytes(const std::string& text);
// --max-used-space, else $LAMINA_MAX_USED_SPACE; nothing for neither and for 0.
Result<std::optional<uint64_t>> parse_max_used_space(const std::string& text);

}  // namespace lamina::cli
