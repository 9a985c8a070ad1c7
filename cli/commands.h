// The sub-commands. Each gives the exit status: 0 done, 1 failed, 2 wrong command line or Dockerfile, 130
// interrupted; `run` gives that of the command.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "builder/sandbox.h"
#include "cli/arguments.h"

namespace lamina::cli {

// The exit status for an error.
int exit_status(const Error& error);
// Prints to standard error and gives the exit status.
int report(const Error& error);

// $LAMINA_STORE, /var/lib/lamina for root, else $XDG_DATA_HOME/lamina or ~/.local/share/lamina.
std::string store_path(const CommonOptions& options, bool root);

// What main() found out about the process.
struct Session {
  builder::Isolation isolation = builder::Isolation::kRoot;
  std::stop_token stop;
};

int build_command(const std::vector<std::string>& arguments, const Session& session);
int check_command(const std::vector<std::string>& arguments, const Session& session);
// --check and --call, the command line being read.
int call_command(const BuildOptions& options, const Session& session);
int run_command(const std::vector<std::string>& arguments, const Session& session);
int image_command(const std::string& command, const std::vector<std::string>& arguments, const Session& session);
int version_command(const std::vector<std::string>& arguments);

}  // namespace lamina::cli
