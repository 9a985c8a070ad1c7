// Golden files: for every NAME.Dockerfile of a directory NAME.txt beside it holds what `render` makes of its text.
// LAMINA_UPDATE_GOLDENS=1 writes them anew; look at the difference before you commit it.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>

#include <cstdlib>
#include <functional>
#include <string>

#include "base/files.h"

namespace lamina::testing {

inline void compare_goldens(const std::string& directory, int at_least, const std::function<std::string(const std::string&)>& render) {
  const auto fd = open_directory(AT_FDCWD, directory);
  REQUIRE(fd);
  const auto names = list_directory(fd->get());
  REQUIRE(names);
  int seen = 0;
  for (const std::string& name : *names) {
    const size_t dot = name.rfind(".Dockerfile");
    if (dot == std::string::npos) continue;
    ++seen;
    CAPTURE(name);
    const std::string actual = render(*read_file(fd->get(), name));
    const std::string golden = name.substr(0, dot) + ".txt";
    if (std::getenv("LAMINA_UPDATE_GOLDENS") != nullptr) REQUIRE(write_file_atomically(fd->get(), golden, actual, Durability::kNone));
    const auto expected = read_file(fd->get(), golden);
    REQUIRE(expected);
    CHECK(actual == *expected);
  }
  CHECK(seen >= at_least);
}

}  // namespace lamina::testing
