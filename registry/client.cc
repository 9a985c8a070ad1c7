#include "registry/client.h"

#include <fmt/format.h>

#include <functional>
#include <iterator>
#include <set>

#include "base/json.h"
#include "base/text.h"
#include "registry/internal/api.h"
#include "registry/internal/blob_transfer.h"

namespace lamina::registry {

using internal::ApiAnswer;
using internal::Endpoint;
using net::HttpRequest;

namespace {

constexpr uint64_t kMaxManifest = 32 << 20;
// Of a list; registries give a hundred or more entries a page.
constexpr size_t kMaxPages = 10000;

// What is understood; distribution-spec "Pulling manifests".
std::string accept_header() {
  return fmt::format("Accept: {}, {}, {}, {}", oci::media_type::kOciIndex, oci::media_type::kOciManifest, oci::media_type::kDockerIndex, oci::media_type::kDockerManifest);
}

// Content-Type without parameters.
std::string content_type(const net::HttpResponse& response) {
  const std::string header = response.header("content-type");
  return std::string(trim(std::string_view(header).substr(0, header.find(';'))));
}

bool known_manifest(std::string_view type) { return oci::media_type::is_index(type) || oci::media_type::is_manifest(type); }

// The type that body and header agree on.
Result<std::string> manifest_type(const std::string& header, std::string_view body, const std::string& name) {
  if (header.find("docker.distribution.manifest.v1+") != std::string::npos) {
    return Error(ErrorKind::kUnsupported, fmt::format("{} is stored in Docker's schema 1 format, which was given up in 2017", name)).with_note("push it again with a current tool");
  }
  const std::string detected = oci::detect_manifest_type(body);
  if (known_manifest(detected) && known_manifest(header) && detected != header) {
    return Error(ErrorKind::kCorrupt, fmt::format("the manifest of {} says it is {}, the registry says it is {}", name, detected, header));
  }
  if (known_manifest(detected)) return detected;
  if (known_manifest(header)) return header;
  return Error(ErrorKind::kUnsupported, fmt::format("{} is no image manifest but {}", name, header.empty() ? "something unknown" : printable(header)));
}

std::string image_words(const oci::Reference& reference) { return "the image " + reference.familiar(); }

}  // namespace

struct Client::Impl {
  explicit Impl(ClientOptions o) : options(std::move(o)), api(options) {}

  // Asks the mirrors of a name and then its own registry; the error is that of the last, which has it for sure.
  template <typename T>
  Result<T> from_any(const oci::Reference& name, const std::function<Result<T>(const Endpoint&)>& ask) {
    ASSIGN_OR_RETURN(const std::vector<Endpoint> endpoints, api.pull_endpoints(name));
    std::vector<std::string> notes;
    for (const Endpoint& endpoint : endpoints) {
      auto answer = ask(endpoint);
      if (answer || answer.error().kind() == ErrorKind::kCancelled) return answer;
      if (!endpoint.mirror) {
        Error error = std::move(answer).error();
        for (std::string& note : notes) error = std::move(error).with_note(std::move(note));
        return error;
      }
      notes.push_back("the mirror " + endpoint.reference.registry() + " failed too: " + answer.error().message());
    }
    return Error(ErrorKind::kInternal, "a name has no registry");
  }

  Result<FetchedManifest> fetch_manifest(const Endpoint& endpoint, const oci::Reference& name);
  Result<std::optional<oci::Descriptor>> head_manifest(const Endpoint& endpoint, const oci::Reference& name);

  Result<oci::Index> tagged_referrers(Client& client, const oci::Reference& tag);
  Result<void> enter_referrer(Client& client, const oci::Reference& repository, const oci::Descriptor& descriptor, std::string_view bytes);

  ClientOptions options;
  internal::Api api;
};

Client::Client(ClientOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Client::~Client() = default;

const ClientOptions& Client::options() const { return impl_->options; }

Result<FetchedManifest> Client::Impl::fetch_manifest(const Endpoint& endpoint, const oci::Reference& name) {
  HttpRequest request;
  ASSIGN_OR_RETURN(request.url, api.url(endpoint, "manifests/" + endpoint.reference.manifest_reference()));
  request.headers = {accept_header()};
  FetchedManifest fetched;
  ApiAnswer answer;
  // A body that breaks off is asked for again as a whole: manifests are small.
  for (unsigned attempt = 0;; ++attempt) {
    ASSIGN_OR_RETURN(answer, api.send(endpoint, {internal::pull_scope(endpoint.reference.repository())}, request));
    if (answer.response.status != 200) return api.error_of(endpoint, answer, image_words(name));
    auto bytes = answer.session->read_all(kMaxManifest);
    if (bytes) {
      fetched.bytes = std::move(*bytes);
      break;
    }
    if (bytes.error().kind() != ErrorKind::kUnavailable || attempt >= 4) return std::move(bytes).error().with_context("reading the manifest of " + name.familiar());
    answer = ApiAnswer{};
    RETURN_IF_ERROR(api.back_off(attempt, nullptr));
  }
  fetched.descriptor.digest = oci::Digest::of(fetched.bytes);
  fetched.descriptor.size = fetched.bytes.size();
  const std::string promised = answer.response.header("docker-content-digest");
  const bool wrong = name.digest() ? !(*name.digest() == fetched.descriptor.digest) : promised.compare(0, 7, "sha256:") == 0 && promised != fetched.descriptor.digest.text();
  if (wrong) {
    return Error(ErrorKind::kCorrupt, fmt::format("the manifest of {} is damaged: its bytes have the digest {}", name.familiar(), fetched.descriptor.digest.text()));
  }
  ASSIGN_OR_RETURN(fetched.descriptor.media_type, manifest_type(content_type(answer.response), fetched.bytes, name.familiar()));
  return fetched;
}

Result<FetchedManifest> Client::fetch_manifest(const oci::Reference& reference) {
  return impl_->from_any<FetchedManifest>(reference, [&](const Endpoint& e) { return impl_->fetch_manifest(e, reference); });
}

Result<std::optional<oci::Descriptor>> Client::Impl::head_manifest(const Endpoint& endpoint, const oci::Reference& name) {
  HttpRequest request;
  request.method = "HEAD";
  ASSIGN_OR_RETURN(request.url, api.url(endpoint, "manifests/" + endpoint.reference.manifest_reference()));
  request.headers = {accept_header()};
  ASSIGN_OR_RETURN(ApiAnswer answer, api.send(endpoint, {internal::pull_scope(endpoint.reference.repository())}, request));
  if (answer.response.status == 404 && !endpoint.mirror) return std::optional<oci::Descriptor>();
  if (answer.response.status != 200) return api.error_of(endpoint, answer, image_words(name));
  const auto digest = oci::Digest::parse(answer.response.header("docker-content-digest"));
  if (!digest) {
    // The header is optional in the specification: only the body tells.
    answer = ApiAnswer{};
    ASSIGN_OR_RETURN(FetchedManifest fetched, fetch_manifest(endpoint, name));
    return std::optional(std::move(fetched.descriptor));
  }
  oci::Descriptor descriptor;
  descriptor.media_type = content_type(answer.response);
  descriptor.digest = *digest;
  descriptor.size = parse_uint(answer.response.header("content-length")).value_or(0);
  return std::optional(std::move(descriptor));
}

Result<std::optional<oci::Descriptor>> Client::head_manifest(const oci::Reference& reference) {
  return impl_->from_any<std::optional<oci::Descriptor>>(reference, [&](const Endpoint& e) { return impl_->head_manifest(e, reference); });
}

Result<std::unique_ptr<ByteSource>> Client::open_blob(const oci::Reference& repository, const oci::Descriptor& blob) {
  ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> stream, open_blob_from(repository, blob, 0));
  return oci::verify_stream(std::move(stream), blob);
}

Result<std::unique_ptr<ByteSource>> Client::open_blob_from(const oci::Reference& repository, const oci::Descriptor& blob, uint64_t offset) {
  // A blob is asked for by its digest, whatever the image's name was.
  ASSIGN_OR_RETURN(const std::vector<Endpoint> endpoints, impl_->api.pull_endpoints(repository.digest() ? repository : repository.with_digest(blob.digest)));
  return internal::download_blob(impl_->api, endpoints, blob, offset);
}

Result<bool> Client::has_blob(const oci::Reference& repository, const oci::Descriptor& blob) {
  ASSIGN_OR_RETURN(const Endpoint endpoint, impl_->api.push_endpoint(repository));
  HttpRequest request;
  request.method = "HEAD";
  ASSIGN_OR_RETURN(request.url, impl_->api.url(endpoint, "blobs/" + blob.digest.text()));
  ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(endpoint, {internal::push_scope(repository.repository())}, request));
  if (answer.response.status == 200) return true;
  if (answer.response.status == 404) return false;
  return impl_->api.error_of(endpoint, answer, "the repository " + repository.familiar_repository());
}

Result<PushOutcome> Client::push_blob(const oci::Reference& repository, const oci::Descriptor& blob, oci::BlobSource& source,
                                      const std::vector<std::string>& mount_from, const TransferProgress& progress) {
  ASSIGN_OR_RETURN(const bool there, has_blob(repository, blob));
  PushOutcome outcome = PushOutcome::kExisted;
  if (!there) {
    ASSIGN_OR_RETURN(const Endpoint endpoint, impl_->api.push_endpoint(repository));
    ASSIGN_OR_RETURN(outcome, internal::upload_blob(impl_->api, endpoint, blob, source, mount_from, progress));
  }
  if (progress) progress(blob, blob.size, blob.size);
  return outcome;
}

Result<std::unique_ptr<GrowingBlob>> Client::grow_blob(const oci::Reference& repository) {
  ASSIGN_OR_RETURN(Endpoint endpoint, impl_->api.push_endpoint(repository));
  return internal::grow_blob(impl_->api, std::move(endpoint));
}

Result<oci::Descriptor> Client::push_manifest(const oci::Reference& reference, std::string_view media_type, std::string_view bytes) {
  oci::Descriptor descriptor;
  descriptor.media_type = std::string(media_type);
  descriptor.digest = oci::Digest::of(bytes);
  descriptor.size = bytes.size();
  ASSIGN_OR_RETURN(const Endpoint endpoint, impl_->api.push_endpoint(reference));
  HttpRequest request;
  request.method = "PUT";
  ASSIGN_OR_RETURN(request.url, impl_->api.url(endpoint, "manifests/" + (reference.tag() ? *reference.tag() : reference.manifest_reference())));
  request.headers = {fmt::format("Content-Type: {}", media_type)};
  request.body = std::string(bytes);
  request.has_body = true;
  ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(endpoint, {internal::push_scope(reference.repository())}, request));
  if (answer.response.status != 201) return impl_->api.error_of(endpoint, answer, image_words(reference));
  if (const std::string stored = answer.response.header("docker-content-digest"); !stored.empty() && stored != descriptor.digest.text()) {
    return Error(ErrorKind::kCorrupt, fmt::format("the registry stored the manifest of {} as {} instead of {}", reference.familiar(), printable(stored), descriptor.digest.text()));
  }
  const bool indexed = !answer.response.header("oci-subject").empty();
  answer = ApiAnswer{};
  if (!indexed && oci::media_type::is_manifest(media_type)) RETURN_IF_ERROR(impl_->enter_referrer(*this, reference, descriptor, bytes));
  return descriptor;
}

namespace {

Error list_without_end() { return Error(ErrorKind::kCorrupt, fmt::format("the registry's list has more than {} pages", kMaxPages)); }

// distribution-spec "Referrers Tag Schema": <algorithm>-<hex>.
Result<oci::Reference> referrers_tag(const oci::Reference& repository, const oci::Digest& subject) {
  return oci::Reference::parse(fmt::format("{}/{}:sha256-{}", repository.registry(), repository.repository(), subject.hex()));
}

std::string next_page(const net::HttpResponse& response, const std::string& request_url);

}  // namespace

Result<oci::Index> Client::Impl::tagged_referrers(Client& client, const oci::Reference& tag) {
  auto fetched = client.fetch_manifest(tag);
  if (!fetched && fetched.error().kind() == ErrorKind::kNotFound) return oci::Index{};
  if (!fetched) return std::move(fetched).error();
  if (!oci::media_type::is_index(fetched->descriptor.media_type)) return oci::Index{};
  return oci::Index::parse(fetched->bytes);
}

// The client keeps the tag where the registry has no referrers API: distribution-spec "Pushing Manifests with Subject".
Result<void> Client::Impl::enter_referrer(Client& client, const oci::Reference& repository, const oci::Descriptor& descriptor, std::string_view bytes) {
  ASSIGN_OR_RETURN(const oci::Manifest manifest, oci::Manifest::parse(bytes));
  if (!manifest.subject) return {};
  ASSIGN_OR_RETURN(const oci::Reference tag, referrers_tag(repository, manifest.subject->digest));
  ASSIGN_OR_RETURN_WITH(oci::Index index, tagged_referrers(client, tag), "reading the referrers tag");
  for (const oci::Descriptor& known : index.manifests) {
    if (known.digest == descriptor.digest) return {};
  }
  oci::Descriptor entry = descriptor;
  entry.artifact_type = manifest.artifact_type.empty() ? manifest.config.media_type : manifest.artifact_type;
  entry.annotations = manifest.annotations;
  index.manifests.push_back(std::move(entry));
  RETURN_IF_ERROR_WITH(client.push_manifest(tag, index.media_type, index.to_json()), "updating the referrers tag");
  return {};
}

Result<oci::Index> Client::referrers(const oci::Reference& reference, const std::string& artifact_type) {
  if (!reference.digest()) return Error(ErrorKind::kInternal, "referrers are those of a digest");
  ASSIGN_OR_RETURN(const Endpoint endpoint, impl_->api.push_endpoint(reference));
  oci::Index all;
  HttpRequest request;
  ASSIGN_OR_RETURN(request.url, impl_->api.url(endpoint, "referrers/" + reference.digest()->text()));
  std::set<std::string> asked;
  bool known = true;
  while (known && !request.url.empty() && asked.insert(request.url).second) {
    if (asked.size() > kMaxPages) return list_without_end();
    ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(endpoint, {internal::pull_scope(reference.repository())}, request));
    // Debian's docker-registry answers 404, others 400 or 405: they do not know the API.
    known = answer.response.status == 200 && content_type(answer.response) == oci::media_type::kOciIndex;
    if (!known && answer.response.status == 401) return impl_->api.error_of(endpoint, answer, "the referrers of " + reference.familiar_repository());
    if (!known) break;
    ASSIGN_OR_RETURN(const std::string body, answer.session->read_all(kMaxManifest));
    ASSIGN_OR_RETURN(oci::Index page, oci::Index::parse(body));
    std::move(page.manifests.begin(), page.manifests.end(), std::back_inserter(all.manifests));
    request.url = next_page(answer.response, request.url);
  }
  if (!known) {
    ASSIGN_OR_RETURN(const oci::Reference tag, referrers_tag(reference, *reference.digest()));
    ASSIGN_OR_RETURN(all, impl_->tagged_referrers(*this, tag));
  }
  if (!artifact_type.empty()) std::erase_if(all.manifests, [&](const oci::Descriptor& d) { return d.artifact_type != artifact_type; });
  return all;
}

Result<Credentials> Client::log_in(const std::string& registry, const Credentials& credentials) {
  ASSIGN_OR_RETURN(const oci::Reference any, oci::Reference::parse(registry == "docker.io" ? "any" : registry + "/any"));
  if (any.registry() != registry) return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" is no registry: it has neither a dot nor a port", printable(registry)));
  impl_->api.use(credentials);
  ASSIGN_OR_RETURN(const Endpoint endpoint, impl_->api.push_endpoint(any));
  HttpRequest request;
  ASSIGN_OR_RETURN(request.url, impl_->api.url(endpoint, ""));
  request.url.resize(request.url.find("/v2/") + 4);
  ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(endpoint, {}, request));
  if (answer.response.status == 200) {
    answer = ApiAnswer{};
    ASSIGN_OR_RETURN(const std::string token, impl_->api.identity_token(any));
    if (token.empty()) return credentials;
    return Credentials{credentials.username, "", token};
  }
  if (answer.response.status == 401 || answer.response.status == 403) return Error(ErrorKind::kDenied, fmt::format("{} does not accept these credentials of {}", registry, printable(credentials.username)));
  return impl_->api.error_of(endpoint, answer, "the API");
}

namespace {

// The target of `Link: <…>; rel="next"` (RFC 8288); empty when there is none.
std::string next_page(const net::HttpResponse& response, const std::string& request_url) {
  const std::string link = response.header("link");
  for (size_t open = link.find('<'); open != std::string::npos; open = link.find('<', open + 1)) {
    const size_t close = link.find('>', open);
    if (close == std::string::npos) return {};
    const std::string parameters = to_lower(link.substr(close + 1, link.find('<', close) - close - 1));
    if (parameters.find("rel=\"next\"") == std::string::npos && parameters.find("rel=next") == std::string::npos) continue;
    return internal::resolve_url(request_url, link.substr(open + 1, close - open - 1));
  }
  return {};
}

}  // namespace

Result<std::vector<std::string>> Client::tags(const oci::Reference& repository) {
  ASSIGN_OR_RETURN(const std::vector<Endpoint> endpoints, impl_->api.pull_endpoints(repository));
  const Endpoint& endpoint = endpoints.back();  // a mirror may know fewer
  std::vector<std::string> out;
  std::set<std::string> asked;
  HttpRequest request;
  ASSIGN_OR_RETURN(request.url, impl_->api.url(endpoint, "tags/list?n=1000"));
  // A registry that leads in circles has said everything.
  while (!request.url.empty() && asked.insert(request.url).second) {
    if (asked.size() > kMaxPages) return list_without_end();
    ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(endpoint, {internal::pull_scope(endpoint.reference.repository())}, request));
    if (answer.response.status != 200) return impl_->api.error_of(endpoint, answer, "the repository " + repository.familiar_repository());
    ASSIGN_OR_RETURN(const std::string body, answer.session->read_all(kMaxManifest));
    ASSIGN_OR_RETURN(const json::Json list, json::parse_object(body, "the list of tags"));
    ASSIGN_OR_RETURN(auto names, json::get_strings(list, "tags"));
    if (names) out.insert(out.end(), names->begin(), names->end());
    request.url = next_page(answer.response, request.url);
  }
  return out;
}

}  // namespace lamina::registry
