// The plan: what a build will do, as a value. Only what the target reaches is in it; all variables are
// expanded; nothing has been executed yet.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "builder/build.h"
#include "builder/devices.h"
#include "builder/git_source.h"
#include "builder/images.h"
#include "oci/image_config.h"
#include "parser/instructions.h"
#include "parser/mount.h"

namespace lamina::builder {

// A place to take files from.
struct SourceRef {
  enum class Kind { kContext, kStage, kImage, kNamedContext, kScratch };
  Kind kind = Kind::kContext;
  int stage = -1;      // kStage: index in Plan::stages
  int image = -1;      // kImage: index in Plan::images
  std::string name;    // as the Dockerfile calls it; for kNamedContext the name of the context
};

struct PlannedMount {
  parser::Mount mount;  // target absolute
  SourceRef from;       // bind and cache with from
};

// RUN --device: the name as written and what it brings into the sandbox (nothing for an absent optional one).
struct PlannedDevice {
  std::string name;
  DeviceEdits edits;
};

struct RunStep {
  std::vector<std::string> argv;
  // A heredoc that starts with "#!": mounted at /dev/pipes/<name> and executed through argv.
  std::optional<std::pair<std::string, std::string>> script;
  std::vector<std::pair<std::string, std::string>> env;     // part of the key
  std::vector<std::pair<std::string, std::string>> hidden_env;  // proxies: not part of the key
  std::string working_dir;
  std::string user;
  std::string hostname;               // empty: the sandbox's own
  NetworkMode network = NetworkMode::kHost;
  bool insecure = false;
  std::vector<PlannedMount> mounts;
  std::vector<PlannedDevice> devices;
};

// ADD of a URL or a git repository.
struct HttpSource {
  std::string url;
  std::optional<oci::Digest> checksum;
};
struct RemoteSource {
  std::variant<HttpSource, GitSource> from;
  bool keep_git_dir = false;  // git
};

struct CopyStep {
  bool is_add = false;
  SourceRef from;
  std::vector<parser::Word> sources;  // expanded texts at their places
  std::map<size_t, RemoteSource> remotes;  // by index in `sources`: those that are no paths
  std::vector<std::pair<std::string, std::string>> inline_files;  // heredocs: name, content
  std::string destination;            // absolute, a trailing "/" is significant
  std::string chown;                  // expanded, or empty
  std::string chmod;                  // expanded, or empty
  std::optional<parser::ModeChange> mode;
  bool link = false;
  bool parents = false;
  bool if_exists = false;
  bool unpack = false;
  bool unpack_remote = false;         // --unpack was written: files from URLs too
  std::vector<std::string> excludes;
};

struct WorkdirStep {
  std::string path;
  std::string user;
};

struct Step {
  int id = 0;            // index in Plan::steps
  int stage = 0;         // index in Plan::stages
  int parent = -1;       // step whose layer lies directly below, or -1: the stage's base
  std::string title;     // "[build 2/7] RUN make"
  std::string identity;  // names the step across builds, for explanations
  parser::Instruction instruction;
  std::string file;      // where the instruction stands: the Dockerfile, or the origin of a trigger
  std::string line_text; // for the excerpt
  std::shared_ptr<const std::string> text;  // of that file, for excerpts of other lines
  std::variant<RunStep, CopyStep, WorkdirStep> body;
  std::vector<int> needs_stages;  // whose files it reads
  // COPY --link: layer and key have nothing to do with what lies below, so it need not be there yet.
  bool independent = false;
  bool no_cache = false;
};

// About a step as a whole: the place is its instruction word.
Diagnostic diagnostic_at(const Step& step, std::string message);
// The error at that place, unless it says one already.
Error at_instruction(const Step& step, Error error);

// One line of the new image's history; step ≥ 0 when a step's layer belongs to it.
struct HistoryItem {
  oci::HistoryEntry entry;
  int step = -1;
};

struct PlannedStage {
  int index = 0;              // in the Dockerfile
  std::string name;           // stage name, or empty
  int base_stage = -1;        // or
  int base_image = -1;        // neither: scratch
  std::vector<int> steps;     // own steps, in order
  oci::ImageConfig config;    // as the stage leaves it; diff_ids and history are those of the base image
  std::vector<HistoryItem> history;  // own and of base stages
  // State that a child stage inherits.
  std::vector<std::pair<std::string, std::string>> env;   // ENV and ARG in order of setting
  std::vector<std::string> arg_names;                     // ARGs with a value, for the history text
  bool cmd_set = false;
};

struct Plan {
  std::string dockerfile;
  oci::Platform platform;
  std::map<int, PlannedStage> stages;  // by index in the Dockerfile
  std::vector<Step> steps;             // every step after those it needs
  std::vector<ResolvedImage> images;
  int target = 0;
  std::vector<Diagnostic> warnings;

  // The steps whose layers make up a stage, bottom first, base stages included.
  std::vector<int> chain(int stage) const;
  // The steps that must be done before this one can start.
  std::vector<int> needs(const Step& step) const;
  // The image at the bottom of a stage, or null for scratch.
  const ResolvedImage* base_of(int stage) const;
  std::string describe() const;
};

// The index of the stage that --target means (a name, any case, or a number); the last one when it is empty. kInvalidInput
// with the nearest name.
Result<int> find_target(const parser::Dockerfile& dockerfile, const std::string& target);

// Expands a parsed Dockerfile for one platform. Base images are resolved (metadata only). Errors carry
// diagnostics: kInvalidInput for the Dockerfile, or what the resolver says.
Result<Plan> make_plan(const parser::Dockerfile& dockerfile, const BuildRequest& request,
                       const oci::Platform& platform, ImageResolver& resolver);

}  // namespace lamina::builder
