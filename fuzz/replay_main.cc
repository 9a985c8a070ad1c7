// Runs one fuzz target over the files of the directories given: the corpus as a plain test, with any compiler.
#include <fcntl.h>
#include <fmt/format.h>

#include <chrono>

#include "base/files.h"
#include "fuzz/fuzz.h"

int main(int argc, char** argv) {
  size_t files = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 1; i < argc; ++i) {
    const auto directory = lamina::open_directory(AT_FDCWD, argv[i]);
    if (!directory) {
      fmt::print(stderr, "{}\n", directory.error().render());
      return 1;
    }
    const auto names = lamina::list_directory(directory->get());
    if (!names) {
      fmt::print(stderr, "{}\n", names.error().render());
      return 1;
    }
    for (const std::string& name : *names) {
      const auto text = lamina::read_file(directory->get(), name);
      if (!text) {
        fmt::print(stderr, "{}\n", text.error().render());
        return 1;
      }
      fmt::print("{}/{}\n", argv[i], name);
      std::fflush(stdout);  // the last name printed is the one that failed
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text->data()), text->size());
      ++files;
    }
  }
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{} files in {} ms\n", files, ms);
  return files > 0 ? 0 : 1;
}
