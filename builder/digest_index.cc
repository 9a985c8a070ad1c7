#include "builder/digest_index.h"

#include <time.h>

#include <cstring>

namespace lamina::builder {

namespace {

constexpr std::string_view kFormat = "lamina-digests 2\n";
// The kernel stamps files with a clock of up to 10 ms granularity (CONFIG_HZ=100).
constexpr int64_t kClockGranularityNs = 20'000'000;
constexpr size_t kNumbers = 8;
// Numbers, digest, flags, length of the name.
constexpr size_t kFixed = kNumbers * 8 + 32 + 1 + 2;
constexpr unsigned char kNoXattrs = 1;

template <typename T>
T number_at(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <typename T>
void append_number(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string_view name_at(const char* record) {
  return {record + kFixed, number_at<uint16_t>(record + kFixed - 2)};
}

const char* next_record(const char* record) { return record + kFixed + number_at<uint16_t>(record + kFixed - 2); }

// Whether `count` whole records stand between `at` and `end`; moves `at` behind them.
bool skip_records(const char*& at, const char* end, uint32_t count) {
  for (; count > 0; --count) {
    if (end - at < static_cast<ptrdiff_t>(kFixed)) return false;
    const uint16_t length = number_at<uint16_t>(at + kFixed - 2);
    if (end - at - static_cast<ptrdiff_t>(kFixed) < length) return false;
    at += kFixed + length;
  }
  return true;
}

std::pair<std::string, std::string> split_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {"", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

int64_t realtime_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

std::shared_ptr<DigestIndex> DigestIndex::load(layers::Store& store, const std::string& name) {
  auto index = std::make_shared<DigestIndex>();
  index->name_ = name;
  auto text = store.index(name);
  if (!text || !*text || !std::string_view(**text).starts_with(kFormat)) return index;
  index->text_ = std::move(**text);
  const char* at = index->text_.data() + kFormat.size();
  const char* const end = index->text_.data() + index->text_.size();
  while (end - at >= 4) {
    const auto length = number_at<uint32_t>(at);
    if (static_cast<uint64_t>(end - at) < uint64_t{length} + 8) break;
    const std::string_view path(at + 4, length);
    Place place{at + 8 + length, number_at<uint32_t>(at + 4 + length)};
    at = place.records;
    if (!skip_records(at, end, place.count)) break;  // what was read so far is sound
    index->directories_.emplace_hint(index->directories_.end(), path, place);
  }
  return index;
}

DigestIndex::Directory DigestIndex::directory(std::string_view path) const {
  Directory directory;
  const auto it = directories_.find(path);
  if (it == directories_.end()) return directory;
  directory.begin_ = directory.at_ = it->second.records;
  directory.count_ = it->second.count;
  return directory;
}

bool DigestIndex::Directory::find(std::string_view name, const Stat& stat, Found& found) {
  if (count_ == 0) return false;
  // Names in byte order are found one after the other; anything else starts again.
  if (number_ == count_ || name_at(at_) > name) {
    at_ = begin_;
    number_ = 0;
  }
  while (number_ < count_ && name_at(at_) < name) {
    at_ = next_record(at_);
    ++number_;
  }
  if (number_ == count_ || name_at(at_) != name) return false;
  const char* const record = at_;
  int64_t numbers[kNumbers];
  std::memcpy(numbers, record, sizeof numbers);
  const Stat known{static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1]), static_cast<uint64_t>(numbers[2]),
                   numbers[3], numbers[4], numbers[5], numbers[6]};
  if (!(known == stat)) return false;
  const int64_t ctime = stat.ctime_s * 1'000'000'000LL + stat.ctime_ns;
  if (ctime + kClockGranularityNs >= numbers[7]) return false;  // racily clean
  std::memcpy(found.digest.data(), record + kNumbers * 8, found.digest.size());
  found.no_xattrs = (static_cast<unsigned char>(record[kFixed - 3]) & kNoXattrs) != 0;
  return true;
}

bool DigestIndex::find(const std::string& path, const Stat& stat, Found& found) const {
  const auto [parent, name] = split_path(path);
  Directory records = directory(parent);
  return records.find(name, stat, found);
}

void DigestIndex::put(const std::string& path, const Stat& stat, const Found& found, int64_t read_at_ns) {
  auto [parent, name] = split_path(path);
  if (name.size() > UINT16_MAX) return;
  (*fresh_.lock())[std::move(parent)].insert_or_assign(std::move(name), Known{stat, read_at_ns, found});
}

Result<void> DigestIndex::save(layers::Store& store, const std::function<bool(const std::string& path)>& exists) {
  auto fresh = fresh_.lock();
  if (fresh->empty()) return {};
  std::string out(kFormat);
  out.reserve(text_.size());
  const auto begin_directory = [&](std::string_view path) {
    append_number(out, static_cast<uint32_t>(path.size()));
    out += path;
    append_number(out, uint32_t{0});
    return out.size() - sizeof(uint32_t);
  };
  const auto append_fresh = [&](const std::string& name, const Known& known) {
    const Stat& s = known.stat;
    for (const int64_t number : {static_cast<int64_t>(s.device), static_cast<int64_t>(s.inode), static_cast<int64_t>(s.size), s.mtime_s,
                                 s.mtime_ns, s.ctime_s, s.ctime_ns, known.read_at_ns}) {
      append_number(out, number);
    }
    out.append(reinterpret_cast<const char*>(known.found.digest.data()), known.found.digest.size());
    out += static_cast<char>(known.found.no_xattrs ? kNoXattrs : 0);
    append_number(out, static_cast<uint16_t>(name.size()));
    out += name;
  };
  const auto merge = [&](std::string_view path, const Place* old, const std::map<std::string, Known>* added) {
    const size_t count_at = begin_directory(path);
    uint32_t count = 0;
    const char* at = old == nullptr ? nullptr : old->records;
    uint32_t left = old == nullptr ? 0 : old->count;
    static const std::map<std::string, Known> kNone;
    auto next = (added == nullptr ? kNone : *added).begin();
    const auto end = (added == nullptr ? kNone : *added).end();
    while (left > 0 || next != end) {
      if (left > 0 && (next == end || name_at(at) < next->first)) {
        const std::string name(name_at(at));
        const char* const after = next_record(at);
        if (added == nullptr || exists(path.empty() ? name : std::string(path) + "/" + name)) {
          out.append(at, static_cast<size_t>(after - at));
          ++count;
        }
        at = after;
        --left;
        continue;
      }
      if (left > 0 && name_at(at) == next->first) {
        at = next_record(at);
        --left;
      }
      append_fresh(next->first, next->second);
      ++count;
      ++next;
    }
    std::memcpy(out.data() + count_at, &count, sizeof count);
  };
  auto old = directories_.begin();
  auto added = fresh->begin();
  while (old != directories_.end() || added != fresh->end()) {
    if (added == fresh->end() || (old != directories_.end() && old->first < added->first)) {
      merge(old->first, &old->second, nullptr);
      ++old;
    } else if (old == directories_.end() || added->first < old->first) {
      merge(added->first, nullptr, &added->second);
      ++added;
    } else {
      merge(old->first, &old->second, &added->second);
      ++old;
      ++added;
    }
  }
  fresh->clear();
  return store.put_index(name_, out);
}

}  // namespace lamina::builder
