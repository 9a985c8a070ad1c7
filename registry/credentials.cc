#include "registry/credentials.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <cstdlib>

#include "base/child_process.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"

namespace lamina::registry {

namespace {

using json::Json;

constexpr const char* kDockerHubKey = "https://index.docker.io/v1/";
constexpr uint64_t kMaxConfig = 16 << 20;

std::string environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets it
  return value == nullptr ? std::string() : std::string(value);
}

std::string docker_config() {
  if (const std::string dir = environment("DOCKER_CONFIG"); !dir.empty()) return dir + "/config.json";
  if (const std::string home = environment("HOME"); !home.empty()) return home + "/.docker/config.json";
  return {};
}

std::optional<std::string> decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string out(text.size() / 4 * 3, '\0');
  const int n = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (n < 0) return std::nullopt;
  size_t size = static_cast<size_t>(n);
  for (size_t i = text.size(); i > 0 && text[i - 1] == '=' && size > 0; --i) --size;
  out.resize(size);
  return out;
}

// The names under which a host's entry may be filed.
std::vector<std::string> entry_names(const std::string& registry) {
  if (registry == "docker.io") return {kDockerHubKey, "docker.io", "index.docker.io", "https://index.docker.io", "registry-1.docker.io"};
  return {registry, "https://" + registry, "http://" + registry, "https://" + registry + "/v1/", "https://" + registry + "/v2/", "https://" + registry + "/"};
}

// docker-credential-<helper> <verb>; secrets go through standard input, never through arguments.
Result<std::string> run_helper(const std::string& helper, const char* verb, const std::string& input) {
  if (helper.find('/') != std::string::npos) return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is no name of a credential helper", helper));
  SpawnOptions options;
  options.argv = {"docker-credential-" + helper, verb};
  return run_and_capture(options, input);
}

Result<std::optional<Credentials>> ask_helper(const std::string& helper, const std::string& server) {
  const std::string program = "docker-credential-" + helper;
  auto answer = run_helper(helper, "get", server);
  if (!answer) {
    // A helper says with a failing status that it has nothing for this server.
    if (answer.error().kind() == ErrorKind::kStepFailed) return std::optional<Credentials>();
    return std::move(answer).error().with_context("asking the credential helper " + program);
  }
  ASSIGN_OR_RETURN_WITH(const Json parsed, json::parse_object(*answer, "its answer"), "asking the credential helper " + program);
  ASSIGN_OR_RETURN(const auto user, json::get_string(parsed, "Username"));
  ASSIGN_OR_RETURN(const auto secret, json::get_string(parsed, "Secret"));
  if (!user || !secret) return std::optional<Credentials>();
  Credentials credentials;
  if (*user == "<token>") {
    credentials.identity_token = *secret;
  } else {
    credentials.username = *user;
    credentials.password = *secret;
  }
  return std::optional(credentials);
}

Result<std::optional<Credentials>> from_entry(const Json& entry) {
  Credentials credentials;
  ASSIGN_OR_RETURN(const auto token, json::get_string(entry, "identitytoken"));
  if (token && !token->empty()) {
    credentials.identity_token = *token;
    return std::optional(credentials);
  }
  ASSIGN_OR_RETURN(const auto auth, json::get_string(entry, "auth"));
  if (auth && !auth->empty()) {
    const auto plain = decode_base64(*auth);
    const size_t colon = plain ? plain->find(':') : std::string::npos;
    if (colon == std::string::npos) return Error(ErrorKind::kCorrupt, "\"auth\" is not the base64 form of user:password");
    credentials.username = plain->substr(0, colon);
    credentials.password = plain->substr(colon + 1);
    while (!credentials.password.empty() && credentials.password.back() == '\0') credentials.password.pop_back();
    return std::optional(credentials);
  }
  ASSIGN_OR_RETURN(const auto user, json::get_string(entry, "username"));
  ASSIGN_OR_RETURN(const auto password, json::get_string(entry, "password"));
  if (!user || !password) return std::optional<Credentials>();
  credentials.username = *user;
  credentials.password = *password;
  return std::optional(credentials);
}

// The helper that keeps a host's credentials; empty when the file itself does.
Result<std::string> helper_of(const Json& config, const std::string& registry) {
  ASSIGN_OR_RETURN(const auto helpers, json::get_string_map(config, "credHelpers"));
  for (const std::string& name : entry_names(registry)) {
    if (const auto it = helpers.find(name); it != helpers.end()) return it->second;
  }
  ASSIGN_OR_RETURN(const auto store, json::get_string(config, "credsStore"));
  return store.value_or("");
}

Result<std::optional<Credentials>> from_config(const Json& config, const oci::Reference& reference) {
  const std::string& registry = reference.registry();
  const std::vector<std::string> names = entry_names(registry);
  ASSIGN_OR_RETURN(const auto helpers, json::get_string_map(config, "credHelpers"));
  for (const std::string& name : names) {
    if (const auto it = helpers.find(name); it != helpers.end()) return ask_helper(it->second, registry == "docker.io" ? kDockerHubKey : registry);
  }
  ASSIGN_OR_RETURN(const Json* auths, json::get_object(config, "auths"));
  if (auths != nullptr) {
    // containers-auth.json(5): an entry for the repository, or a part of its path, before the host's.
    std::vector<std::string> keys;
    for (std::string path = registry + "/" + reference.repository(); path != registry; path.resize(path.rfind('/'))) keys.push_back(path);
    keys.insert(keys.end(), names.begin(), names.end());
    for (const std::string& key : keys) {
      const auto it = auths->find(key);
      if (it == auths->end() || !it->is_object()) continue;
      ASSIGN_OR_RETURN_WITH(auto found, from_entry(*it), "reading the entry for " + key);
      if (found) return found;
    }
  }
  ASSIGN_OR_RETURN(const auto store, json::get_string(config, "credsStore"));
  if (store && !store->empty()) return ask_helper(*store, registry == "docker.io" ? kDockerHubKey : registry);
  return std::optional<Credentials>();
}

std::string writable_place(const std::string& auth_file) {
  if (!auth_file.empty()) return auth_file;
  if (const std::string file = environment("REGISTRY_AUTH_FILE"); !file.empty()) return file;
  return docker_config();
}

std::string key_for(const std::string& registry) { return registry == "docker.io" ? kDockerHubKey : registry; }

Result<Json> read_config(const std::string& path) {
  ASSIGN_OR_RETURN_WITH(const auto text, read_file_if_exists(AT_FDCWD, path, kMaxConfig), "reading credentials");
  if (!text || trim(*text).empty()) return Json::object();
  ASSIGN_OR_RETURN(Json config, json::parse_object(*text, path));
  return config;
}

// Only the owner may read it, also while it is being written.
Result<void> write_config(const std::string& path, const Json& config) {
  const size_t slash = path.rfind('/');
  if (slash != std::string::npos && slash > 0) RETURN_IF_ERROR(make_directories(AT_FDCWD, path.substr(0, slash), 0700));
  return write_file_atomically(AT_FDCWD, path, config.dump(1, '\t', false, Json::error_handler_t::replace) + "\n", Durability::kFsync, 0600);
}

}  // namespace

std::vector<std::string> credential_places(const std::string& auth_file) {
  // One that is named is the only one, as with the peers.
  if (!auth_file.empty()) return {auth_file};
  if (std::string file = environment("REGISTRY_AUTH_FILE"); !file.empty()) return {std::move(file)};
  std::vector<std::string> places;
  if (std::string docker = docker_config(); !docker.empty()) places.push_back(std::move(docker));
  if (const std::string runtime = environment("XDG_RUNTIME_DIR"); !runtime.empty()) places.push_back(runtime + "/containers/auth.json");
  return places;
}

Result<std::optional<Credentials>> find_credentials(const std::string& auth_file, const oci::Reference& reference) {
  for (const std::string& place : credential_places(auth_file)) {
    ASSIGN_OR_RETURN_WITH(const auto text, read_file_if_exists(AT_FDCWD, place, kMaxConfig), "reading credentials");
    if (!text) {
      if (place == auth_file) return Error(ErrorKind::kNotFound, fmt::format("the file {} of --authfile does not exist", place));
      continue;
    }
    if (trim(*text).empty()) continue;
    ASSIGN_OR_RETURN_WITH(const Json config, json::parse_object(*text, place), "reading credentials");
    ASSIGN_OR_RETURN_WITH(auto found, from_config(config, reference), "reading credentials from " + place);
    if (found) return found;
  }
  return std::optional<Credentials>();
}

Result<void> store_credentials(const std::string& auth_file, const std::string& registry, const Credentials& credentials) {
  const std::string path = writable_place(auth_file);
  if (path.empty()) return Error(ErrorKind::kInvalidInput, "there is no place to store credentials: HOME is not set").with_note("name a file with --authfile");
  ASSIGN_OR_RETURN(Json config, read_config(path));
  ASSIGN_OR_RETURN(const std::string helper, helper_of(config, registry));
  if (!helper.empty()) {
    const bool identity = !credentials.identity_token.empty();
    const Json secret = {{"ServerURL", key_for(registry)}, {"Username", identity ? "<token>" : credentials.username}, {"Secret", identity ? credentials.identity_token : credentials.password}};
    RETURN_IF_ERROR_WITH(run_helper(helper, "store", secret.dump(-1, ' ', false, Json::error_handler_t::replace)), "giving the credentials to docker-credential-" + helper);
    return {};
  }
  Json& auths = config["auths"];
  if (!auths.is_object()) auths = Json::object();
  Json entry = Json::object();
  if (credentials.identity_token.empty()) {
    entry["auth"] = encode_base64(credentials.username + ":" + credentials.password);
  } else {
    // As docker does: the user's name is kept to be shown.
    if (!credentials.username.empty()) entry["auth"] = encode_base64(credentials.username + ":");
    entry["identitytoken"] = credentials.identity_token;
  }
  auths[key_for(registry)] = std::move(entry);
  return write_config(path, config);
}

Result<bool> erase_credentials(const std::string& auth_file, const std::string& registry) {
  const std::string path = writable_place(auth_file);
  if (path.empty()) return false;
  ASSIGN_OR_RETURN(Json config, read_config(path));
  ASSIGN_OR_RETURN(const std::string helper, helper_of(config, registry));
  size_t erased = 0;
  if (!helper.empty()) {
    ASSIGN_OR_RETURN(const auto known, ask_helper(helper, key_for(registry)));
    if (known) {
      RETURN_IF_ERROR_WITH(run_helper(helper, "erase", key_for(registry)), "removing the credentials from docker-credential-" + helper);
      ++erased;
    }
  }
  const auto auths = config.find("auths");
  if (auths == config.end() || !auths->is_object()) return erased > 0;
  const size_t by_helper = erased;
  for (const std::string& name : entry_names(registry)) erased += auths->erase(name);
  if (erased > by_helper) RETURN_IF_ERROR(write_config(path, config));
  return erased > 0;
}

}  // namespace lamina::registry
