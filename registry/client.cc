#include "registry/client.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "base/text.h"
#include "registry/internal/api.h"
#include "registry/internal/blob_transfer.h"

namespace lamina::registry {

using internal::ApiAnswer;
using internal::HttpRequest;

namespace {

constexpr uint64_t kMaxManifest = 32 << 20;

// What is understood; distribution-spec "Pulling manifests".
std::string accept_header() {
  return fmt::format("Accept: {}, {}, {}, {}", oci::media_type::kOciIndex, oci::media_type::kOciManifest, oci::media_type::kDockerIndex, oci::media_type::kDockerManifest);
}

// Content-Type without parameters.
std::string content_type(const internal::HttpResponse& response) {
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
  ClientOptions options;
  internal::Api api;
};

Client::Client(ClientOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Client::~Client() = default;

const ClientOptions& Client::options() const { return impl_->options; }

Result<FetchedManifest> Client::fetch_manifest(const oci::Reference& reference) {
  HttpRequest request;
  ASSIGN_OR_RETURN(request.url, impl_->api.url(reference, "manifests/" + reference.manifest_reference()));
  request.headers = {accept_header()};
  ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(reference, {internal::pull_scope(reference.repository())}, request));
  if (answer.response.status != 200) return impl_->api.error_of(reference, answer, image_words(reference));
  FetchedManifest fetched;
  ASSIGN_OR_RETURN_WITH(fetched.bytes, answer.session->read_all(kMaxManifest), "reading the manifest of " + reference.familiar());
  fetched.descriptor.digest = oci::Digest::of(fetched.bytes);
  fetched.descriptor.size = fetched.bytes.size();
  if (reference.digest() && !(*reference.digest() == fetched.descriptor.digest)) {
    return Error(ErrorKind::kCorrupt, fmt::format("the manifest of {} is damaged: its bytes have the digest {}", reference.familiar(), fetched.descriptor.digest.text()));
  }
  ASSIGN_OR_RETURN(fetched.descriptor.media_type, manifest_type(content_type(answer.response), fetched.bytes, reference.familiar()));
  return fetched;
}

Result<std::optional<oci::Descriptor>> Client::head_manifest(const oci::Reference& reference) {
  HttpRequest request;
  request.method = "HEAD";
  ASSIGN_OR_RETURN(request.url, impl_->api.url(reference, "manifests/" + reference.manifest_reference()));
  request.headers = {accept_header()};
  ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(reference, {internal::pull_scope(reference.repository())}, request));
  if (answer.response.status == 404) return std::optional<oci::Descriptor>();
  if (answer.response.status != 200) return impl_->api.error_of(reference, answer, image_words(reference));
  const auto digest = oci::Digest::parse(answer.response.header("docker-content-digest"));
  if (!digest) {
    // The header is optional in the specification: only the body tells.
    ASSIGN_OR_RETURN(FetchedManifest fetched, fetch_manifest(reference));
    return std::optional(std::move(fetched.descriptor));
  }
  oci::Descriptor descriptor;
  descriptor.media_type = content_type(answer.response);
  descriptor.digest = *digest;
  descriptor.size = parse_uint(answer.response.header("content-length")).value_or(0);
  return std::optional(std::move(descriptor));
}

Result<std::unique_ptr<ByteSource>> Client::open_blob(const oci::Reference& repository, const oci::Descriptor& blob) {
  return internal::download_blob(impl_->api, repository, blob);
}

Result<bool> Client::has_blob(const oci::Reference& repository, const oci::Descriptor& blob) {
  HttpRequest request;
  request.method = "HEAD";
  ASSIGN_OR_RETURN(request.url, impl_->api.url(repository, "blobs/" + blob.digest.text()));
  ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(repository, {internal::push_scope(repository.repository())}, request));
  if (answer.response.status == 200) return true;
  if (answer.response.status == 404) return false;
  return impl_->api.error_of(repository, answer, "the repository " + repository.familiar_repository());
}

Result<PushOutcome> Client::push_blob(const oci::Reference& repository, const oci::Descriptor& blob, oci::BlobSource& source,
                                      const std::vector<std::string>& mount_from, const TransferProgress& progress) {
  ASSIGN_OR_RETURN(const bool there, has_blob(repository, blob));
  PushOutcome outcome = PushOutcome::kExisted;
  if (!there) {
    ASSIGN_OR_RETURN(outcome, internal::upload_blob(impl_->api, repository, blob, source, mount_from, progress));
  }
  if (progress) progress(blob, blob.size, blob.size);
  return outcome;
}

Result<oci::Descriptor> Client::push_manifest(const oci::Reference& reference, std::string_view media_type, std::string_view bytes) {
  oci::Descriptor descriptor;
  descriptor.media_type = std::string(media_type);
  descriptor.digest = oci::Digest::of(bytes);
  descriptor.size = bytes.size();
  HttpRequest request;
  request.method = "PUT";
  ASSIGN_OR_RETURN(request.url, impl_->api.url(reference, "manifests/" + (reference.tag() ? *reference.tag() : reference.manifest_reference())));
  request.headers = {fmt::format("Content-Type: {}", media_type)};
  request.body = std::string(bytes);
  request.has_body = true;
  ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(reference, {internal::push_scope(reference.repository())}, request));
  if (answer.response.status != 201) return impl_->api.error_of(reference, answer, image_words(reference));
  if (const std::string stored = answer.response.header("docker-content-digest"); !stored.empty() && stored != descriptor.digest.text()) {
    return Error(ErrorKind::kCorrupt, fmt::format("the registry stored the manifest of {} as {} instead of {}", reference.familiar(), printable(stored), descriptor.digest.text()));
  }
  return descriptor;
}

Result<std::vector<std::string>> Client::tags(const oci::Reference& repository) {
  std::vector<std::string> out;
  HttpRequest request;
  ASSIGN_OR_RETURN(request.url, impl_->api.url(repository, "tags/list?n=1000"));
  const std::string home = request.url.substr(0, request.url.find("/v2/"));
  while (true) {
    ASSIGN_OR_RETURN(ApiAnswer answer, impl_->api.send(repository, {internal::pull_scope(repository.repository())}, request));
    if (answer.response.status != 200) return impl_->api.error_of(repository, answer, "the repository " + repository.familiar_repository());
    ASSIGN_OR_RETURN(const std::string body, answer.session->read_all(kMaxManifest));
    ASSIGN_OR_RETURN(const json::Json list, json::parse_object(body, "the list of tags"));
    ASSIGN_OR_RETURN(auto names, json::get_strings(list, "tags"));
    if (names) out.insert(out.end(), names->begin(), names->end());
    // Link: </v2/<name>/tags/list?n=…&last=…>; rel="next"
    const std::string link = answer.response.header("link");
    const size_t open = link.find('<');
    const size_t close = link.find('>');
    if (open == std::string::npos || close == std::string::npos || !names || names->empty()) return out;
    const std::string next = link.substr(open + 1, close - open - 1);
    request.url = next.compare(0, 1, "/") == 0 ? home + next : next;
  }
}

}  // namespace lamina::registry
