// Test material that is no part of the repository: ../shared/cases beside the source directory. Where it is missing the
// tests are skipped, and doctest counts them as skipped.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "base/files.h"

namespace lamina::conformance {

inline std::string shared_cases() { return LAMINA_SOURCE_DIR "/../shared/cases"; }
inline bool available(const std::string& path) { return access((shared_cases() + "/" + path).c_str(), R_OK) == 0; }

// The content of a file below ../shared/cases, or of one with an absolute path; the test ends when it cannot be read.
inline std::string content(const std::string& path) {
  auto text = read_file(AT_FDCWD, path[0] == '/' ? path : shared_cases() + "/" + path);
  return std::move(text).value();
}

}  // namespace lamina::conformance
