// Image names: [registry/]repository[:tag][@digest], with Docker's defaults.
// distribution reference grammar; OCI distribution-spec "Pulling manifests" for names and tags.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "oci/digest.h"

namespace lamina::oci {

class Reference {
 public:
  Reference() = default;
  // "app:v1" is docker.io/library/app:v1. Fails with kInvalidInput and says which part is wrong
  // (upper case in the repository gets the lower-case form as a note). No default tag is added here.
  static Result<Reference> parse(std::string_view text);

  const std::string& registry() const { return registry_; }      // "docker.io", "127.0.0.1:5000"
  const std::string& repository() const { return repository_; }  // "library/app"
  const std::optional<std::string>& tag() const { return tag_; }
  const std::optional<Digest>& digest() const { return digest_; }

  // The tag when there is one; "latest" when there is neither tag nor digest; else empty.
  std::string tag_or_latest() const;
  // What goes behind /manifests/: the digest if any, else tag_or_latest().
  std::string manifest_reference() const;
  // The canonical full name: docker.io/library/app:latest; the key of the image store.
  std::string canonical() const;
  // As a user writes it: docker.io/ and library/ are left out.
  std::string familiar() const;
  // Without tag and digest, familiar.
  std::string familiar_repository() const;

  Reference with_tag(std::string tag) const;
  Reference with_digest(Digest digest) const;  // the tag stays
  Reference by_digest(Digest digest) const;    // instead of a tag

  // A registry on loopback (127.0.0.0/8, [::1], localhost) may be spoken to without TLS.
  bool is_loopback() const;
  // Where the API answers: registry-1.docker.io for docker.io, else registry().
  std::string api_host() const;

  bool operator==(const Reference&) const = default;

 private:
  std::string registry_;
  std::string repository_;
  std::optional<std::string> tag_;
  std::optional<Digest> digest_;
};

}  // namespace lamina::oci
