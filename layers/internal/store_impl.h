// The parts of the store that its files share.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/guarded.h"
#include "base/thread_pool.h"
#include "layers/internal/flight.h"
#include "layers/internal/layer_meta.h"
#include "layers/internal/pipeline.h"
#include "layers/snapshot.h"
#include "layers/store.h"

namespace lamina::layers {

// This process's part of tmp/: a directory, and beside it a lock file whose flock tells the living from the
// dead. Made when first asked for.
class Scratch {
 public:
  explicit Scratch(std::string tmp) : tmp_(std::move(tmp)) {}
  ~Scratch();
  // Any thread.
  Result<std::string> directory();
  // Takes a file or directory of this store out of sight and removes it while the caller goes on: freeing its blocks
  // may have to wait for the disk. All is gone when this object is. Any thread.
  void discard(const std::string& path);
  // Waits until all that was discarded is gone.
  void settle();
  // Removes what dead processes left. Errors are ignored: it is housekeeping.
  void remove_leftovers() const;

  // --- leases (store_leases.cc) ---
  // Says that this process uses a layer or a blob ("layer b.12", "blob 9f86…") until it ends: nobody removes it to make
  // room. Hold first, then look whether it is there. Any thread.
  Result<void> hold(const std::string& name);
  // Nobody makes room while the result lives. Any thread.
  Result<FileLock> keep_others_from_removing() const;
  // Nobody takes a lease while the result lives; then held() is complete.
  Result<FileLock> keep_others_from_holding() const;
  // What living processes hold, this one too.
  Result<std::set<std::string>> held() const;

 private:
  // The lock file, in which the leases are written. REQUIRES: mutex_ is held.
  Result<void> make_lock();

  const std::string tmp_;
  std::mutex mutex_;
  std::string directory_;
  bool made_ = false;  // the directory
  UniqueFd lock_;
  std::set<std::string> held_;
  UniqueFd gate_;
  std::unique_ptr<ThreadPool> remover_;  // made when first asked for
};

class SpaceKeeper;

// An open file in the scratch directory that is removed unless it is published.
class ScratchFile {
 public:
  static Result<ScratchFile> create(Scratch& scratch);
  ScratchFile(ScratchFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::move(other.fd_)) { other.path_.clear(); }
  ScratchFile& operator=(ScratchFile&&) = delete;
  ~ScratchFile();
  int fd() const { return fd_.get(); }
  // Renames it to its place; small files are synced first, so that a name never outlives its bytes.
  Result<void> publish(const std::string& path, uint64_t size);

 private:
  ScratchFile(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string path_;
  UniqueFd fd_;
};

struct Store::Impl {
  explicit Impl(std::string root) : path(std::move(root)), scratch(path + "/tmp") {}

  std::string blob_path(const oci::Digest& digest) const { return path + "/blobs/sha256/" + digest.hex(); }
  std::string layer_path(const LayerId& id) const { return path + "/layers/" + id.value; }
  std::string diff_path(const oci::DiffId& diff_id) const { return path + "/diffs/" + diff_id.hex(); }
  std::string record_path(const std::string& key) const { return path + "/records/" + key.substr(0, 2) + "/" + key; }
  std::string image_path(const std::string& name) const { return path + "/images/" + sha256_hex(name); }

  bool blob_exists(const oci::Digest& digest) const;
  Result<UniqueFd> temporary_file();  // without a name
  // A file of any size that appears by rename; it is not synced.
  Result<void> put_file(const std::string& where, const std::function<Result<void>(ByteSink&)>& write);
  // Nothing when there is no such file.
  Result<std::optional<ImageRecord>> read_image(const std::string& file) const;

  // --- metas (store_layers.cc) ---
  // Checked against the boot; kNotFound when there is no sound layer.
  Result<LayerMeta> meta(const LayerId& id);
  // Reads, changes and writes a meta; safe against other threads and processes.
  Result<LayerMeta> update_meta(const LayerId& id, const std::function<void(LayerMeta&)>& change);
  Result<LayerMeta> read_meta(const LayerId& id) const;
  // After a reboot: whether what may not have reached the disk did. verify_once is safe against other processes.
  Result<LayerMeta> verify_once(const LayerId& id);
  Result<LayerMeta> verify_after_reboot(const LayerId& id, LayerMeta meta);
  Result<LayerId> publish_layer(PendingLayer layer, LayerMeta meta);
  // Makes diffs/<diff id> point at the layer unless it points at a sound one already, with bytes if this one has them.
  Result<void> link_diff(const oci::DiffId& diff_id, const LayerId& id);
  // Whether its files or a form of its tar are in the store: of a pulled one they may only be at the registry.
  bool has_bytes(const LayerId& id);
  // What diffs/<diff id> says, whatever it is worth; empty when there is none.
  LayerId linked_layer(const oci::DiffId& diff_id) const;
  Result<void> drop_layer(const LayerId& id);

  // --- forms (store_forms.cc) ---
  static constexpr size_t kBlockLayers = 64;  // that share a snapshot
  // Stacks up to this are mounted as they are: hardly an image is deeper, and merging costs a pass over the files.
  static constexpr size_t kMountedLayers = 2 * kBlockLayers;
  // The snapshot of stack[at] in this stack, if it was made; "" when not.
  std::string find_snapshot(std::span<const LayerId> stack, size_t at);
  // Of all layers, made where they are missing.
  Result<std::vector<std::string>> single_snapshots(std::span<const LayerId> stack, ThreadPool& pool, oci::BlobSource* remote);
  // A stack of fewer snapshots that shows the same files (store_merge.cc); stacks of up to `deepest` layers stay as they are.
  Result<std::vector<std::string>> shallow(std::span<const LayerId> stack, std::vector<std::string> snapshots, size_t deepest);
  Result<std::string> block_of(std::span<const LayerId> layers, std::span<const std::string> snapshots);
  // Unpacks a layer's tar into an empty directory, and compares its bytes with the DiffId.
  struct Unpacked {
    uint64_t tar_size = 0;
    bool implicit_parents = false;  // the files depend on what is below
    std::vector<std::string> implicit_directories;
  };
  Result<Unpacked> unpack_into(const std::string& directory, const LayerId& id, const LayerMeta& known, const SnapshotWriter::ViewBelow& below, oci::BlobSource* remote);
  Result<std::string> unpack(std::span<const LayerId> stack, size_t at, const SnapshotWriter::ViewBelow& below, oci::BlobSource* remote);
  Result<std::unique_ptr<ByteSource>> open_tar(const LayerId& id, const LayerMeta& meta, oci::BlobSource* remote, bool keep);
  Result<std::unique_ptr<ByteSource>> find_tar(const LayerId& id, const LayerMeta& meta, oci::BlobSource* remote, bool keep);
  Result<void> write_tar(const LayerId& id, const LayerMeta& meta, ByteSink& sink, ThreadPool* pool) const;
  // The tar of a layer that is being made.
  Result<void> write_entries(EntrySource& entries, const SealOptions& options, ByteSink& sink, ThreadPool* pool) const;
  // Remembers what was found.
  Result<void> learn_diff_id(const LayerId& id, const StreamSummary& summary);

  // --- compressed forms (store_blob.cc) ---
  bool has_own_files(const LayerId& id, const LayerMeta& known) const;
  Result<void> check_tar(const LayerId& id, const LayerMeta& known, const StreamSummary& tar);
  Result<LayerBlob> publish_blob(ScratchFile file, const CompressionOptions& options, const StreamSummary& compressed);
  // Compresses what `write` gives as a tar; `follower` (may be null) may read the blob's file meanwhile.
  struct Compressed {
    ScratchFile file;
    StreamSummary tar, blob;
  };
  Result<Compressed> compress(const CompressionOptions& options, ThreadPool& pool, oci::FileFollower* follower, const std::function<Result<void>(ByteSink&)>& write);
  // Enters a blob among those of a layer, in the place of an equal one.
  static void enter_blob(LayerMeta& meta, const LayerBlob& blob);
  std::optional<LayerBlob> blob_of_same_tar(const LayerId& id, const LayerMeta& known, const CompressionOptions& options);
  Result<LayerBlob> compress_plain(const LayerId& id, const LayerMeta& known, const CompressionOptions& options, ThreadPool& pool);
  Result<std::optional<LayerBlob>> compress_indexed(const LayerId& id, const LayerMeta& known, const CompressionOptions& options, ThreadPool& pool);

  // --- housekeeping (store_prune.cc, store_fsck.cc, store_space.cc) ---
  // Room for what is about to be written, when the store has a limit; see Store::limit_space. `exact`: so much will be
  // written, and an error is better now.
  Result<void> make_room(uint64_t bytes, bool exact);
  Result<uint64_t> sweep(const PruneOptions& options, const LayersOfRecord& layers_of_record);
  Result<uint64_t> sweep_records(const PruneOptions& options, const LayersOfRecord& layers_of_record, const std::function<void(const LayerId&)>& mark,
                                 const std::function<uint64_t(const std::vector<LayerId>&)>& used);
  // Runs `work` while no other process uses the store; kUnavailable when one does.
  template <typename T>
  Result<T> alone(const std::function<Result<T>()>& work) {
    lock.reset();
    auto only = FileLock::try_acquire(AT_FDCWD, path + "/lock", FileLock::Mode::kExclusive);
    if (!only) return std::move(only).error();
    Result<T> done = Error(ErrorKind::kUnavailable, "another build uses the store").with_note("try again when it has ended");
    if (*only) done = work();
    only->reset();
    ASSIGN_OR_RETURN(lock, FileLock::acquire(AT_FDCWD, path + "/lock", FileLock::Mode::kShared));
    return done;
  }

  const std::string path;
  std::stop_token stop;
  std::string boot_id;
  std::optional<FileLock> lock;  // shared, for the store's lifetime
  Scratch scratch;
  FlightTower flights;
  Guarded<std::map<LayerId, LayerMeta>> metas;
  // What was seen on the disk is there as long as the lock is held: layers with a snapshot of their own, and blocks.
  Guarded<std::set<LayerId>> with_snapshot;
  Guarded<std::set<std::string>> known_blocks;
  std::shared_ptr<SpaceKeeper> keeper;  // of a store with a limit; set and taken away while nothing else goes on
  Store* self = nullptr;
};

}  // namespace lamina::layers
