// What the parent tells the sandbox child, and how: what must be known from the start as arguments, the rest, when it is
// known, as a list of strings through a socket. Both ends are the same binary, so the format has no version.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "builder/sandbox.h"
#include "builder/user.h"

namespace lamina::builder::internal {

// argv[0] of the re-executed program; nobody types it.
inline constexpr const char* kSandboxArgv0 = "lamina-sandbox";
// Descriptors of the child.
inline constexpr int kPlanFd = 3;
inline constexpr int kReportFd = 4;

// What a sandbox can be prepared with before its command is known; one with other values serves no other command.
struct SandboxBase {
  NetworkMode network = NetworkMode::kHost;
  bool insecure = false;
  bool inherit_stdio = false;
  bool full_privileges = false;  // root of the machine's own user namespace
  uint64_t shm_size_bytes = 64 << 20;
  bool operator==(const SandboxBase&) const = default;
};
std::vector<std::string> to_arguments(const SandboxBase& base);
std::optional<SandboxBase> from_arguments(int argc, char** argv);

struct SandboxPlan {
  SandboxSpec spec;
  std::string hosts;        // text of /etc/hosts
  std::string resolv_conf;  // text of /etc/resolv.conf
  bool full_privileges = false;
};

std::string serialise(const SandboxPlan& plan);
Result<SandboxPlan> deserialise(std::string_view text);

// Reports of the child: an Error, or how the command ended.
std::string serialise(const Error& error);
std::string serialise(const ExitStatus& status);
// Nothing when the child died without a report.
Result<std::optional<ExitStatus>> read_report(std::string_view text);

// Steps of the child, in order. All of them run in the new namespaces, single-threaded.
struct Stub {
  std::string path;      // in the root, relative
  bool directory = false;
};

// A directory of the layers below that overlayfs copied up only to hold a stub, as it was before.
struct Ancestor {
  std::string path;
  struct stat before {};
};
struct MountPoints {
  std::vector<Stub> stubs;  // in the order of making
  std::vector<Ancestor> ancestors;
};

// In a new mount namespace: a directory with proc, dev and sys, ready to be moved into a root.
Result<UniqueFd> prepare_kernel_file_systems(const SandboxBase& base);
// Mounts the overlay and everything in it and makes it the root. `staging` is what was prepared.
Result<MountPoints> enter_root(const SandboxPlan& plan, int staging);
// When the command has ended: removes from the upper directory the stubs that are still empty, and the
// ancestors that hold nothing and have the attributes they had.
void remove_stubs(int upper_fd, const MountPoints& made);
// Becomes the user with Docker's default capabilities, filter and limits, and executes. Returns only on failure.
Error execute_command(const SandboxPlan& plan, const ResolvedUser& user);

}  // namespace lamina::builder::internal
