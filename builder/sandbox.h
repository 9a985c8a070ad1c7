// Runs one command in a root file system of its own. docs/sandbox.md describes the isolation and its limits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/child_process.h"
#include "base/result.h"

namespace lamina::builder {

enum class NetworkMode {
  kHost,  // the host's network (also what "default" means without a bridge)
  kNone,  // only lo
};

// Something visible in the sandbox besides the root file system.
struct SandboxMount {
  enum class Type { kBind, kTmpfs, kFile, kDevice };
  Type type = Type::kBind;
  std::string source;       // kBind: absolute path outside the sandbox (file, directory or socket); kDevice: the node
  std::string target;       // absolute path inside; made when missing and removed again when still empty
  bool read_only = false;
  std::optional<uint64_t> size_bytes;  // kTmpfs
  uint32_t mode = 01777;    // kTmpfs, kFile, kDevice
  uint32_t uid = 0, gid = 0;  // kFile, kDevice
  std::string content;      // kFile: read-only and never on a disk
  bool block = false;       // kDevice; with full privileges a node of our own is made of these three
  uint32_t dev_major = 0, dev_minor = 0;
  // kBind with a stack instead of a directory: an overlay of these, top first; writes are discarded.
  // `scratch` is an empty directory on a file system that can hold an upperdir (needed unless read_only).
  std::vector<std::string> overlay_lower;
  std::string scratch;
  std::string subpath;      // of the overlay to show, "" for its root
};

struct SandboxSpec {
  // The root: an overlay of `lower_dirs` (top first; may be empty for scratch) with `upper_dir` and
  // `work_dir`, on one file system. After the run upper_dir holds exactly what the command changed.
  std::vector<std::string> lower_dirs;
  std::string upper_dir;
  std::string work_dir;

  std::vector<std::string> argv;         // argv[0] is looked up in the PATH of `environment`
  std::vector<std::string> environment;  // NAME=value; HOME is added from /etc/passwd when missing
  std::string working_dir = "/";         // made (0755, owned by the user) when missing
  std::string user;                      // "", "name", "uid", "name:group", "uid:gid"; resolved inside the root
  std::string hostname = "buildkitsandbox";
  NetworkMode network = NetworkMode::kHost;
  std::vector<std::pair<std::string, std::string>> extra_hosts;  // name, address; for /etc/hosts
  std::vector<SandboxMount> mounts;
  bool insecure = false;                 // all capabilities, no seccomp filter, nothing masked
  uint64_t shm_size_bytes = 64 << 20;
  std::vector<std::string> ulimits;      // "nofile=1024:2048"
  std::vector<uint32_t> extra_groups;    // supplementary, besides those of the user
  // Files or directories written below the mount targets stay out of upper_dir; stubs made for mounts are removed.

  bool inherit_stdio = false;            // `build run`: the command has our stdin, stdout and stderr
};

enum class OutputStream { kStdout, kStderr };
// Called from the thread that runs the sandbox, as bytes come; lines may be split over calls.
using OutputCallback = std::function<void(OutputStream, std::string_view)>;

// Starts sandboxes. While a command runs, the next command's sandbox can be prepared: its processes, namespaces and
// kernel file systems are there when it comes. Any thread; several commands at once.
class Sandboxes {
 public:
  Sandboxes();
  ~Sandboxes();  // ends what was prepared for nobody
  Sandboxes(const Sandboxes&) = delete;
  Sandboxes& operator=(const Sandboxes&) = delete;

  // Runs to the end and returns how the command ended. Everything the command started is dead when this
  // returns, and upper_dir has no stub of ours; the mounts are gone before the next command's root is made, and when
  // this object is. A stop request kills all (kCancelled).
  // Errors mean that the sandbox could not be set up (kDenied, kUnsupported, kNotFound for an unknown user
  // or program; each names what was tried and what to do), never that the command failed.
  // With `another_follows` a sandbox of the same kind is prepared meanwhile.
  Result<ExitStatus> run(const SandboxSpec& spec, const OutputCallback& output, std::stop_token stop, bool another_follows);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The child side: call first thing in main(). When this process was started by Sandboxes it does that
// work and never returns; otherwise it returns at once.
void sandbox_child_main(int argc, char** argv);

// How far the kernel lets us go here; named in --debug output and errors.
enum class Isolation {
  kRoot,            // root of the initial user namespace
  kRootlessRange,   // a user namespace with a subordinate id range (newuidmap)
  kRootlessSingle,  // a user namespace with only the user's own id
};
std::string_view to_string(Isolation isolation);

// For an ordinary user: continues this program inside a new user namespace in which it is root, with the
// ranges of /etc/subuid and /etc/subgid (newuidmap, newgidmap) or, failing that, with its own id alone.
// Call in main() before any thread starts; root returns at once. The original process waits and passes
// signals and the exit status on; only the inner one returns from here.
// Errors: kUnsupported or kDenied with what to do (packages, /etc/subuid, sysctl).
//
// A signal that the outer process passes on carries kPassedOnSignal (sigqueue(3)): who signals the whole process
// group reaches the inner process twice, and this is how it knows that the two are one.
inline constexpr int kPassedOnSignal = 0x1a3d;
Result<Isolation> enter_user_namespace(int argc, char** argv);

}  // namespace lamina::builder
