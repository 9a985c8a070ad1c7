#include "registry/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "base/child_process.h"
#include "base/files.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "net/http.h"

namespace lamina::registry {

namespace {

using Write = std::function<Result<void>(ByteSink&)>;

// A daemon unpacks before it answers.
constexpr std::chrono::minutes kPatience{60};
constexpr uint64_t kMaxAnswer = 64 << 20;
constexpr uint64_t kMaxConfig = 16 << 20;

std::string environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets it
  return value == nullptr ? std::string() : std::string(value);
}

// The directory of the docker command's settings, or "".
std::string docker_directory() {
  if (std::string directory = environment("DOCKER_CONFIG"); !directory.empty()) return directory;
  const std::string home = environment("HOME");
  return home.empty() ? home : home + "/.docker";
}

// Where the docker command's context points (docker-context(1)); "" for its default. What cannot be read counts as
// absent.
std::string host_of_docker_context() {
  const std::string directory = docker_directory();
  std::string name = environment("DOCKER_CONTEXT");
  const auto read = [&](const std::string& path) -> std::optional<json::Json> {
    const auto text = read_file(AT_FDCWD, directory + path, kMaxConfig);
    auto json = text ? json::parse_object(*text, path) : Result<json::Json>(Error(ErrorKind::kNotFound, path));
    return json ? std::optional(*std::move(json)) : std::nullopt;
  };
  if (name.empty()) {
    const auto config = read("/config.json");
    if (!config) return {};
    name = json::get_string(*config, "currentContext").value_or(std::nullopt).value_or("");
  }
  if (name.empty() || name == "default") return {};
  const auto meta = read("/contexts/meta/" + sha256_hex(name) + "/meta.json");
  if (!meta) return {};
  const auto endpoints = json::get_object(*meta, "Endpoints").value_or(nullptr);
  const auto docker = endpoints == nullptr ? nullptr : json::get_object(*endpoints, "docker").value_or(nullptr);
  return docker == nullptr ? std::string() : json::get_string(*docker, "Host").value_or(std::nullopt).value_or("");
}

// Whether somebody listens.
Result<void> try_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return system_error(ENAMETOOLONG, "connect", path);
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return system_error(errno, "socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN) return {};
  return system_error(errno, "connect", path);
}

// What a thread writes, as a source. When the writing fails reading does so too, so that no cut archive looks whole.
class WrittenSource : public ByteSource {
 public:
  static Result<std::unique_ptr<WrittenSource>> start(const Write& write) {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) return system_error(errno, "pipe2");
    ::fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);  // fewer turns; no matter when it is refused
    return std::unique_ptr<WrittenSource>(new WrittenSource(UniqueFd(fds[0]), UniqueFd(fds[1]), write));
  }
  WrittenSource(const WrittenSource&) = delete;
  WrittenSource& operator=(const WrittenSource&) = delete;
  ~WrittenSource() override {
    source_.reset();  // ends the writer with EPIPE
    if (thread_.joinable()) thread_.join();
  }
  Result<size_t> read(std::span<std::byte> buffer) override {
    ASSIGN_OR_RETURN(const size_t n, source_->read(buffer));
    if (n > 0) return n;
    if (thread_.joinable()) thread_.join();
    if (!written_) return Error(written_.error());
    return n;
  }

 private:
  WrittenSource(UniqueFd read_end, UniqueFd write_end, const Write& write)
      : source_(std::make_unique<FdSource>(std::move(read_end))), thread_([this, write, out = std::move(write_end)]() mutable {
          FdSink sink(out.get());
          written_ = write(sink);
          out.reset();
        }) {}

  std::unique_ptr<FdSource> source_;
  Result<void> written_;
  std::thread thread_;  // last: it uses the rest
};

Error refused(std::string words) {
  return Error(ErrorKind::kStepFailed, words.empty() ? "it gave no reason" : printable(trim(words)));
}

}  // namespace

Result<std::string> read_load_answer(int status, std::string_view body) {
  std::string said, wrong;
  for (const std::string& line : split(body, '\n')) {
    const auto json = json::parse_object(line, "the answer");
    if (!json) continue;
    const auto text = [&](const char* member) { return json::get_string(*json, member).value_or(std::nullopt).value_or(""); };
    said += text("stream");
    if (const std::string error = text("error"); !error.empty()) wrong = error;
    // podman's and docker's way when nothing was streamed yet
    if (status >= 300 && wrong.empty()) wrong = text("message");
  }
  if (status >= 300 && wrong.empty()) wrong = fmt::format("status {} {}", status, trim(body.substr(0, 1000)));
  if (!wrong.empty()) return refused(std::move(wrong));
  return std::string(trim(said));
}

// Collects what was tried until something answers.
class DaemonSearch {
 public:
  DaemonSearch(bool programs, std::stop_token stop) : programs_(programs), stop_(std::move(stop)) {}

  // Nothing when no docker answers.
  Result<std::optional<Daemon>> docker() {
    for (const char* name : {"DOCKER_HOST", "the docker context"}) {
      const bool variable = name[0] == 'D';
      const std::string host = variable ? environment(name) : host_of_docker_context();
      if (!host.empty()) return by_address("docker", host, name);
    }
    ASSIGN_OR_RETURN(std::optional<Daemon> found, by_socket("docker", "/var/run/docker.sock"));
    const std::string runtime = environment("XDG_RUNTIME_DIR");
    if (!found && !runtime.empty()) return by_socket("docker", runtime + "/docker.sock");
    return found;
  }

  Result<std::optional<Daemon>> podman() {
    if (const std::string host = environment("CONTAINER_HOST"); !host.empty()) return by_address("podman", host, "CONTAINER_HOST");
    std::optional<Daemon> found;
    if (const std::string runtime = environment("XDG_RUNTIME_DIR"); !runtime.empty()) {
      ASSIGN_OR_RETURN(found, by_socket("podman", runtime + "/podman/podman.sock"));
    }
    if (!found) {
      ASSIGN_OR_RETURN(found, by_socket("podman", "/run/podman/podman.sock"));
    }
    if (!found && programs_) return by_program("podman");
    return found;
  }

  Error nothing_found(DaemonKind kind) {
    const std::string what = kind == DaemonKind::kDocker ? "docker" : kind == DaemonKind::kPodman ? "podman" : "docker or podman";
    Error error(ErrorKind::kUnavailable, fmt::format("there is no running {} to load the image into", what));
    for (std::string& one : tried_) error = std::move(error).with_note("tried " + std::move(one));
    if (kind != DaemonKind::kDocker && !programs_) error = std::move(error).with_note("podman of an ordinary user listens after: systemctl --user start podman.socket (or podman system service)");
    return std::move(error).with_note("start it, name it with DOCKER_HOST, or leave --load out: the image is in the store anyway (build run, build push)");
  }

 private:
  Result<std::optional<Daemon>> by_socket(const char* kind, const std::string& path) {
    auto there = try_socket(path);
    if (!there) {
      if (there.error().error_number() == EACCES) {
        Error error(ErrorKind::kDenied, fmt::format("this user may not speak to {} at {}", kind, path));
        error = std::move(error).with_errno(EACCES).with_note(fmt::format("whoever is in the group of {} may (usermod -aG docker USER, and a new login)", path));
        return std::move(error).with_note(kind[0] == 'd' ? "--load=podman loads into podman" : "--load=docker loads into docker");
      }
      tried_.push_back(fmt::format("unix://{}: {}", path, there.error().error_number() != 0 ? errno_text(there.error().error_number()) : there.error().message()));
      return std::optional<Daemon>();
    }
    Daemon daemon;
    daemon.socket_ = path;
    daemon.url_ = "http://localhost";
    daemon.text_ = fmt::format("{} at unix://{}", kind, path);
    return answering(std::move(daemon));
  }

  // The user named it: nothing else will do.
  Result<std::optional<Daemon>> by_address(const char* kind, const std::string& address, const std::string& from) {
    const size_t scheme_end = address.find("://");
    const std::string scheme = address.substr(0, scheme_end), rest = scheme_end == std::string::npos ? "" : address.substr(scheme_end + 3);
    if (scheme == "unix") {
      ASSIGN_OR_RETURN(std::optional<Daemon> found, by_socket(kind, rest));
      if (!found) return nothing_found(kind[0] == 'd' ? DaemonKind::kDocker : DaemonKind::kPodman).with_context(fmt::format("following {}={}", from, printable(address)));
      return found;
    }
    if ((scheme != "tcp" && scheme != "http" && scheme != "https") || rest.empty()) {
      return Error(ErrorKind::kUnsupported, fmt::format("{} is \"{}\": images are loaded through unix:// and tcp:// only", from, printable(address)))
          .with_note("build … -o type=docker,dest=- | docker load   does it for every other kind");
    }
    Daemon daemon;
    const bool tls = scheme == "https" || (kind[0] == 'd' && !environment("DOCKER_TLS_VERIFY").empty());
    daemon.url_ = (tls ? "https://" : "http://") + rest.substr(0, rest.find('/'));
    daemon.text_ = fmt::format("{} at {}", kind, printable(address));
    if (tls) {
      const std::string own = environment("DOCKER_CERT_PATH");
      const std::string directory = own.empty() ? docker_directory() : own;
      if (const auto authorities = read_file_if_exists(AT_FDCWD, directory + "/ca.pem", kMaxConfig); authorities && *authorities) daemon.authorities_ = **authorities;
      if (::access((directory + "/cert.pem").c_str(), F_OK) == 0) {
        daemon.client_certificate_ = directory + "/cert.pem";
        daemon.client_key_ = directory + "/key.pem";
      }
    }
    return answering(std::move(daemon));
  }

  Result<std::optional<Daemon>> by_program(const std::string& name) {
    SpawnOptions options;
    options.argv = {name, "--version"};
    if (const auto version = run_and_capture(options); !version) {
      tried_.push_back(fmt::format("the program {}: {}", name, version.error().kind() == ErrorKind::kNotFound ? "it is not installed" : version.error().message()));
      return std::optional<Daemon>();
    }
    Daemon daemon;
    daemon.program_ = name;
    daemon.text_ = name + " load";
    return std::optional<Daemon>(std::move(daemon));
  }

  Result<std::optional<Daemon>> answering(Daemon daemon) {
    net::HttpRequest request;
    request.url = daemon.url_ + "/_ping";
    request.unix_socket = daemon.socket_;
    request.authorities = daemon.authorities_;
    request.client_certificate = daemon.client_certificate_;
    request.client_key = daemon.client_key_;
    net::HttpSession session;
    auto answer = session.start(request, stop_);
    if (!answer) return std::move(answer).error().with_context("speaking to " + daemon.text_);
    if (answer->status != 200) return Error(ErrorKind::kUnavailable, fmt::format("{} answers with status {}: no Docker Engine API", daemon.text_, answer->status));
    return std::optional<Daemon>(std::move(daemon));
  }

  bool programs_;
  std::stop_token stop_;
  std::vector<std::string> tried_;
};

Result<Daemon> Daemon::find(DaemonKind kind, bool programs, std::stop_token stop) {
  DaemonSearch search(programs, std::move(stop));
  std::optional<Daemon> found;
  if (kind != DaemonKind::kPodman) {
    ASSIGN_OR_RETURN(found, search.docker());
  }
  if (!found && kind != DaemonKind::kDocker) {
    ASSIGN_OR_RETURN(found, search.podman());
  }
  if (!found) return search.nothing_found(kind);
  return *std::move(found);
}

Result<std::string> Daemon::load(const Write& write, std::stop_token stop) const {
  return program_.empty() ? load_by_request(write, std::move(stop)) : load_by_program(write, std::move(stop));
}

Result<std::string> Daemon::load_by_request(const Write& write, std::stop_token stop) const {
  ASSIGN_OR_RETURN(const std::unique_ptr<WrittenSource> archive, WrittenSource::start(write));
  net::HttpRequest request;
  request.method = "POST";
  request.url = url_ + "/images/load?quiet=1";
  request.headers = {"Content-Type: application/x-tar"};
  request.unix_socket = socket_;
  request.has_body = true;
  request.body_source = archive.get();
  request.body_size = net::kUnknownSize;
  request.authorities = authorities_;
  request.client_certificate = client_certificate_;
  request.client_key = client_key_;
  request.stall = request.answer = kPatience;
  net::HttpSession session;
  ASSIGN_OR_RETURN(const net::HttpResponse answer, session.start(request, std::move(stop)));
  ASSIGN_OR_RETURN(const std::string body, session.read_all(kMaxAnswer));
  session.finish();
  return read_load_answer(answer.status, body);
}

Result<std::string> Daemon::load_by_program(const Write& write, std::stop_token stop) const {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return system_error(errno, "pipe2");
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  const UniqueFd out(::memfd_create("load-output", MFD_CLOEXEC)), err(::memfd_create("load-errors", MFD_CLOEXEC));
  if (!out || !err) return system_error(errno, "memfd_create");
  SpawnOptions options;
  options.argv = {program_, "load"};
  options.fds = {{read_end.get(), 0}, {out.get(), 1}, {err.get(), 2}};
  options.new_process_group = true;
  ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::spawn(options));
  read_end.reset();
  const std::stop_callback on_stop(stop, [&] { child.kill(SIGKILL); });
  FdSink sink(write_end.get());
  auto written = write(sink);
  // EPIPE only says that the program ended before its input did: its own words say why.
  const bool gone = !written && written.error().error_number() == EPIPE;
  if (!written && !gone) child.kill(SIGKILL);
  write_end.reset();
  ASSIGN_OR_RETURN(const ExitStatus status, child.wait());
  if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
  if (!written && !gone) return std::move(written).error();
  const auto words = [](const UniqueFd& fd) -> std::string { return ::lseek(fd.get(), 0, SEEK_SET) == 0 ? read_fd(fd.get(), kMaxAnswer).value_or("") : std::string(); };
  if (!status.success()) return refused(words(err));
  if (gone) return std::move(written).error();
  return std::string(trim(words(out)));
}

}  // namespace lamina::registry
