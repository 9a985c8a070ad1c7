// What the mounts of one RUN need while it runs: scratch directories, cache directories and their locks, agents.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "builder/copy.h"
#include "builder/internal/agent_relay.h"
#include "builder/plan.h"
#include "builder/sandbox.h"
#include "layers/store.h"

namespace lamina::builder::internal {

// One cache mount: where its first content comes from.
struct CacheWish {
  const parser::Mount* mount = nullptr;
  std::shared_ptr<const SourceTree> seed;  // of `from`; null: empty at first
  std::string seed_key;                    // identifies it; another seed is another cache
};

class RunMounts {
 public:
  RunMounts(layers::Store& store, const BuildRequest& request, std::stop_token stop) : store_(store), request_(request), stop_(std::move(stop)) {}
  RunMounts(const RunMounts&) = delete;
  RunMounts& operator=(const RunMounts&) = delete;
  ~RunMounts();

  std::vector<SandboxMount> mounts;
  std::vector<std::pair<std::string, std::string>> environment;

  void add_tmpfs(const parser::Mount& m);
  // Bytes that exist in memory only, as a read-only file.
  void add_file(const std::string& target, std::string content, uint32_t mode, uint32_t uid, uint32_t gid);
  // kNotFound when it is required and was not given.
  Result<void> add_secret(const parser::Mount& m);
  Result<void> add_ssh(const parser::Mount& m);
  // A stage or image: an overlay of its layers, whose changes are thrown away.
  Result<void> add_stack(const parser::Mount& m, const std::vector<std::string>& bottom_first);
  // A context: its visible files in a directory of our own, owned by root as COPY would make them.
  Result<void> add_context(const parser::Mount& m, const Step& step, std::shared_ptr<const SourceTree> tree, ThreadPool& pool);
  void add_devices(const DeviceEdits& edits);

  // All cache mounts of the RUN, before any is added: takes their locks in one order for all processes, waiting
  // for others where the sharing mode says so (kCancelled when stopped). `afresh` empties those that have a seed or
  // an owner, unless somebody uses them.
  Result<void> open_caches(const std::vector<CacheWish>& wishes, bool afresh);
  Result<void> add_cache(const CacheWish& wish);

 private:
  struct Cache {
    std::string directory;
    FileLock lock;
  };
  Result<std::string> scratch_directory();
  std::string cache_directory(const CacheWish& wish) const;
  Result<FileLock> wait_for_lock(const std::string& path, FileLock::Mode mode);
  Result<void> make_cache(const CacheWish& wish, const std::string& directory);

  layers::Store& store_;
  const BuildRequest& request_;
  std::stop_token stop_;
  std::deque<layers::PendingLayer> scratch_;
  std::map<std::string, Cache> caches_;  // by the directory that the wish names
  std::vector<AgentRelay> agents_;
  int ssh_mounts_ = 0;
};

}  // namespace lamina::builder::internal
