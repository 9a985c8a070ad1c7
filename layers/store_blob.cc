// A layer's compressed forms, each made once.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "layers/internal/indexed_blob.h"
#include "base/trace.h"
#include "layers/internal/store_impl.h"

namespace lamina::layers {
namespace {

// The versions of the formats with a table of contents (estargz.cc, zstd_chunked.cc): a blob of another one does not serve.
constexpr const char* kIndexFormat = "1";

std::string index_format(const CompressionOptions& options) { return options.indexed ? fmt::format("{}.{}", name_of(options), kIndexFormat) : std::string(); }

bool has_index(const LayerBlob& blob) {
  const auto& annotations = blob.descriptor.annotations;
  return std::any_of(annotations.begin(), annotations.end(), [](const auto& a) { return is_index_annotation(a.first); });
}

// Whether a blob is what such options make.
bool same_form(const LayerBlob& blob, const CompressionOptions& options) {
  if (oci::layer_compression(blob.descriptor.media_type) != options.type) return false;
  return blob.pulled ? has_index(blob) == options.indexed : blob.format == index_format(options);
}

// One that is here: a pulled layer's may be in its registry alone, and who asks for a form has no other source.
const LayerBlob* serving_blob(Store& store, const LayerMeta& meta, const CompressionOptions& options) {
  for (const LayerBlob& blob : meta.blobs) {
    if (!store.has_blob(blob.descriptor)) continue;
    if (same_form(blob, options) && (blob.pulled ? !options.force : blob.level == options.level)) return &blob;
  }
  return nullptr;
}

}  // namespace

bool is_index_annotation(std::string_view name) {
  for (const char* const known : {annotation::kEstargzToc, annotation::kEstargzSize, annotation::kChunkedChecksum, annotation::kChunkedPosition, annotation::kChunkedTarSplit}) {
    if (name == known) return true;
  }
  return false;
}

Result<BlobForm> Store::blob(const LayerId& id, const CompressionOptions& options, ThreadPool& pool) {
  RETURN_IF_ERROR(check(options));
  if (options.type == oci::Compression::kNone) {
    BlobForm form;
    ASSIGN_OR_RETURN(form.descriptor, tar_descriptor(id));
    ASSIGN_OR_RETURN(form.diff_id, diff_id(id));
    return form;
  }
  const auto slot = impl_->flights.enter("forms " + id.value);
  ASSIGN_OR_RETURN(LayerMeta meta, impl_->meta(id));
  if (const LayerBlob* known = serving_blob(*this, meta, options); known != nullptr && meta.diff_id) {
    return BlobForm{known->descriptor, known->diff_id.value_or(*meta.diff_id)};
  }
  if (const auto same = impl_->blob_of_same_tar(id, meta, options)) {
    RETURN_IF_ERROR(impl_->update_meta(id, [&](LayerMeta& m) { impl_->enter_blob(m, *same); }));
    return BlobForm{same->descriptor, same->diff_id.value_or(*meta.diff_id)};
  }
  ASSIGN_OR_RETURN(std::optional<LayerBlob> made, options.indexed ? impl_->compress_indexed(id, meta, options, pool) : std::optional<LayerBlob>());
  if (!made) {
    ASSIGN_OR_RETURN(made, impl_->compress_plain(id, meta, options, pool));
  }
  ASSIGN_OR_RETURN(meta, impl_->update_meta(id, [&](LayerMeta& m) { impl_->enter_blob(m, *made); }));
  return BlobForm{made->descriptor, made->diff_id.value_or(*meta.diff_id)};
}

// What was made of another layer serves as well.
std::optional<LayerBlob> Store::Impl::blob_of_same_tar(const LayerId& id, const LayerMeta& known, const CompressionOptions& options) {
  const auto other = known.diff_id ? self->find_layer(*known.diff_id) : std::nullopt;
  if (!other || *other == id) return std::nullopt;
  const auto others = meta(*other);
  if (!others || others->diff_id != known.diff_id) return std::nullopt;
  const LayerBlob* const blob = serving_blob(*self, *others, options);
  return blob == nullptr || blob->pulled ? std::nullopt : std::optional(*blob);
}

// The DiffId is learnt on the way, when it is not known yet.
Result<void> Store::Impl::check_tar(const LayerId& id, const LayerMeta& known, const StreamSummary& tar) {
  const oci::DiffId found = oci::DiffId::from_bytes(tar.sha256);
  if (!known.diff_id) return learn_diff_id(id, tar);
  if (*known.diff_id == found) return {};
  return Error(ErrorKind::kCorrupt, fmt::format("layer {} in the store is damaged: its files no longer have that digest", known.diff_id->text()))
      .with_note("something changed files below " + path + "; build prune --all removes everything that was built");
}

Result<LayerBlob> Store::Impl::publish_blob(ScratchFile file, const CompressionOptions& options, const StreamSummary& compressed) {
  LayerBlob blob;
  blob.descriptor.media_type = oci::oci_layer_type(options.type);
  blob.descriptor.digest = oci::Digest::from_bytes(compressed.sha256);
  blob.descriptor.size = compressed.size;
  blob.level = options.level;
  blob.format = index_format(options);
  RETURN_IF_ERROR(scratch.hold("blob " + blob.descriptor.digest.hex()));
  RETURN_IF_ERROR(file.publish(blob_path(blob.descriptor.digest), compressed.size));
  return blob;
}

// Whether the layer's tar can be written from its files: those of a pulled one do not give its tar.
bool Store::Impl::has_own_files(const LayerId& id, const LayerMeta& known) const {
  return !known.pulled && ::faccessat(AT_FDCWD, (layer_path(id) + "/fs").c_str(), F_OK, 0) == 0;
}

Result<Store::Impl::Compressed> Store::Impl::compress(const CompressionOptions& options, ThreadPool& pool, oci::FileFollower* follower, const std::function<Result<void>(ByteSink&)>& write) {
  const TraceSpan span("layers", "compress");
  ASSIGN_OR_RETURN(ScratchFile file, ScratchFile::create(scratch));
  HashingWriter kept(file.fd(), follower);
  ASSIGN_OR_RETURN(const auto compressor, compress_to(kept, options, pool));
  HashingWriter tar_hash(-1);
  TeeSink both(tar_hash, *compressor);
  RETURN_IF_ERROR(write(both));
  RETURN_IF_ERROR(compressor->finish());
  Compressed made{std::move(file), {}, {}};
  ASSIGN_OR_RETURN(made.tar, tar_hash.finish());
  ASSIGN_OR_RETURN(made.blob, kept.finish());
  return made;
}

void Store::Impl::enter_blob(LayerMeta& meta, const LayerBlob& blob) {
  std::erase_if(meta.blobs, [&](const LayerBlob& b) { return b.descriptor.digest == blob.descriptor.digest && b.format == blob.format; });
  meta.blobs.push_back(blob);
}

// One pass over the tar.
Result<LayerBlob> Store::Impl::compress_plain(const LayerId& id, const LayerMeta& known, const CompressionOptions& options, ThreadPool& pool) {
  ASSIGN_OR_RETURN(Compressed made, compress(options, pool, nullptr, [&](ByteSink& sink) -> Result<void> {
    if (has_own_files(id, known)) return write_tar(id, known, sink, &pool);
    ASSIGN_OR_RETURN(const auto tar, open_tar(id, known, nullptr, false));
    RETURN_IF_ERROR(copy_stream(*tar, sink));
    return {};
  }));
  RETURN_IF_ERROR(check_tar(id, known, made.tar));
  return publish_blob(std::move(made.file), options, made.blob);
}

// Nothing when the layer's tar cannot be described by a table of contents and has to be compressed without one.
Result<std::optional<LayerBlob>> Store::Impl::compress_indexed(const LayerId& id, const LayerMeta& known, const CompressionOptions& options, ThreadPool& pool) {
  ASSIGN_OR_RETURN(ScratchFile file, ScratchFile::create(scratch));
  HashingWriter compressed_hash(file.fd());
  std::unique_ptr<ByteSource> tar;
  if (has_own_files(id, known)) {
    tar = produced_by([&](ByteSink& sink) { return write_tar(id, known, sink, &pool); });
  } else {
    ASSIGN_OR_RETURN(tar, open_tar(id, known, nullptr, false));
  }
  HashingSource hashed(std::move(tar));
  const int level = effective_level(options);
  IndexedBlob made;
  if (options.type == oci::Compression::kGzip) {
    ASSIGN_OR_RETURN(auto estargz, write_estargz(hashed, level, compressed_hash, pool));
    if (!estargz) return std::optional<LayerBlob>();
    made = *std::move(estargz);
  } else {
    ASSIGN_OR_RETURN(made, write_zstd_chunked(hashed, level, compressed_hash, pool));
  }
  ASSIGN_OR_RETURN(const StreamSummary summary, compressed_hash.finish());
  RETURN_IF_ERROR(check_tar(id, known, hashed.summary()));
  ASSIGN_OR_RETURN(LayerBlob blob, publish_blob(std::move(file), options, summary));
  blob.descriptor.annotations = std::move(made.annotations);
  if (made.tar.sha256 != hashed.summary().sha256) blob.diff_id = oci::DiffId::from_bytes(made.tar.sha256);
  return std::optional<LayerBlob>(std::move(blob));
}

}  // namespace lamina::layers
