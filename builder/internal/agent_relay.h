// Passes connections from a sandbox on to an ssh agent. The agent would refuse a stranger's socket peer, and the
// socket inside needs an owner of its own; so the bytes go through this process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace lamina::builder::internal {

// Listens from start() until it is destroyed. Move-only.
class AgentRelay {
 public:
  // Makes the socket `directory`/agent with the given owner and mode. kNotFound when `agent` is no socket.
  static Result<AgentRelay> start(const std::string& directory, const std::string& agent, mode_t mode, uint32_t uid, uint32_t gid);
  AgentRelay(AgentRelay&&) noexcept;
  AgentRelay& operator=(AgentRelay&&) noexcept;
  ~AgentRelay();

  std::string socket_path() const;

 private:
  struct Impl;
  explicit AgentRelay(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lamina::builder::internal
