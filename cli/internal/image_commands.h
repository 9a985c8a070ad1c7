// What the files of the image commands share.
#pragma once

#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/table.h"
#include "layers/store.h"
#include "registry/client.h"

namespace lamina::cli {

// Credentials, hosts and warnings as the command line says.
registry::ClientOptions client_options(const ImageOptions& o, const Session& session);

// build login, build logout (login.cc).
Result<void> log_in(const ImageOptions& o, const Session& session);
Result<void> log_out(const ImageOptions& o);

// build diff (diff_command.cc): whether the two images are the same.
Result<bool> show_diff(layers::Store& store, const ImageOptions& o, const Session& session);

// build du, prune, fsck (store_commands.cc).
Result<void> show_usage(layers::Store& store, const ImageOptions& o);
Result<void> prune_store(layers::Store& store, const ImageOptions& o);
// kCorrupt when there were problems, repaired or not.
Result<void> check_store(layers::Store& store, const ImageOptions& o);

// build copy, tags, inspect --remote (remote_commands.cc).
bool is_remote(const ImageOptions& o);  // --remote, or a name with a transport such as docker://
Result<void> inspect_remote(const ImageOptions& o, const Session& session);
Result<void> list_tags(const ImageOptions& o, const Session& session);
Result<void> copy_between(const ImageOptions& o, const Session& session);
// --digest-file; no effect when it was not given.
Result<void> write_digest_file(const ImageOptions& o, const oci::Digest& digest);

}  // namespace lamina::cli
