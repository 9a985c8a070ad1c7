// Certificates that belong to one registry: containers-certs.d(5), docker's /etc/docker/certs.d.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace lamina::registry::internal {

struct HostCertificates {
  std::string authorities;                     // PEM of every *.crt; trusted besides the system's
  std::string client_certificate, client_key;  // paths of NAME.cert and NAME.key
};

// From the first directory that exists: ~/.config/containers/certs.d/HOST[:PORT], /etc/containers/certs.d/…,
// /etc/docker/certs.d/…. Empty when there is none; kInvalidInput for a certificate without its key or the reverse.
Result<HostCertificates> find_certificates(const std::string& host);
// The directories, for messages and tests.
std::vector<std::string> certificate_places(const std::string& host);

}  // namespace lamina::registry::internal
