// Git sources, through the `git` program. Nothing of the user's or the machine's git configuration is read, no hook
// and no filter runs, and a repository can only make git speak http(s), ssh and git:// to fetch its submodules.
//
// Fetched commits are kept in <store>/git/<sha256 of the remote>/, a bare repository for each remote with a lock
// file beside it: a commit that is there is not fetched again.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "builder/build.h"
#include "builder/git_source.h"
#include "builder/internal/memo.h"
#include "layers/store.h"

namespace lamina::builder {

// What a source's reference means now.
struct GitRevision {
  std::string object;  // what is fetched: the commit, or the annotated tag that names it
  std::string commit;  // the commit; for a source given by a commit's or tag's full name the same as `object`
  std::string ref;     // "refs/heads/main"; empty for a commit given by name
};

// Whose sources these are: a Dockerfile's git may use the ssh agent only when --ssh was given; the user's own
// contexts may use it always.
using GitOwner = GitPlace;

struct GitOptions {
  GitOwner owner = GitPlace::kDockerfile;
  bool keep_git_dir = false;
  bool submodules = true;
  bool commit_times = false;  // files get the commit's time, else that of the checkout
};

struct GitCheckout {
  layers::PendingLayer scratch;  // the files live as long as this
  std::string directory;         // the source's subdir
  int64_t commit_time = 0;       // seconds; committer date
};

// Any thread.
class GitRepositories {
 public:
  GitRepositories(layers::Store& store, const BuildRequest& request, std::stop_token stop) : store_(store), request_(request), stop_(std::move(stop)) {}

  // Asks the server what the reference is, once a build; nothing is asked for a full commit name. kNotFound for an
  // unknown reference, kCorrupt when it is not the commit that the source's checksum demands, kUnsupported without
  // the git program, kDenied and kUnavailable for what the server says.
  Result<GitRevision> resolve(const GitSource& source, GitOwner owner);
  // Fetches what is missing and writes the files: 0644 and 0755, directories 0755.
  Result<GitCheckout> checkout(const GitSource& source, const GitRevision& revision, const GitOptions& options);
  // Seconds since 1970; fetches the commit.
  Result<int64_t> commit_time(const GitSource& source, const GitRevision& revision, GitOwner owner);

 private:
  class Session;
  layers::Store& store_;
  const BuildRequest& request_;
  std::stop_token stop_;
  Memo<GitRevision> resolved_;  // by remote and reference
};

// When the commit was made that the work tree around a directory is at, in seconds since 1970; nothing when the directory
// is in none, or has no commit yet. kUnsupported when it is in one and the program git is not installed.
Result<std::optional<int64_t>> work_tree_time(const std::string& directory, const std::stop_token& stop);

}  // namespace lamina::builder
