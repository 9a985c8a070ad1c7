#include "layers/internal/pipeline.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include "base/files.h"

using namespace lamina;
using namespace lamina::layers;

// Long enough for both ways of writing, on a file system that has O_DIRECT and on one that has not.
TEST_CASE("what a HashingWriter writes is what it was given, whatever way it takes to the file") {
  std::string text((72 << 20) + 4321, '\0');
  uint64_t state = 1;
  for (size_t i = 0; i + 8 <= text.size(); i += 8) {
    state = state * 6364136223846793005 + 1442695040888963407;
    text.replace(i, 8, reinterpret_cast<const char*>(&state), 8);
  }
  const Sha256Bytes expected = sha256(text);
  for (const char* place : {"/var/tmp", "/dev/shm"}) {
    CAPTURE(place);
    const TempDir dir = std::move(*TempDir::create(place, "pipeline-test"));
    const std::string path = dir.path() + "/file";
    for (const size_t size : {text.size(), size_t{64} << 20, size_t{5}}) {
      CAPTURE(size);
      const UniqueFd fd = std::move(*open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_TRUNC, 0600));
      HashingWriter writer(fd.get());
      const std::string_view content = std::string_view(text).substr(0, size);
      // In pieces that fit no block.
      for (size_t at = 0; at < size; at += 1'000'003) REQUIRE(writer.write(as_bytes(content.substr(at, 1'000'003))));
      const auto summary = writer.finish();
      REQUIRE(summary);
      CHECK(summary->size == size);
      CHECK(summary->sha256 == sha256(content));
      if (size == text.size()) CHECK(summary->sha256 == expected);
      CHECK(*read_file(AT_FDCWD, path) == content);
    }
  }
}
