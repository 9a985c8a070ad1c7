// Whole images: names to manifests to blobs.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "registry/client.h"

namespace lamina::registry {

namespace {

class RepositorySource : public oci::BlobSource {
 public:
  RepositorySource(Client& client, oci::Reference repository) : client_(client), repository_(std::move(repository)) {}
  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Descriptor& descriptor) override {
    if (!oci::media_type::is_index(descriptor.media_type) && !oci::media_type::is_manifest(descriptor.media_type)) return client_.open_blob(repository_, descriptor);
    // Registries keep manifests apart from blobs.
    ASSIGN_OR_RETURN(FetchedManifest fetched, client_.fetch_manifest(repository_.with_digest(descriptor.digest)));
    return std::unique_ptr<ByteSource>(std::make_unique<StringSource>(std::move(fetched.bytes)));
  }
  Result<std::unique_ptr<ByteSource>> open_blob_from(const oci::Descriptor& descriptor, uint64_t offset) override {
    return client_.open_blob_from(repository_, descriptor, offset);
  }

 private:
  Client& client_;
  oci::Reference repository_;
};

// Small blobs pass through here and stay in the sink. What the name points at was fetched already: registries count
// every request for a manifest.
class KeepingSource : public oci::BlobSource {
 public:
  KeepingSource(oci::BlobSource& source, const FetchedManifest& top, oci::BlobSink& sink) : source_(source), top_(top), sink_(sink) {}
  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Descriptor& descriptor) override {
    if (descriptor.digest == top_.descriptor.digest) return std::unique_ptr<ByteSource>(std::make_unique<StringSource>(top_.bytes));
    ASSIGN_OR_RETURN(std::string bytes, oci::read_blob(source_, descriptor));
    RETURN_IF_ERROR(oci::put_blob(sink_, descriptor, bytes));
    return std::unique_ptr<ByteSource>(std::make_unique<StringSource>(std::move(bytes)));
  }

 private:
  oci::BlobSource& source_;
  const FetchedManifest& top_;
  oci::BlobSink& sink_;
};

bool is_image_config(const std::string& type) { return type == oci::media_type::kOciConfig || type == oci::media_type::kDockerConfig || type.empty(); }

}  // namespace

std::unique_ptr<oci::BlobSource> repository_source(Client& client, oci::Reference repository) {
  return std::make_unique<RepositorySource>(client, std::move(repository));
}

Result<PulledImage> load_image(oci::BlobSource& source, const oci::Descriptor& top, const oci::Platform& platform) {
  PulledImage pulled;
  pulled.top = top;
  pulled.image.descriptor = top;
  if (oci::media_type::is_index(top.media_type)) {
    ASSIGN_OR_RETURN(pulled.index_json, oci::read_blob(source, top));
    ASSIGN_OR_RETURN(const oci::Index index, oci::Index::parse(*pulled.index_json));
    ASSIGN_OR_RETURN(pulled.image.descriptor, index.select(platform));
  }
  ASSIGN_OR_RETURN(pulled.image.manifest_json, oci::read_blob(source, pulled.image.descriptor));
  ASSIGN_OR_RETURN(pulled.image.manifest, oci::Manifest::parse(pulled.image.manifest_json));
  const oci::Descriptor& config = pulled.image.manifest.config;
  if (!is_image_config(config.media_type)) {
    return Error(ErrorKind::kUnsupported, fmt::format("it is an artifact of type {}, not a container image", pulled.image.manifest.artifact_type.empty() ? config.media_type : pulled.image.manifest.artifact_type));
  }
  ASSIGN_OR_RETURN(pulled.image.config_json, oci::read_blob(source, config));
  return pulled;
}

Result<PulledImage> pull_image_metadata(Client& client, const oci::Reference& reference, const oci::Platform& platform, oci::BlobSink& sink) {
  ASSIGN_OR_RETURN(const FetchedManifest top, client.fetch_manifest(reference));
  RETURN_IF_ERROR(oci::put_blob(sink, top.descriptor, top.bytes));
  RepositorySource remote(client, reference);
  KeepingSource keeping(remote, top, sink);
  return load_image(keeping, top.descriptor, platform);
}

Result<PushReport> push_image(Client& client, const oci::Image& image, oci::BlobSource& blobs, const std::vector<oci::Reference>& references,
                              const std::vector<std::string>& mount_from, const TransferProgress& progress) {
  std::vector<oci::Descriptor> wanted = image.manifest.layers;
  wanted.push_back(image.manifest.config);
  std::sort(wanted.begin(), wanted.end(), [](const auto& a, const auto& b) { return a.digest < b.digest; });
  wanted.erase(std::unique(wanted.begin(), wanted.end(), [](const auto& a, const auto& b) { return a.digest == b.digest; }), wanted.end());
  // The largest first: the last transfer to end should be a short one.
  std::stable_sort(wanted.begin(), wanted.end(), [](const auto& a, const auto& b) { return a.size > b.size; });

  PushReport report;
  std::optional<Error> failure;
  {
    std::atomic<bool> failed = false;
    std::vector<std::future<Result<PushOutcome>>> results;
    ThreadPool pool(std::min<unsigned>(std::max(1u, client.options().parallel_transfers), static_cast<unsigned>(wanted.size())));
    for (const oci::Descriptor& blob : wanted) {
      results.push_back(pool.submit([&, &blob = blob]() -> Result<PushOutcome> {
        if (failed) return Error(ErrorKind::kCancelled, "another transfer failed");
        auto outcome = client.push_blob(references.front(), blob, blobs, mount_from, progress);
        if (!outcome) failed = true;
        return outcome;
      }));
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
      auto outcome = results[i].get();
      if (!outcome) {
        const bool consequence = outcome.error().kind() == ErrorKind::kCancelled && !client.options().stop.stop_requested();
        if (!consequence && !failure) failure = std::move(outcome).error();
        continue;
      }
      switch (*outcome) {
        case PushOutcome::kExisted: ++report.existed; break;
        case PushOutcome::kMounted: ++report.mounted; break;
        case PushOutcome::kUploaded:
          ++report.uploaded;
          report.uploaded_bytes += wanted[i].size;
          break;
      }
    }
  }
  if (failure) return std::move(*failure);
  for (const oci::Reference& reference : references) {
    ASSIGN_OR_RETURN(report.manifest, client.push_manifest(reference, image.manifest.media_type, image.manifest_json));
  }
  return report;
}

}  // namespace lamina::registry
