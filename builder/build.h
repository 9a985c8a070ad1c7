// The builder's front door: a request as a value in, an image out, events on the way.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/diagnostic.h"
#include "base/result.h"
#include "builder/sandbox.h"
#include "layers/compression.h"
#include "layers/store.h"
#include "oci/blob.h"
#include "oci/platform.h"
#include "oci/reference.h"
#include "registry/client.h"
#include "registry/daemon.h"

namespace lamina::builder {

enum class PullPolicy { kMissing, kAlways, kNever, kNewer };

// -o type=…
struct OutputSpec {
  enum class Type { kImage, kRegistry, kOci, kDocker, kTar, kLocal };
  Type type = Type::kImage;
  std::string dest;            // path, "-" for standard output; kImage and kRegistry have none; kDocker without one loads
  registry::DaemonKind daemon = registry::DaemonKind::kAny;  // of kDocker without dest
  std::vector<std::string> names;  // name=a,b; empty: the tags of the request
  bool tar = true;             // kOci: a tar; a directory with tar=false or when dest ends with /
  bool push = false;           // kImage with push=true
  bool by_digest = false;      // push-by-digest=true: the name gets no tag
  layers::CompressionOptions compression;
  bool compression_given = false;
  bool docker_types = false;   // oci-mediatypes=false: Docker's media types instead of OCI's
  std::optional<bool> rewrite_timestamp;  // of the whole build, see BuildRequest
};
// "type=oci,dest=out.tar,compression=zstd", "-" (tar), "out" (local). kInvalidInput with a suggestion, also for an option
// that the type has no use for.
Result<OutputSpec> parse_output(std::string_view text);

// --annotation [LEVEL[,LEVEL…][[PLATFORM]]:]NAME=VALUE
struct AnnotationSpec {
  enum class Level { kManifest, kIndex, kManifestDescriptor, kIndexDescriptor };
  Level level = Level::kManifest;
  std::optional<oci::Platform> platform;  // of manifests only; nothing: every one
  std::string name, value;
};
// One for each level that is named. kInvalidInput with a suggestion.
Result<std::vector<AnnotationSpec>> parse_annotation(std::string_view text);
// Those of a level, for an image of `platform` (nothing: an index).
std::map<std::string, std::string> annotations_of(const std::vector<AnnotationSpec>& all, AnnotationSpec::Level level, const std::optional<oci::Platform>& platform);

struct SecretSpec {
  std::string id;
  std::string file;  // or
  std::string env;   // name of an environment variable of this process
};
struct SshSpec {
  std::string id = "default";
  std::string path;  // agent socket; empty: $SSH_AUTH_SOCK
};

// --no-cache-filter STAGE[:LINES]: instructions whose recorded outcome is not used.
struct CacheFilter {
  std::string stage;  // a name or, counted from 0, a number; empty: every stage
  uint32_t first_line = 0;
  uint32_t last_line = UINT32_MAX;  // lines of the Dockerfile that the instruction touches
};
// "stage", "stage:12", "stage:12-20", ":12-", several separated by commas. kInvalidInput.
Result<std::vector<CacheFilter>> parse_cache_filter(std::string_view text);

struct BuildRequest {
  std::string context;                   // directory, "-" for standard input, URL of a tar, git source
  std::string dockerfile;                // -f; empty: Dockerfile in the context; "-": standard input; or a URL
  std::string target;
  std::vector<std::string> tags;         // -t
  std::vector<std::pair<std::string, std::optional<std::string>>> build_args;  // no value: from our environment
  std::map<std::string, std::string> labels;
  std::vector<AnnotationSpec> annotations;
  std::map<std::string, std::string> build_contexts;  // name → docker-image://…, oci-layout://…, or what `context` takes
  std::vector<oci::Platform> platforms;  // empty: the host's
  std::vector<OutputSpec> outputs;       // empty: the store
  bool push = false;                     // --push: every tag
  bool no_cache = false;
  std::vector<CacheFilter> no_cache_filter;
  PullPolicy pull = PullPolicy::kMissing;
  NetworkMode network = NetworkMode::kHost;  // --network default|host|none
  std::vector<std::pair<std::string, std::string>> extra_hosts;  // --add-host name:address
  std::vector<SecretSpec> secrets;
  std::vector<SshSpec> ssh;
  std::vector<std::string> allow;        // entitlements: network.host, security.insecure, device, device=NAME
  std::vector<std::string> cdi_directories;  // of device descriptions; empty: the standard ones
  bool squash = false;                   // --squash: the target's own layers become one
  bool strict = false;                   // --strict: a wildcard of COPY or ADD that matches nothing is an error
  std::vector<std::string> compat;       // --compat: unknown-owner (a name that --chown cannot find is 0)
  uint64_t shm_size_bytes = 64 << 20;
  std::vector<std::string> ulimits;
  std::string ignore_file;               // --ignorefile
  std::string auth_file;
  std::vector<std::string> insecure_registries;
  std::optional<int64_t> source_date_epoch;  // seconds; --build-arg SOURCE_DATE_EPOCH and the environment set it
  std::string source_date_epoch_name;    // or this says where it is from: "context", a named context, a stage
  std::optional<uint64_t> max_used_space;  // bytes that the store may take on the disk, also while this build goes on
  // Whether files that are newer than source_date_epoch get that time: yes unless it says no.
  std::optional<bool> rewrite_timestamp;
  unsigned jobs = 0;                     // parallel compute tasks; 0: the number of cores
};

// The latest time that a file of a new layer may have; nothing: any.
inline std::optional<int64_t> latest_time(const BuildRequest& request) { return request.rewrite_timestamp.value_or(true) ? request.source_date_epoch : std::nullopt; }

// What the user sees while a build goes on. Vertices are numbered from 1 in the order in which they are
// announced; every one announced is finished exactly once.
enum class VertexStatus { kDone, kCached, kFailed, kCancelled };
struct Vertex {
  int id = 0;
  std::string name;   // "[build 2/7] RUN make", "[internal] load build context", "exporting to image"
  std::string stage;  // stage name or empty
};
// Calls come from any thread, one at a time (the builder serialises them).
class BuildEvents {
 public:
  virtual ~BuildEvents() = default;
  virtual void vertex_announced(const Vertex& vertex) = 0;  // known, may start later
  virtual void vertex_started(int id) = 0;
  // `why` is set with --explain in mind: "cached", or the first key input that differs.
  virtual void vertex_finished(int id, VertexStatus status, const std::string& why) = 0;
  virtual void output(int id, OutputStream stream, std::string_view bytes) = 0;
  // A counter below a vertex: bytes of a download, upload, or export.
  virtual void progress(int id, const std::string& what, uint64_t done, uint64_t total) = 0;
  virtual void diagnostic(const Diagnostic& diagnostic) = 0;  // warnings
  virtual void warning(const std::string& text) = 0;
};

struct BuiltImage {
  oci::Platform platform;
  oci::Descriptor manifest;  // as stored locally
  oci::Digest config;        // the image id
};
struct BuildResult {
  std::vector<BuiltImage> images;     // one for each platform
  oci::Digest image_id;               // of the only image's config, or of the index
  std::optional<oci::Descriptor> index;  // as stored locally, when there is one
  std::vector<oci::Reference> tagged;
  std::optional<oci::Descriptor> pushed;  // what the registry holds; of several outputs that push, the first one's
  std::vector<std::string> loaded;  // "docker at unix:///var/run/docker.sock: Loaded image: app:v1"
  unsigned steps = 0;                 // steps that make layers
  unsigned cached = 0;
};

// Builds. Errors: kInvalidInput with diagnostics for a wrong Dockerfile or request, kStepFailed for a failing
// RUN, kCancelled, and those of the store and the registries. Nothing is tagged when it fails.
Result<BuildResult> build(layers::Store& store, const BuildRequest& request, BuildEvents& events,
                          std::stop_token stop);

// --dry-run: the plan as text, nothing executed.
Result<std::string> describe_plan(layers::Store& store, const BuildRequest& request, BuildEvents& events);

// An image of the store (or, when missing and allowed, pulled), with its layers registered.
Result<oci::Image> find_image(layers::Store& store, const oci::Reference& name, const oci::Platform& platform);

// build push SRC [DST …]: compressed as asked; returns what the registry now holds.
Result<registry::PushReport> push(layers::Store& store, const oci::Reference& source,
                                  const std::vector<oci::Reference>& destinations,
                                  const layers::CompressionOptions& compression,
                                  registry::Client& client, BuildEvents& events);

// build pull NAME.
Result<oci::Descriptor> pull(layers::Store& store, const oci::Reference& name, const oci::Platform& platform,
                             registry::Client& client, BuildEvents& events);

// build run NAME [cmd…]
struct RunRequest {
  oci::Reference image;
  std::vector<std::string> command;        // replaces CMD
  std::optional<std::vector<std::string>> entrypoint;
  std::vector<std::string> environment;    // -e NAME=value
  std::vector<SandboxMount> volumes;       // -v
  std::string working_dir;                 // -w
  std::string user;                        // -u
  std::string hostname;
  NetworkMode network = NetworkMode::kHost;
  std::vector<std::pair<std::string, std::string>> extra_hosts;
};
// Runs on our standard streams; what the container writes to its root is discarded.
Result<ExitStatus> run_image(layers::Store& store, const RunRequest& request, std::stop_token stop);

// Layers that a build record refers to, for Store::prune.
std::vector<layers::LayerId> layers_of_record(std::string_view record);

}  // namespace lamina::builder
