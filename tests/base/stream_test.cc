#include "base/stream.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <array>

#include "base/files.h"

using namespace lamina;

TEST_CASE("copy_stream copies everything and counts") {
  const std::string text(3 * kCopyBufferSize + 17, 'z');
  StringSource source(text);
  std::string copy;
  FunctionSink sink([&](std::span<const std::byte> data) -> Result<void> {
    copy.append(reinterpret_cast<const char*>(data.data()), data.size());
    return {};
  });
  auto count = copy_stream(source, sink);
  REQUIRE(count);
  CHECK(*count == text.size());
  CHECK(copy == text);
  std::array<std::byte, 4> rest;
  CHECK(*source.read(rest) == 0);
  CHECK(*source.read(rest) == 0);
}

TEST_CASE("copy_stream stops at an error of the sink") {
  StringSource source("abc");
  FunctionSink sink([](std::span<const std::byte>) -> Result<void> {
    return Error(ErrorKind::kUnavailable, "full");
  });
  CHECK(copy_stream(source, sink).error().message() == "full");
}

TEST_CASE("read_to_string honours the limit") {
  StringSource exact("12345");
  CHECK(*read_to_string(exact, 5) == "12345");
  StringSource large("123456");
  CHECK(read_to_string(large, 5).error().kind() == ErrorKind::kCorrupt);
}

TEST_CASE("descriptors as source and sink") {
  const TempDir dir = *TempDir::create("/tmp", "lamina-test");
  const std::string path = dir.path() + "/f";
  const UniqueFd out = *open_at(AT_FDCWD, path, O_WRONLY | O_CREAT, 0600);
  FdSink sink(out.get());
  REQUIRE(sink.write(as_bytes("hello")));
  FdSource source(*open_at(AT_FDCWD, path, O_RDONLY));
  CHECK(*read_to_string(source, 100) == "hello");
  FdSource bad{UniqueFd()};
  CHECK(read_to_string(bad, 100).error().error_number() == EBADF);
}
