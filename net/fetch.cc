#include "net/fetch.h"

#include <fmt/format.h>
#include <time.h>

#include <array>
#include <chrono>
#include <thread>

#include "base/text.h"
#include "net/url.h"

namespace lamina::net {

namespace {

constexpr unsigned kAttempts = 4;
constexpr int kMaxRedirects = 10;
constexpr int64_t kStrongAgeSeconds = 60;

class SessionBody : public ByteSource {
 public:
  explicit SessionBody(HttpSession& session) : session_(session) {}
  Result<size_t> read(std::span<std::byte> buffer) override { return session_.read(buffer); }

 private:
  HttpSession& session_;
};

std::string status_text(int status) {
  switch (status) {
    case 400: return "400 Bad Request";
    case 401: return "401 Unauthorized";
    case 403: return "403 Forbidden";
    case 404: return "404 Not Found";
    case 410: return "410 Gone";
    case 429: return "429 Too Many Requests";
    case 500: return "500 Internal Server Error";
    case 502: return "502 Bad Gateway";
    case 503: return "503 Service Unavailable";
    case 504: return "504 Gateway Timeout";
    default: return std::to_string(status);
  }
}

bool worth_a_retry(int status) { return status == 408 || status == 429 || status >= 500; }

Error refused(const std::string& url, const Url& parsed, int status) {
  const std::string shown = printable(redacted(url));
  const std::string text = fmt::format("{}: the server answered {}", shown, status_text(status));
  if (status == 404 || status == 410) return {ErrorKind::kNotFound, text};
  if (status == 401 || status == 403) {
    return Error(ErrorKind::kDenied, text)
        .with_note(fmt::format("give a token with --secret id=HTTP_AUTH_TOKEN_{0},env=NAME or a whole header with id=HTTP_AUTH_HEADER_{0}", parsed.host));
  }
  return {ErrorKind::kUnavailable, text};
}

FetchAnswer answer_of(const HttpResponse& response) {
  FetchAnswer answer;
  answer.etag = response.header("etag");
  answer.last_modified = response.header("last-modified");
  const auto changed = parse_http_date(answer.last_modified);
  const auto date = parse_http_date(response.header("date"));
  answer.last_modified_is_strong = changed && date && *date - *changed >= kStrongAgeSeconds;
  answer.size = parse_uint(response.header("content-length"));
  return answer;
}

}  // namespace

std::optional<int64_t> parse_http_date(std::string_view text) {
  static constexpr std::array<std::string_view, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  if (text.size() != 29 || text.substr(3, 2) != ", " || text.substr(25) != " GMT") return std::nullopt;
  const auto number = [&](size_t at, size_t n) { return parse_uint(text.substr(at, n)); };
  const auto day = number(5, 2), year = number(12, 4), hour = number(17, 2), minute = number(20, 2), second = number(23, 2);
  int month = 0;
  while (month < 12 && kMonths[static_cast<size_t>(month)] != text.substr(8, 3)) ++month;
  if (!day || !year || !hour || !minute || !second || month == 12 || *day < 1 || *day > 31 || *hour > 23 || *minute > 59 || *second > 60 || *year < 1970) return std::nullopt;
  tm parts{};
  parts.tm_year = static_cast<int>(*year) - 1900;
  parts.tm_mon = month;
  parts.tm_mday = static_cast<int>(*day);
  parts.tm_hour = static_cast<int>(*hour);
  parts.tm_min = static_cast<int>(*minute);
  parts.tm_sec = static_cast<int>(*second);
  return ::timegm(&parts);
}

Result<FetchAnswer> Fetcher::get(const FetchRequest& request, const Take& take) {
  for (unsigned number = 0;; ++number) {
    auto answer = attempt(request, take);
    if (answer || answer.error().kind() != ErrorKind::kUnavailable || number + 1 == kAttempts) return answer;
    RETURN_IF_ERROR(pause(number));
  }
}

// Half a second, one, two.
Result<void> Fetcher::pause(unsigned attempt) const {
  using namespace std::chrono;
  const auto end = steady_clock::now() + milliseconds(500u << attempt);
  while (steady_clock::now() < end) {
    if (stop_.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
    std::this_thread::sleep_for(milliseconds(50));
  }
  return {};
}

Result<FetchAnswer> Fetcher::attempt(const FetchRequest& request, const Take& take) {
  const SessionPool::Lease session = sessions_.acquire();
  std::string url = request.url;
  ASSIGN_OR_RETURN(const HttpResponse response, follow(request, *session, url));
  FetchAnswer answer = answer_of(response);
  const bool conditional = !request.etag.empty() || !request.last_modified.empty();
  // Some servers send the file again although it has the entity tag that was asked for. A weak one proves nothing.
  const bool same_tag = !request.etag.empty() && answer.etag == request.etag && request.etag.compare(0, 2, "W/") != 0;
  if (conditional && (response.status == 304 || (response.status == 200 && same_tag))) {
    answer.unchanged = true;
    if (answer.etag.empty()) answer.etag = request.etag;
    if (answer.last_modified.empty()) answer.last_modified = request.last_modified;
    return answer;
  }
  if (response.status < 200 || response.status >= 300) {
    ASSIGN_OR_RETURN(const Url parsed, Url::parse(url));
    Error error = refused(url, parsed, response.status);
    if (url != request.url) error = std::move(error).with_note("redirected from " + printable(redacted(request.url)));
    if (!worth_a_retry(response.status) && error.kind() == ErrorKind::kUnavailable) error = Error(ErrorKind::kStepFailed, error.message());
    return error;
  }
  if (const std::string length = response.header("content-length"); !length.empty() && !parse_uint(length)) {
    return Error(ErrorKind::kStepFailed, fmt::format("{}: the server announces \"{}\" bytes", printable(redacted(request.url)), printable(length)));
  }
  SessionBody body(*session);
  RETURN_IF_ERROR_WITH(take(answer, body), "downloading " + printable(redacted(request.url)));
  return answer;
}

Result<HttpResponse> Fetcher::follow(const FetchRequest& request, HttpSession& session, std::string& url) {
  ASSIGN_OR_RETURN(Url at, Url::parse(url));
  const std::string first_origin = at.origin();
  for (int redirects = 0;; ++redirects) {
    if (at.scheme != "http" && at.scheme != "https") {
      if (redirects == 0) return Error(ErrorKind::kInvalidInput, fmt::format("{} is no http or https URL", printable(redacted(url))));
      return Error(ErrorKind::kStepFailed, fmt::format("{} redirects to {}, which is no http or https URL", printable(redacted(request.url)), printable(redacted(url))));
    }
    HttpRequest http;
    http.url = at.text();
    http.headers = {"User-Agent: lamina", "Accept: */*"};
    if (!request.authorization.empty() && at.origin() == first_origin) http.headers.push_back("Authorization: " + request.authorization);
    if (!request.etag.empty()) {
      http.headers.push_back("If-None-Match: " + request.etag);
    } else if (!request.last_modified.empty()) {
      http.headers.push_back("If-Modified-Since: " + request.last_modified);
    }
    ASSIGN_OR_RETURN_WITH(HttpResponse response, session.start(http, stop_), "downloading " + printable(redacted(url)));
    if (response.status < 300 || response.status >= 400 || response.status == 304 || response.redirect_url.empty()) return response;
    if (redirects == kMaxRedirects) {
      return Error(ErrorKind::kStepFailed, fmt::format("{}: more than {} redirects", printable(redacted(request.url)), kMaxRedirects));
    }
    session.finish();
    const bool was_https = at.scheme == "https";
    url = response.redirect_url;
    ASSIGN_OR_RETURN(at, Url::parse(url));
    if (was_https && at.scheme == "http" && warn_) warn_(fmt::format("{} redirects to {}, which is not encrypted", printable(redacted(request.url)), printable(redacted(url))));
  }
}

}  // namespace lamina::net
