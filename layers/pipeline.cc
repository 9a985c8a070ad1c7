#include "layers/internal/pipeline.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "base/files.h"
#include "base/trace.h"

namespace lamina::layers {
namespace {

constexpr size_t kDirectAlignment = 4096;

// Not value-initialised: only what is used is touched. Aligned for O_DIRECT.
struct AlignedDelete {
  void operator()(std::byte* data) const { ::operator delete[](data, std::align_val_t{kDirectAlignment}); }
};
using BlockData = std::unique_ptr<std::byte[], AlignedDelete>;
BlockData new_block() { return BlockData(static_cast<std::byte*>(::operator new[](kBlockSize, std::align_val_t{kDirectAlignment}))); }

struct Block {
  BlockData data;
  size_t size = 0;
  std::span<const std::byte> bytes() const { return {data.get(), size}; }
};

// A bounded queue of blocks from one thread to another. Blocks go round: free → filled → free.
class BlockChannel {
 public:
  // An empty block to fill; nothing when the reader has stopped.
  std::optional<Block> take_free() {
    std::unique_lock lock(mutex_);
    wait(lock, "for the next stage to take bytes", [&] { return stopped_ || !free_.empty() || made_ < kBlockCount; });
    if (stopped_) return std::nullopt;
    if (free_.empty()) {
      ++made_;
      lock.unlock();
      return Block{new_block(), 0};
    }
    Block block = std::move(free_.back());
    free_.pop_back();
    block.size = 0;
    return block;
  }

  void put(Block block) {
    const std::lock_guard lock(mutex_);
    filled_.insert(filled_.begin(), std::move(block));
    changed_.notify_all();
  }

  // The writer's last word; an error is what the reader gets after the blocks.
  void close(Result<void> result) {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    result_ = std::move(result);
    changed_.notify_all();
  }

  // Nothing at the end.
  std::optional<Block> take_filled() {
    std::unique_lock lock(mutex_);
    wait(lock, "for bytes", [&] { return closed_ || !filled_.empty(); });
    if (filled_.empty()) return std::nullopt;
    Block block = std::move(filled_.back());
    filled_.pop_back();
    return block;
  }

  void give_back(Block block) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(block));
    changed_.notify_all();
  }

  // The reader wants no more.
  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  // After take_filled() gave nothing.
  const Result<void>& result() const { return result_; }

 private:
  template <typename Ready>
  void wait(std::unique_lock<std::mutex>& lock, const char* for_what, Ready ready) {
    if (ready()) return;
    const TraceSpan span("wait", for_what);
    changed_.wait(lock, ready);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Block> free_;
  std::vector<Block> filled_;  // newest first; never longer than kBlockCount
  size_t made_ = 0;
  bool closed_ = false, stopped_ = false;
  Result<void> result_;
};

Error nobody_reads() { return Error(ErrorKind::kCancelled, "the reader of the stream has gone"); }

// Collects writes into blocks of a channel.
class ChannelSink : public ByteSink {
 public:
  explicit ChannelSink(BlockChannel& channel) : channel_(channel) {}

  Result<void> write(std::span<const std::byte> data) override {
    while (!data.empty()) {
      if (!block_ && !(block_ = channel_.take_free())) return nobody_reads();
      const size_t count = std::min(data.size(), kBlockSize - block_->size);
      std::memcpy(block_->data.get() + block_->size, data.data(), count);
      block_->size += count;
      data = data.subspan(count);
      if (block_->size == kBlockSize) flush();
    }
    return {};
  }

  void flush() {
    if (!block_) return;
    channel_.put(std::move(*block_));
    block_.reset();
  }

 private:
  BlockChannel& channel_;
  std::optional<Block> block_;
};

class ThreadedSource : public ByteSource {
 public:
  explicit ThreadedSource(std::function<Result<void>(BlockChannel&)> fill)
      : thread_([this, fill = std::move(fill)] {
          name_thread("stream");
          const TraceSpan span("stream", "produce");
          channel_.close(fill(channel_));
        }) {}
  ThreadedSource(const ThreadedSource&) = delete;
  ThreadedSource& operator=(const ThreadedSource&) = delete;
  ~ThreadedSource() override {
    channel_.stop();
    thread_.join();
  }

  Result<size_t> read(std::span<std::byte> buffer) override {
    if (buffer.empty()) return size_t{0};
    while (!block_ || offset_ == block_->size) {
      if (block_) channel_.give_back(std::move(*block_));
      block_ = channel_.take_filled();
      offset_ = 0;
      if (!block_) {
        if (!channel_.result()) return Error(channel_.result().error());
        return size_t{0};
      }
    }
    const size_t count = std::min(buffer.size(), block_->size - offset_);
    std::memcpy(buffer.data(), block_->data.get() + offset_, count);
    offset_ += count;
    return count;
  }

 private:
  BlockChannel channel_;
  std::optional<Block> block_;
  size_t offset_ = 0;
  std::thread thread_;  // last: it uses the channel
};

Result<void> fill_from(ByteSource& source, BlockChannel& channel) {
  for (bool more = true; more;) {
    std::optional<Block> block = channel.take_free();
    if (!block) return nobody_reads();
    Result<void> failed;
    while (block->size < kBlockSize) {
      auto got = source.read({block->data.get() + block->size, kBlockSize - block->size});
      if (!got) failed = std::move(got).error();
      more = got && *got != 0;
      if (!more) break;
      block->size += *got;
    }
    if (block->size != 0) channel.put(std::move(*block));
    if (!failed) return failed;
  }
  return {};
}

}  // namespace

std::unique_ptr<ByteSource> read_ahead(std::unique_ptr<ByteSource> source) {
  std::shared_ptr<ByteSource> shared = std::move(source);  // std::function must be copyable
  return std::make_unique<ThreadedSource>(
      [shared](BlockChannel& channel) { return fill_from(*shared, channel); });
}

std::unique_ptr<ByteSource> produced_by(std::function<Result<void>(ByteSink&)> produce) {
  return std::make_unique<ThreadedSource>(
      [produce = std::move(produce)](BlockChannel& channel) -> Result<void> {
        ChannelSink sink(channel);
        RETURN_IF_ERROR(produce(sink));
        sink.flush();
        return {};
      });
}

namespace {

// Writes whole blocks to a file in the way that is faster here: through the page cache, or around it (open(2),
// O_DIRECT), which spares a copy and, in virtual machines above all, memory that must first be found. Both are timed
// on the first blocks of a long stream and, because the machine may get busy, now and then again.
class BlockWriter {
 public:
  BlockWriter(int fd, bool may_be_direct) : fd_(fd), possible_(may_be_direct) {}

  Result<void> write(std::span<const std::byte> block) {
    if (block.size() != kBlockSize) RETURN_IF_ERROR(set_direct(false));  // the last one: its length is any
    const auto began = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(put(block));
    spent_[direct_ ? 1 : 0] += std::chrono::steady_clock::now() - began;
    if (block.size() != kBlockSize) return {};
    const size_t in_round = ++blocks_ % kRound;
    if (in_round == kTrial) return set_direct(possible_);
    if (in_round == 2 * kTrial) return set_direct(possible_ && spent_[1] < spent_[0]);
    if (in_round == 0) {
      spent_[0] = spent_[1] = {};
      return set_direct(false);
    }
    return {};
  }

 private:
  static constexpr size_t kTrial = 32;   // blocks: 16 MiB
  static constexpr size_t kRound = 512;  // 256 MiB

  Result<void> put(std::span<const std::byte> block) {
    const std::string_view bytes(reinterpret_cast<const char*>(block.data()), block.size());
    if (!direct_) return write_all(fd_, bytes);
    const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
    if (put == static_cast<ssize_t>(bytes.size())) return {};
    // A file system that wants another alignment, or a signal: the rest goes the usual way.
    possible_ = false;
    RETURN_IF_ERROR(set_direct(false));
    return write_all(fd_, bytes.substr(put < 0 ? 0 : static_cast<size_t>(put)));
  }

  Result<void> set_direct(bool direct) {
    if (direct == direct_) return {};
    const int flags = ::fcntl(fd_, F_GETFL);
    if (flags < 0) return system_error(errno, "fcntl");
    if (::fcntl(fd_, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0) {
      direct_ = direct;
    } else if (direct) {
      possible_ = false;  // tmpfs and others
    } else {
      return system_error(errno, "fcntl");
    }
    return {};
  }

  const int fd_;
  bool direct_ = false, possible_;
  size_t blocks_ = 0;
  std::chrono::steady_clock::duration spent_[2] = {};  // usual, direct: of the trials in this round
};

}  // namespace

struct HashingWriter::Impl {
  Impl(int descriptor, oci::FileFollower* f) : fd(descriptor), out(descriptor, f == nullptr), follower(f) {}
  ~Impl() { join(); }

  void join() {
    if (!thread.joinable()) return;
    channel.close({});
    thread.join();
  }

  Result<void> pass_on(Block full) {
    RETURN_IF_ERROR(write_out(full));
    if (!thread.joinable()) {
      thread = std::thread([this] {
        name_thread("hash");
        const TraceSpan span("stream", "hash");
        while (std::optional<Block> filled = channel.take_filled()) {
          hash.update(filled->bytes());
          channel.give_back(std::move(*filled));
        }
      });
    }
    channel.put(std::move(full));
    return {};
  }

  Result<void> write_out(const Block& full) {
    if (fd < 0) return {};
    RETURN_IF_ERROR(out.write(full.bytes()));
    in_file += full.size;
    if (follower != nullptr) follower->grown(fd, in_file);
    return {};
  }

  const int fd;
  BlockWriter out;
  oci::FileFollower* const follower;
  uint64_t in_file = 0;
  Sha256 hash;
  uint64_t size = 0;
  BlockChannel channel;
  std::optional<Block> block;
  std::thread thread;
};

HashingWriter::HashingWriter(int fd, oci::FileFollower* follower) : impl_(std::make_unique<Impl>(fd, follower)) {}
HashingWriter::~HashingWriter() = default;

Result<void> HashingWriter::write(std::span<const std::byte> data) {
  impl_->size += data.size();
  while (!data.empty()) {
    if (!impl_->block) impl_->block = impl_->channel.take_free();
    Block& block = *impl_->block;  // nobody stops this channel
    const size_t count = std::min(data.size(), kBlockSize - block.size);
    std::memcpy(block.data.get() + block.size, data.data(), count);
    block.size += count;
    data = data.subspan(count);
    if (block.size == kBlockSize) {
      Block full = std::move(block);
      impl_->block.reset();
      RETURN_IF_ERROR(impl_->pass_on(std::move(full)));
    }
  }
  return {};
}

Result<StreamSummary> HashingWriter::finish() {
  impl_->join();
  if (impl_->block) {
    RETURN_IF_ERROR(impl_->write_out(*impl_->block));
    impl_->hash.update(impl_->block->bytes());
    impl_->block.reset();
  }
  return StreamSummary{impl_->hash.finish(), impl_->size};
}

Result<size_t> HashingSource::read(std::span<std::byte> buffer) {
  if (at_end_ || buffer.empty()) return size_t{0};
  ASSIGN_OR_RETURN(const size_t got, source_->read(buffer));
  if (got == 0) {
    at_end_ = true;
    ASSIGN_OR_RETURN(summary_, hash_.finish());
    return size_t{0};
  }
  RETURN_IF_ERROR(hash_.write(buffer.first(got)));
  return got;
}

}  // namespace lamina::layers
