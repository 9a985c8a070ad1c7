#include "builder/internal/agent_relay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "base/files.h"
#include "base/text.h"

namespace lamina::builder::internal {

namespace {

// An agent's messages are at most 256 KiB; nobody needs more than a few connections at once.
constexpr size_t kMaxConnections = 64;

// sun_path holds 108 bytes, a store's path may be longer: the directory is named by a descriptor.
Result<sockaddr_un> address_of(int directory, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/{}", directory, name);
  if (path.size() >= sizeof address.sun_path) return Error(ErrorKind::kInvalidInput, "the name of the socket is too long: " + name);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<UniqueFd> connect_to(const std::string& path) {
  const size_t slash = path.rfind('/');
  ASSIGN_OR_RETURN(const UniqueFd directory, open_at(AT_FDCWD, slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash), O_PATH | O_DIRECTORY));
  ASSIGN_OR_RETURN(const sockaddr_un address, address_of(directory.get(), path.substr(slash == std::string::npos ? 0 : slash + 1)));
  // An agent whose queue is full refuses at once (EAGAIN) instead of holding us.
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return system_error(errno, "socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return system_error(errno, "connect", path);
  return fd;
}

struct Connection {
  UniqueFd inside, agent;
};

// False when the build ends first.
bool wait_writable(int fd, int stop) {
  while (true) {
    pollfd fds[] = {{stop, POLLIN, 0}, {fd, POLLOUT, 0}};
    if (::poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return false;
    }
    if (fds[0].revents != 0) return false;
    if (fds[1].revents != 0) return true;
  }
}

// Moves what can be read without waiting; false at the end. Both sides answer each other in turns with small
// messages, so waiting to write holds up nobody who waits for us; `stop` ends it.
bool pass(int from, int to, int stop) {
  char buffer[65536];
  const ssize_t n = ::read(from, buffer, sizeof buffer);
  if (n <= 0) return n < 0 && (errno == EINTR || errno == EAGAIN);
  for (ssize_t sent = 0; sent < n;) {
    const ssize_t w = ::send(to, buffer + sent, static_cast<size_t>(n - sent), MSG_NOSIGNAL);
    if (w < 0 && errno == EINTR) continue;
    if (w < 0 && errno == EAGAIN) {
      if (!wait_writable(to, stop)) return false;
      continue;
    }
    if (w <= 0) return false;
    sent += w;
  }
  return true;
}

void relay(int listener, int stop, const std::string& agent) {
  std::vector<Connection> connections;
  while (true) {
    std::vector<pollfd> fds = {{stop, POLLIN, 0}, {connections.size() < kMaxConnections ? listener : -1, POLLIN, 0}};
    for (const Connection& c : connections) {
      fds.push_back({c.inside.get(), POLLIN, 0});
      fds.push_back({c.agent.get(), POLLIN, 0});
    }
    if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
    for (size_t i = connections.size(); i-- > 0;) {
      const pollfd &inside = fds[2 + 2 * i], &outside = fds[3 + 2 * i];
      const bool open = (inside.revents == 0 || pass(inside.fd, outside.fd, stop)) && (outside.revents == 0 || pass(outside.fd, inside.fd, stop));
      if (!open) connections.erase(connections.begin() + static_cast<ptrdiff_t>(i));
    }
    if (fds[1].revents == 0) continue;
    UniqueFd accepted(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!accepted) {
      // Without descriptors (EMFILE) the listener stays readable: some time passes, or the build ends.
      pollfd pause = {stop, POLLIN, 0};
      if (errno != EAGAIN && errno != EINTR && ::poll(&pause, 1, 100) > 0) return;
      continue;
    }
    if (auto there = connect_to(agent)) connections.push_back({std::move(accepted), std::move(*there)});
  }
}

}  // namespace

struct AgentRelay::Impl {
  std::string path;
  UniqueFd listener, stop;  // both outlive the thread
  std::thread thread;

  ~Impl() {
    if (!thread.joinable()) return;
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(stop.get(), &one, sizeof one);
    thread.join();
  }
};

AgentRelay::AgentRelay(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AgentRelay::AgentRelay(AgentRelay&&) noexcept = default;
AgentRelay& AgentRelay::operator=(AgentRelay&&) noexcept = default;
AgentRelay::~AgentRelay() = default;

std::string AgentRelay::socket_path() const { return impl_->path; }

Result<AgentRelay> AgentRelay::start(const std::string& directory, const std::string& agent, mode_t mode, uint32_t uid, uint32_t gid) {
  ASSIGN_OR_RETURN(const UniqueFd reachable, connect_to(agent));
  auto impl = std::make_unique<Impl>();
  impl->path = directory + "/agent";
  ASSIGN_OR_RETURN(const UniqueFd dir, open_at(AT_FDCWD, directory, O_PATH | O_DIRECTORY));
  ASSIGN_OR_RETURN(const sockaddr_un address, address_of(dir.get(), "agent"));
  impl->listener = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!impl->listener) return system_error(errno, "socket");
  if (::bind(impl->listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return system_error(errno, "bind", impl->path);
  if (::chown(impl->path.c_str(), uid, gid) != 0) return system_error(errno, "chown", impl->path);
  if (::chmod(impl->path.c_str(), mode) != 0) return system_error(errno, "chmod", impl->path);
  if (::listen(impl->listener.get(), 16) != 0) return system_error(errno, "listen", impl->path);
  impl->stop = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!impl->stop) return system_error(errno, "eventfd");
  impl->thread = std::thread([listener = impl->listener.get(), stop = impl->stop.get(), agent] { relay(listener, stop, agent); });
  return AgentRelay(std::move(impl));
}

}  // namespace lamina::builder::internal
