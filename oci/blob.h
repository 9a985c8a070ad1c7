// Where `registry` and `layers` meet without knowing each other.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>

#include "base/result.h"
#include "base/stream.h"
#include "oci/manifest.h"

namespace lamina::oci {

// Something that can yield blobs by descriptor: a content store, a layout, an archive, a registry.
// Implementations are safe to use from several threads.
class BlobSource {
 public:
  virtual ~BlobSource() = default;
  // A stream of exactly descriptor.size bytes whose digest is checked while it is read: the read that
  // reaches the end fails with kCorrupt when size or digest differ. kNotFound when it is not there.
  virtual Result<std::unique_ptr<ByteSource>> open_blob(const Descriptor& descriptor) = 0;
  // The bytes from `offset` on, to continue what broke off. They are not verified: whoever has those before checks the
  // whole. kUnsupported by sources that are read from the beginning only, which is what this does.
  virtual Result<std::unique_ptr<ByteSource>> open_blob_from(const Descriptor& descriptor, uint64_t offset);
};

// Takes one blob. Destroying it before commit discards what was written.
class BlobWriter : public ByteSink {
 public:
  // Checks size and digest of what was written against the descriptor and publishes it; kCorrupt
  // when they differ. After that the blob can be read.
  virtual Result<void> commit() = 0;
};

// Follows the file into which a blob is written.
class FileFollower {
 public:
  virtual ~FileFollower() = default;
  // The file's first `size` bytes are there now and stay as they are. `fd` is only valid during the call, which must not
  // wait for anything.
  virtual void grown(int fd, uint64_t size) = 0;
};

// Something that keeps blobs. Safe to use from several threads.
class BlobSink {
 public:
  virtual ~BlobSink() = default;
  virtual bool has_blob(const Descriptor& descriptor) = 0;
  virtual Result<std::unique_ptr<BlobWriter>> create_blob(const Descriptor& descriptor) = 0;
};

// Wraps a stream so that its size and digest are checked as BlobSource::open_blob promises.
std::unique_ptr<ByteSource> verify_stream(std::unique_ptr<ByteSource> source, const Descriptor& expected);

// The blobs of `source`, which it borrows; reading one ends with kCancelled after a stop request.
std::unique_ptr<BlobSource> stoppable(BlobSource& source, std::stop_token stop);

// Reads a small blob (manifest, config) whole; kCorrupt when it is larger than `limit`.
Result<std::string> read_blob(BlobSource& source, const Descriptor& descriptor, uint64_t limit = 16 << 20);
// Stores a small blob; no effect when it is there.
Result<void> put_blob(BlobSink& sink, const Descriptor& descriptor, std::string_view bytes);

// Streams one blob from a source to a sink, verified; no effect when the sink has it.
Result<void> copy_blob(BlobSource& source, BlobSink& sink, const Descriptor& descriptor);

// One image as the outputs see it: config and manifest bytes plus a place to read the blobs from.
struct Image {
  Descriptor descriptor;  // of the manifest
  std::string manifest_json;
  Manifest manifest;
  std::string config_json;
};

}  // namespace lamina::oci
