// os/architecture[/variant]. OCI image-spec, image-index.md.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamina::oci {

struct Platform {
  std::string os = "linux";
  std::string architecture;
  std::string variant;
  std::string os_version;
  std::vector<std::string> os_features;

  bool operator==(const Platform&) const = default;
  // "linux/arm64/v8"; the variant is left out when empty.
  std::string text() const;
  // "linux/amd64", "arm64", "linux/arm/v7"; well-known synonyms (x86_64, aarch64, armhf) are normalised.
  static Result<Platform> parse(std::string_view text);
  // Of the machine this runs on (uname).
  static Platform host();
};

// How well an image for `offered` serves `wanted`: 0 not at all; larger is better. An exact variant is
// best; a lower variant of the same architecture runs too (arm/v7 runs v6; amd64/v3 runs v1).
int match_score(const Platform& wanted, const Platform& offered);

}  // namespace lamina::oci
