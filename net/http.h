// HTTP exchanges over connections that are used again, or shared. Knows no registry.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/guarded.h"
#include "base/result.h"
#include "base/stream.h"

namespace lamina::net {

namespace internal {
class SharedConnections;
}

// Of a body whose end is where its source ends; it is sent in chunks.
inline constexpr uint64_t kUnknownSize = UINT64_MAX;

// What an exchange holds of a body that nobody has read yet.
constexpr uint64_t kShareableBytes = 1 << 20;

struct HttpRequest {
  std::string method = "GET";
  std::string url;
  std::string unix_socket;           // path of the socket to speak through; the URL's host is then only a name
  std::vector<std::string> headers;  // "Name: value"
  // The body: a text, or `body_size` bytes from `body_source` (borrowed).
  std::string body;
  ByteSource* body_source = nullptr;
  uint64_t body_size = 0;
  bool has_body = false;
  // May be carried beside others by one connection, over TLS where the server speaks HTTP/2. Then the body is at most
  // kShareableBytes, and so is the answer's unless it is read at once: a reader that waited for another exchange could
  // wait for ever.
  bool shareable = false;
  bool verify_tls = true;
  std::string authorities;                     // PEM; trusted besides the system's
  std::string client_certificate, client_key;  // paths of PEM files; both or neither
  // The server is dead when nothing moves for so long: while headers or bytes are under way, and while it works on
  // what was sent to it (a registry hashes what it received before it answers). A network that is gone is noticed
  // sooner, by the kernel.
  std::chrono::milliseconds stall{60000};
  std::chrono::milliseconds answer{300000};
};

struct HttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; a repeated one is joined with ", "
  std::string redirect_url;                    // absolute, for 3xx
  std::string header(const std::string& name) const {
    const auto it = headers.find(name);
    return it == headers.end() ? std::string() : it->second;
  }
};

// One exchange at a time, on a connection of its own that is kept and used again, or on a shared one. One thread at a
// time.
class HttpSession {
 public:
  // Without `shared` every exchange has the session's own connection.
  explicit HttpSession(std::shared_ptr<internal::SharedConnections> shared = nullptr);
  ~HttpSession();
  // Sends and waits for the status and headers; the body is then read with read(). kUnavailable when the
  // server cannot be reached or the connection breaks, kCancelled after a stop request. What a server answers before it
  // has read the whole body, and refuses, is the answer.
  Result<HttpResponse> start(const HttpRequest& request, std::stop_token stop);
  // Bytes of the body; 0 at its end.
  Result<size_t> read(std::span<std::byte> buffer);
  // The rest of the body as text, at most `limit` bytes of it.
  Result<std::string> read_all(uint64_t limit);
  // Ends the exchange, also in the middle of a body.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Sessions that are free at the moment; they share connections. Any thread.
class SessionPool {
 public:
  SessionPool();
  // Given back when the pointer dies.
  using Lease = std::unique_ptr<HttpSession, std::function<void(HttpSession*)>>;
  Lease acquire();

 private:
  std::shared_ptr<internal::SharedConnections> shared_;
  std::shared_ptr<Guarded<std::vector<std::unique_ptr<HttpSession>>>> free_ = std::make_shared<Guarded<std::vector<std::unique_ptr<HttpSession>>>>();
};

}  // namespace lamina::net
