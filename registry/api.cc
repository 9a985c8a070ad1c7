#include "registry/internal/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "base/json.h"
#include "base/text.h"

namespace lamina::registry::internal {

namespace {

constexpr unsigned kAttempts = 4;
constexpr int kMaxRedirects = 5;
constexpr uint64_t kMaxErrorBody = 64 * 1024;
constexpr std::chrono::milliseconds kFirstPause{200};
// A registry that asks for more than this is not waited for: the user should know.
constexpr std::chrono::seconds kLongestPause{60};

bool worth_a_retry(int status) { return status == 429 || (status >= 500 && status != 501); }

// "https://host:port" of a URL.
std::string_view origin(std::string_view url) {
  const size_t scheme = url.find("://");
  return scheme == std::string_view::npos ? url : url.substr(0, url.find('/', scheme + 3));
}

// The `errors` of a registry's JSON answer as one line; empty when it is something else.
std::string words_of(std::string_view body) {
  const auto parsed = json::parse_object(body, "the answer");
  if (!parsed) return {};
  const auto errors = json::get_array(*parsed, "errors");
  if (!errors || *errors == nullptr) return {};
  std::vector<std::string> words;
  for (const json::Json& e : **errors) {
    if (!e.is_object()) continue;
    const auto code = json::get_string(e, "code");
    const auto message = json::get_string(e, "message");
    std::string text = code ? code->value_or("") : "";
    if (message && *message && !(*message)->empty()) text += (text.empty() ? "" : ": ") + **message;
    if (!text.empty()) words.push_back(printable(text));
  }
  return join(words, "; ");
}

}  // namespace

std::string pull_scope(const std::string& repository) { return "repository:" + repository + ":pull"; }
std::string push_scope(const std::string& repository) { return "repository:" + repository + ":pull,push"; }

Result<std::string> Api::url(const oci::Reference& repository, const std::string& rest) {
  ASSIGN_OR_RETURN(const Base base, base_of(repository));
  return fmt::format("{}://{}/v2/{}/{}", base.scheme, repository.api_host(), repository.repository(), rest);
}

Result<Api::Base> Api::base_of(const oci::Reference& repository) {
  const std::string host = repository.api_host();
  const auto& insecure_hosts = options_.insecure_registries;
  const bool insecure = std::find(insecure_hosts.begin(), insecure_hosts.end(), repository.registry()) != insecure_hosts.end();
  if (!insecure && !repository.is_loopback()) return Base{};
  {
    auto known = bases_.lock();
    if (const auto it = known->find(host); it != known->end()) return it->second;
  }
  ASSIGN_OR_RETURN_WITH(const Base base, probe(repository, insecure), "connecting to the registry " + host);
  bases_.lock()->emplace(host, base);
  return base;
}

Result<Api::Base> Api::probe(const oci::Reference& repository, bool insecure) {
  const Base plain{"http", true};
  const Base encrypted{"https", !insecure};
  // On loopback plain HTTP is the usual case; elsewhere encryption is preferred even when it may be missing.
  const std::vector<Base> candidates = repository.is_loopback() ? std::vector{plain, encrypted} : std::vector{encrypted, plain};
  std::optional<Error> first;
  for (const Base& base : candidates) {
    HttpRequest request;
    request.url = fmt::format("{}://{}/v2/", base.scheme, repository.api_host());
    request.verify_tls = base.verify_tls;
    request.headers = {"User-Agent: " + options_.user_agent};
    const SessionPool::Lease session = sessions_.acquire();
    auto response = session->start(request, options_.stop);
    // A TLS server answers a plain request with 400.
    if (response && response->status != 400) return base;
    if (!response && response.error().kind() == ErrorKind::kCancelled) return std::move(response).error();
    if (!first) first = response ? Error(ErrorKind::kUnavailable, fmt::format("{} answers {}", request.url, response->status)) : std::move(response).error();
  }
  return std::move(*first);
}

Result<void> Api::back_off(unsigned attempt, const HttpResponse* response) const {
  std::chrono::milliseconds pause = kFirstPause * (1u << std::min(attempt, 6u));
  if (response != nullptr) {
    if (const auto seconds = parse_uint(response->header("retry-after"))) pause = std::chrono::seconds(std::min<uint64_t>(*seconds, 3600));
  }
  if (pause > kLongestPause) return Error(ErrorKind::kUnavailable, fmt::format("the registry asks to wait {} seconds before the next request", pause.count() / 1000));
  const auto end = std::chrono::steady_clock::now() + pause;
  while (std::chrono::steady_clock::now() < end) {
    if (options_.stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return {};
}

Result<ApiAnswer> Api::send(const oci::Reference& repository, const std::vector<std::string>& scopes, HttpRequest request) {
  ASSIGN_OR_RETURN(const Base base, base_of(repository));
  request.verify_tls = base.verify_tls;
  const bool repeatable = request.body_source == nullptr;
  const std::string host = repository.api_host();
  for (unsigned attempt = 0;; ++attempt) {
    auto answer = send_once(repository, scopes, request);
    const bool last = !repeatable || attempt + 1 >= kAttempts;
    if (!answer) {
      if (last || answer.error().kind() != ErrorKind::kUnavailable) return std::move(answer).error().with_context("speaking to the registry " + host);
      RETURN_IF_ERROR(back_off(attempt, nullptr));
      continue;
    }
    show_warnings(answer->response);
    if (last || !worth_a_retry(answer->response.status)) return answer;
    RETURN_IF_ERROR_WITH(back_off(attempt, &answer->response), "speaking to the registry " + host);
  }
}

// One try, with at most one renewal of the token.
Result<ApiAnswer> Api::send_once(const oci::Reference& repository, const std::vector<std::string>& scopes, const HttpRequest& request) {
  ASSIGN_OR_RETURN(std::string authorization, authenticator_.header_for(repository, scopes, options_.stop));
  ASSIGN_OR_RETURN(ApiAnswer answer, follow(request, authorization));
  if (answer.response.status != 401 || request.body_source != nullptr) return answer;
  const auto challenge = parse_challenge(answer.response.header("www-authenticate"));
  if (!challenge) return answer;
  authenticator_.challenged(repository, scopes, *challenge, origin(request.url).substr(0, 7) == "http://", authorization);
  ASSIGN_OR_RETURN(std::string renewed, authenticator_.header_for(repository, scopes, options_.stop));
  if (renewed.empty() || renewed == authorization) return answer;
  answer.session.reset();
  return follow(request, renewed);
}

Result<ApiAnswer> Api::follow(HttpRequest request, const std::string& authorization) {
  const std::string home(origin(request.url));
  request.headers.push_back("User-Agent: " + options_.user_agent);
  const std::vector<std::string> common = request.headers;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    request.headers = common;
    if (!authorization.empty() && origin(request.url) == home) request.headers.push_back("Authorization: " + authorization);
    ApiAnswer answer;
    answer.session = sessions_.acquire();
    ASSIGN_OR_RETURN(answer.response, answer.session->start(request, options_.stop));
    const bool reading = request.method == "GET" || request.method == "HEAD";
    if (!reading || answer.response.redirect_url.empty()) return answer;
    if (home.compare(0, 8, "https://") == 0 && answer.response.redirect_url.compare(0, 8, "https://") != 0) {
      return Error(ErrorKind::kDenied, fmt::format("the registry redirects from an encrypted to a plain connection: {}", printable(answer.response.redirect_url)));
    }
    request.url = answer.response.redirect_url;
  }
  return Error(ErrorKind::kUnavailable, "the registry redirects without end");
}

// Warning: 299 - "text"; distribution-spec "Warnings".
void Api::show_warnings(const HttpResponse& response) {
  const std::string header = response.header("warning");
  if (header.empty() || !options_.on_warning) return;
  const size_t from = header.find('"');
  const size_t to = header.rfind('"');
  const std::string text = from != std::string::npos && to > from ? header.substr(from + 1, to - from - 1) : header;
  if (warned_.lock()->insert(text).second) options_.on_warning(printable(text));
}

Error Api::error_of(const oci::Reference& repository, ApiAnswer& answer, const std::string& what) {
  const int status = answer.response.status;
  const auto body = answer.session->read_all(kMaxErrorBody);
  const std::string words = body ? words_of(*body) : std::string();
  const std::string said = words.empty() ? fmt::format(" (status {})", status) : fmt::format(" (status {}, {})", status, words);
  const std::string host = repository.registry();
  if (status == 401 || status == 403) {
    Error error(ErrorKind::kDenied, fmt::format("{} refuses access to {}{}", host, what, said));
    for (const std::string& note : authenticator_.notes(repository)) error = std::move(error).with_note(note);
    return error;
  }
  if (status == 404) return {ErrorKind::kNotFound, fmt::format("{} does not have {}{}", host, what, said)};
  if (status == 429) return Error(ErrorKind::kUnavailable, fmt::format("{} is asked too often and refuses {}{}", host, what, said)).with_note("log in for a higher limit, or try again later");
  if (status >= 500) return Error(ErrorKind::kUnavailable, fmt::format("{} has a problem of its own with {}{}", host, what, said)).with_note("try again later, or ask who runs the registry");
  return {ErrorKind::kUnavailable, fmt::format("{} gives an unexpected answer about {}{}", host, what, said)};
}

}  // namespace lamina::registry::internal
