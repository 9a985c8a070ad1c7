#include "net/url.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace lamina::net {

namespace {

bool is_scheme(std::string_view text) {
  const auto good = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.'; };
  return !text.empty() && ((text[0] | 0x20) >= 'a' && (text[0] | 0x20) <= 'z') && std::all_of(text.begin(), text.end(), good);
}

std::string bracketed(const std::string& host) { return host.find(':') == std::string::npos ? host : "[" + host + "]"; }

// "host:port", "[::1]:port".
Result<void> parse_authority(std::string_view text, Url& url) {
  if (!text.empty() && text[0] == '[') {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return Error(ErrorKind::kInvalidInput, "an IPv6 address without its closing bracket");
    url.host = to_lower(text.substr(1, close - 1));
    text.remove_prefix(close + 1);
  } else {
    const size_t colon = text.find(':');
    url.host = to_lower(text.substr(0, colon));
    text.remove_prefix(colon == std::string_view::npos ? text.size() : colon);
  }
  if (text.empty()) return {};
  url.port = text.substr(1);
  const auto number = parse_uint(url.port);
  if (text[0] != ':' || (!url.port.empty() && (!number || *number == 0 || *number > 65535))) {
    return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is no port", printable(url.port)));
  }
  return {};
}

}  // namespace

Result<Url> Url::parse(std::string_view text) {
  Url url;
  const size_t mark = text.find("://");
  if (mark == std::string_view::npos || !is_scheme(text.substr(0, mark))) {
    return Error(ErrorKind::kInvalidInput, fmt::format("{} is no URL", printable(redacted(text))));
  }
  for (const char c : text) {
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f) {
      return Error(ErrorKind::kInvalidInput, fmt::format("the URL {} holds a blank or a control character", printable(redacted(text)))).with_note("write it percent-encoded: a blank is %20");
    }
  }
  url.scheme = to_lower(text.substr(0, mark));
  std::string_view rest = text.substr(mark + 3);
  url.fragment = cut_off_at(rest, '#');
  url.query = cut_off_at(rest, '?');
  const size_t slash = rest.find('/');
  std::string_view authority = rest.substr(0, slash);
  if (slash != std::string_view::npos) url.path = rest.substr(slash);
  if (const size_t at = authority.rfind('@'); at != std::string_view::npos) {
    url.user_info = authority.substr(0, at);
    authority.remove_prefix(at + 1);
  }
  RETURN_IF_ERROR_WITH(parse_authority(authority, url), "reading the URL " + printable(redacted(text)));
  return url;
}

std::string Url::authority() const { return bracketed(host) + (port.empty() ? "" : ":" + port); }

std::string Url::origin() const {
  const std::string_view usual = scheme == "https" ? "443" : scheme == "http" ? "80" : "";
  const std::string number(port.substr(std::min(port.find_first_not_of('0'), port.size())));  // "0443" is 443
  return scheme + "://" + bracketed(host) + (number.empty() || number == usual ? "" : ":" + number);
}

std::string Url::text() const {
  return scheme + "://" + (user_info.empty() ? "" : user_info + "@") + authority() + path + (query.empty() ? "" : "?" + query);
}

std::string cut_off_at(std::string_view& text, char mark) {
  const size_t at = text.find(mark);
  if (at == std::string_view::npos) return {};
  std::string tail(text.substr(at + 1));
  text = text.substr(0, at);
  return tail;
}

Result<std::string> percent_decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const auto value = i + 2 < text.size() ? parse_uint(text.substr(i + 1, 2), 16) : std::nullopt;
    if (!value) return Error(ErrorKind::kInvalidInput, fmt::format("a broken percent escape in \"{}\"", printable(std::string(text))));
    out += static_cast<char>(*value);
    i += 2;
  }
  return out;
}

Result<std::vector<std::pair<std::string, std::string>>> parse_query(std::string_view query) {
  std::vector<std::pair<std::string, std::string>> out;
  if (query.empty()) return out;
  for (std::string part : split(query, '&')) {
    if (part.empty()) continue;
    std::replace(part.begin(), part.end(), '+', ' ');
    const size_t eq = part.find('=');
    ASSIGN_OR_RETURN(std::string key, percent_decode(std::string_view(part).substr(0, eq)));
    std::string value;
    if (eq != std::string::npos) {
      ASSIGN_OR_RETURN(value, percent_decode(std::string_view(part).substr(eq + 1)));
    }
    out.emplace_back(std::move(key), std::move(value));
  }
  return out;
}

std::string url_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

std::string origin_of(std::string_view url) {
  const auto parsed = Url::parse(url);
  return parsed ? parsed->origin() : std::string(url);
}

std::string shown_url(std::string_view url) {
  const auto parsed = Url::parse(url);
  return printable(parsed ? parsed->origin() + parsed->path : redacted(url.substr(0, url.find_first_of("?#"))));
}

std::string redacted(std::string_view url) {
  const size_t mark = url.find("://");
  if (mark == std::string_view::npos) return std::string(url);
  const size_t end = std::min(url.find_first_of("/?#", mark + 3), url.size());
  const size_t at = url.substr(0, end).rfind('@');
  if (at == std::string_view::npos || at < mark + 3) return std::string(url);
  const std::string_view user = url.substr(mark + 3, at - mark - 3);
  // "ssh://git@host" holds no secret; a lone user of http may be a token.
  const bool secret = user.find(':') != std::string_view::npos || url.substr(0, 4) == "http" || url.substr(0, 8) == "git+http";
  if (!secret) return std::string(url);
  return std::string(url.substr(0, mark + 3)) + "xxxxx" + std::string(url.substr(at));
}

}  // namespace lamina::net
