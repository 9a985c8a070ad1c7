// Answers a registry's WWW-Authenticate challenge. Docker token authentication (distribution, spec/auth), RFC 7617.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "net/http.h"
#include "net/url.h"
#include "oci/reference.h"
#include "registry/credentials.h"

namespace lamina::registry::internal {

using net::HttpRequest;
using net::HttpResponse;
using net::HttpSession;
using net::SessionPool;
using net::url_escape;

// What a WWW-Authenticate header asks for.
struct Challenge {
  enum class Scheme { kBasic, kBearer } scheme = Scheme::kBasic;
  std::string realm, service, scope;
};
// Nothing when it holds neither a Basic nor a Bearer challenge; Bearer is preferred.
std::optional<Challenge> parse_challenge(std::string_view header);

// Keeps tokens for (host, scopes) until shortly before they expire. Any thread: one fetches, the others wait.
class Authenticator {
 public:
  // `prepare` gives a request to a token service the certificates and time limits that its host needs.
  using Prepare = std::function<Result<void>(HttpRequest&)>;
  Authenticator(std::string auth_file, std::string user_agent, net::SessionPool& sessions, Prepare prepare)
      : auth_file_(std::move(auth_file)), user_agent_(std::move(user_agent)), sessions_(sessions), prepare_(std::move(prepare)) {}
  // Uses these instead of looking any up: for build login.
  void use(const Credentials& credentials);

  // The value of an Authorization header for a host whose challenge is known; empty when none is.
  Result<std::string> header_for(const oci::Reference& repository, const std::vector<std::string>& scopes,
                                 const std::stop_token& stop);
  // Remembers the challenge and drops the token that was refused.
  void challenged(const oci::Reference& repository, const std::vector<std::string>& scopes, const Challenge& challenge,
                  bool plain_http, const std::string& refused_header);
  // A refresh token for the credentials in use() (RFC 6749, 6; distribution, spec/auth/oauth.md), which was tried out;
  // empty when the host has no token service, or one that grants none.
  Result<std::string> identity_token(const oci::Reference& repository, const std::stop_token& stop);
  // For messages: which places had, or did not have, an entry for the host.
  std::vector<std::string> notes(const oci::Reference& repository);

 private:
  struct Token {
    std::string header;
    std::chrono::steady_clock::time_point expires;
  };
  struct Host {
    std::optional<Challenge> challenge;
    bool plain_http = false;
    std::map<std::string, std::optional<Credentials>> credentials;  // by repository: each may have its own
    std::map<std::string, Token> tokens;                            // by scopes
  };
  Result<const Credentials*> credentials_of(Host& host, const oci::Reference& repository);
  // What a token service answers; nothing for a status that is no answer. `request` goes to the challenge's realm.
  struct Grant {
    int status = 0;
    std::string token, refresh_token;
    std::optional<int64_t> lifetime_seconds;
  };
  Result<Grant> ask(HttpRequest request, const std::string& realm, const std::stop_token& stop);
  Result<Token> fetch_token(Host& host, const oci::Reference& repository, const std::vector<std::string>& scopes,
                            const std::stop_token& stop);

  std::string auth_file_;
  std::string user_agent_;
  SessionPool& sessions_;
  Prepare prepare_;
  std::optional<Credentials> given_;
  std::mutex mutex_;  // held while a token is fetched: ten transfers need one token, not ten
  std::map<std::string, Host> hosts_;
};

}  // namespace lamina::registry::internal
