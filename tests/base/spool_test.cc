#include "base/spool.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <string>

#include "base/files.h"

namespace lamina {
namespace {

std::string all_of(const Spool& spool) {
  const auto reader = spool.reader();
  std::string text(1000, '\0'), out;
  while (true) {
    const auto got = reader->read(std::as_writable_bytes(std::span(text)));
    REQUIRE(got.has_value());
    if (*got == 0) return out;
    out.append(text, 0, *got);
  }
}

TEST_CASE("a spool gives back what was appended, from memory and from its file") {
  int made = 0;
  Spool spool([&] {
    ++made;
    return open_at(AT_FDCWD, "/tmp", O_TMPFILE | O_RDWR, 0600);
  });
  std::string expected;
  for (int i = 0; expected.size() < 3 * Spool::kMemory; ++i) {
    const std::string line = "line " + std::to_string(i) + std::string(static_cast<size_t>(i % 300), 'x') + "\n";
    REQUIRE(spool.append(line).has_value());
    expected += line;
    if (i == 100) {
      CHECK(made == 0);
      CHECK(all_of(spool) == expected);
    }
  }
  CHECK(made == 1);
  CHECK(spool.size() == expected.size());
  CHECK((all_of(spool) == expected));
  std::string part(5000, '\0');
  for (const uint64_t offset : {uint64_t{0}, uint64_t{Spool::kMemory - 100}, 2 * uint64_t{Spool::kMemory} - 2500, expected.size() - 5000}) {
    CHECK(spool.read_at(offset, std::as_writable_bytes(std::span(part))).value() == part.size());
    CHECK((part == expected.substr(offset, part.size())));
  }
  CHECK(spool.read_at(expected.size() - 10, std::as_writable_bytes(std::span(part))).value() == 10);
  CHECK(spool.read_at(expected.size() + 10, std::as_writable_bytes(std::span(part))).value() == 0);
}

TEST_CASE("a spool says when there is no place for its file") {
  Spool spool([]() -> Result<UniqueFd> { return Error(ErrorKind::kUnavailable, "the disk is full"); });
  CHECK(spool.append("a").has_value());
  CHECK(!spool.append(std::string(Spool::kMemory, 'b')).has_value());
}

}  // namespace
}  // namespace lamina
