// The forms of a layer, made from one another when they are asked for.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>
#include <set>

#include "base/stoppable.h"
#include "base/trace.h"
#include "layers/compression.h"
#include "layers/internal/store_impl.h"
#include "layers/internal/tar_stream.h"
#include "layers/snapshot.h"
#include "layers/tar.h"

namespace lamina::layers {
namespace {

bool exists(const std::string& path) { return ::faccessat(AT_FDCWD, path.c_str(), F_OK, 0) == 0; }

// The name of a snapshot that belongs to one stack.
std::string chain_name(std::span<const LayerId> stack, size_t at) {
  std::string below;
  for (size_t i = 0; i < at; ++i) below += stack[i].value + "\n";
  return "chain-" + sha256_hex(below).substr(0, 32);
}

// A layer that comes again further up does there all that it did before, and the kernel mounts no directory twice.
std::vector<std::string> without_repetitions(const std::vector<std::string>& bottom_first) {
  std::set<std::string_view> seen;
  std::vector<std::string> out;
  for (auto it = bottom_first.rbegin(); it != bottom_first.rend(); ++it) {
    if (seen.insert(*it).second) out.push_back(*it);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

// --- tar --------------------------------------------------------------------------------------------

Result<void> Store::Impl::write_tar(const LayerId& id, const LayerMeta& known, ByteSink& sink, ThreadPool* pool) const {
  ASSIGN_OR_RETURN(const auto reader, SnapshotReader::open(layer_path(id) + "/fs"));
  reader->leave_out(known.implicit_directories);
  StoppableSink stoppable(sink, stop);
  TarStream stream(stoppable, known.clamp_mtime, pool);
  while (true) {
    ASSIGN_OR_RETURN(std::optional<Entry> entry, reader->next());
    if (!entry) return stream.finish();
    RETURN_IF_ERROR(stream.add(std::move(*entry)));
  }
}

Result<std::unique_ptr<ByteSource>> Store::Impl::open_tar(const LayerId& id, const LayerMeta& known, oci::BlobSource* remote, bool keep) {
  ASSIGN_OR_RETURN(auto tar, find_tar(id, known, remote, keep));
  return std::unique_ptr<ByteSource>(new StoppableSource(std::move(tar), stop));
}

Result<std::unique_ptr<ByteSource>> Store::Impl::find_tar(const LayerId& id, const LayerMeta& known, oci::BlobSource* remote, bool keep) {
  if (known.diff_id && blob_exists(known.diff_id->as_uncompressed_digest())) {
    ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, blob_path(known.diff_id->as_uncompressed_digest()), O_RDONLY));
    return std::unique_ptr<ByteSource>(new FdSource(std::move(fd)));
  }
  const LayerBlob* elsewhere = nullptr;
  for (const LayerBlob& blob : known.blobs) {
    if (blob.diff_id) continue;  // of another tar
    if (elsewhere == nullptr) elsewhere = &blob;
    if (!self->has_blob(blob.descriptor)) continue;
    ASSIGN_OR_RETURN(auto stream, self->open_blob(blob.descriptor));
    return decompress(read_ahead(std::move(stream)));
  }
  if (has_own_files(id, known)) {
    return produced_by([this, id, known](ByteSink& sink) { return write_tar(id, known, sink, nullptr); });
  }
  if (remote == nullptr || elsewhere == nullptr) {
    return Error(ErrorKind::kNotFound, fmt::format("the bytes of layer {} are not in the store", known.diff_id ? known.diff_id->text() : id.value))
        .with_note("pull or build the image again");
  }
  const oci::Descriptor& blob = elsewhere->descriptor;
  ASSIGN_OR_RETURN(auto stream, keep ? self->open_and_keep(blob, *remote) : remote->open_blob(blob));
  return decompress(read_ahead(std::move(stream)));
}

Result<std::unique_ptr<ByteSource>> Store::open_tar(const LayerId& id, oci::BlobSource* remote) {
  ASSIGN_OR_RETURN(const LayerMeta meta, impl_->meta(id));
  return impl_->open_tar(id, meta, remote, false);
}

// --- identity ---------------------------------------------------------------------------------------

Result<void> Store::Impl::learn_diff_id(const LayerId& id, const StreamSummary& summary) {
  const oci::DiffId diff_id = oci::DiffId::from_bytes(summary.sha256);
  RETURN_IF_ERROR(update_meta(id, [&](LayerMeta& m) {
    m.diff_id = diff_id;
    m.tar_size = summary.size;
  }));
  return link_diff(diff_id, id);
}

Result<oci::DiffId> Store::diff_id(const LayerId& id) {
  ASSIGN_OR_RETURN(LayerMeta meta, impl_->meta(id));
  if (meta.diff_id) {
    // The layer that was found by it until now may have been pruned.
    if (impl_->linked_layer(*meta.diff_id) != id) RETURN_IF_ERROR(impl_->link_diff(*meta.diff_id, id));
    return *meta.diff_id;
  }
  const auto slot = impl_->flights.enter("forms " + id.value);
  ASSIGN_OR_RETURN(meta, impl_->meta(id));
  if (!meta.diff_id) {
    HashingWriter hash(-1);
    RETURN_IF_ERROR(impl_->write_tar(id, meta, hash, nullptr));
    ASSIGN_OR_RETURN(const StreamSummary summary, hash.finish());
    RETURN_IF_ERROR(impl_->learn_diff_id(id, summary));
    return oci::DiffId::from_bytes(summary.sha256);
  }
  return *meta.diff_id;
}

Result<oci::Descriptor> Store::tar_descriptor(const LayerId& id) {
  oci::Descriptor descriptor;
  descriptor.media_type = oci::media_type::kOciLayer;
  ASSIGN_OR_RETURN(const oci::DiffId known, diff_id(id));
  descriptor.digest = known.as_uncompressed_digest();
  ASSIGN_OR_RETURN(LayerMeta meta, impl_->meta(id));
  if (!meta.tar_size) {
    ASSIGN_OR_RETURN(const auto tar, impl_->open_tar(id, meta, nullptr, false));
    NullSink nowhere;
    ASSIGN_OR_RETURN(const uint64_t size, copy_stream(*tar, nowhere));
    ASSIGN_OR_RETURN(meta, impl_->update_meta(id, [&](LayerMeta& m) { m.tar_size = size; }));
  }
  descriptor.size = *meta.tar_size;
  return descriptor;
}

// --- snapshots --------------------------------------------------------------------------------------

std::string Store::Impl::find_snapshot(std::span<const LayerId> stack, size_t at) {
  const std::string layer = layer_path(stack[at]);
  if (with_snapshot.lock()->contains(stack[at])) return layer + "/fs";
  if (exists(layer + "/fs")) {
    with_snapshot.lock()->insert(stack[at]);
    return layer + "/fs";
  }
  const std::string own = layer + "/" + chain_name(stack, at);
  return exists(own) ? own : std::string();
}

Result<Store::Impl::Unpacked> Store::Impl::unpack_into(const std::string& directory, const LayerId& id, const LayerMeta& known, const SnapshotWriter::ViewBelow& below,
                                                       oci::BlobSource* remote) {
  const TraceSpan span("layers", "unpack " + id.value);
  ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, directory));
  ASSIGN_OR_RETURN(auto tar, open_tar(id, known, remote, true));
  HashingSource hashed(read_ahead(std::move(tar)));
  TarReader reader(hashed);
  SnapshotWriter writer(root.get(), below);
  ASSIGN_OR_RETURN(std::string room, scratch.directory());
  writer.spread_over(std::move(room));
  const auto write_all_entries = [&]() -> Result<void> {
    while (true) {
      ASSIGN_OR_RETURN(const std::optional<Entry> entry, reader.next());
      if (!entry) return writer.finish();
      RETURN_IF_ERROR(writer.add(*entry, &reader.content()));
    }
  };
  auto written = write_all_entries();
  // Wrong bytes may look like any kind of broken tar; that they are wrong is the better word for it.
  if (!written && written.error().kind() != ErrorKind::kCorrupt) return std::move(written).error();
  NullSink nowhere;
  RETURN_IF_ERROR(copy_stream(hashed, nowhere));
  const StreamSummary& summary = hashed.summary();
  if (known.diff_id && oci::DiffId::from_bytes(summary.sha256) != *known.diff_id) {
    return Error(ErrorKind::kCorrupt, fmt::format("layer {} is damaged: its uncompressed bytes have the digest {}", known.diff_id->text(), oci::DiffId::from_bytes(summary.sha256).text()));
  }
  RETURN_IF_ERROR(std::move(written));
  return Unpacked{summary.size, writer.used_implicit_parents(), writer.implicit_directories()};
}

Result<std::string> Store::Impl::unpack(std::span<const LayerId> stack, size_t at, const SnapshotWriter::ViewBelow& below, oci::BlobSource* remote) {
  const LayerId& id = stack[at];
  const auto slot = flights.enter("forms " + id.value);
  if (std::string made = find_snapshot(stack, at); !made.empty()) return made;
  ASSIGN_OR_RETURN(const LayerMeta known, meta(id));
  RETURN_IF_ERROR(make_room(known.tar_size.value_or(0), false));
  ASSIGN_OR_RETURN(PendingLayer pending, self->begin_layer());
  ASSIGN_OR_RETURN(const Unpacked unpacked, unpack_into(pending.fs(), id, known, below, remote));
  if (!known.tar_size) {
    RETURN_IF_ERROR(update_meta(id, [&](LayerMeta& m) { m.tar_size = unpacked.tar_size; }));
  }
  const std::string place = layer_path(id) + "/" + (unpacked.implicit_parents && at > 0 ? chain_name(stack, at) : "fs");
  if (::rename(pending.fs().c_str(), place.c_str()) != 0 && errno != ENOTEMPTY && errno != EEXIST) {
    return system_error(errno, "rename", place);
  }
  return place;
}

Result<std::vector<std::string>> Store::snapshots(std::span<const LayerId> stack, ThreadPool& pool, oci::BlobSource* remote) {
  ASSIGN_OR_RETURN(std::vector<std::string> made, impl_->single_snapshots(stack, pool, remote));
  ASSIGN_OR_RETURN(made, impl_->shallow(stack, std::move(made), Impl::kMountedLayers));
  return without_repetitions(made);
}

Result<std::vector<std::string>> Store::snapshots_from(size_t begin, std::span<const LayerId> stack, ThreadPool& pool, oci::BlobSource* remote) {
  ASSIGN_OR_RETURN(std::vector<std::string> made, impl_->single_snapshots(stack, pool, remote));
  made.erase(made.begin(), made.begin() + static_cast<ptrdiff_t>(begin));
  return impl_->shallow(stack.subspan(begin), std::move(made), Impl::kBlockLayers);
}

Result<std::vector<std::string>> Store::Impl::single_snapshots(std::span<const LayerId> stack, ThreadPool& pool, oci::BlobSource* remote) {
  std::vector<std::string> made(stack.size());
  std::vector<std::shared_future<Result<std::string>>> futures(stack.size());
  const std::vector<LayerId> ids(stack.begin(), stack.end());
  bool complete = true;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!with_snapshot.lock()->contains(ids[i])) RETURN_IF_ERROR(meta(ids[i]));  // after a reboot it is verified first
    made[i] = find_snapshot(ids, i);
    complete = complete && !made[i].empty();
  }
  if (complete) return made;
  // Bottom first: a task waits for tasks before it only, which have started then.
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!made[i].empty()) continue;
    const auto below = [&made, &futures, i]() -> Result<std::shared_ptr<const RootfsView>> {
      std::vector<std::string> directories;
      for (size_t j = 0; j < i; ++j) {
        if (!futures[j].valid()) {
          directories.push_back(made[j]);
          continue;
        }
        Result<std::string> directory = futures[j].get();
        if (!directory) return std::move(directory).error();
        directories.push_back(*std::move(directory));
      }
      ASSIGN_OR_RETURN(std::shared_ptr<RootfsView> view, RootfsView::open(directories));
      return std::shared_ptr<const RootfsView>(std::move(view));
    };
    futures[i] = pool.submit([this, &ids, &futures, i, below, remote]() -> Result<std::string> {
      // An image may have a layer twice: the upper one must not hold the layer while it waits for the lower one.
      for (size_t j = 0; j < i; ++j) {
        if (ids[j] == ids[i] && futures[j].valid()) futures[j].wait();
      }
      auto place = unpack(ids, i, below, remote);
      if (place) return place;
      const auto known = meta(ids[i]);
      const bool pulled = known && !known->blobs.empty();
      return std::move(place).error().with_context(pulled ? "unpacking the blob " + known->blobs.front().descriptor.digest.text() : "unpacking a layer");
    }).share();
  }
  // All are waited for, also after an error: they use this frame.
  std::optional<Error> first;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!futures[i].valid()) continue;
    const TraceSpan span("wait", "for layer " + ids[i].value);
    Result<std::string> directory = futures[i].get();
    if (directory) {
      made[i] = *std::move(directory);
    } else if (!first) {
      first = std::move(directory).error();
    }
  }
  if (first) return std::move(*first);
  return made;
}

}  // namespace lamina::layers
