// Distribution client: pull and push over HTTP. OCI distribution-spec v1.1; Docker token authentication.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "oci/blob.h"
#include "oci/reference.h"
#include "registry/credentials.h"

namespace lamina::registry {

// Bytes of one blob moved so far; called from transfer threads. `done` of `total` bytes.
using TransferProgress = std::function<void(const oci::Descriptor& blob, uint64_t done, uint64_t total)>;

struct ClientOptions {
  std::string auth_file;                      // --authfile; empty: the usual places (credentials.h)
  std::vector<std::string> insecure_registries;  // host[:port] that may be spoken to over plain HTTP
  std::string user_agent = "lamina";
  unsigned parallel_transfers = 4;            // per registry
  std::stop_token stop;                       // ends transfers with kCancelled
  // Shown to the user once each, such as a registry's Warning headers. May be empty; any thread.
  std::function<void(const std::string&)> on_warning;
};

struct FetchedManifest {
  oci::Descriptor descriptor;  // media type as the registry and the body say, digest computed here
  std::string bytes;
};

// How a blob got to the registry.
enum class PushOutcome { kExisted, kMounted, kUploaded };

// A blob that is sent while it is being made, from the file into which it is written: who makes it never waits for the
// registry, and what is not sent yet is in no memory. Nothing is sent before 4 MiB are there. grown() is for one thread, the
// others are for one thread after it. What goes wrong is told by finish().
class GrowingBlob : public oci::FileFollower {
 public:
  virtual bool started() const = 0;  // something was sent, or tried
  // Sends the rest. `blob` describes all that the file has. After an error the registry has no such blob; push_blob may still
  // succeed.
  virtual Result<PushOutcome> finish(const oci::Descriptor& blob) = 0;
};

// Speaks to any number of registries; connections and tokens are reused. Any thread. Libcurl is loaded by
// the first request (kUnsupported with the package's name when it is missing).
// Errors: kDenied (credentials; says where they were looked for), kNotFound (names the image and what was
// asked), kUnavailable (cannot connect, time-out, 5xx, 429 after retries), kCorrupt (digest or size), each with
// the registry's own words when it sent some. Credentials never appear in a message.
class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();

  // By tag or digest (reference.manifest_reference()). A digest is verified.
  Result<FetchedManifest> fetch_manifest(const oci::Reference& reference);
  // HEAD; nothing when it does not exist.
  Result<std::optional<oci::Descriptor>> head_manifest(const oci::Reference& reference);

  // Streams a blob, verified, resumed by Range after a broken connection.
  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Reference& repository, const oci::Descriptor& blob);
  // From `offset` on, resumed likewise, but not verified: whoever has the bytes before checks the whole.
  Result<std::unique_ptr<ByteSource>> open_blob_from(const oci::Reference& repository, const oci::Descriptor& blob, uint64_t offset);
  Result<bool> has_blob(const oci::Reference& repository, const oci::Descriptor& blob);
  // HEAD, then a mount from one of `mount_from` (repositories of the same registry), then an upload from
  // `source`, resumed after a break at the offset that the registry reports.
  Result<PushOutcome> push_blob(const oci::Reference& repository, const oci::Descriptor& blob,
                                oci::BlobSource& source, const std::vector<std::string>& mount_from,
                                const TransferProgress& progress);
  // An upload whose digest is known at its end only. The client must outlive it; when it goes before its end, the upload
  // breaks off.
  Result<std::unique_ptr<GrowingBlob>> grow_blob(const oci::Reference& repository);
  // PUT under the tag (or digest) of `reference`; returns the descriptor and checks the registry's digest. A manifest
  // with a subject is entered into the referrers tag (sha256-<hex>) of registries without a referrers API.
  Result<oci::Descriptor> push_manifest(const oci::Reference& reference, std::string_view media_type,
                                        std::string_view bytes);
  // What refers to the manifest with reference.digest(), of one artifact type or all (""): from the referrers API, else
  // from the referrers tag. Empty when there is nothing.
  Result<oci::Index> referrers(const oci::Reference& reference, const std::string& artifact_type);
  // All pages, in the registry's order.
  Result<std::vector<std::string>> tags(const oci::Reference& repository);
  // Asks the registry whether it takes a user name and password, and gives what is worth storing: an identity token
  // when the registry's token service grants one, else the same. kDenied when it does not take them. For build login, on
  // a client of its own.
  Result<Credentials> log_in(const std::string& registry, const Credentials& credentials);

  const ClientOptions& options() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A repository as a place to read blobs from. Borrows the client.
std::unique_ptr<oci::BlobSource> repository_source(Client& client, oci::Reference repository);

// A manifest and its config, without layers.
struct PulledImage {
  oci::Image image;
  oci::Descriptor top;  // what the name points at: an index or the manifest itself
  std::optional<std::string> index_json;
};
// Resolves a name for a platform: index → manifest → config. Everything small goes to `sink` (index,
// manifest, config); layers do not.
Result<PulledImage> pull_image_metadata(Client& client, const oci::Reference& reference,
                                        const oci::Platform& platform, oci::BlobSink& sink);
// The same from what `source` already has; `top` is what the name points at.
Result<PulledImage> load_image(oci::BlobSource& source, const oci::Descriptor& top, const oci::Platform& platform);

struct PushReport {
  oci::Descriptor manifest;
  uint64_t uploaded_bytes = 0;
  unsigned uploaded = 0, mounted = 0, existed = 0;
};
// Pushes blobs in parallel, then the manifest under every tag of `references` (which share registry and
// repository). The manifest goes last: a reader never sees an image with missing blobs.
Result<PushReport> push_image(Client& client, const oci::Image& image, oci::BlobSource& blobs,
                              const std::vector<oci::Reference>& references,
                              const std::vector<std::string>& mount_from, const TransferProgress& progress);

}  // namespace lamina::registry
