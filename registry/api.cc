#include "registry/internal/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "base/text.h"
#include "base/trace.h"
#include "net/url.h"
#include "registry/internal/answer_words.h"

namespace lamina::registry::internal {

namespace {

constexpr unsigned kDefaultRetries = 5;
constexpr uint64_t kMostRetries = 100;
constexpr int kMaxRedirects = 5;
constexpr uint64_t kMaxErrorBody = 64 * 1024;
// A registry that asks for more than this is not waited for: the user should know.
constexpr std::chrono::milliseconds kLongestWait{300000};
// Of longer ones the user is told.
constexpr std::chrono::milliseconds kLongWait{5000};
constexpr uint64_t kDefaultStallSeconds = 60;

bool worth_a_retry(int status) { return status == 429 || (status >= 500 && status != 501); }

// The beginning of a body that somebody may read; what breaks off has said something too.
std::string beginning_of(net::HttpSession& session) {
  std::string text;
  std::vector<std::byte> block(16 * 1024);
  while (text.size() < kMaxErrorBody) {
    const auto n = session.read(block);
    if (!n || *n == 0) break;
    text.append(reinterpret_cast<const char*>(block.data()), *n);
  }
  return text;
}

}  // namespace

std::string pull_scope(const std::string& repository) { return "repository:" + repository + ":pull"; }
std::string push_scope(const std::string& repository) { return "repository:" + repository + ":pull,push"; }

std::string resolve_url(const std::string& request_url, const std::string& target) {
  const std::string home = net::origin_of(request_url);
  if (target.empty()) return target;
  if (target[0] == '/' && target.compare(0, 2, "//") != 0) return home + target;
  if (target.compare(0, 2, "//") == 0) return home.substr(0, home.find("//")) + target;
  if (target.find("://") == std::string::npos) return request_url.substr(0, request_url.find('?')) + target;
  // The port may be the one of either scheme: "http://h" and "http://h:443" are both meant as "https://h".
  const auto plain = net::Url::parse(target);
  if (!plain || plain->scheme != "http" || home.compare(0, 8, "https://") != 0) return target;
  net::Url encrypted = *plain;
  encrypted.scheme = "https";
  if (plain->origin() != "http://" + home.substr(8) && encrypted.origin() != home) return target;
  return home + encrypted.path + (encrypted.query.empty() ? "" : "?" + encrypted.query);
}

Api::Api(const ClientOptions& options)
    : options_(options), authenticator_(options.auth_file, options.user_agent, sessions_, [this](net::HttpRequest& r) { return prepare(r); }), limiter_(options.parallel_transfers) {
  const auto number = [](const char* name) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets it
    return value == nullptr ? std::nullopt : parse_uint(value);
  };
  const auto retries = number("LAMINA_REGISTRY_RETRIES");
  retries_ = static_cast<unsigned>(std::min(retries.value_or(kDefaultRetries), kMostRetries));
  const auto given = number("LAMINA_REGISTRY_TIMEOUT");
  stall_ = std::chrono::seconds(given && *given > 0 ? std::min<uint64_t>(*given, 86400) : kDefaultStallSeconds);
}

Result<const RegistriesConf*> Api::conf() {
  const std::scoped_lock lock(conf_mutex_);
  if (!conf_) {
    ASSIGN_OR_RETURN(conf_, RegistriesConf::load());
  }
  return &*conf_;
}

Result<std::vector<Endpoint>> Api::pull_endpoints(const oci::Reference& name) {
  ASSIGN_OR_RETURN(const RegistriesConf* known, conf());
  return known->for_pull(name);
}

Result<Endpoint> Api::push_endpoint(const oci::Reference& name) {
  ASSIGN_OR_RETURN(const RegistriesConf* known, conf());
  return known->for_push(name);
}

Result<std::string> Api::url(const Endpoint& endpoint, const std::string& rest) {
  ASSIGN_OR_RETURN(const Base base, base_of(endpoint));
  return fmt::format("{}://{}/v2/{}/{}", base.scheme, endpoint.reference.api_host(), endpoint.reference.repository(), rest);
}

Result<Api::Base> Api::base_of(const Endpoint& endpoint) {
  // A host may be insecure in one of its roles only: then both are remembered.
  const std::string key = endpoint.reference.api_host() + (endpoint.insecure ? " insecure" : "");
  const auto known = [&]() -> std::optional<Base> {
    auto bases = bases_.lock();
    const auto it = bases->find(key);
    return it == bases->end() ? std::nullopt : std::optional(it->second);
  };
  if (const auto base = known()) return *base;
  const std::scoped_lock lock(probe_mutex_);
  if (const auto base = known()) return *base;
  ASSIGN_OR_RETURN_WITH(Base base, find_base(endpoint), "connecting to the registry " + endpoint.reference.api_host());
  bases_.lock()->emplace(key, base);
  return base;
}

Result<Api::Base> Api::find_base(const Endpoint& endpoint) {
  const auto& insecure_hosts = options_.insecure_registries;
  const bool insecure = endpoint.insecure || std::find(insecure_hosts.begin(), insecure_hosts.end(), endpoint.reference.registry()) != insecure_hosts.end();
  ASSIGN_OR_RETURN(HostCertificates certificates, find_certificates(endpoint.reference.registry()));
  if (!insecure && !endpoint.reference.is_loopback()) return Base{"https", true, std::move(certificates)};
  return probe(endpoint, certificates, insecure);
}

Result<Api::Base> Api::probe(const Endpoint& endpoint, const HostCertificates& certificates, bool insecure) {
  const Base plain{"http", true, {}};
  const Base encrypted{"https", !insecure, certificates};
  // On loopback plain HTTP is the usual case; elsewhere encryption is preferred even when it may be missing.
  const bool has_certificates = !certificates.authorities.empty() || !certificates.client_certificate.empty();
  const std::vector<Base> candidates = endpoint.reference.is_loopback() && !has_certificates ? std::vector{plain, encrypted} : std::vector{encrypted, plain};
  for (unsigned attempt = 0;; ++attempt) {
    std::optional<Error> first;
    for (const Base& base : candidates) {
      net::HttpRequest request;
      request.url = fmt::format("{}://{}/v2/", base.scheme, endpoint.reference.api_host());
      request.headers = {"User-Agent: " + options_.user_agent};
      request.shareable = true;
      apply(base, request);
      const net::SessionPool::Lease session = sessions_.acquire();
      auto response = session->start(request, options_.stop);
      // A TLS server answers a plain request with 400.
      if (response && response->status != 400) return base;
      if (!response && response.error().kind() == ErrorKind::kCancelled) return std::move(response).error();
      // Of two refusals the one about certificates says more.
      const bool telling = !response && response.error().kind() == ErrorKind::kDenied;
      if (!first || telling) first = response ? Error(ErrorKind::kUnavailable, fmt::format("{} answers {}", request.url, response->status)) : std::move(response).error();
    }
    // What refuses the connection is not there; what breaks it may be back in a moment.
    if (first->kind() != ErrorKind::kUnavailable || first->message().find("refused") != std::string::npos || attempt >= retries_) return std::move(*first);
    RETURN_IF_ERROR(back_off(attempt, nullptr));
  }
}

void Api::apply(const Base& base, net::HttpRequest& request) const {
  request.verify_tls = base.verify_tls;
  request.authorities = base.certificates.authorities;
  request.client_certificate = base.certificates.client_certificate;
  request.client_key = base.certificates.client_key;
  request.stall = stall_;
  request.answer = 5 * stall_;
}

Result<void> Api::prepare(net::HttpRequest& request) {
  const std::string origin = net::origin_of(request.url);
  {
    auto known = bases_.lock();
    // A host comes before its insecure twin, as in the map.
    for (const auto& [key, base] : *known) {
      if (net::origin_of(base.scheme + "://" + key.substr(0, key.find(' '))) != origin) continue;
      apply(base, request);
      return {};
    }
  }
  // With its port when it is written: directories of certificates are named so.
  const auto url = net::Url::parse(request.url);
  ASSIGN_OR_RETURN(HostCertificates certificates, find_certificates(url ? url->authority() : std::string()));
  apply(Base{"https", true, std::move(certificates)}, request);
  return {};
}

Result<void> Api::back_off(unsigned attempt, const net::HttpResponse* response) const {
  std::chrono::milliseconds pause = jittered_pause(attempt);
  const auto asked = response == nullptr ? std::nullopt : retry_after(*response);
  // Never sooner than asked; not all at that moment either.
  if (asked) pause = *asked + jittered_pause(0) / 4;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(pause).count();
  if (pause > kLongestWait) return Error(ErrorKind::kUnavailable, fmt::format("the registry asks to wait {} seconds before the next request", seconds)).with_note("try again then; logging in may give a higher limit");
  if (asked && pause > kLongWait && options_.on_warning) options_.on_warning(fmt::format("the registry asks to wait {} seconds before the next request", seconds));
  const auto end = std::chrono::steady_clock::now() + pause;
  while (std::chrono::steady_clock::now() < end) {
    if (options_.stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return {};
}

Result<ApiAnswer> Api::send(const Endpoint& endpoint, const std::vector<std::string>& scopes, net::HttpRequest request, Kind kind) {
  ASSIGN_OR_RETURN(const Base base, base_of(endpoint));
  const bool repeatable = request.body_source == nullptr;
  request.shareable = request.shareable || kind == Kind::kExchange;
  const std::string host = endpoint.reference.api_host();
  const std::string home = net::origin_of(base.scheme + "://" + host);
  if (net::origin_of(request.url) == home) {
    apply(base, request);
  } else {
    RETURN_IF_ERROR(prepare(request));
  }
  for (unsigned attempt = 0;; ++attempt) {
    HostLimiter::Slot slot;
    if (kind == Kind::kExchange) {
      ASSIGN_OR_RETURN(slot, limiter_.enter(host, options_.stop));
    }
    Result<ApiAnswer> answer = [&] {
      const TraceSpan span("wait", "for the registry " + host + " to answer a " + request.method);
      return send_once(endpoint, scopes, request, home);
    }();
    const bool last = !repeatable || attempt >= retries_;
    if (!answer) {
      if (last || answer.error().kind() != ErrorKind::kUnavailable) return std::move(answer).error().with_context("speaking to the registry " + host);
      slot.release();
      RETURN_IF_ERROR(back_off(attempt, nullptr));
      continue;
    }
    show_warnings(answer->response);
    answer->slot = std::move(slot);
    if (last || !worth_a_retry(answer->response.status)) return answer;
    const net::HttpResponse refused = answer->response;
    answer = ApiAnswer{};  // gives session and slot back
    RETURN_IF_ERROR_WITH(back_off(attempt, &refused), "speaking to the registry " + host);
  }
}

// One try, with at most one renewal of the token.
Result<ApiAnswer> Api::send_once(const Endpoint& endpoint, const std::vector<std::string>& scopes, const net::HttpRequest& request, const std::string& home) {
  ASSIGN_OR_RETURN(std::string authorization, authenticator_.header_for(endpoint.reference, scopes, options_.stop));
  ASSIGN_OR_RETURN(ApiAnswer answer, follow(request, authorization, home));
  if (answer.response.status != 401 || net::origin_of(request.url) != home) return answer;
  const auto challenge = parse_challenge(answer.response.header("www-authenticate"));
  if (!challenge) return answer;
  authenticator_.challenged(endpoint.reference, scopes, *challenge, home.compare(0, 7, "http://") == 0, authorization);
  if (request.body_source != nullptr) return answer;
  ASSIGN_OR_RETURN(std::string renewed, authenticator_.header_for(endpoint.reference, scopes, options_.stop));
  if (renewed.empty() || renewed == authorization) return answer;
  answer = ApiAnswer{};
  return follow(request, renewed, home);
}

Result<ApiAnswer> Api::follow(net::HttpRequest request, const std::string& authorization, const std::string& home) {
  request.headers.push_back("User-Agent: " + options_.user_agent);
  const std::vector<std::string> common = request.headers;
  const bool encrypted = net::origin_of(request.url).compare(0, 8, "https://") == 0;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    const bool at_home = net::origin_of(request.url) == home;
    request.headers = common;
    if (!authorization.empty() && at_home) request.headers.push_back("Authorization: " + authorization);
    if (hop > 0) RETURN_IF_ERROR(prepare(request));
    ApiAnswer answer;
    answer.session = sessions_.acquire();
    ASSIGN_OR_RETURN(answer.response, answer.session->start(request, options_.stop));
    const int status = answer.response.status;
    const bool reading = request.method == "GET" || request.method == "HEAD";
    // 307 and 308 keep method and body; the others would turn a POST into a GET.
    const bool repeats = request.body_source == nullptr && (status == 307 || status == 308);
    if ((!reading && !repeats) || answer.response.redirect_url.empty()) return answer;
    const std::string& next = answer.response.redirect_url;
    if (next.compare(0, 8, "https://") != 0 && next.compare(0, 7, "http://") != 0) {
      return Error(ErrorKind::kDenied, fmt::format("the registry redirects to {}, which is no http or https URL", printable(net::shown_url(next))));
    }
    if (encrypted && next.compare(0, 8, "https://") != 0) {
      return Error(ErrorKind::kDenied, fmt::format("the registry redirects from an encrypted to a plain connection: {}", net::shown_url(next)));
    }
    request.url = next;
  }
  return Error(ErrorKind::kUnavailable, "the registry redirects without end");
}

// Warning: 299 - "text"; distribution-spec "Warnings".
void Api::show_warnings(const net::HttpResponse& response) {
  const std::string header = response.header("warning");
  if (header.empty() || !options_.on_warning) return;
  const size_t from = header.find('"');
  const size_t to = header.rfind('"');
  const std::string text = from != std::string::npos && to > from ? header.substr(from + 1, to - from - 1) : header;
  if (warned_.lock()->insert(text).second) options_.on_warning(printable(text));
}

Error Api::error_of(const Endpoint& endpoint, ApiAnswer& answer, const std::string& what) {
  const int status = answer.response.status;
  const std::string words = words_of_answer(answer.response.header("content-type"), beginning_of(*answer.session));
  const std::string said = words.empty() ? fmt::format(" (status {})", status) : fmt::format(" (status {}, {})", status, words);
  const std::string host = endpoint.reference.registry();
  if (status == 401 || status == 403) {
    Error error(ErrorKind::kDenied, fmt::format("{} refuses access to {}{}", host, what, said));
    const std::string asked = answer.response.header("www-authenticate");
    if (!asked.empty() && !parse_challenge(asked)) return std::move(error).with_note(fmt::format("it asks for \"{}\"; Basic and Bearer are what can be answered", printable(asked.substr(0, asked.find_first_of(" ,")))));
    for (const std::string& note : authenticator_.notes(endpoint.reference)) error = std::move(error).with_note(note);
    return error;
  }
  if (status == 404) return {ErrorKind::kNotFound, fmt::format("{} does not have {}{}", host, what, said)};
  if (status == 429) return Error(ErrorKind::kUnavailable, fmt::format("{} is asked too often and refuses {}{}", host, what, said)).with_note("log in for a higher limit, or try again later");
  if (status >= 500) return Error(ErrorKind::kUnavailable, fmt::format("{} has a problem of its own with {}{}", host, what, said)).with_note("try again later, or ask who runs the registry");
  return {ErrorKind::kUnavailable, fmt::format("{} gives an unexpected answer about {}{}", host, what, said)};
}

}  // namespace lamina::registry::internal
