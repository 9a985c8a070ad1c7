// What the parent tells the sandbox child, and how: a list of strings in a memfd. Both ends are the same binary, so
// the format has no version.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

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

struct SandboxPlan {
  SandboxSpec spec;
  std::string hosts;        // text of /etc/hosts
  std::string resolv_conf;  // text of /etc/resolv.conf
  std::string seccomp;      // BPF program, empty: none
  bool full_privileges = false;
};

std::string serialise(const SandboxPlan& plan);
Result<SandboxPlan> deserialise(std::string_view text);

// Reports of the child: an Error, or how the command ended.
std::string serialise(const Error& error);
std::string serialise(const ExitStatus& status);
// Nothing when the child died without a report.
Result<std::optional<ExitStatus>> read_report(std::string_view text);

// The BPF program of Docker's default profile; made once.
Result<std::string> default_seccomp_filter();

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

// Mounts the overlay and everything in it and makes it the root.
Result<MountPoints> enter_root(const SandboxPlan& plan);
// When the command has ended: removes from the upper directory the stubs that are still empty, and the
// ancestors that hold nothing and have the attributes they had.
void remove_stubs(int upper_fd, const MountPoints& made);
// Becomes the user with Docker's default capabilities, filter and limits, and executes. Returns only on failure.
Error execute_command(const SandboxPlan& plan, const ResolvedUser& user);

}  // namespace lamina::builder::internal
