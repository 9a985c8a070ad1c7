// Content identities. Digest (of stored bytes) and DiffId (of an uncompressed layer tar) are different
// types so that one is never used for the other. OCI image-spec, descriptor.md "Digests", config.md.
#pragma once

#include <compare>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/sha256.h"

namespace lamina::oci {

namespace internal {
// "sha256:<64 hex>"; only SHA-256 is accepted (sha512 is kUnsupported).
class Sha256Name {
 public:
  const std::string& hex() const { return hex_; }           // 64 lower-case digits; empty by default
  std::string text() const { return "sha256:" + hex_; }
  bool empty() const { return hex_.empty(); }
  auto operator<=>(const Sha256Name&) const = default;

 protected:
  Sha256Name() = default;
  explicit Sha256Name(std::string hex) : hex_(std::move(hex)) {}
  static Result<std::string> parse_hex(std::string_view text);
  std::string hex_;
};
}  // namespace internal

// sha256 of bytes as they are stored or sent.
class Digest : public internal::Sha256Name {
 public:
  Digest() = default;  // empty: "not known"
  static Result<Digest> parse(std::string_view text);
  static Digest of(std::string_view bytes) { return Digest(sha256_hex(bytes)); }
  static Digest from_bytes(const Sha256Bytes& b) { return Digest(to_hex(b)); }
  auto operator<=>(const Digest&) const = default;

 private:
  explicit Digest(std::string hex) : Sha256Name(std::move(hex)) {}
};

// sha256 of a layer's uncompressed tar.
class DiffId : public internal::Sha256Name {
 public:
  DiffId() = default;
  static Result<DiffId> parse(std::string_view text);
  static DiffId from_bytes(const Sha256Bytes& b) { return DiffId(to_hex(b)); }
  // An uncompressed layer blob's digest is its DiffId.
  Digest as_uncompressed_digest() const;
  auto operator<=>(const DiffId&) const = default;

 private:
  explicit DiffId(std::string hex) : Sha256Name(std::move(hex)) {}
};

// Identity of a stack of layers, bottom first. image-spec config.md "Layer ChainID".
std::string chain_id(const std::vector<DiffId>& diff_ids);  // 64 hex; empty for no layers

}  // namespace lamina::oci

template <>
struct std::hash<lamina::oci::Digest> {
  size_t operator()(const lamina::oci::Digest& d) const noexcept { return std::hash<std::string>()(d.hex()); }
};
template <>
struct std::hash<lamina::oci::DiffId> {
  size_t operator()(const lamina::oci::DiffId& d) const noexcept { return std::hash<std::string>()(d.hex()); }
};
