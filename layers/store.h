// The store: blobs, layers, image names, build records.
//
//   format                    "lamina-store 1\n"
//   lock                      flock: shared while a program uses the store, exclusive for removal
//   blobs/sha256/<hex>        verified bytes: manifests, configs, compressed layers, uncompressed tars
//   layers/<id>/meta          what is known of a layer (JSON, versioned, replaced by rename)
//   layers/<id>/fs/           its snapshot, when one was made
//   layers/<id>/block-<hash>/ the merged snapshot of this layer and those below it in a deep image
//   diffs/<diff id>           → layer id (symlink)
//   images/<sha256 of name>   name → descriptor (JSON)
//   records/<2 hex>/<key>     build records, opaque here
//   indexes/<name>            caches of the builder (context stat index), opaque here
//   git/<sha256 of url>/      bare repositories of the builder's git sources, opaque here
//   quarantine/<name>         what fsck found damaged; never read again, removed by prune --all
//   partial/<hex>             downloads that broke off, to be continued (layers/internal/partial_blob.h)
//   tmp/                      half-made things; what no living process owns is removed at open. A process's lock file
//                             there lists what it uses (layers/store_leases.cc)
//   leases.lock               flock between those who begin to use something and those who make room
//   sizes                     what layers and cache mounts take, as far as known (layers/store_space.cc)
//
// Everything appears by rename. A layer's meta names the boot (/proc/sys/kernel/random/boot_id) in which it
// was sealed; after a reboot a layer whose data may not have reached the disk is verified against its DiffId
// before it is used, and dropped when it differs. Small files are fsynced; bulk data is not.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/spool.h"
#include "base/thread_pool.h"
#include "layers/compression.h"
#include "layers/entry.h"
#include "layers/rootfs_view.h"
#include "oci/blob.h"

namespace lamina::layers {

// Names a layer in one store; never leaves it.
struct LayerId {
  std::string value;
  bool empty() const { return value.empty(); }
  auto operator<=>(const LayerId&) const = default;
};

struct LayerInfo {
  LayerId id;
  std::optional<oci::DiffId> diff_id;       // unknown until computed
  std::optional<uint64_t> tar_size;         // bytes of the uncompressed tar
  bool has_snapshot = false;
  std::vector<oci::Descriptor> blobs;       // known blobs (present or not) of this layer
};

// A layer as a manifest names it.
struct BlobForm {
  oci::Descriptor descriptor;  // with the annotations that belong to its form, if any
  // Of what the blob gives when it is decompressed, which the image's config has to name: the layer's, except for an estargz.
  oci::DiffId diff_id;
};

class Scratch;

// A snapshot being made: `fs` is an overlay upperdir, `work` its workdir, on the store's file system.
class PendingLayer {
 public:
  PendingLayer(PendingLayer&&) noexcept;
  PendingLayer& operator=(PendingLayer&&) noexcept;
  ~PendingLayer();  // removes what was not sealed
  std::string fs() const;
  std::string work() const;

 private:
  friend class Store;
  PendingLayer(TempDir dir, Scratch& scratch);
  TempDir dir_;
  Scratch* scratch_;  // the store's; removes what is left while others go on
};

struct SealOptions {
  std::optional<int64_t> clamp_mtime;  // SOURCE_DATE_EPOCH: later times are written as this one, for ever
};

enum class LayerForm {
  kSnapshot,  // a later step needs the files
  kTar,       // nobody does: only the uncompressed tar is written and hashed in one pass
};

struct ImageRecord {
  std::string name;            // canonical reference
  oci::Descriptor descriptor;  // of a manifest or an index in `blobs`
  std::string created;         // RFC 3339, when the name was set
};

struct PruneOptions {
  bool all = false;                             // build records and cache mounts too
  std::optional<int64_t> unused_for_seconds;    // records that helped no build for so long, whatever `all` says
  std::optional<uint64_t> max_bytes;            // then the records unused for longest, until the store takes no more
  std::set<std::string> types;                  // regular (records, and what falls with them), exec.cachemount, source.git, partial; empty: all, and the quarantine
};

struct FsckReport {
  struct Problem {
    std::string what;  // "blob sha256:… has the digest sha256:…"
    std::string done;  // "moved to quarantine/…"; empty without repair
  };
  std::vector<Problem> problems;
  uint64_t blobs = 0, layers = 0, images = 0, bytes = 0;  // that were looked at
  uint64_t unverified = 0;  // pulled layers whose files cannot be compared: their bytes are not here, or depend on others
};

// Thread-safe, and safe against other processes that use the same directory at the same time.
class Store : public oci::BlobSource, public oci::BlobSink {
 public:
  // Makes the directory when missing (0700 for an ordinary user). kUnsupported for an unknown format
  // version, with what to do. Holds the shared lock for its lifetime.
  static Result<std::unique_ptr<Store>> open(const std::string& path);
  ~Store() override;
  const std::string& path() const;
  // After a stop request what reads or writes whole layers ends with kCancelled. REQUIRES: no other call goes on.
  void stop_on(std::stop_token stop);

  // --- blobs -----------------------------------------------------------------------------------
  bool has_blob(const oci::Descriptor& descriptor) override;
  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Descriptor& descriptor) override;
  Result<std::unique_ptr<oci::BlobWriter>> create_blob(const oci::Descriptor& descriptor) override;
  Result<void> remove_blob(const oci::Digest& digest);
  // Keeps bytes whose digest is not known before; the descriptor has no media type. With `expected` other bytes are
  // kCorrupt and are not kept.
  Result<oci::Descriptor> add_blob(ByteSource& content, const std::optional<oci::Digest>& expected);
  // The path of a blob's file, after its bytes were checked; kNotFound when it is not here or is damaged.
  Result<std::string> checked_blob_path(const oci::Digest& digest);
  // The blob as a stream from `remote`, which is kept on the way: once the read that finds the end succeeds it is in
  // the store. What a break leaves of a large one is continued by the next call, also of another process.
  Result<std::unique_ptr<ByteSource>> open_and_keep(const oci::Descriptor& descriptor, oci::BlobSource& remote);
  // The same to the end; no effect when it is there. `progress` (may be empty) is told the bytes so far.
  Result<void> fetch_blob(const oci::Descriptor& descriptor, oci::BlobSource& remote, const std::function<void(uint64_t)>& progress);

  // --- layers ----------------------------------------------------------------------------------
  Result<PendingLayer> begin_layer();
  // Moves the directory into the store; the DiffId is computed later, on demand.
  Result<LayerId> seal(PendingLayer layer, const SealOptions& options);
  // Makes a layer from entries, in the form asked for. `pool` (may be null) reads their files; the caller is none of its
  // threads.
  Result<LayerId> add_entries(EntrySource& entries, const SealOptions& options, LayerForm form, ThreadPool* pool = nullptr);
  Result<LayerId> add_entries(EntryList entries, const SealOptions& options, LayerForm form, ThreadPool* pool = nullptr);
  // Makes a layer whose only form is the blob that the options ask for (gzip or zstd, without a table of contents): one
  // pass over the files gives the tar, its digest, and the blob, whose file `follower` (may be null) may read meanwhile.
  Result<LayerId> add_entries_compressed(EntrySource& entries, const SealOptions& options, const CompressionOptions& compression, oci::FileFollower* follower, ThreadPool& pool);
  // Registers a pulled layer; its bytes may come later (or never, when nobody needs them). The same
  // DiffId gives the same id.
  Result<LayerId> add_pulled(const oci::DiffId& diff_id, const oci::Descriptor& blob);
  std::optional<LayerId> find_layer(const oci::DiffId& diff_id);
  // kNotFound when the layer is gone or was dropped as damaged: the record that names it is then void.
  Result<LayerInfo> layer_info(const LayerId& id);

  // The forms. Each is made at most once; concurrent callers wait for the one who makes it.
  // Snapshots of a whole stack, bottom first, as absolute paths; missing blobs are read from `remote` (may be
  // null) and kept, unpacked while they arrive, layers in parallel on `pool`. A layer whose tar names no
  // entry for some parent directory is unpacked for this stack (chain) alone. Of a deep stack several layers share a
  // snapshot, in which files are hard links; of a layer that comes more than once only the topmost counts.
  Result<std::vector<std::string>> snapshots(std::span<const LayerId> stack, ThreadPool& pool,
                                             oci::BlobSource* remote);
  // The same of the layers from `begin` on, which share snapshots with none before them; so few that each can be held open.
  Result<std::vector<std::string>> snapshots_from(size_t begin, std::span<const LayerId> stack, ThreadPool& pool,
                                                  oci::BlobSource* remote);
  // find_layer finds a layer by it from then on.
  Result<oci::DiffId> diff_id(const LayerId& id);
  // The uncompressed tar as a stream, from whichever form exists; `remote` as above.
  Result<std::unique_ptr<ByteSource>> open_tar(const LayerId& id, oci::BlobSource* remote);
  // A blob of the layer in `blobs`, made when missing. One that was made here with the same options serves, and without
  // options.force a pulled one does, however it is compressed, when neither has a table of contents.
  Result<BlobForm> blob(const LayerId& id, const CompressionOptions& options, ThreadPool& pool);
  // What is in a layer of which no snapshot exists, from the tar or blob that is here; null when it has a snapshot, or
  // would have to be fetched, or is none for a listing.
  Result<std::shared_ptr<const Listing>> listing(const LayerId& id);
  // The descriptor that an uncompressed local manifest uses: media type tar, digest = DiffId.
  Result<oci::Descriptor> tar_descriptor(const LayerId& id);

  // --- names -----------------------------------------------------------------------------------
  Result<void> set_image(const std::string& canonical_name, const oci::Descriptor& descriptor);
  Result<std::optional<ImageRecord>> image(const std::string& canonical_name);
  Result<std::vector<ImageRecord>> images();  // sorted by name
  // False when there was none.
  Result<bool> remove_image(const std::string& canonical_name);

  // --- records and indexes, opaque ---------------------------------------------------------------
  Result<std::optional<std::string>> record(const std::string& key_hex);
  // Null when there is none.
  Result<std::unique_ptr<ByteSource>> open_record(const std::string& key_hex);
  bool has_record(const std::string& key_hex);
  Result<void> put_record(const std::string& key_hex, std::string_view value);
  Result<void> put_record(const std::string& key_hex, ByteSource& value);
  Result<std::optional<std::string>> index(const std::string& name);
  Result<void> put_index(const std::string& name, std::string_view value);
  // The same for long ones. Invalid when there is none.
  Result<UniqueFd> open_index(const std::string& name);
  Result<void> put_index(const std::string& name, const std::function<Result<void>(ByteSink&)>& write);

  // Makes files without a name on the store's disk, for what does not fit into memory. Any thread; the store outlives it.
  TemporaryFile temporary_files();

  // --- housekeeping ------------------------------------------------------------------------------
  struct Usage {
    uint64_t blob_bytes = 0, layer_bytes = 0, other_bytes = 0;  // allocated blocks
    size_t blobs = 0, layers = 0, images = 0, records = 0;
  };
  Result<Usage> usage();
  // Removes what neither an image name nor a kept build record needs. Layer ids held by a record are found by calling
  // `layers_of_record` on the first 4 KiB of its value. Fails with kUnavailable when another process uses the store. Returns the bytes
  // that were freed.
  using LayersOfRecord = std::function<std::vector<LayerId>(std::string_view record)>;
  Result<uint64_t> prune(const PruneOptions& options, const LayersOfRecord& layers_of_record);
  // From now on the store takes at most `bytes` on the disk: before and while something is written the records unused for
  // longest go, with their layers and blobs, and cache mounts, git repositories and broken downloads that nobody uses at
  // the moment. Named images stay, and what living processes hold, this one or another. Starts a thread. kUnavailable,
  // with what takes how much, when that is too much already. When it becomes so, `exceeded` is told once, from any
  // thread: the build should end. REQUIRES: no other call goes on; no limit is set.
  struct SpaceLimit {
    uint64_t bytes = 0;
    LayersOfRecord layers_of_record;
    std::function<void(Error)> exceeded;
  };
  Result<void> limit_space(SpaceLimit limit);
  // Makes room once more, and ends that. REQUIRES: no other call goes on.
  void end_limit();
  // Whether the limit is kept now, after making room; fine without one. Any thread.
  Result<void> check_space();
  // Reads everything there is and compares it with what its name or record says. With `repair`, what is damaged is
  // moved to quarantine/ or, where it can be made again, removed. Fails as prune does.
  Result<FsckReport> fsck(bool repair);

  struct Impl;  // for the files of this folder

 private:
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lamina::layers
