// Where user names and passwords come from.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "oci/reference.h"

namespace lamina::registry {

struct Credentials {
  std::string username;
  std::string password;
  std::string identity_token;  // OAuth2 refresh token; then there is no password
};

// From `auth_file` (--authfile) or $REGISTRY_AUTH_FILE alone when one is given; else $DOCKER_CONFIG/config.json or
// ~/.docker/config.json, then $XDG_RUNTIME_DIR/containers/auth.json. In each: credHelpers for the host, then auths,
// then credsStore. Nothing when no place has an entry; an unreadable or malformed file is an error that names it.
Result<std::optional<Credentials>> find_credentials(const std::string& auth_file,
                                                    const oci::Reference& reference);
// The places find_credentials looks at, for messages.
std::vector<std::string> credential_places(const std::string& auth_file);

// build login / logout: writes auths of the first such place (mode 0600, other content kept), or gives them to the
// credential helper (credHelpers, credsStore) that this place names for the registry.
Result<void> store_credentials(const std::string& auth_file, const std::string& registry,
                               const Credentials& credentials);
// False when there was none.
Result<bool> erase_credentials(const std::string& auth_file, const std::string& registry);

}  // namespace lamina::registry
