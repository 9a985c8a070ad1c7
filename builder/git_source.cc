#include "builder/git_source.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "net/url.h"

namespace lamina::builder {

namespace {

bool starts(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }
bool ends(std::string_view text, std::string_view with) { return text.size() >= with.size() && text.substr(text.size() - with.size()) == with; }
bool is_hex(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); });
}

Error bad(std::string message) { return {ErrorKind::kInvalidInput, std::move(message)}; }

// "user@host:path"; a host of letters, digits, "-" and ".", so that C:\x and a@b/c:d are none.
struct ScpParts {
  std::string user, host, path, query, fragment;
};
std::optional<ScpParts> parse_scp(std::string_view text) {
  const auto word = [](std::string_view s, std::string_view more) {
    return !s.empty() && std::all_of(s.begin(), s.end(), [&](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || more.find(c) != std::string_view::npos; });
  };
  const size_t at = text.find('@');
  if (at == std::string_view::npos || !word(text.substr(0, at), "-_")) return std::nullopt;
  const size_t colon = text.find(':', at);
  if (colon == std::string_view::npos || !word(text.substr(at + 1, colon - at - 1), "-.")) return std::nullopt;
  ScpParts parts{std::string(text.substr(0, at)), std::string(text.substr(at + 1, colon - at - 1)), {}, {}, {}};
  std::string_view rest = text.substr(colon + 1);
  parts.fragment = net::cut_off_at(rest, '#');
  parts.query = net::cut_off_at(rest, '?');
  parts.path = rest;
  return parts;
}

// What git itself would take for an option, a refspec or an expression (git-check-ref-format(1)).
Result<void> check_ref(const std::string& ref) {
  if (ref.empty()) return {};
  const bool odd = std::any_of(ref.begin(), ref.end(), [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 0x7f || std::string_view("~^:?*[\\").find(c) != std::string_view::npos; });
  if (odd || ref[0] == '-' || ref[0] == '/' || ref.find("..") != std::string::npos || ref.find("@{") != std::string::npos || ref.find("//") != std::string::npos || ref.back() == '/' || ref.back() == '.') {
    return bad(fmt::format("\"{}\" is no name of a git branch, tag or commit", printable(ref)));
  }
  return {};
}

Result<void> set_once(std::string& field, const std::string& value, const char* what) {
  if (!field.empty() && field != value) return bad(fmt::format("the git source gives two different values for its {}: {} and {}", what, printable(field), printable(value)));
  field = value;
  return {};
}

std::string with_prefix(const std::string& prefix, const std::string& name) { return starts(name, prefix) ? name : prefix + name; }

Result<bool> parse_flag(const std::string& key, const std::string& value) {
  const std::string v = to_lower(value);
  if (v.empty() || v == "1" || v == "t" || v == "true") return true;
  if (v == "0" || v == "f" || v == "false") return false;
  return bad(fmt::format("the git source has {}={}: it is true or false", key, printable(value)));
}

Result<void> apply_option(GitSource& source, const std::string& key, const std::string& value) {
  if (key == "keep-git-dir" || key == "submodules") {
    ASSIGN_OR_RETURN(const bool flag, parse_flag(key, value));
    (key == "submodules" ? source.submodules : source.keep_git_dir) = flag;
    return {};
  }
  if (key == "fetch-by-commit") {  // a commit is always fetched by its name when the server lets us
    RETURN_IF_ERROR(parse_flag(key, value));
    return {};
  }
  if (value.empty()) return bad(fmt::format("the git source has {}= without a value", printable(key)));
  if (key == "ref") return set_once(source.ref, value, "reference");
  if (key == "tag") return set_once(source.ref, with_prefix("refs/tags/", value), "reference");
  if (key == "branch") return set_once(source.ref, with_prefix("refs/heads/", value), "reference");
  if (key == "subdir") return set_once(source.subdir, clean_path("/" + value).substr(1), "subdir");
  if (key == "commit" || key == "checksum") {
    if (!is_hex(value) || value.size() > 64) return bad(fmt::format("\"{}\" is no commit: it is the hexadecimal name of one, or the beginning of it", printable(value)));
    return set_once(source.checksum, to_lower(value), "commit");
  }
  if (key == "mtime") {
    if (value != "checkout" && value != "commit") return bad(fmt::format("the git source has mtime={}: it is checkout or commit", printable(value)));
    return set_once(source.mtime, value, "mtime");
  }
  Error error = bad(fmt::format("the git source has an unknown option {}", printable(key)));
  if (const auto near = nearest_name(key, {"ref", "tag", "branch", "subdir", "commit", "checksum", "keep-git-dir", "submodules", "mtime", "fetch-by-commit"})) error = std::move(error).with_note("did you mean " + *near + "?");
  return error;
}

Result<void> apply_options(GitSource& source, const std::string& fragment, const std::string& query) {
  if (!fragment.empty()) {
    const size_t colon = fragment.find(':');
    ASSIGN_OR_RETURN(source.ref, net::percent_decode(fragment.substr(0, colon)));
    if (colon != std::string::npos) {
      ASSIGN_OR_RETURN(const std::string subdir, net::percent_decode(fragment.substr(colon + 1)));
      source.subdir = clean_path("/" + subdir).substr(1);
    }
  }
  ASSIGN_OR_RETURN(const auto options, net::parse_query(query));
  for (size_t i = 0; i < options.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      if (options[k].first == options[i].first) return bad(fmt::format("the git source has the option {} twice", printable(options[i].first)));
    }
    RETURN_IF_ERROR(apply_option(source, options[i].first, options[i].second));
  }
  for (const char c : source.subdir) {
    if (static_cast<unsigned char>(c) < ' ') return bad("the directory of the git source holds a control character");
  }
  return check_ref(source.ref);
}

Result<std::optional<GitSource>> parse_url(std::string text, GitPlace place) {
  bool explicit_git = false;
  if (starts(text, "git+")) {
    explicit_git = true;
    text = text.substr(4);
  }
  const std::string scheme = to_lower(text.substr(0, text.find("://")));
  const bool http = scheme == "http" || scheme == "https";
  const bool local = scheme == "file";
  if (!http && !local && scheme != "ssh" && scheme != "git") {
    if (explicit_git) return bad(fmt::format("git+{}:// is no kind of git source", printable(scheme))).with_note("it is git+https://, git+http:// or git+ssh://");
    return std::optional<GitSource>();
  }
  auto parsed = net::Url::parse(text);
  // A wrong http URL is the HTTP client's to complain about.
  if (!parsed && http && !explicit_git) return std::optional<GitSource>();
  ASSIGN_OR_RETURN(const net::Url url, std::move(parsed));
  if ((http || local) && !explicit_git && !ends(url.path, ".git")) return std::optional<GitSource>();
  if (local && place == GitPlace::kDockerfile) {
    return bad("a Dockerfile cannot name a git repository of this machine (file://)").with_note("give it with --build-context NAME=git+file://PATH and COPY --from=NAME");
  }
  if (local ? url.path.empty() : url.host.empty()) return bad(fmt::format("the git source {} has no {}", printable(net::redacted(text)), local ? "path" : "host"));
  if (starts(url.host, "-") || starts(url.user_info, "-")) return bad(fmt::format("the git source {} has a host or user that begins with -", printable(net::redacted(text))));
  GitSource source;
  source.http = http;
  source.ssh = scheme == "ssh";
  source.host = local ? "" : url.authority();
  net::Url plain = url;
  plain.query.clear();
  source.remote = plain.text();
  RETURN_IF_ERROR(apply_options(source, url.fragment, url.query));
  return std::optional(std::move(source));
}

}  // namespace

std::string GitSource::address() const {
  auto url = net::Url::parse(remote);
  if (!url) return remote;
  url->user_info = http ? "" : url->user_info.substr(0, url->user_info.find(':'));
  return url->text();
}

bool GitSource::readable_by_others() const {
  const auto url = net::Url::parse(remote);
  if (!http || !url || url->scheme != "http") return false;
  in_addr v4{};
  const bool is_v4 = ::inet_pton(AF_INET, url->host.c_str(), &v4) == 1;
  const bool loopback = url->host == "localhost" || url->host == "::1" || (is_v4 && ntohl(v4.s_addr) >> 24 == 127);
  return !loopback;
}

std::string GitSource::http_credentials() const {
  const auto url = net::Url::parse(remote);
  if (!http || !url || url->user_info.empty()) return {};
  const auto decoded = [](const std::string& text) {
    auto out = net::percent_decode(text);
    return out ? std::move(*out) : text;  // no error: its message would show the password
  };
  const size_t colon = url->user_info.find(':');
  return decoded(url->user_info.substr(0, colon)) + ":" + (colon == std::string::npos ? "" : decoded(url->user_info.substr(colon + 1)));
}

bool is_commit_name(std::string_view text) { return (text.size() == 40 || text.size() == 64) && is_hex(text); }

Result<std::optional<GitSource>> parse_git_source(std::string_view text, GitPlace place) {
  if (starts(text, "./") || starts(text, "../") || starts(text, "/")) return std::optional<GitSource>();
  if (text.find("://") != std::string_view::npos && text.find("://") < text.find_first_of("/@")) return parse_url(std::string(text), place);
  if (starts(text, "github.com/") && place == GitPlace::kCommandLine) {
    // Without ".git", as the form has always been: git's own server redirects.
    return parse_url("git+https://" + std::string(text), place);
  }
  const auto scp = parse_scp(text);
  if (!scp) return std::optional<GitSource>();
  if (scp->host.front() == '-' || scp->user.front() == '-') return bad(fmt::format("the git source {} has a host or user that begins with -", printable(std::string(text))));
  if (scp->path.empty()) return bad(fmt::format("the git source {} has no path", printable(std::string(text))));
  GitSource source;
  source.ssh = true;
  source.host = scp->host;
  source.remote = scp->user + "@" + scp->host + ":" + scp->path;
  for (const char c : source.remote) {
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f) return bad(fmt::format("the git source {} holds a blank or a control character", printable(std::string(text))));
  }
  RETURN_IF_ERROR(apply_options(source, scp->fragment, scp->query));
  return std::optional(std::move(source));
}

}  // namespace lamina::builder
