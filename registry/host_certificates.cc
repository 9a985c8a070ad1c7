#include "registry/internal/host_certificates.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/files.h"

namespace lamina::registry::internal {

namespace {

constexpr uint64_t kMaxCertificate = 1 << 20;

Error lacks(const std::string& there, const std::string& missing) {
  return Error(ErrorKind::kInvalidInput, fmt::format("{} lacks its twin {}", there, missing)).with_note("a client certificate is a pair: NAME.cert and NAME.key");
}

Result<HostCertificates> read_directory(int directory, const std::string& path) {
  HostCertificates out;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(directory));
  const auto has = [&](const std::string& name) { return std::binary_search(names.begin(), names.end(), name); };
  for (const std::string& name : names) {
    if (name.ends_with(".crt")) {
      ASSIGN_OR_RETURN_WITH(const std::string text, read_file(directory, name, kMaxCertificate), "reading " + path + "/" + name);
      out.authorities += text + "\n";
    } else if (name.ends_with(".cert")) {
      const std::string key = name.substr(0, name.size() - 5) + ".key";
      if (!has(key)) return lacks(path + "/" + name, key);
      out.client_certificate = path + "/" + name;
      out.client_key = path + "/" + key;
    } else if (name.ends_with(".key")) {
      const std::string certificate = name.substr(0, name.size() - 4) + ".cert";
      if (!has(certificate)) return lacks(path + "/" + name, certificate);
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> certificate_places(const std::string& host) {
  std::vector<std::string> places;
  const char* home = std::getenv("HOME");  // NOLINT(concurrency-mt-unsafe)
  if (home != nullptr && *home != 0) places.push_back(std::string(home) + "/.config/containers/certs.d/" + host);
  places.push_back("/etc/containers/certs.d/" + host);
  places.push_back("/etc/docker/certs.d/" + host);
  return places;
}

Result<HostCertificates> find_certificates(const std::string& host) {
  if (host.empty() || host.find('/') != std::string::npos || host[0] == '.') return HostCertificates{};
  for (const std::string& place : certificate_places(host)) {
    const auto directory = open_directory(AT_FDCWD, place);
    if (!directory && directory.error().kind() == ErrorKind::kNotFound) continue;
    if (!directory) return Error(directory.error()).with_context("looking for certificates of " + host);
    return read_directory(directory->get(), place);
  }
  return HostCertificates{};
}

}  // namespace lamina::registry::internal
