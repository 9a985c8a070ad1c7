// libcurl, loaded when the first request is made: it and its libraries cost 25 ms to start, which a build without a
// registry does not pay.
#pragma once

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

#include "base/result.h"

namespace lamina::net::internal {

struct CurlApi {
#define LAMINA_CURL_FUNCTIONS(X)                                                                                   \
  X(curl_global_init) X(curl_easy_init) X(curl_easy_cleanup) X(curl_easy_reset) X(curl_easy_setopt)                \
  X(curl_easy_getinfo) X(curl_easy_strerror) X(curl_easy_pause) X(curl_slist_append) X(curl_slist_free_all)        \
  X(curl_multi_init) X(curl_multi_cleanup) X(curl_multi_add_handle) X(curl_multi_remove_handle)                    \
  X(curl_multi_perform) X(curl_multi_poll) X(curl_multi_wakeup) X(curl_multi_info_read) X(curl_multi_setopt)       \
  X(curl_url) X(curl_url_cleanup) X(curl_url_get) X(curl_url_set) X(curl_free)
#define X(name) decltype(&::name) name = nullptr;
  LAMINA_CURL_FUNCTIONS(X)
#undef X
};

// kUnsupported with the package's name when it is not installed. Any thread.
Result<const CurlApi*> curl_api();

}  // namespace lamina::net::internal
