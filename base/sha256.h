// SHA-256, FIPS 180-4, by OpenSSL.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace lamina {

using Sha256Bytes = std::array<unsigned char, 32>;

// Incremental hash. Movable, not copyable; one thread at a time.
class Sha256 {
 public:
  Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  ~Sha256();

  void update(std::span<const std::byte> data);
  void update(std::string_view data);
  // Ends the stream and starts a new, empty one.
  Sha256Bytes finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Sha256Bytes sha256(std::string_view data);
std::string to_hex(std::span<const unsigned char> bytes);
// What to_hex made. REQUIRES: 64 lower-case hexadecimal digits.
Sha256Bytes sha256_from_hex(std::string_view hex);
// "sha256 of data" as 64 lower-case hexadecimal digits.
std::string sha256_hex(std::string_view data);

}  // namespace lamina
