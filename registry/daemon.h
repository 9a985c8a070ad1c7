// Finished images into a running docker or podman (--load): the Docker Engine API that both speak, `POST /images/load`,
// or `podman load` where no podman listens.
#pragma once

#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/stream.h"

namespace lamina::registry {

enum class DaemonKind { kAny, kDocker, kPodman };

// Where images are loaded into. A value; any thread.
class Daemon {
 public:
  // Looks for one that answers. kDocker: $DOCKER_HOST alone when it is set, else the context of the docker command, else
  // /var/run/docker.sock and $XDG_RUNTIME_DIR/docker.sock. kPodman: $CONTAINER_HOST alone when it is set, else
  // $XDG_RUNTIME_DIR/podman/podman.sock and /run/podman/podman.sock, then the program. kAny: docker, then podman.
  // `programs`: whether `podman load` may be run; in a user namespace it would not see the user's images.
  // kUnavailable with everything that was tried, kDenied for a socket that this user may not use, kUnsupported for an
  // address of another kind.
  static Result<Daemon> find(DaemonKind kind, bool programs, std::stop_token stop);

  // "docker at unix:///var/run/docker.sock", "podman load"
  const std::string& text() const { return text_; }
  // Streams what `write` writes, a docker archive; returns the daemon's words, "Loaded image: app:v1". Nothing is loaded
  // when `write` fails. kStepFailed with the daemon's own words when it refuses.
  Result<std::string> load(const std::function<Result<void>(ByteSink&)>& write, std::stop_token stop) const;

 private:
  friend class DaemonSearch;
  Result<std::string> load_by_request(const std::function<Result<void>(ByteSink&)>& write, std::stop_token stop) const;
  Result<std::string> load_by_program(const std::function<Result<void>(ByteSink&)>& write, std::stop_token stop) const;

  std::string text_;
  std::string socket_;  // path; else
  std::string url_;     // "https://host:port", also of a socket; else
  std::string program_;
  std::string authorities_, client_certificate_, client_key_;  // of https
};

// What a daemon said line by line in JSON: the text of its streams, or kStepFailed with its error.
Result<std::string> read_load_answer(int status, std::string_view body);

}  // namespace lamina::registry
