#include "base/sha256.h"

#include <doctest/doctest.h>

using namespace lamina;

// FIPS 180-4 examples.
constexpr const char* kEmpty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST_CASE("known digests") {
  CHECK(sha256_hex("") == kEmpty);
  CHECK(sha256_hex("abc") == kAbc);
  CHECK(sha256_hex(std::string(1000000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("a hash can be fed in pieces, moved and used again") {
  Sha256 hash;
  hash.update("a");
  Sha256 moved = std::move(hash);
  moved.update("bc");
  CHECK(to_hex(moved.finish()) == kAbc);
  CHECK(to_hex(moved.finish()) == kEmpty);
  moved.update("abc");
  CHECK(to_hex(moved.finish()) == kAbc);
}
