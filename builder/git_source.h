// Git repositories as sources of ADD and as contexts: what their texts mean. Nothing is fetched here.
// dockerfile-language reference 1.10.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace lamina::builder {

struct GitSource {
  std::string remote;  // a URL as it was written, with its credentials, or "user@host:path"
  std::string host;    // with the port; empty for a local repository
  bool http = false;   // otherwise ssh, git:// or a local file
  bool ssh = false;
  std::string ref;     // branch, tag, full reference or commit; empty: the default branch
  std::string subdir;  // cleaned, without leading "/"; empty: all
  std::string checksum;  // a commit's name or its beginning, lower case
  std::optional<bool> keep_git_dir;
  std::optional<bool> submodules;  // on unless false
  std::string mtime;               // "checkout", "commit" or empty

  // The remote without passwords, which is all that git is told: for http without "user:password@", else without
  // ":password".
  std::string address() const;
  // Whether what is sent can be read on the way: plain http to another machine than this.
  bool readable_by_others() const;
  // "user:password", decoded, of an http URL that has them; else empty.
  std::string http_credentials() const;

  bool operator==(const GitSource&) const = default;
};

enum class GitPlace {
  kDockerfile,   // a hostile text: no file://, and no "github.com/x/y", which could be a path
  kCommandLine,  // the user's own word
};

// Nothing when the text is no git source; kInvalidInput when it is one and is wrong, and never runs git.
//   git@host:path  ssh://…  git://…  http(s)://….git  git+https://…  git+ssh://…
//   and on the command line github.com/x/y, file://….git, git+file://…
//   each with #ref:subdir and ?ref= tag= branch= commit= checksum= subdir= keep-git-dir= submodules= mtime=
Result<std::optional<GitSource>> parse_git_source(std::string_view text, GitPlace place);

// 40 or 64 hexadecimal digits.
bool is_commit_name(std::string_view text);

}  // namespace lamina::builder
