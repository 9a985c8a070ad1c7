// registries.conf as podman and buildah read it: mirrors, rewritten prefixes, hosts without TLS, blocked hosts.
// containers-registries.conf(5), versions 2 and (the host lists of) 1.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/reference.h"

namespace lamina::registry::internal {

// One place where an image can be asked for.
struct Endpoint {
  oci::Reference reference;  // as this host names it
  bool insecure = false;     // plain HTTP, or a certificate that cannot be checked
  bool mirror = false;
};

// A value; const members are safe on any thread.
class RegistriesConf {
 public:
  // The usual places: $CONTAINERS_REGISTRIES_CONF, else ~/.config/containers/registries.conf, else
  // /etc/containers/registries.conf; then the drop-ins of registries.conf.d. kInvalidInput names file and line.
  static Result<RegistriesConf> load();
  // Adds the content of one file; an entry replaces an earlier one of the same prefix.
  Result<void> add(std::string_view text, const std::string& file);

  // Mirrors in their order, then the place itself. kDenied when it is blocked.
  Result<std::vector<Endpoint>> for_pull(const oci::Reference& name) const;
  // What is pushed goes where its name says: neither mirrors nor rewriting apply, as with podman.
  Result<Endpoint> for_push(const oci::Reference& name) const;

 private:
  struct Place {
    std::string location;
    bool insecure = false;
    bool by_digest = true, by_tag = true;  // what may be asked of a mirror
  };
  struct Registry {
    std::string prefix;
    Place self;
    bool blocked = false;
    std::vector<Place> mirrors;
    std::string file;
  };
  struct Reader;
  const Registry* find(const oci::Reference& name) const;
  static Result<oci::Reference> rewrite(const oci::Reference& name, const Registry& registry, const std::string& location);

  std::vector<Registry> registries_;
};

}  // namespace lamina::registry::internal
