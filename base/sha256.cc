#include "base/sha256.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <stdexcept>

namespace lamina {
namespace {

// Fetched once: looking the algorithm up costs more than hashing a short text. The host's
// openssl.cnf is not read, so it can neither slow the start nor refuse the algorithm.
const EVP_MD* algorithm() {
  static const EVP_MD* const fetched = [] {
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
    return EVP_MD_fetch(nullptr, "SHA256", nullptr);
  }();
  return fetched;
}

// OpenSSL fails here only without memory or when it is broken: a bug, not a result.
void check(int openssl_result, const char* call) {
  if (openssl_result != 1) throw std::runtime_error(std::string("SHA-256: failed in ") + call);
}

}  // namespace

struct Sha256::State {
  State() : context(EVP_MD_CTX_new()) { restart(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { EVP_MD_CTX_free(context); }

  void restart() { check(EVP_DigestInit_ex2(context, algorithm(), nullptr), "EVP_DigestInit"); }

  EVP_MD_CTX* context;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::byte> data) {
  check(EVP_DigestUpdate(state_->context, data.data(), data.size()), "EVP_DigestUpdate");
}

void Sha256::update(std::string_view data) {
  update(std::as_bytes(std::span(data.data(), data.size())));
}

Sha256Bytes Sha256::finish() {
  Sha256Bytes digest{};
  check(EVP_DigestFinal_ex(state_->context, digest.data(), nullptr), "EVP_DigestFinal");
  state_->restart();
  return digest;
}

Sha256Bytes sha256(std::string_view data) {
  thread_local Sha256 hash;  // a new context per call costs three times a short hash
  hash.update(data);
  return hash.finish();
}

std::string to_hex(std::span<const unsigned char> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Sha256Bytes sha256_from_hex(std::string_view hex) {
  const auto value = [](char digit) { return static_cast<unsigned>(digit <= '9' ? digit - '0' : digit - 'a' + 10); };
  Sha256Bytes bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(value(hex[2 * i]) << 4 | value(hex[2 * i + 1]));
  return bytes;
}

std::string sha256_hex(std::string_view data) { return to_hex(sha256(data)); }

}  // namespace lamina
