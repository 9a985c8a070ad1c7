// Entries to a tar, their files read by several threads.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "layers/tar.h"

namespace lamina::layers {

// Small files are read into memory some hundreds at a time, by all threads of a pool, while the ones before them are
// written; a long one passes through on its own. The bytes are TarWriter's whatever the number of threads. Holds
// two windows of 1 MiB. One thread; it must not be one of the pool's.
class TarStream {
 public:
  // Borrows the sink and the pool, which may be null.
  TarStream(ByteSink& sink, std::optional<int64_t> clamp_mtime, ThreadPool* pool);
  TarStream(const TarStream&) = delete;
  TarStream& operator=(const TarStream&) = delete;
  ~TarStream();

  // In path_less order. An error may be that of an entry before.
  Result<void> add(Entry entry);
  // Once, after the last entry.
  Result<void> finish();

 private:
  struct Window;
  Result<void> turn();
  Result<void> drain();
  Result<void> write_loaded();
  void load(Window& window) const;
  static Result<void> load_file(Window& window, size_t index);

  TarWriter writer_;
  ThreadPool* const pool_;
  std::unique_ptr<Window> filling_, loading_;
  std::future<void> loaded_;  // of loading_
};

}  // namespace lamina::layers
