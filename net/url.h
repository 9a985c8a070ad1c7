// URLs as they are typed into Dockerfiles and command lines. RFC 3986, without resolving references.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace lamina::net {

struct Url {
  std::string scheme;     // lower case
  std::string user_info;  // "user:password" as written, or empty
  std::string host;       // lower case; an IPv6 address without its brackets
  std::string port;       // digits, or empty
  std::string path;       // as written, percent-encoded
  std::string query;      // as written, without "?"
  std::string fragment;   // as written, without "#"

  // kInvalidInput for a text without "scheme://", with blanks or control characters, or with a bad port.
  static Result<Url> parse(std::string_view text);
  // "host" or "host:port".
  std::string authority() const;
  // "scheme://host" or "scheme://host:port", without the scheme's own port: equal for equal servers.
  std::string origin() const;
  // Everything but the fragment: what is sent.
  std::string text() const;
};

// Cuts `text` off at the first `mark` and gives what followed it; empty without one.
std::string cut_off_at(std::string_view& text, char mark);
// "a%20b" → "a b". kInvalidInput for a broken escape.
Result<std::string> percent_decode(std::string_view text);
// "a=1&b" → {a, 1}, {b, ""}, decoded ("+" is a blank).
Result<std::vector<std::pair<std::string, std::string>>> parse_query(std::string_view query);
// Percent-encoded for a query or a form (RFC 3986 "unreserved" stays).
std::string url_escape(std::string_view text);
// Url::origin() of a text; one that is no URL comes back unchanged, and is no server's origin.
std::string origin_of(std::string_view url);
// A URL as it may be shown: without user, password, query and fragment, where secrets are.
std::string shown_url(std::string_view url);
// The same URL without a password or token, for messages and for what is stored; other texts come back unchanged.
std::string redacted(std::string_view url);

}  // namespace lamina::net
