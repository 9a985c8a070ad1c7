// Requests to registries' APIs: which scheme a host speaks, authentication, redirects, retries.
// OCI distribution-spec v1.1, "API".
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/guarded.h"
#include "net/http.h"
#include "oci/reference.h"
#include "registry/client.h"
#include "registry/internal/authentication.h"

namespace lamina::registry::internal {

struct ApiAnswer {
  HttpResponse response;
  SessionPool::Lease session;  // reads the body
};

// "repository:team/app:pull,push".
std::string pull_scope(const std::string& repository);
std::string push_scope(const std::string& repository);

// Any thread.
class Api {
 public:
  explicit Api(const ClientOptions& options) : options_(options), authenticator_(options.auth_file, options.user_agent, sessions_) {}

  // "https://host/v2/<repository>/<rest>"; asks a host that may speak plain HTTP which of the two it speaks.
  Result<std::string> url(const oci::Reference& repository, const std::string& rest);

  // Sends and returns what the registry answers, whatever the status is. A request without a body stream is
  // repeated after a break, 429 and 5xx; one with a stream is sent once (its reader cannot start again).
  // Redirects of GET and HEAD are followed; another host never sees the Authorization header.
  Result<ApiAnswer> send(const oci::Reference& repository, const std::vector<std::string>& scopes, HttpRequest request);

  // What an unexpected answer means to the user: `what` is "the blob sha256:…" or "the image a:b".
  Error error_of(const oci::Reference& repository, ApiAnswer& answer, const std::string& what);

  // Waits before retry number `attempt` (from 0), or as long as the registry asks; kCancelled when stopped.
  Result<void> back_off(unsigned attempt, const HttpResponse* response) const;

  const ClientOptions& options() const { return options_; }

 private:
  struct Base {
    std::string scheme = "https";
    bool verify_tls = true;
  };
  Result<Base> base_of(const oci::Reference& repository);
  Result<Base> probe(const oci::Reference& repository, bool insecure);
  Result<ApiAnswer> send_once(const oci::Reference& repository, const std::vector<std::string>& scopes, const HttpRequest& request);
  Result<ApiAnswer> follow(HttpRequest request, const std::string& authorization);
  void show_warnings(const HttpResponse& response);

  const ClientOptions& options_;
  SessionPool sessions_;
  Authenticator authenticator_;
  Guarded<std::map<std::string, Base>> bases_;  // by host
  Guarded<std::set<std::string>> warned_;
};

}  // namespace lamina::registry::internal
