#include "registry/internal/authentication.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>

#include "base/json.h"
#include "base/text.h"

namespace lamina::registry::internal {

namespace {

constexpr uint64_t kMaxTokenAnswer = 1 << 20;
// The specification's default when the answer does not say.
constexpr int64_t kDefaultLifetimeSeconds = 60;
constexpr int64_t kLongestLifetimeSeconds = 86400;
// A token is renewed before it ends: by so much, or a quarter of a short life.
constexpr int64_t kMarginSeconds = 10;

std::string basic_header(const Credentials& credentials) {
  const std::string plain = credentials.username + ":" + credentials.password;
  std::string out(4 * ((plain.size() + 2) / 3) + 1, '\0');
  const int n = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), reinterpret_cast<const unsigned char*>(plain.data()), static_cast<int>(plain.size()));
  out.resize(static_cast<size_t>(n));
  return "Basic " + out;
}

// One `name=value` or `name="value"` of a challenge; moves `text` behind it and the comma.
std::optional<std::pair<std::string, std::string>> take_parameter(std::string_view& text) {
  text = trim(text);
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return std::nullopt;
  const std::string name = to_lower(trim(text.substr(0, equals)));
  // A space inside a name means that the next challenge of the header starts here.
  if (name.empty() || name.find(' ') != std::string::npos) return std::nullopt;
  text = trim(text.substr(equals + 1));
  std::string value;
  size_t i = 0;
  if (!text.empty() && text[0] == '"') {
    for (i = 1; i < text.size() && text[i] != '"'; ++i) {
      if (text[i] == '\\' && i + 1 < text.size()) ++i;
      value += text[i];
    }
    ++i;
  } else {
    for (; i < text.size() && text[i] != ','; ++i) value += text[i];
  }
  text = i < text.size() ? trim(text.substr(i)) : std::string_view();
  if (!text.empty() && text[0] == ',') text.remove_prefix(1);
  return std::pair(name, value);
}

// Where a scheme's name stands at the beginning of a challenge.
size_t find_scheme(std::string_view lower, std::string_view scheme) {
  for (size_t at = lower.find(scheme); at != std::string_view::npos; at = lower.find(scheme, at + 1)) {
    const bool starts = at == 0 || lower[at - 1] == ' ' || lower[at - 1] == ',';
    const size_t end = at + scheme.size();
    if (starts && (end == lower.size() || lower[end] == ' ' || lower[end] == ',')) return at;
  }
  return std::string_view::npos;
}

Error denied_by(const std::string& realm, int status, const std::string& host) {
  return Error(ErrorKind::kDenied, fmt::format("{} is not given access: the token service {} answers {}", host, realm, status));
}

}  // namespace

std::optional<Challenge> parse_challenge(std::string_view header) {
  const std::string lower = to_lower(header);
  Challenge challenge;
  size_t at = find_scheme(lower, "bearer");
  size_t length = 6;
  if (at != std::string::npos) {
    challenge.scheme = Challenge::Scheme::kBearer;
  } else {
    at = find_scheme(lower, "basic");
    length = 5;
    if (at == std::string::npos) return std::nullopt;
  }
  std::string_view rest = header.substr(at + length);
  while (const auto parameter = take_parameter(rest)) {
    if (parameter->first == "realm") challenge.realm = parameter->second;
    if (parameter->first == "service") challenge.service = parameter->second;
    if (parameter->first == "scope") challenge.scope = parameter->second;
  }
  if (challenge.scheme == Challenge::Scheme::kBearer && challenge.realm.empty()) return std::nullopt;
  return challenge;
}

void Authenticator::use(const Credentials& credentials) {
  const std::scoped_lock lock(mutex_);
  given_ = credentials;
}

// Null when there are none.
Result<const Credentials*> Authenticator::credentials_of(Host& host, const oci::Reference& repository) {
  if (given_) return &*given_;
  auto known = host.credentials.find(repository.repository());
  if (known == host.credentials.end()) {
    ASSIGN_OR_RETURN(std::optional<Credentials> found, find_credentials(auth_file_, repository));
    known = host.credentials.emplace(repository.repository(), std::move(found)).first;
  }
  return known->second ? &*known->second : nullptr;
}

Result<std::string> Authenticator::header_for(const oci::Reference& repository, const std::vector<std::string>& scopes, const std::stop_token& stop) {
  const std::scoped_lock lock(mutex_);
  const auto known = hosts_.find(repository.api_host());
  if (known == hosts_.end() || !known->second.challenge) return std::string();
  Host& host = known->second;
  // A Basic challenge has no scopes of its own: what is kept belongs to the repository.
  const std::string key = repository.repository() + " " + join(scopes, " ");
  if (const auto it = host.tokens.find(key); it != host.tokens.end() && it->second.expires > std::chrono::steady_clock::now()) return it->second.header;
  ASSIGN_OR_RETURN(Token token, fetch_token(host, repository, scopes, stop));
  return (host.tokens[key] = std::move(token)).header;
}

void Authenticator::challenged(const oci::Reference& repository, const std::vector<std::string>& scopes, const Challenge& challenge,
                               bool plain_http, const std::string& refused_header) {
  const std::scoped_lock lock(mutex_);
  Host& host = hosts_[repository.api_host()];
  host.challenge = challenge;
  host.plain_http = plain_http;
  // Another thread may have fetched a newer one in between.
  const auto it = host.tokens.find(repository.repository() + " " + join(scopes, " "));
  if (it != host.tokens.end() && it->second.header == refused_header) host.tokens.erase(it);
}

namespace {

// OAuth2: distribution, spec/auth/oauth.md.
HttpRequest token_form(const Challenge& challenge, const std::string& scopes, const std::string& grant) {
  HttpRequest request;
  request.method = "POST";
  request.url = challenge.realm;
  request.headers = {"Content-Type: application/x-www-form-urlencoded"};
  request.body = fmt::format("{}&service={}&client_id=lamina&scope={}", grant, url_escape(challenge.service), url_escape(scopes));
  request.has_body = true;
  return request;
}

// `offline` asks for a refresh token too.
HttpRequest password_form(const Challenge& challenge, const std::string& scopes, const Credentials& credentials, bool offline) {
  const std::string grant = "grant_type=password&username=" + url_escape(credentials.username) + "&password=" + url_escape(credentials.password);
  return token_form(challenge, scopes, grant + (offline ? "&access_type=offline" : ""));
}

HttpRequest refresh_form(const Challenge& challenge, const std::string& scopes, const std::string& token) {
  return token_form(challenge, scopes, "grant_type=refresh_token&refresh_token=" + url_escape(token));
}

HttpRequest token_query(const Challenge& challenge, const std::string& scopes, const Credentials* credentials) {
  HttpRequest request;
  request.url = challenge.realm + (challenge.realm.find('?') == std::string::npos ? "?" : "&") + "service=" + url_escape(challenge.service);
  for (const std::string& scope : split(scopes, ' ')) {
    if (!scope.empty()) request.url += "&scope=" + url_escape(scope);
  }
  if (credentials != nullptr) request.headers.push_back("Authorization: " + basic_header(*credentials));
  return request;
}

}  // namespace

Result<Authenticator::Grant> Authenticator::ask(HttpRequest request, const std::string& realm, const std::stop_token& stop) {
  request.headers.push_back("User-Agent: " + user_agent_);
  request.shareable = true;
  RETURN_IF_ERROR(prepare_(request));
  const net::SessionPool::Lease session = sessions_.acquire();
  ASSIGN_OR_RETURN_WITH(const HttpResponse response, session->start(request, stop), "asking " + realm + " for a token");
  Grant grant;
  grant.status = response.status;
  if (response.status >= 500 || response.status == 429) {
    return Error(ErrorKind::kUnavailable, fmt::format("the token service {} answers {}", realm, response.status));
  }
  if (response.status != 200) return grant;
  ASSIGN_OR_RETURN(const std::string body, session->read_all(kMaxTokenAnswer));
  ASSIGN_OR_RETURN(const json::Json answer, json::parse_object(body, "the token service's answer"));
  ASSIGN_OR_RETURN(std::optional<std::string> token, json::get_string(answer, "token"));
  if (!token || token->empty()) {
    ASSIGN_OR_RETURN(token, json::get_string(answer, "access_token"));
  }
  if (!token || token->empty()) return Error(ErrorKind::kCorrupt, fmt::format("the token service {} gives no token", realm));
  // A header is made of it.
  if (token->find_first_of("\r\n") != std::string::npos) return Error(ErrorKind::kCorrupt, fmt::format("the token service {} gives a token with line ends", realm));
  grant.token = *std::move(token);
  ASSIGN_OR_RETURN(const std::optional<std::string> refresh, json::get_string(answer, "refresh_token"));
  grant.refresh_token = refresh.value_or("");
  ASSIGN_OR_RETURN(grant.lifetime_seconds, json::get_integer(answer, "expires_in"));
  return grant;
}

Result<Authenticator::Token> Authenticator::fetch_token(Host& host, const oci::Reference& repository, const std::vector<std::string>& scopes,
                                                        const std::stop_token& stop) {
  const Challenge& challenge = *host.challenge;
  ASSIGN_OR_RETURN(const Credentials* const credentials, credentials_of(host, repository));
  if (challenge.scheme == Challenge::Scheme::kBasic) {
    if (credentials == nullptr) return Token{"", std::chrono::steady_clock::now()};
    return Token{basic_header(*credentials), std::chrono::steady_clock::time_point::max()};
  }
  const std::string realm = net::shown_url(challenge.realm);
  if (credentials != nullptr && !host.plain_http && challenge.realm.compare(0, 8, "https://") != 0) {
    return Error(ErrorKind::kDenied, fmt::format("{} asks to send the credentials unencrypted to {}", repository.registry(), realm));
  }
  const std::string scope_text = scopes.empty() ? challenge.scope : join(scopes, " ");
  const bool identity = credentials != nullptr && !credentials->identity_token.empty();
  ASSIGN_OR_RETURN(Grant grant, ask(identity ? refresh_form(challenge, scope_text, credentials->identity_token) : token_query(challenge, scope_text, credentials), realm, stop));
  if ((grant.status == 404 || grant.status == 405) && credentials != nullptr && !identity) {
    // Some services know only OAuth2.
    ASSIGN_OR_RETURN(grant, ask(password_form(challenge, scope_text, *credentials, false), realm, stop));
  }
  if (grant.status != 200) return denied_by(realm, grant.status, repository.registry());
  const int64_t seconds = std::clamp<int64_t>(grant.lifetime_seconds.value_or(kDefaultLifetimeSeconds), 1, kLongestLifetimeSeconds);
  const auto usable = std::chrono::milliseconds(1000 * seconds - std::min(1000 * kMarginSeconds, 250 * seconds));
  return Token{"Bearer " + grant.token, std::chrono::steady_clock::now() + usable};
}

Result<std::string> Authenticator::identity_token(const oci::Reference& repository, const std::stop_token& stop) {
  const std::scoped_lock lock(mutex_);
  const auto known = hosts_.find(repository.api_host());
  if (known == hosts_.end() || !known->second.challenge || known->second.challenge->scheme != Challenge::Scheme::kBearer || !given_) return std::string();
  const Challenge& challenge = *known->second.challenge;
  const std::string realm = net::shown_url(challenge.realm);
  // In docker's way first, which every service that gives tokens answers; then in that of OAuth2. The password is known
  // to be right, so a refusal says only that there is no such way.
  HttpRequest query = token_query(challenge, challenge.scope, &*given_);
  query.url += "&client_id=lamina&offline_token=true";
  for (const HttpRequest& request : {query, password_form(challenge, challenge.scope, *given_, true)}) {
    const auto grant = ask(request, realm, stop);
    if (!grant && grant.error().kind() == ErrorKind::kCancelled) return grant.error();
    if (!grant || grant->refresh_token.empty()) continue;
    const auto tried = ask(refresh_form(challenge, challenge.scope, grant->refresh_token), realm, stop);
    if (tried && tried->status == 200) return grant->refresh_token;
  }
  return std::string();
}

std::vector<std::string> Authenticator::notes(const oci::Reference& repository) {
  const std::scoped_lock lock(mutex_);
  if (const auto host = hosts_.find(repository.api_host()); host != hosts_.end()) {
    const auto found = host->second.credentials.find(repository.repository());
    if (found != host->second.credentials.end() && found->second) return {"the credentials that are stored for " + repository.registry() + " were used; renew them with: build login " + repository.registry()};
  }
  return {fmt::format("there are no credentials for {} in {}", repository.registry(), join(credential_places(auth_file_), ", ")), "store them with: build login " + repository.registry()};
}

}  // namespace lamina::registry::internal
