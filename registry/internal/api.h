// Requests to registries' APIs: which place and scheme, certificates, authentication, redirects, retries.
// OCI distribution-spec v1.1, "API".
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/guarded.h"
#include "net/http.h"
#include "oci/reference.h"
#include "registry/client.h"
#include "registry/internal/authentication.h"
#include "registry/internal/host_certificates.h"
#include "registry/internal/pacing.h"
#include "registry/internal/registries_conf.h"

namespace lamina::registry::internal {

struct ApiAnswer {
  net::HttpResponse response;
  net::SessionPool::Lease session;  // reads the body
  HostLimiter::Slot slot;
};

// "repository:team/app:pull,push".
std::string pull_scope(const std::string& repository);
std::string push_scope(const std::string& repository);

// A Location or Link target as an absolute URL: it may be relative to the request. A plain one of the same host is
// made https when the request was: a proxy that ends TLS before the registry makes such.
std::string resolve_url(const std::string& request_url, const std::string& target);

// Any thread.
class Api {
 public:
  explicit Api(const ClientOptions& options);

  // Where a name is to be asked for, the best place first.
  Result<std::vector<Endpoint>> pull_endpoints(const oci::Reference& name);
  Result<Endpoint> push_endpoint(const oci::Reference& name);

  // "https://host/v2/<repository>/<rest>"; asks a host that may speak plain HTTP which of the two it speaks.
  Result<std::string> url(const Endpoint& endpoint, const std::string& rest);

  enum class Kind {
    kExchange,  // counts against the limit of the host
    kDownload,  // its reader may take its time, and wait for others
  };
  // Sends and returns what the registry answers, whatever the status is. A request without a body stream is repeated
  // after a break, 429 and 5xx; one with a stream is sent once (its reader cannot start again), and its 401 makes the
  // next request fetch a new token. Redirects are followed (of requests with a stream: none); a host other than
  // the registry's own never sees the Authorization header. Exchanges share connections (net::HttpRequest::shareable).
  Result<ApiAnswer> send(const Endpoint& endpoint, const std::vector<std::string>& scopes, net::HttpRequest request, Kind kind = Kind::kExchange);

  // From now on these are used, for every host.
  void use(const Credentials& credentials) { authenticator_.use(credentials); }
  // As Authenticator::identity_token.
  Result<std::string> identity_token(const oci::Reference& repository) { return authenticator_.identity_token(repository, options_.stop); }

  // What an unexpected answer means to the user: `what` is "the blob sha256:…" or "the image a:b".
  Error error_of(const Endpoint& endpoint, ApiAnswer& answer, const std::string& what);

  // Waits before retry number `attempt` (from 0), or as long as the registry asks; kCancelled when stopped,
  // kUnavailable when the registry asks for more than is waited.
  Result<void> back_off(unsigned attempt, const net::HttpResponse* response) const;

  const ClientOptions& options() const { return options_; }

 private:
  struct Base {
    std::string scheme = "https";
    bool verify_tls = true;
    HostCertificates certificates;
  };
  Result<const RegistriesConf*> conf();
  Result<Base> base_of(const Endpoint& endpoint);
  Result<Base> find_base(const Endpoint& endpoint);
  Result<Base> probe(const Endpoint& endpoint, const HostCertificates& certificates, bool insecure);
  void apply(const Base& base, net::HttpRequest& request) const;
  // For a request to whatever host its URL names.
  Result<void> prepare(net::HttpRequest& request);
  Result<ApiAnswer> send_once(const Endpoint& endpoint, const std::vector<std::string>& scopes, const net::HttpRequest& request, const std::string& home);
  Result<ApiAnswer> follow(net::HttpRequest request, const std::string& authorization, const std::string& home);
  void show_warnings(const net::HttpResponse& response);

  const ClientOptions& options_;
  net::SessionPool sessions_;
  Authenticator authenticator_;
  HostLimiter limiter_;
  std::chrono::milliseconds stall_{};
  unsigned retries_ = 0;
  std::mutex probe_mutex_;  // one asks how a host is spoken to
  std::mutex conf_mutex_;
  std::optional<RegistriesConf> conf_;   // read when first needed
  Guarded<std::map<std::string, Base>> bases_;  // by host
  Guarded<std::set<std::string>> warned_;
};

}  // namespace lamina::registry::internal
