// The contexts of a build: directories of the user, and what is fetched or read to become one. docs/contexts.md
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "builder/context.h"
#include "builder/event_hub.h"
#include "builder/git.h"
#include "builder/internal/memo.h"
#include "builder/remote_files.h"

namespace lamina::builder {

struct DirectoryContext {
  std::string path;
};
struct InputContext {};  // "-": a tar, or a Dockerfile alone, on standard input
struct HttpContext {     // a tar, or a Dockerfile alone
  std::string url;
};
using ContextPlace = std::variant<DirectoryContext, InputContext, HttpContext, GitSource>;

// What CONTEXT or --build-context NAME=… says. A directory that exists is one whatever it is called, so that a path
// github.com/x is not fetched. kInvalidInput for a wrong git source.
Result<ContextPlace> parse_context(const std::string& text);

// docker-image:// and oci-layout:// contexts are images; all others are files.
bool is_image_context(const std::string& text);

struct DockerfileText {
  std::string text;
  std::string shown;  // the name in messages
  std::string path;   // of a file that the user can change; empty for one that was fetched or read from standard input
};

// Each is opened when first needed; what was fetched is removed with this object. Any thread.
class Contexts {
 public:
  Contexts(layers::Store& store, const BuildRequest& request, RemoteFiles& files, GitRepositories& repositories, EventHub& events, std::stop_token stop)
      : store_(store), request_(request), files_(files), repositories_(repositories), events_(events), stop_(std::move(stop)) {}

  // The Dockerfile that -f names, or that is in the main context, or that is all there is of it. Called once, before
  // get() of the main context, which needs to know where the Dockerfile is.
  Result<DockerfileText> dockerfile();
  // "" is the main context. kNotFound for a missing directory.
  Result<std::shared_ptr<const SourceTree>> get(const std::string& name);
  // When the content was made: a git commit's time, Last-Modified of a URL, the newest file of an archive. Of a directory
  // the time of the git commit that it is at; nothing outside of git, and for images.
  Result<std::optional<int64_t>> time_of(const std::string& name);
  // Keeps what was learnt about the files.
  Result<void> save_indexes();

 private:
  // A place made into a directory.
  struct Files {
    std::string directory;
    bool fetched = false;                      // ours: nothing in it may be followed out of it
    std::optional<std::string> dockerfile;     // there was nothing else
    std::optional<int64_t> time;
    std::optional<layers::PendingLayer> scratch;
    std::optional<GitCheckout> checkout;
  };
  struct Opened {
    std::shared_ptr<const SourceTree> tree;
    std::shared_ptr<DigestIndex> index;  // null for what was fetched: its files are new each time
  };
  const std::string& text_of(const std::string& name) const { return name.empty() ? request_.context : request_.build_contexts.at(name); }
  Result<std::shared_ptr<Files>> files_of(const std::string& name);
  Result<Files> fetch(const std::string& name, const ContextPlace& place);
  Result<Files> from_input();
  Result<Files> from_http(const std::string& name, const std::string& url);
  Result<Files> from_git(const std::string& name, const GitSource& source);
  Result<Files> unpack(ByteSource& source, const std::string& what);
  Result<DockerfileText> dockerfile_of_directory(const std::string& directory);
  Result<DockerfileText> dockerfile_inside(const Files& files);
  Result<parser::IgnoreList> ignore_list(const std::string& name, const Files& files);
  Result<Opened> open(const std::string& name);

  layers::Store& store_;
  const BuildRequest& request_;
  RemoteFiles& files_;
  GitRepositories& repositories_;
  EventHub& events_;
  std::stop_token stop_;
  std::string dockerfile_path_;    // of a Dockerfile in the user's file system, for <Dockerfile>.dockerignore
  std::string dockerfile_inside_;  // of one in a fetched main context
  Memo<std::shared_ptr<Files>> made_;  // by name
  Memo<Opened> opened_;
};

// All that reads the sources of one build. Keeps references to what it is made from.
struct BuildSources {
  BuildSources(layers::Store& store, const BuildRequest& request, EventHub& events, const std::stop_token& stop)
      : files(store, request, stop, [&events](const std::string& text) { events.warning(text); }),
        repositories(store, request, stop),
        contexts(store, request, files, repositories, events, stop) {}

  RemoteFiles files;
  GitRepositories repositories;
  Contexts contexts;
};

}  // namespace lamina::builder
