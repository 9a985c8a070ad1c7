#include <dlfcn.h>

#include "net/internal/curl_api.h"

namespace lamina::net::internal {

Result<const CurlApi*> curl_api() {
  static const CurlApi* const api = []() -> const CurlApi* {
    void* library = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    static CurlApi loaded;
#define X(name)                                                               \
  loaded.name = reinterpret_cast<decltype(&::name)>(::dlsym(library, #name)); \
  if (loaded.name == nullptr) return nullptr;
    LAMINA_CURL_FUNCTIONS(X)
#undef X
    if (loaded.curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return nullptr;
    return &loaded;
  }();
  if (api == nullptr) {
    return Error(ErrorKind::kUnsupported, "nothing can be fetched over HTTP: libcurl.so.4 is not installed").with_note("install it: apt-get install libcurl4");
  }
  return api;
}

}  // namespace lamina::net::internal
