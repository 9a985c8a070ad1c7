// Layers of the store: what is known of each, and how one gets in.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/scope_exit.h"
#include "base/stoppable.h"
#include "base/trace.h"
#include "layers/internal/indexed_blob.h"
#include "layers/internal/needed.h"
#include "layers/internal/store_impl.h"
#include "layers/internal/tar_stream.h"
#include "layers/snapshot.h"

namespace lamina::layers {
namespace {

Error no_layer(const LayerId& id) {
  return Error(ErrorKind::kNotFound, fmt::format("layer {} is no longer in the store", id.value));
}

constexpr const char* kVerifyLock = "/verify.lock";  // in the layer's directory

bool exists(const std::string& path) { return ::faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0; }

}  // namespace

// --- metas ------------------------------------------------------------------------------------------

Result<LayerMeta> Store::Impl::read_meta(const LayerId& id) const {
  ASSIGN_OR_RETURN(const auto text, read_file_if_exists(AT_FDCWD, layer_path(id) + "/meta", 64 << 20));
  if (!text) return no_layer(id);
  return LayerMeta::parse(*text);
}

Result<LayerMeta> Store::Impl::meta(const LayerId& id) {
  if (id.empty()) return Error(ErrorKind::kInternal, "an empty layer id was asked for");
  {
    auto known = metas.lock();
    if (const auto it = known->find(id); it != known->end()) return it->second;
  }
  RETURN_IF_ERROR(scratch.hold("layer " + id.value));
  auto found = read_meta(id);
  if (found && found->boot_id != boot_id) {
    const auto slot = flights.enter("verify " + id.value);
    found = read_meta(id);
    if (found && found->boot_id != boot_id) found = verify_once(id);
  }
  if (!found) return no_layer(id);
  (*metas.lock())[id] = *found;
  return found;
}

// One process verifies a layer: what it removes here, others may have made and mounted once the meta says that the
// layer is sound.
Result<LayerMeta> Store::Impl::verify_once(const LayerId& id) {
  const std::string lock_path = layer_path(id) + kVerifyLock;
  ASSIGN_OR_RETURN(const FileLock only, FileLock::acquire(AT_FDCWD, lock_path, FileLock::Mode::kExclusive));
  // A layer that was dropped meanwhile took the lock's file with it.
  ASSIGN_OR_RETURN(LayerMeta found, read_meta(id));
  if (found.boot_id != boot_id) {
    ASSIGN_OR_RETURN(found, verify_after_reboot(id, std::move(found)));
  }
  // Whoever locks another file of this name from now on finds the meta of this boot.
  ::unlink(lock_path.c_str());
  return found;
}

// Bulk data is not synced when it is written. What a crash of the machine may have torn is found here: blobs
// by their digests, the snapshot of a built layer by its DiffId. The snapshot of a pulled one is made again.
Result<LayerMeta> Store::Impl::verify_after_reboot(const LayerId& id, LayerMeta found) {
  const auto check_blob = [&](const oci::Descriptor& blob) {
    if (!blob_exists(blob.digest)) return;
    auto stream = self->open_blob(blob);
    NullSink nowhere;
    if (!stream || !copy_stream(**stream, nowhere)) ignore_error(self->remove_blob(blob.digest), "it is damaged");
  };
  bool sound = found.pulled;
  for (const LayerBlob& blob : found.blobs) {
    check_blob(blob.descriptor);
    sound = sound || (!blob.diff_id && blob_exists(blob.descriptor.digest));  // it may be the only form that there is
  }
  const std::string snapshot = layer_path(id) + "/fs";
  if (found.diff_id && found.tar_size) {
    oci::Descriptor tar;
    tar.digest = found.diff_id->as_uncompressed_digest();
    tar.size = *found.tar_size;
    check_blob(tar);
    sound = sound || blob_exists(tar.digest);
  }
  // Merged blocks and the snapshots of pulled layers are made again.
  ASSIGN_OR_RETURN(const UniqueFd directory, open_directory(AT_FDCWD, layer_path(id)));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(directory.get()));
  for (const std::string& name : names) {
    const bool stays = name == "meta" || "/" + name == kVerifyLock || (name == "fs" && !found.pulled);
    if (!stays) RETURN_IF_ERROR(remove_tree(directory.get(), name));
  }
  if (found.pulled) {
    // Its blob was looked at above.
  } else if (exists(snapshot) && found.diff_id) {
    HashingWriter hash(-1);
    const auto written = write_tar(id, found, hash, nullptr);
    auto summary = hash.finish();
    if (written && summary && oci::DiffId::from_bytes(summary->sha256) == *found.diff_id) {
      sound = true;
    } else {
      RETURN_IF_ERROR(remove_tree(AT_FDCWD, snapshot));
    }
  }
  if (!sound) {
    RETURN_IF_ERROR(drop_layer(id));
    return no_layer(id);
  }
  found.boot_id = boot_id;
  RETURN_IF_ERROR(write_file_atomically(AT_FDCWD, layer_path(id) + "/meta", found.to_json(), Durability::kNone, 0600));
  return found;
}

Result<LayerMeta> Store::Impl::update_meta(const LayerId& id, const std::function<void(LayerMeta&)>& change) {
  ASSIGN_OR_RETURN(const FileLock only, FileLock::acquire(AT_FDCWD, path + "/layers/.update", FileLock::Mode::kExclusive));
  ASSIGN_OR_RETURN(LayerMeta updated, read_meta(id));
  change(updated);
  RETURN_IF_ERROR(write_file_atomically(AT_FDCWD, layer_path(id) + "/meta", updated.to_json(), Durability::kNone, 0600));
  (*metas.lock())[id] = updated;
  return updated;
}

Result<void> Store::Impl::drop_layer(const LayerId& id) {
  metas.lock()->erase(id);
  with_snapshot.lock()->erase(id);
  // Out of sight first, so that nobody finds half of it.
  ASSIGN_OR_RETURN(const std::string directory, scratch.directory());
  const std::string away = directory + "/" + temporary_name("dropped");
  if (::rename(layer_path(id).c_str(), away.c_str()) != 0) {
    if (errno == ENOENT) return {};
    return system_error(errno, "rename", layer_path(id));
  }
  return remove_tree(AT_FDCWD, away);
}

Result<void> Store::Impl::link_diff(const oci::DiffId& diff_id, const LayerId& id) {
  const std::string link = diff_path(diff_id);
  // Whoever removes a layer removes the link to it, and must not meet a new one.
  ASSIGN_OR_RETURN(const FileLock gate, scratch.keep_others_from_removing());
  if (::symlink(id.value.c_str(), link.c_str()) == 0) return {};
  if (errno != EEXIST) return system_error(errno, "symlink", link);
  if (const auto found = self->find_layer(diff_id); found && (*found == id || has_bytes(*found) || !has_bytes(id))) return {};
  const std::string fresh = link + "." + temporary_name("new");
  if (::symlink(id.value.c_str(), fresh.c_str()) != 0) return system_error(errno, "symlink", fresh);
  if (::rename(fresh.c_str(), link.c_str()) != 0) return system_error(errno, "rename", link);
  return {};
}

bool Store::Impl::has_bytes(const LayerId& id) {
  const auto known = meta(id);
  if (!known) return false;
  if (!known->pulled || exists(layer_path(id) + "/fs") || (known->diff_id && blob_exists(known->diff_id->as_uncompressed_digest()))) return true;
  return std::any_of(known->blobs.begin(), known->blobs.end(), [&](const LayerBlob& blob) { return self->has_blob(blob.descriptor); });
}

LayerId Store::Impl::linked_layer(const oci::DiffId& diff_id) const {
  std::string target(256, '\0');
  const ssize_t size = ::readlink(diff_path(diff_id).c_str(), target.data(), target.size());
  if (size <= 0) return {};
  target.resize(static_cast<size_t>(size));
  return target.find('/') == std::string::npos ? LayerId{std::move(target)} : LayerId{};
}

std::optional<LayerId> Store::find_layer(const oci::DiffId& diff_id) {
  LayerId id = impl_->linked_layer(diff_id);
  if (id.empty() || !impl_->meta(id)) return std::nullopt;
  return id;
}

Result<LayerInfo> Store::layer_info(const LayerId& id) {
  ASSIGN_OR_RETURN(const LayerMeta meta, impl_->meta(id));
  LayerInfo info;
  info.id = id;
  info.diff_id = meta.diff_id;
  info.tar_size = meta.tar_size;
  info.has_snapshot = exists(impl_->layer_path(id) + "/fs");
  for (const LayerBlob& blob : meta.blobs) info.blobs.push_back(blob.descriptor);
  return info;
}

// --- new layers -------------------------------------------------------------------------------------

PendingLayer::PendingLayer(TempDir dir, Scratch& scratch) : dir_(std::move(dir)), scratch_(&scratch) {}
PendingLayer::PendingLayer(PendingLayer&& other) noexcept : dir_(std::move(other.dir_)), scratch_(other.scratch_) {}
PendingLayer& PendingLayer::operator=(PendingLayer&& other) noexcept {
  std::swap(dir_, other.dir_);  // the other's destructor removes what was here
  std::swap(scratch_, other.scratch_);
  return *this;
}
PendingLayer::~PendingLayer() {
  if (const std::string path = dir_.release(); !path.empty()) scratch_->discard(path);
}
std::string PendingLayer::fs() const { return dir_.path() + "/fs"; }
std::string PendingLayer::work() const { return dir_.path() + "/work"; }

Result<PendingLayer> Store::begin_layer() {
  ASSIGN_OR_RETURN(const std::string directory, impl_->scratch.directory());
  ASSIGN_OR_RETURN(TempDir dir, TempDir::create(directory, "layer"));
  PendingLayer layer(std::move(dir), impl_->scratch);
  for (const std::string& part : {layer.fs(), layer.work()}) {
    if (::mkdir(part.c_str(), 0755) != 0) return system_error(errno, "mkdir", part);
    // The umask is no property of an image.
    if (::chmod(part.c_str(), 0755) != 0) return system_error(errno, "chmod", part);
  }
  return layer;
}

Result<LayerId> Store::Impl::publish_layer(PendingLayer layer, LayerMeta fresh) {
  const LayerId id{temporary_name("b")};
  // What was beside the files while they were made: overlayfs's work directory, mount points of a RUN.
  ASSIGN_OR_RETURN(const std::vector<std::string> beside, names_in(layer.dir_.path()));
  for (const std::string& name : beside) {
    if (name != "fs" && ::rmdir((layer.dir_.path() + "/" + name).c_str()) != 0) scratch.discard(layer.dir_.path() + "/" + name);
  }
  RETURN_IF_ERROR(scratch.hold("layer " + id.value));
  fresh.boot_id = boot_id;
  RETURN_IF_ERROR(write_file_atomically(AT_FDCWD, layer.dir_.path() + "/meta", fresh.to_json(), Durability::kNone, 0600));
  if (::rename(layer.dir_.path().c_str(), layer_path(id).c_str()) != 0) return system_error(errno, "rename", layer_path(id));
  layer.dir_.release();
  (*metas.lock())[id] = fresh;
  if (fresh.diff_id) RETURN_IF_ERROR(link_diff(*fresh.diff_id, id));
  return id;
}

Result<LayerId> Store::seal(PendingLayer layer, const SealOptions& options) {
  const TraceSpan span("layers", "seal");
  LayerMeta meta;
  meta.clamp_mtime = options.clamp_mtime;
  return impl_->publish_layer(std::move(layer), std::move(meta));
}

Result<void> Store::Impl::write_entries(EntrySource& entries, const SealOptions& options, ByteSink& sink, ThreadPool* pool) const {
  StoppableSink stoppable(sink, stop);
  TarStream stream(stoppable, options.clamp_mtime, pool);
  while (true) {
    ASSIGN_OR_RETURN(std::optional<Entry> entry, entries.next());
    if (!entry) return stream.finish();
    RETURN_IF_ERROR(stream.add(*std::move(entry)));
  }
}

Result<LayerId> Store::add_entries(EntrySource& entries, const SealOptions& options, LayerForm form, ThreadPool* pool) {
  RETURN_IF_ERROR(impl_->make_room(entries.content_bytes(), form == LayerForm::kTar));
  ASSIGN_OR_RETURN(PendingLayer layer, begin_layer());
  LayerMeta meta;
  meta.clamp_mtime = options.clamp_mtime;
  if (form == LayerForm::kSnapshot) {
    ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, layer.fs()));
    SnapshotWriter writer(root.get(), nullptr);
    writer.stop_on(impl_->stop);
    ASSIGN_OR_RETURN(std::string room, impl_->scratch.directory());
    writer.spread_over(std::move(room));
    while (true) {
      ASSIGN_OR_RETURN(std::optional<Entry> next, entries.next());
      if (!next) break;
      Entry& entry = *next;
      // A later RUN sees the times that the image will have: programs write them into what they make (Python does).
      if (options.clamp_mtime && entry.mtime.seconds >= *options.clamp_mtime) entry.mtime = {*options.clamp_mtime, 0};
      RETURN_IF_ERROR(writer.add(entry, nullptr));
    }
    RETURN_IF_ERROR(writer.finish());
    meta.implicit_directories = writer.implicit_directories();
    return impl_->publish_layer(std::move(layer), std::move(meta));
  }
  ASSIGN_OR_RETURN(ScratchFile file, ScratchFile::create(impl_->scratch));
  HashingWriter hash(file.fd());
  RETURN_IF_ERROR(impl_->write_entries(entries, options, hash, pool));
  ASSIGN_OR_RETURN(const StreamSummary summary, hash.finish());
  meta.diff_id = oci::DiffId::from_bytes(summary.sha256);
  meta.tar_size = summary.size;
  RETURN_IF_ERROR(impl_->scratch.hold("blob " + meta.diff_id->hex()));
  RETURN_IF_ERROR(file.publish(impl_->blob_path(meta.diff_id->as_uncompressed_digest()), summary.size));
  if (const auto same = find_layer(*meta.diff_id)) return *same;
  impl_->scratch.discard(layer.fs());
  return impl_->publish_layer(std::move(layer), std::move(meta));
}

Result<LayerId> Store::add_entries(EntryList entries, const SealOptions& options, LayerForm form, ThreadPool* pool) {
  ListedEntries listed(std::move(entries));
  return add_entries(listed, options, form, pool);
}

Result<LayerId> Store::add_entries_compressed(EntrySource& entries, const SealOptions& options, const CompressionOptions& compression, oci::FileFollower* follower, ThreadPool& pool) {
  RETURN_IF_ERROR(impl_->make_room(entries.content_bytes(), false));
  ASSIGN_OR_RETURN(PendingLayer layer, begin_layer());
  ASSIGN_OR_RETURN(Impl::Compressed made, impl_->compress(compression, pool, follower, [&](ByteSink& sink) { return impl_->write_entries(entries, options, sink, &pool); }));
  LayerMeta meta;
  meta.clamp_mtime = options.clamp_mtime;
  meta.diff_id = oci::DiffId::from_bytes(made.tar.sha256);
  meta.tar_size = made.tar.size;
  ASSIGN_OR_RETURN(const LayerBlob blob, impl_->publish_blob(std::move(made.file), compression, made.blob));
  if (const auto same = find_layer(*meta.diff_id)) {
    RETURN_IF_ERROR(impl_->update_meta(*same, [&](LayerMeta& m) { impl_->enter_blob(m, blob); }));
    return *same;
  }
  meta.blobs.push_back(blob);
  impl_->scratch.discard(layer.fs());
  return impl_->publish_layer(std::move(layer), std::move(meta));
}

Result<LayerId> Store::add_pulled(const oci::DiffId& diff_id, const oci::Descriptor& blob) {
  const bool is_tar = oci::layer_compression(blob.media_type) == oci::Compression::kNone &&
                      blob.digest == diff_id.as_uncompressed_digest();
  oci::Descriptor bare = blob;
  std::erase_if(bare.annotations, [](const auto& a) { return !is_index_annotation(a.first); });
  const auto slot = impl_->flights.enter("pulled " + diff_id.hex());
  if (const auto known = find_layer(diff_id)) {
    ASSIGN_OR_RETURN(const LayerMeta meta, impl_->meta(*known));
    const bool listed = std::any_of(meta.blobs.begin(), meta.blobs.end(), [&](const LayerBlob& b) { return b.descriptor.digest == bare.digest; });
    if (!is_tar && !listed) {
      RETURN_IF_ERROR(impl_->update_meta(*known, [&](LayerMeta& m) { m.blobs.push_back({bare, true, {}, {}, {}}); }));
    }
    return *known;
  }
  LayerMeta meta;
  meta.pulled = true;
  meta.diff_id = diff_id;
  meta.blobs.push_back({bare, true, {}, {}, {}});
  if (is_tar) meta.tar_size = blob.size;
  ASSIGN_OR_RETURN(PendingLayer layer, begin_layer());
  impl_->scratch.discard(layer.fs());
  return impl_->publish_layer(std::move(layer), std::move(meta));
}

}  // namespace lamina::layers
