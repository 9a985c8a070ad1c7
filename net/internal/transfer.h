// One exchange on a curl handle, and who drives such handles.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/http.h"
#include "net/internal/curl_api.h"

namespace lamina::net::internal {

using Clock = std::chrono::steady_clock;

// A stop request and a silent server are noticed so soon.
constexpr std::chrono::milliseconds kLook{200};

// The driver's thread (the reader's own, or a Multiplexer's) is in curl's callbacks, the reader asks for what they
// found. Used for one exchange after the other.
class Transfer {
 public:
  static Result<std::unique_ptr<Transfer>> create();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  ~Transfer();  // no driver has it any more

  // Sets the handle up for a request, while no driver has it. The body of one that shares its connection is read from
  // its source here.
  Result<void> prepare(const HttpRequest& request, bool shared);
  CURL* handle() const { return easy_; }

  // --- the driver's
  void end(CURLcode result);
  // Whether sending was held so that curl looks at what came in first; the driver lets it go on.
  bool take_held() { return std::exchange(held_, false); }

  // --- the reader's
  // What went wrong: the source of the body, the connection, a server that is silent. A server that refuses a body
  // need not have read it: its answer counts although the connection broke, unless `reading` what follows that answer.
  std::optional<Error> failure(bool reading);
  // Whether status and headers are there, and final: with a body still being sent only a refusal is, or an answer so
  // long that somebody has to read it first.
  bool answered();
  bool ended();
  // With an absolute redirect_url.
  HttpResponse response();
  // Bytes of the body that have come; 0 when there are none.
  size_t take(std::span<std::byte> buffer);
  // Whether the driver has to be told to go on, because what it waited for has been taken.
  bool take_paused();
  // Until a callback has something new that the reader did not see yet, or kLook.
  void wait_for_news();

 private:
  Transfer(const CurlApi& api, CURL* easy) : api_(api), easy_(easy) {}
  static size_t on_body(char* data, size_t size, size_t n, void* self);
  static size_t on_header(char* data, size_t size, size_t n, void* self);
  static size_t on_send(char* out, size_t size, size_t room, void* self);
  static int on_seek(void* self, curl_off_t offset, int origin);
  static int on_open(void* self, curl_socket_t fd, curlsocktype purpose);
  static int on_close(void* self, curl_socket_t fd);

  template <typename T>
  void set(CURLoption option, T value) {
    api_.curl_easy_setopt(easy_, option, value);
  }
  void reset();
  void set_tls(const HttpRequest& request);
  void set_proxy(const std::string& url);
  void set_body(const HttpRequest& request);
  Result<void> take_body(const HttpRequest& request);
  void add_header(const std::string& line) { headers_ = api_.curl_slist_append(headers_, line.c_str()); }

  void header_line(std::string_view line);
  // With the lock held.
  bool refused() const { return headers_done_ && response_.status >= 300; }
  void tell() {
    ++news_;
    changed_.notify_one();
  }
  Result<size_t> next_of_body(std::span<std::byte> room);
  bool answer_waits() const;
  void take_left_answer();
  Error transport_error() const;

  const CurlApi& api_;
  CURL* const easy_;
  curl_slist* headers_ = nullptr;
  std::string url_;
  bool shared_ = false;
  std::chrono::milliseconds stall_{}, answer_{};

  // The driver's alone: the request's body.
  bool has_body_ = false;
  std::string text_;
  size_t text_sent_ = 0;
  ByteSource* source_ = nullptr;
  std::string kept_;        // was read from the source while an answer came
  bool held_ = false;       // sending
  bool looked_first_ = false;
  bool salvages_ = false;   // what is left in a socket that closes may be the answer
  std::string left_;

  std::mutex mutex_;  // what follows
  std::condition_variable changed_;
  uint64_t news_ = 0, seen_ = 0;
  HttpResponse response_;
  size_t header_bytes_ = 0;
  bool headers_done_ = false;
  bool paused_ = false;     // receiving
  bool ended_ = false;      // curl is done with the exchange
  CURLcode result_ = CURLE_OK;
  std::string buffer_;
  size_t taken_ = 0;
  std::optional<Error> source_error_;
  uint64_t left_to_send_ = 0;
  Clock::time_point moved_, looked_;
};

// Who lets curl work. The calls come from the reader's thread.
class Driver {
 public:
  virtual ~Driver() = default;
  virtual void add(Transfer& transfer) = 0;
  // One round of work, without waiting.
  virtual void work(Transfer& transfer) = 0;
  // Until there may be more to do, or kLook.
  virtual void wait(Transfer& transfer) = 0;
  // Receiving goes on.
  virtual void resume(Transfer& transfer) = 0;
  // Curl does not touch it any more.
  virtual void remove(Transfer& transfer) = 0;
  // The server was silent: nothing new is begun on the connection.
  virtual void distrust() {}
};

}  // namespace lamina::net::internal
