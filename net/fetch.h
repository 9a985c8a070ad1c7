// GET of one URL: redirects, validators, retries, credentials for one server only.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/stream.h"
#include "net/http.h"

namespace lamina::net {

struct FetchRequest {
  std::string url;            // http or https; a fragment is not sent
  std::string authorization;  // value of the Authorization header; only the URL's own server sees it
  // Of what the caller has already; then the server may answer that it has not changed.
  std::string etag;
  std::string last_modified;
};

struct FetchAnswer {
  bool unchanged = false;     // what the caller has is what the server has
  std::string etag;           // "" when the server gave none
  std::string last_modified;  // as the server wrote it
  // Whether last_modified alone proves that a later answer is the same (RFC 9110, 8.8.2.2: a minute older than
  // the answer, because a file can change twice in a second).
  bool last_modified_is_strong = false;
  std::optional<uint64_t> size;
};

// Any thread.
class Fetcher {
 public:
  explicit Fetcher(std::stop_token stop) : stop_(std::move(stop)) {}
  // Reads the body with `take`, which is called once for each attempt (again after a broken connection), and not at
  // all when the answer is "unchanged". kNotFound for 404 and 410, kDenied for 401 and 403, kUnavailable for servers
  // that cannot be reached or fail, kCancelled after a stop request.
  using Take = std::function<Result<void>(const FetchAnswer& answer, ByteSource& body)>;
  Result<FetchAnswer> get(const FetchRequest& request, const Take& take);
  // Told of a redirect from https to http.
  void on_warning(std::function<void(const std::string&)> warn) { warn_ = std::move(warn); }

 private:
  Result<FetchAnswer> attempt(const FetchRequest& request, const Take& take);
  Result<HttpResponse> follow(const FetchRequest& request, HttpSession& session, std::string& url);
  Result<void> pause(unsigned attempt) const;

  SessionPool sessions_;
  std::stop_token stop_;
  std::function<void(const std::string&)> warn_;
};

// "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, IMF-fixdate) in seconds since 1970; nothing for another form.
std::optional<int64_t> parse_http_date(std::string_view text);

}  // namespace lamina::net
