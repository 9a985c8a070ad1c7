#include "builder/secrets.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cstdlib>

#include "base/files.h"

namespace lamina::builder {

namespace {
// BuildKit's cap. A secret lives in memory several times.
constexpr uint64_t kMaxSecret = 500 * 1024;
}

Result<std::optional<std::string>> read_secret(const BuildRequest& request, const std::string& id) {
  const SecretSpec* found = nullptr;
  for (const SecretSpec& s : request.secrets) {
    if (s.id == id) found = &s;
  }
  if (found == nullptr) return std::optional<std::string>();
  if (!found->env.empty()) {
    const char* text = std::getenv(found->env.c_str());  // NOLINT(concurrency-mt-unsafe): nobody sets
    if (text == nullptr) return Error(ErrorKind::kNotFound, fmt::format("the environment variable {} of the secret {} is not set", found->env, id));
    std::string value = text;
    if (value.size() > kMaxSecret) return Error(ErrorKind::kInvalidInput, fmt::format("the secret {} is larger than 500 KB", id));
    return std::optional<std::string>(std::move(value));
  }
  ASSIGN_OR_RETURN_WITH(std::string value, read_file(AT_FDCWD, found->file, kMaxSecret), "reading the secret " + id);
  return std::optional<std::string>(std::move(value));
}

std::string ssh_agent_socket(const BuildRequest& request, const std::string& id) {
  for (auto spec = request.ssh.rbegin(); spec != request.ssh.rend(); ++spec) {
    if (spec->id != id) continue;
    if (!spec->path.empty()) return spec->path;
    const char* agent = std::getenv("SSH_AUTH_SOCK");  // NOLINT(concurrency-mt-unsafe): nobody sets
    return agent == nullptr ? "" : agent;
  }
  return {};
}

}  // namespace lamina::builder
