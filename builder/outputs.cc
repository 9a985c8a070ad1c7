#include "builder/outputs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/files.h"
#include "base/stoppable.h"
#include "base/text.h"
#include "builder/copy.h"
#include "builder/images.h"
#include "builder/internal/paths.h"
#include "layers/snapshot.h"
#include "layers/tar.h"
#include "registry/copy.h"
#include "registry/layout.h"

namespace lamina::builder {

namespace {

// An image's files, whiteouts applied; below `directory` unless that is empty.
class FlattenedImage : public layers::EntrySource {
 public:
  static Result<std::unique_ptr<FlattenedImage>> open(layers::Store& store, registry::Client& client, const oci::Image& image, std::string directory, ThreadPool& pool) {
    ASSIGN_OR_RETURN(const oci::ImageConfig config, oci::ImageConfig::parse(image.config_json));
    std::vector<layers::LayerId> stack;
    for (size_t i = 0; i < config.diff_ids.size() && i < image.manifest.layers.size(); ++i) {
      ASSIGN_OR_RETURN(layers::LayerId id, store.add_pulled(config.diff_ids[i], image.manifest.layers[i]));
      stack.push_back(std::move(id));
    }
    const auto remote = source_of_image(store, client, image);
    ASSIGN_OR_RETURN(const std::vector<std::string> snapshots, store.snapshots(stack, pool, remote.get()));
    ASSIGN_OR_RETURN(std::shared_ptr<layers::RootfsView> view, layers::RootfsView::open(snapshots));
    std::unique_ptr<FlattenedImage> flat(new FlattenedImage(std::move(directory)));
    ASSIGN_OR_RETURN(SelectedSource whole, select_whole_tree(tree_of_view(std::move(view), "image"), "/", store.temporary_files()));
    flat->selection_.sources.push_back(std::move(whole));
    flat->copy_.destination = "/";
    ASSIGN_OR_RETURN(flat->nothing_, layers::RootfsView::open({}));
    ASSIGN_OR_RETURN(flat->placed_, place_sources(flat->selection_, flat->copy_, flat->placement_, *flat->nothing_));
    return flat;
  }

  uint64_t content_bytes() const override { return placed_->content_bytes(); }
  Result<std::optional<layers::Entry>> next() override {
    if (directory_.empty()) return placed_->next();
    if (!begun_) {
      begun_ = true;
      layers::Entry top;
      top.path = directory_;
      top.type = layers::EntryType::kDirectory;
      top.mode = 0755;
      return std::optional(std::move(top));
    }
    ASSIGN_OR_RETURN(std::optional<layers::Entry> entry, placed_->next());
    if (!entry) return std::optional<layers::Entry>();
    entry->path = internal::child_of(directory_, entry->path);
    if (entry->type == layers::EntryType::kHardlink) entry->link_target = internal::child_of(directory_, entry->link_target);
    return entry;
  }

 private:
  explicit FlattenedImage(std::string directory) : directory_(std::move(directory)) {}
  const std::string directory_;
  bool begun_ = false;
  CopyStep copy_;
  Placement placement_;
  Selection selection_;
  std::shared_ptr<layers::RootfsView> nothing_;
  std::unique_ptr<layers::EntrySource> placed_;
};

Result<void> write_directory(const std::string& dest, layers::EntrySource& entries, const std::stop_token& stop) {
  RETURN_IF_ERROR(make_directories(AT_FDCWD, dest));
  ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, dest));
  layers::SnapshotWriter writer(root.get(), nullptr);
  writer.stop_on(stop);
  return writer.add_all(entries);
}

}  // namespace

registry::ExportIndex make_index(const std::vector<PlatformImage>& images, const BuildRequest& request, bool docker_types) {
  registry::ExportIndex out;
  oci::Index index;
  for (const PlatformImage& member : images) {
    oci::Descriptor d = member.image.descriptor;
    d.platform = member.platform;
    d.annotations = annotations_of(request.annotations, AnnotationSpec::Level::kManifestDescriptor, member.platform);
    index.manifests.push_back(std::move(d));
    out.images.push_back(&member.image);
  }
  if (docker_types) index.media_type = oci::media_type::kDockerIndex;
  index.annotations = annotations_of(request.annotations, AnnotationSpec::Level::kIndex, std::nullopt);
  if (request.source_date_epoch) index.annotations["org.opencontainers.image.created"] = format_rfc3339({*request.source_date_epoch, 0});
  out.json = index.to_json();
  out.descriptor.media_type = index.media_type;
  out.descriptor.digest = oci::Digest::of(out.json);
  out.descriptor.size = out.json.size();
  return out;
}

namespace {

class AllFiles : public layers::EntrySource {
 public:
  // The files of all images; those of several platforms in a directory each, named as BuildKit names them.
  static Result<AllFiles> open(layers::Store& store, registry::Client& client, const std::vector<PlatformImage>& images, bool apart, ThreadPool& pool) {
    std::map<std::string, const PlatformImage*> by_directory;
    for (const PlatformImage& member : images) {
      std::string name = apart ? member.platform.text() : "";
      std::replace(name.begin(), name.end(), '/', '_');
      by_directory.emplace(std::move(name), &member);
    }
    AllFiles all;
    for (const auto& [directory, member] : by_directory) {
      ASSIGN_OR_RETURN(std::unique_ptr<FlattenedImage> files, FlattenedImage::open(store, client, member->image, directory, pool));
      all.images_.push_back(std::move(files));
    }
    return all;
  }

  uint64_t content_bytes() const override {
    uint64_t bytes = 0;
    for (const auto& image : images_) bytes += image->content_bytes();
    return bytes;
  }
  Result<std::optional<layers::Entry>> next() override {
    for (; at_ < images_.size(); ++at_) {
      ASSIGN_OR_RETURN(std::optional<layers::Entry> entry, images_[at_]->next());
      if (entry) return entry;
    }
    return std::optional<layers::Entry>();
  }

 private:
  std::vector<std::unique_ptr<FlattenedImage>> images_;
  size_t at_ = 0;
};

Result<void> write_files(layers::EntrySource& entries, const OutputSpec& output, const std::stop_token& stop) {
  if (output.type == OutputSpec::Type::kLocal) return write_directory(output.dest, entries, stop);
  return registry::write_whole_file(output.dest, [&](ByteSink& sink) -> Result<void> {
    StoppableSink stoppable(sink, stop);
    layers::TarWriter tar(stoppable, std::nullopt);
    while (true) {
      ASSIGN_OR_RETURN(const std::optional<layers::Entry> entry, entries.next());
      if (!entry) return tar.finish();
      RETURN_IF_ERROR(tar.add(*entry));
    }
  });
}

// A docker archive has no word for zstd; daemons of the docker kind cannot read it.
Result<oci::Image> without_zstd(layers::Store& store, const oci::Image& image) {
  oci::Image out = image;
  ASSIGN_OR_RETURN(const oci::ImageConfig config, oci::ImageConfig::parse(image.config_json));
  bool changed = false;
  for (size_t i = 0; i < out.manifest.layers.size() && i < config.diff_ids.size(); ++i) {
    if (oci::layer_compression(out.manifest.layers[i].media_type) != oci::Compression::kZstd) continue;
    const auto id = store.find_layer(config.diff_ids[i]);
    if (!id) return Error(ErrorKind::kNotFound, fmt::format("layer {} is no longer in the store; build the image again", config.diff_ids[i].text()));
    ASSIGN_OR_RETURN(out.manifest.layers[i], store.tar_descriptor(*id));
    changed = true;
  }
  if (!changed) return image;
  return store_image(store, std::move(out.manifest), image.config_json);
}

// The images as an output wants them, and where their blobs are.
struct Prepared {
  std::vector<PlatformImage> images;
  std::vector<std::shared_ptr<oci::BlobSource>> sources;
};

Result<Prepared> prepare(layers::Store& store, registry::Client& client, const std::vector<PlatformImage>& images, const OutputSpec& output, ThreadPool& pool) {
  Prepared out;
  const bool docker = output.type == OutputSpec::Type::kDocker;
  layers::CompressionOptions compression = output.compression;
  // `docker load` unpacks at once: compressing first would only cost time.
  if (docker && !output.compression_given) compression.type = oci::Compression::kNone;
  for (const PlatformImage& member : images) {
    ASSIGN_OR_RETURN(oci::Image compressed, compress_image(store, member.image, compression, pool));
    if (docker && (!output.compression_given || output.dest.empty())) {
      ASSIGN_OR_RETURN(compressed, without_zstd(store, compressed));
    }
    if (output.docker_types) {
      ASSIGN_OR_RETURN(compressed, with_docker_types(store, compressed));
    }
    out.images.push_back({member.platform, std::move(compressed)});
    out.sources.push_back(source_of_image(store, client, member.image));
  }
  return out;
}

// Where it is loaded was found to answer when the build began.
Result<std::string> load_image_into(const registry::Daemon& daemon, const registry::ExportImage& exported, oci::BlobSource& source, std::stop_token stop) {
  ASSIGN_OR_RETURN_WITH(const std::string words, daemon.load([&](ByteSink& sink) { return registry::write_docker_archive(sink, exported, source); }, std::move(stop)),
                        "loading the image into " + daemon.text());
  return daemon.text() + (words.empty() ? "" : ": " + words);
}

}  // namespace

Result<registry::Daemon> find_daemon(const OutputSpec& output, std::stop_token stop) {
  return registry::Daemon::find(output.daemon, layers::has_full_privileges(), std::move(stop));
}

Result<std::string> write_output(layers::Store& store, registry::Client& client, const std::vector<PlatformImage>& images, bool indexed,
                                 const internal::WritePlan& write, const BuildRequest& request, ThreadPool& pool, EventHub& events) {
  const OutputSpec& output = *write.output;
  const bool flat = output.type == OutputSpec::Type::kTar || output.type == OutputSpec::Type::kLocal;
  const bool load = output.type == OutputSpec::Type::kDocker && output.dest.empty();
  std::optional<registry::Daemon> daemon;
  if (load) {
    ASSIGN_OR_RETURN(daemon, find_daemon(output, client.options().stop));
  }
  VertexScope vertex(events, flat ? "exporting files to " + output.dest : load ? "loading image into " + daemon->text() : "exporting image to " + output.dest);
  indexed = indexed || images.size() > 1;
  if (flat) {
    ASSIGN_OR_RETURN(AllFiles entries, AllFiles::open(store, client, images, indexed, pool));
    RETURN_IF_ERROR(write_files(entries, output, client.options().stop));
    vertex.done();
    return std::string();
  }
  ASSIGN_OR_RETURN(const Prepared prepared, prepare(store, client, images, output, pool));
  LayeredSource blobs(store, prepared.sources);
  const auto stoppable = oci::stoppable(blobs, client.options().stop);
  oci::BlobSource& source = *stoppable;
  const registry::ExportIndex index = make_index(prepared.images, request, output.docker_types);
  const registry::ExportImage exported{&prepared.images.front().image, write.names, indexed ? &index : nullptr,
                                        indexed ? annotations_of(request.annotations, AnnotationSpec::Level::kIndexDescriptor, std::nullopt)
                                                : annotations_of(request.annotations, AnnotationSpec::Level::kManifestDescriptor, images.front().platform)};
  std::string words;
  if (load) {
    ASSIGN_OR_RETURN(words, load_image_into(*daemon, exported, source, client.options().stop));
  } else if (output.type == OutputSpec::Type::kOci && !output.tar) {
    RETURN_IF_ERROR(registry::write_layout_directory(output.dest, exported, source));
  } else {
    RETURN_IF_ERROR(registry::write_whole_file(output.dest, [&](ByteSink& sink) {
      return output.type == OutputSpec::Type::kOci ? registry::write_layout_tar(sink, exported, source) : registry::write_docker_archive(sink, exported, source);
    }));
  }
  vertex.done();
  return words;
}

Result<registry::PushReport> push_to(layers::Store& store, registry::Client& client, const oci::Image& image,
                                     const std::vector<oci::Reference>& names, const PushOptions& options,
                                     ThreadPool& pool, EventHub& events) {
  // Repositories that are known to hold layers of this image can give them to a neighbour without an upload.
  std::map<std::string, std::vector<std::string>> known;
  for (const oci::Descriptor& layer : image.manifest.layers) {
    if (const auto source = annotated_source(layer)) known[source->registry()].push_back(source->repository());
  }
  const auto source = source_of_image(store, client, image);
  std::map<std::string, std::vector<oci::Reference>> groups;
  for (const oci::Reference& name : names) groups[name.registry() + "/" + name.repository()].push_back(name);
  registry::PushReport total;
  std::optional<oci::Image> sent;
  for (const auto& [repository, references] : groups) {
    VertexScope vertex(events, "pushing " + references.front().familiar());
    if (!sent) {
      ASSIGN_OR_RETURN(sent, compress_image(store, image, options.compression, pool));
      if (options.docker_types) {
        ASSIGN_OR_RETURN(sent, with_docker_types(store, *sent));
      }
    }
    std::vector<std::string> mounts = known[references.front().registry()];
    std::erase(mounts, references.front().repository());
    std::sort(mounts.begin(), mounts.end());
    mounts.erase(std::unique(mounts.begin(), mounts.end()), mounts.end());
    const auto progress = [&](const oci::Descriptor& blob, uint64_t done, uint64_t all) {
      events.progress(vertex.id(), "layer " + blob.digest.hex().substr(0, 12), done, all);
    };
    std::vector<oci::Reference> targets = references;
    if (options.by_digest) targets = {references.front().by_digest(sent->descriptor.digest)};
    ASSIGN_OR_RETURN_WITH(const registry::PushReport report, registry::push_image(client, *sent, *source, targets, mounts, progress), "pushing " + references.front().familiar());
    total.manifest = report.manifest;
    total.uploaded_bytes += report.uploaded_bytes;
    total.uploaded += report.uploaded;
    total.mounted += report.mounted;
    total.existed += report.existed;
    vertex.done();
  }
  return total;
}

}  // namespace lamina::builder
