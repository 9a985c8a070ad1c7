#include "oci/digest.h"

#include <fmt/format.h>

namespace lamina::oci {

namespace internal {

Result<std::string> Sha256Name::parse_hex(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is no digest: it has the form sha256:<64 hexadecimal digits>", text));
  }
  if (text.substr(0, colon) != "sha256") {
    return Error(ErrorKind::kUnsupported, fmt::format("digest algorithm \"{}\" is not supported; only sha256 is", text.substr(0, colon)));
  }
  const std::string_view hex = text.substr(colon + 1);
  bool good = hex.size() == 64;
  for (char c : hex) good = good && ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'));
  if (!good) {
    return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is no digest: 64 lower-case hexadecimal digits must follow sha256:", text));
  }
  return std::string(hex);
}

}  // namespace internal

Result<Digest> Digest::parse(std::string_view text) {
  ASSIGN_OR_RETURN(std::string hex, parse_hex(text));
  return Digest(std::move(hex));
}

Result<DiffId> DiffId::parse(std::string_view text) {
  ASSIGN_OR_RETURN(std::string hex, parse_hex(text));
  return DiffId(std::move(hex));
}

Digest DiffId::as_uncompressed_digest() const { return Digest::parse(text()).value_or(Digest()); }

std::string chain_id(const std::vector<DiffId>& diff_ids) {
  std::string chain;
  for (const DiffId& id : diff_ids) {
    chain = chain.empty() ? id.hex() : sha256_hex("sha256:" + chain + " " + id.text());
  }
  return chain;
}

}  // namespace lamina::oci
