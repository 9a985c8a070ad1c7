#include "layers/internal/space_meter.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/files.h"
#include "base/text.h"
#include "base/time.h"
#include "layers/internal/needed.h"

namespace lamina::layers {

namespace {

// A directory changed so shortly ago may change again within the same tick of its clock.
constexpr int64_t kSettledNs = 100'000'000;

int64_t now_ns() {
  const Timestamp t = now();
  return t.seconds * 1'000'000'000 + t.nanoseconds;
}

uint64_t own_blocks(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
}

std::vector<std::string> list(const std::string& path) { return names_in(path).value_or(std::vector<std::string>()); }

}  // namespace

SpaceMeter::SpaceMeter(std::string store) : store_(std::move(store)) {
  const auto text = read_file_if_exists(AT_FDCWD, store_ + "/sizes");
  if (!text || !*text) return;
  for (const std::string& line : split(**text, '\n')) {
    const std::vector<std::string> words = split(line, ' ');
    const auto changed = words.size() == 3 ? parse_int(words[1]) : std::nullopt;
    const auto bytes = words.size() == 3 ? parse_uint(words[2]) : std::nullopt;
    if (changed && bytes) known_[words[0]] = {*changed, *bytes};
  }
}

uint64_t SpaceMeter::remembered(const std::string& name, const std::string& clock) {
  struct stat st {};
  if (::lstat((store_ + "/" + clock).c_str(), &st) != 0) return 0;
  seen_.push_back(name);
  const int64_t changed = st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec;
  if (const auto it = known_.find(name); it != known_.end() && it->second.changed_ns == changed) return it->second.bytes;
  const uint64_t bytes = DiskUsage().add(store_ + "/" + name);
  changed_ = true;
  if (now_ns() - changed > kSettledNs) {
    known_[name] = {changed, bytes};
  } else {
    known_.erase(name);
  }
  return bytes;
}

uint64_t SpaceMeter::files(const std::string& room, std::map<std::string, uint64_t>* sizes) {
  const std::string directory = store_ + "/" + room;
  uint64_t total = own_blocks(directory);
  for (const std::string& name : list(directory)) {
    const uint64_t bytes = own_blocks(directory + "/" + name);
    total += bytes;
    if (sizes != nullptr) (*sizes)[name] = bytes;
  }
  return total;
}

uint64_t SpaceMeter::trees(const std::string& room, std::map<std::string, uint64_t>& sizes) {
  const std::string directory = store_ + "/" + room;
  uint64_t total = own_blocks(directory);
  for (const std::string& name : list(directory)) total += sizes[name] = DiskUsage().add(directory + "/" + name);
  return total;
}

// What a command does to its cache is over when its lock file has been touched; until then it is walked through.
uint64_t SpaceMeter::caches(Measured& measured) {
  const std::string directory = store_ + "/cache-mounts";
  uint64_t total = own_blocks(directory);
  for (const std::string& name : list(directory)) {
    uint64_t bytes = 0;
    if (name.ends_with(".lock")) {
      bytes = own_blocks(directory + "/" + name);
    } else {
      const auto idle = FileLock::try_acquire(AT_FDCWD, directory + "/" + name + ".lock", FileLock::Mode::kExclusive);
      const bool unused = idle && *idle;
      bytes = unused ? remembered("cache-mounts/" + name, "cache-mounts/" + name + ".lock") : DiskUsage().add(directory + "/" + name);
      measured.caches[name] = bytes;
    }
    total += bytes;
  }
  return total;
}

SpaceMeter::Measured SpaceMeter::measure() {
  Measured measured;
  seen_.clear();
  uint64_t total = own_blocks(store_) + own_blocks(store_ + "/layers") + own_blocks(store_ + "/blobs");
  for (const std::string& name : list(store_ + "/layers")) {
    const uint64_t bytes = name.front() == '.' ? own_blocks(store_ + "/layers/" + name) : remembered("layers/" + name, "layers/" + name);
    if (name.front() != '.') measured.layers[name] = bytes;
    total += bytes;
  }
  total += files("blobs/sha256", &measured.blobs);
  total += files("partial", &measured.partial);
  total += trees("git", measured.repositories);
  total += caches(measured);
  measured.tmp = DiskUsage().add(store_ + "/tmp");
  total += measured.tmp;
  for (const std::string& name : list(store_)) {
    static const std::vector<std::string> kDone = {"blobs", "cache-mounts", "git", "layers", "partial", "tmp"};
    if (!std::binary_search(kDone.begin(), kDone.end(), name)) total += DiskUsage().add(store_ + "/" + name);
  }
  measured.total = total;
  return measured;
}

void SpaceMeter::save() {
  if (!changed_) return;
  std::sort(seen_.begin(), seen_.end());
  std::string text;
  for (const auto& [name, known] : known_) {
    if (std::binary_search(seen_.begin(), seen_.end(), name)) text += fmt::format("{} {} {}\n", name, known.changed_ns, known.bytes);
  }
  ignore_error(write_file_atomically(AT_FDCWD, store_ + "/sizes", text, Durability::kNone, 0600), "then the next process measures again");
  changed_ = false;
}

}  // namespace lamina::layers
