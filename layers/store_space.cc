// A limit on what the store takes, kept while builds go on.
//
// What there is is measured exactly at the beginning, before large writes of known size, and whenever the file system has
// lost a part of the room that was left (statfs(2), asked 50 times a second, more often when little is left: it costs a
// microsecond and sees also what a RUN writes). When little room is left the oldest things go, under the exclusion of store_leases.cc, out of sight by
// rename and then for good. Several processes may do so at the same time.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <thread>

#include "base/text.h"
#include "layers/internal/needed.h"
#include "layers/internal/space_meter.h"
#include "layers/internal/store_impl.h"

namespace lamina::layers {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kFastest = 2048 * kMiB;  // bytes that a command may write in a second, into the page cache
constexpr std::chrono::microseconds kLongestTick{20'000}, kShortestTick{1'000};
constexpr std::chrono::milliseconds kNothingLeft{500};
// Others may free on the same file system what is written here: an exact look now and then, not too costly.
constexpr std::chrono::milliseconds kBlindest{100};
constexpr int kShareOfTime = 20;
constexpr uint64_t kLeastLook = 1 * kMiB;

// What the disk may fill between two looks, and until a command is ended, is left free while something is written.
uint64_t reserve_of(uint64_t limit) { return std::min(limit / 8, 128 * kMiB); }

uint64_t free_bytes(const std::string& path) {
  struct statvfs st {};
  return ::statvfs(path.c_str(), &st) == 0 ? static_cast<uint64_t>(st.f_bfree) * st.f_frsize : 0;
}

int64_t changed_at(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0 ? st.st_mtim.tv_sec : 0;
}

// Something that may go, as a whole.
struct Candidate {
  enum class Kind { kRecord, kCache, kRepository, kPartial };
  int64_t used = 0;
  Kind kind = Kind::kRecord;
  std::string name;  // of kRecord its path
  std::vector<LayerId> layers;
};

// Takes things out of sight. Made anew each time, while nobody takes a lease.
class Eviction {
 public:
  Eviction(Store::Impl& impl, const SpaceMeter::Measured& measured, std::string away) : impl_(impl), measured_(measured), away_(std::move(away)) {}

  // What images need and processes hold stays.
  Result<void> mark() {
    Marker marker(impl_, needed_);
    ASSIGN_OR_RETURN(const std::vector<ImageRecord> images, impl_.self->images());
    for (const ImageRecord& image : images) RETURN_IF_ERROR_WITH(marker.mark(image.descriptor), "looking at " + image.name);
    images_ = bytes_of_needed();
    ASSIGN_OR_RETURN(const std::set<std::string> held, impl_.scratch.held());
    for (const std::string& name : held) {
      if (name.starts_with("layer ")) marker.mark_layer(LayerId{name.substr(6)});
      if (name.starts_with("blob ")) needed_.blobs.insert(name.substr(5));
    }
    held_ = bytes_of_needed() - images_;
    return {};
  }

  Result<void> run(uint64_t wanted, const Store::LayersOfRecord& layers_of_record) {
    wanted_ = wanted;
    RETURN_IF_ERROR(dangling(layers_of_record));
    add_idle();
    std::stable_sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) { return a.used < b.used; });
    for (const Candidate& candidate : candidates_) {
      if (freed_ >= wanted_) break;
      RETURN_IF_ERROR(remove(candidate));
    }
    return {};
  }

  uint64_t freed() const { return freed_; }
  uint64_t images() const { return images_; }
  uint64_t held() const { return held_; }

 private:
  uint64_t bytes_of_needed() const {
    uint64_t bytes = 0;
    for (const std::string& layer : needed_.layers) bytes += size(measured_.layers, layer);
    for (const std::string& blob : needed_.blobs) bytes += size(measured_.blobs, blob);
    return bytes;
  }

  static uint64_t size(const std::map<std::string, uint64_t>& sizes, const std::string& name) {
    const auto it = sizes.find(name);
    return it == sizes.end() ? 0 : it->second;
  }

  // Out of everybody's sight; removed for good when others may go on.
  Result<void> take(const std::string& path, uint64_t bytes) {
    if (::rename(path.c_str(), (away_ + "/" + temporary_name("evicted")).c_str()) != 0 && errno != ENOENT) return system_error(errno, "rename", path);
    freed_ += bytes;
    return {};
  }

  // First what nothing names: of records that are gone, and of programs that were killed. Counts who else names a layer.
  Result<void> dangling(const Store::LayersOfRecord& layers_of_record) {
    ASSIGN_OR_RETURN(const std::vector<UsedRecord> records, list_records(impl_.path, layers_of_record));
    Needed recorded;
    Marker marker(impl_, recorded);
    for (const UsedRecord& record : records) {
      for (const LayerId& id : record.layers) {
        marker.mark_layer(id);
        ++records_of_[id.value];
      }
      const bool all_needed = !record.layers.empty() && std::all_of(record.layers.begin(), record.layers.end(), [&](const LayerId& id) { return needed_.layers.contains(id.value); });
      if (!all_needed) candidates_.push_back({record.used, Candidate::Kind::kRecord, record.path, record.layers});
    }
    if (::access((impl_.path + "/quarantine").c_str(), F_OK) == 0) RETURN_IF_ERROR(take(impl_.path + "/quarantine", DiskUsage().add(impl_.path + "/quarantine")));
    for (const auto& [layer, bytes] : measured_.layers) {
      if (!needed_.layers.contains(layer) && !recorded.layers.contains(layer)) RETURN_IF_ERROR(drop(layer));
    }
    // How many kept layers have a blob: two may have the same.
    for (const std::string& layer : recorded.layers) {
      if (needed_.layers.contains(layer)) continue;
      if (const auto meta = impl_.read_meta(LayerId{layer})) {
        for (const std::string& blob : blobs_of(*meta)) ++layers_of_[blob];
      }
    }
    for (const auto& [blob, bytes] : measured_.blobs) {
      if (!needed_.blobs.contains(blob) && !recorded.blobs.contains(blob)) RETURN_IF_ERROR(take(impl_.path + "/blobs/sha256/" + blob, bytes));
    }
    return {};
  }

  void add_idle() {
    for (const auto& [name, bytes] : measured_.caches) candidates_.push_back({changed_at(impl_.path + "/cache-mounts/" + name + ".lock"), Candidate::Kind::kCache, name, {}});
    for (const auto& [name, bytes] : measured_.repositories) {
      if (!name.ends_with(".lock")) candidates_.push_back({changed_at(impl_.path + "/git/" + name), Candidate::Kind::kRepository, name, {}});
    }
    for (const auto& [name, bytes] : measured_.partial) {
      if (!name.ends_with(".state")) candidates_.push_back({changed_at(impl_.path + "/partial/" + name), Candidate::Kind::kPartial, name, {}});
    }
  }

  Result<void> remove(const Candidate& candidate) {
    switch (candidate.kind) {
      case Candidate::Kind::kRecord: return remove_record(candidate);
      case Candidate::Kind::kCache: return remove_locked("/cache-mounts/" + candidate.name, size(measured_.caches, candidate.name));
      case Candidate::Kind::kRepository: return remove_locked("/git/" + candidate.name, size(measured_.repositories, candidate.name));
      case Candidate::Kind::kPartial: return remove_partial(impl_.path + "/partial/" + candidate.name, size(measured_.partial, candidate.name));
    }
    return {};
  }

  // The record, then what only it named: an interruption leaves nothing that looks whole and is not.
  Result<void> remove_record(const Candidate& record) {
    struct stat st {};
    if (::lstat(record.name.c_str(), &st) == 0) freed_ += static_cast<uint64_t>(st.st_blocks) * 512;
    if (::unlink(record.name.c_str()) != 0 && errno != ENOENT) return system_error(errno, "unlink", record.name);
    for (const LayerId& id : record.layers) {
      if (--records_of_[id.value] > 0 || needed_.layers.contains(id.value)) continue;
      const auto meta = impl_.read_meta(id);
      const std::vector<std::string> blobs = meta ? blobs_of(*meta) : std::vector<std::string>();
      RETURN_IF_ERROR(drop(id.value));
      for (const std::string& blob : blobs) {
        if (needed_.blobs.contains(blob) || --layers_of_[blob] > 0) continue;
        RETURN_IF_ERROR(take(impl_.path + "/blobs/sha256/" + blob, size(measured_.blobs, blob)));
      }
    }
    return {};
  }

  // The name of its content first.
  Result<void> drop(const std::string& layer) {
    const LayerId id{layer};
    if (const auto meta = impl_.read_meta(id); meta && meta->diff_id && impl_.linked_layer(*meta->diff_id) == id) ::unlink(impl_.diff_path(*meta->diff_id).c_str());
    return take(impl_.layer_path(id), size(measured_.layers, layer));
  }

  // Somebody's work in it ends before it goes, or it stays.
  Result<void> remove_locked(const std::string& name, uint64_t bytes) {
    const std::string path = impl_.path + name;
    ASSIGN_OR_RETURN(const std::optional<FileLock> lock, FileLock::try_acquire(AT_FDCWD, path + ".lock", FileLock::Mode::kExclusive));
    if (!lock) return {};
    RETURN_IF_ERROR(take(path, bytes));
    ::unlink((path + ".lock").c_str());
    return {};
  }

  Result<void> remove_partial(const std::string& path, uint64_t bytes) {
    const auto fd = open_at(AT_FDCWD, path, O_RDONLY);
    if (!fd || ::flock(fd->get(), LOCK_EX | LOCK_NB) != 0) return {};
    ::unlink((path + ".state").c_str());
    return take(path, bytes);
  }

  Store::Impl& impl_;
  const SpaceMeter::Measured& measured_;
  const std::string away_;
  Needed needed_;
  std::vector<Candidate> candidates_;
  std::map<std::string, int> records_of_, layers_of_;
  uint64_t wanted_ = 0, freed_ = 0, images_ = 0, held_ = 0;
};

}  // namespace

class SpaceKeeper {
 public:
  SpaceKeeper(Store::Impl& impl, Store::SpaceLimit limit) : impl_(impl), limit_(std::move(limit)), reserve_(reserve_of(limit_.bytes)), meter_(impl.path) {}

  // Apart from the constructor, so that the first look can fail.
  Result<void> start() {
    RETURN_IF_ERROR(look(0, limit_.bytes));
    monitor_ = std::jthread([this](const std::stop_token& stop) { watch(stop); });
    return {};
  }

  void stop() {
    monitor_ = {};
    ignore_error(check(), "the work is done, and the next build looks again");
    meter_.save();
  }

  // Little was written since the last look: what was true then is true now.
  Result<void> check() { return free_bytes(impl_.path) >= next_look_free_ ? Result<void>() : look(0, limit_.bytes); }

  Result<void> make_room(uint64_t bytes, bool exact) {
    auto fits = look(bytes, limit_.bytes);
    if (fits || !exact) return {};
    return fits;
  }

 private:
  // Measures; removes when less than two reserves are left after `coming` bytes more, until there are three. kUnavailable
  // when there are still more than `most`.
  Result<void> look(uint64_t coming, uint64_t most) {
    const std::lock_guard only_one(mutex_);
    SpaceMeter::Measured measured = measure();
    if (measured.total + coming + 2 * reserve_ <= limit_.bytes) return {};
    // Nothing was left to remove a moment ago, and a command that writes must be ended soon.
    if (Clock::now() > nothing_left_until_) {
      impl_.scratch.settle();
      RETURN_IF_ERROR(evict(coming));
      measured = measure();
    }
    if (measured.total + coming <= most) return {};
    return does_not_fit(measured, coming);
  }

  SpaceMeter::Measured measure() {
    const uint64_t free = free_bytes(impl_.path);
    SpaceMeter::Measured measured = meter_.measure();
    const uint64_t room = measured.total < limit_.bytes ? limit_.bytes - measured.total : 0;
    next_look_free_ = free - std::min(free, std::max(room / 4, kLeastLook));
    return measured;
  }

  // What goes is removed for good at the end of `away`, when others may go on.
  Result<void> evict(uint64_t coming) {
    ASSIGN_OR_RETURN(const std::string scratch, impl_.scratch.directory());
    ASSIGN_OR_RETURN(const TempDir away, TempDir::create(scratch, "evicted"));
    ASSIGN_OR_RETURN(const FileLock gate, impl_.scratch.keep_others_from_holding());
    // Others may have removed the same meanwhile.
    const SpaceMeter::Measured measured = meter_.measure();
    const uint64_t goal = limit_.bytes - 3 * reserve_;
    Eviction eviction(impl_, measured, away.path());
    RETURN_IF_ERROR(eviction.mark());
    split_ = {eviction.images(), eviction.held()};
    if (measured.total + coming > goal) RETURN_IF_ERROR(eviction.run(measured.total + coming - goal, limit_.layers_of_record));
    if (eviction.freed() == 0) nothing_left_until_ = Clock::now() + kNothingLeft;
    return {};
  }

  Error does_not_fit(const SpaceMeter::Measured& measured, uint64_t coming) const {
    const auto sum = [](const std::map<std::string, uint64_t>& sizes) {
      uint64_t total = 0;
      for (const auto& [name, bytes] : sizes) total += bytes;
      return total;
    };
    Error error(ErrorKind::kUnavailable, fmt::format("the store may take {} (--max-used-space), and what is in use needs {}", human_size(limit_.bytes), human_size(measured.total + coming)));
    const std::pair<const char*, uint64_t> parts[] = {{"images with a name (build rmi)", split_.images},
                                                      {"what running builds use, this one too", split_.held},
                                                      {"what is being written", measured.tmp},
                                                      {"what would be written next", coming},
                                                      {"cache mounts in use", sum(measured.caches)},
                                                      {"git repositories in use", sum(measured.repositories)},
                                                      {"downloads under way", sum(measured.partial)}};
    for (const auto& [what, bytes] : parts) {
      if (bytes > 0) error = std::move(error).with_note(fmt::format("{}: {}", what, human_size(bytes)));
    }
    return error;
  }

  void watch(const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any never;
    uint64_t free = free_bytes(impl_.path);
    while (!stop.stop_requested()) {
      const uint64_t left = free > next_look_free_ ? free - next_look_free_ : 0;
      const std::chrono::microseconds until(left / 2 * 1'000'000 / kFastest);
      std::unique_lock lock(mutex);
      never.wait_for(lock, stop, std::clamp(until, kShortestTick, kLongestTick), [] { return false; });
      free = free_bytes(impl_.path);
      if (stop.stop_requested() || (free >= next_look_free_ && Clock::now() < next_look_)) continue;
      const auto began = Clock::now();
      auto fits = look(0, limit_.bytes - reserve_);
      next_look_ = Clock::now() + std::max<Clock::duration>(kBlindest, kShareOfTime * (Clock::now() - began));
      if (fits || told_) continue;
      told_ = true;
      if (limit_.exceeded) limit_.exceeded(std::move(fits).error());
    }
  }

  Store::Impl& impl_;
  const Store::SpaceLimit limit_;
  const uint64_t reserve_;
  struct Split {
    uint64_t images = 0, held = 0;
  };
  std::mutex mutex_;
  SpaceMeter meter_;                          // under mutex_, as the next two
  Split split_;                               // of the last time that room was made
  Clock::time_point nothing_left_until_;
  std::atomic<uint64_t> next_look_free_{0};   // with less free than that it is time to look
  bool told_ = false;                         // of the thread, as the next
  Clock::time_point next_look_ = Clock::now() + kBlindest;
  std::jthread monitor_;                      // last: it uses the rest
};

Result<void> Store::Impl::make_room(uint64_t bytes, bool exact) {
  // Small things are met by the reserve.
  if (!keeper || bytes < kMiB) return {};
  return keeper->make_room(bytes, exact);
}

Result<void> Store::limit_space(SpaceLimit limit) {
  auto keeper = std::make_shared<SpaceKeeper>(*impl_, std::move(limit));
  RETURN_IF_ERROR(keeper->start());
  impl_->keeper = std::move(keeper);
  return {};
}

void Store::end_limit() {
  if (impl_->keeper) impl_->keeper->stop();
  impl_->keeper.reset();
}

Result<void> Store::check_space() { return impl_->keeper ? impl_->keeper->check() : Result<void>(); }

}  // namespace lamina::layers
