#include "builder/digest_index.h"

#include <libdeflate.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <queue>
#include <unordered_set>
#include <vector>

#include "base/files.h"
#include "base/guarded.h"
#include "base/spool.h"
#include "builder/internal/paths.h"

namespace lamina::builder {

namespace {

using layers::path_less;

constexpr std::string_view kFormat = "lamina-digests 3\n";
constexpr size_t kBlock = 32 * 1024;  // bytes of records, from which on a new block is begun
constexpr size_t kTrailer = 8 + 4 + 4;
constexpr size_t kBlocksInMemory = 16;
// What was put is sorted and laid aside when it has become so many records.
constexpr size_t kFresh = 8192;
// Above this many directories with new records all count as such.
constexpr size_t kDirectories = 100'000;
// The kernel stamps files with a clock of up to 10 ms granularity (CONFIG_HZ=100).
constexpr int64_t kClockGranularityNs = 20'000'000;
constexpr unsigned char kNoXattrs = 1;

template <typename T>
void append_number(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Takes numbers and bytes from the front of what is left; false when there is not enough.
struct Bytes {
  std::string_view left;
  template <typename T>
  bool take(T& value) {
    if (left.size() < sizeof value) return false;
    std::memcpy(&value, left.data(), sizeof value);
    left.remove_prefix(sizeof value);
    return true;
  }
  bool take(size_t count, std::string_view& bytes) {
    if (left.size() < count) return false;
    bytes = left.substr(0, count);
    left.remove_prefix(count);
    return true;
  }
};

struct Known {
  DigestIndex::Stat stat;
  int64_t read_at_ns = 0;
  DigestIndex::Found found;
};

struct Record {
  std::string path;
  Known known;
};

void append_record(std::string& out, std::string_view before, std::string_view path, const Known& known) {
  const auto same = static_cast<size_t>(std::mismatch(before.begin(), before.end(), path.begin(), path.end()).first - before.begin());
  const DigestIndex::Stat& s = known.stat;
  const int64_t numbers[] = {static_cast<int64_t>(s.device), static_cast<int64_t>(s.inode), static_cast<int64_t>(s.size), s.mtime_s, s.mtime_ns, s.ctime_s, s.ctime_ns, known.read_at_ns};
  append_number(out, numbers);
  append_number(out, known.found.digest);
  append_number(out, static_cast<unsigned char>(known.found.no_xattrs ? kNoXattrs : 0));
  append_number(out, static_cast<uint16_t>(same));
  append_number(out, static_cast<uint16_t>(path.size() - same));
  out += path.substr(same);
}

// Of what append_record wrote; `path` holds the path before it.
bool take_record(Bytes& bytes, std::string& path, Known& known) {
  int64_t numbers[8];
  unsigned char flags = 0;
  uint16_t same = 0, others = 0;
  std::string_view rest;
  Sha256Bytes digest{};
  if (!bytes.take(numbers) || !bytes.take(digest) || !bytes.take(flags) || !bytes.take(same) || !bytes.take(others) || !bytes.take(others, rest) || same > path.size()) return false;
  known.stat = {static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1]), static_cast<uint64_t>(numbers[2]), numbers[3], numbers[4], numbers[5], numbers[6]};
  known.read_at_ns = numbers[7];
  known.found = {digest, (flags & kNoXattrs) != 0};
  path.resize(same);
  path += rest;
  return true;
}

uint32_t checksum(std::string_view bytes) { return libdeflate_crc32(0, bytes.data(), bytes.size()); }

// An index as a file.
class IndexFile {
 public:
  struct Place {
    uint64_t offset = 0;
    uint32_t size = 0;  // with the checksum
    std::string first;  // path
  };
  using Block = std::shared_ptr<const std::string>;  // records; null when damaged

  // Without a file there are no blocks.
  void open(UniqueFd fd) {
    const off_t end = ::lseek(fd.get(), 0, SEEK_END);
    if (end < static_cast<off_t>(kFormat.size() + kTrailer)) return;
    fd_ = std::move(fd);
    // Of a small index this is all.
    const auto size = static_cast<uint64_t>(end);
    tail_.resize(std::min<uint64_t>(size, 2 * kBlock));
    tail_at_ = size - tail_.size();
    if (!read_exactly_at(fd_.get(), tail_at_, std::as_writable_bytes(std::span(tail_))) || !read_table(size)) blocks_.clear();
  }

  size_t size() const { return blocks_.size(); }
  const Place& place(size_t number) const { return blocks_[number]; }

  // The only block in which the path may be; size() when it is before all.
  size_t block_of(std::string_view path) const {
    const auto after = std::partition_point(blocks_.begin(), blocks_.end(), [&](const Place& place) { return !path_less(path, place.first); });
    return after == blocks_.begin() ? size() : static_cast<size_t>(after - blocks_.begin()) - 1;
  }

  Block block(size_t number) const {
    {
      auto cached = cached_.lock();
      for (const auto& [known, block] : *cached) {
        if (known == number) return block;
      }
    }
    std::string bytes = read(blocks_[number].offset, blocks_[number].size);
    Block block;
    if (bytes.size() >= 4) {
      uint32_t expected = 0;
      std::memcpy(&expected, bytes.data() + bytes.size() - 4, 4);
      bytes.resize(bytes.size() - 4);
      if (checksum(bytes) == expected) block = std::make_shared<const std::string>(std::move(bytes));
    }
    auto cached = cached_.lock();
    if (cached->size() == kBlocksInMemory) cached->erase(cached->begin());
    cached->emplace_back(number, block);
    return block;
  }

 private:
  // Empty when it cannot be read.
  std::string read(uint64_t offset, uint64_t size) const {
    if (offset >= tail_at_ && offset - tail_at_ + size <= tail_.size()) return tail_.substr(offset - tail_at_, size);
    std::string bytes(size, '\0');
    return read_exactly_at(fd_.get(), offset, std::as_writable_bytes(std::span(bytes))) ? bytes : std::string();
  }

  bool read_table(uint64_t file_size) {
    if (read(0, kFormat.size()) != kFormat) return false;
    Bytes trailer{std::string_view(tail_).substr(tail_.size() - kTrailer)};
    uint64_t at = 0;
    uint32_t expected = 0, count = 0;
    trailer.take(at);
    trailer.take(expected);
    trailer.take(count);
    const uint64_t end = file_size - kTrailer;
    if (at < kFormat.size() || at > end) return false;
    const std::string table = read(at, end - at);
    if (table.size() != end - at || checksum(table) != expected) return false;
    Bytes bytes{table};
    for (; count > 0; --count) {
      Place place;
      uint16_t length = 0;
      std::string_view first;
      if (!bytes.take(place.offset) || !bytes.take(place.size) || !bytes.take(length) || !bytes.take(length, first)) return false;
      if (place.offset > at || place.size > at - place.offset) return false;
      place.first = first;
      blocks_.push_back(std::move(place));
    }
    return true;
  }

  UniqueFd fd_;
  std::string tail_;
  uint64_t tail_at_ = 0;
  std::vector<Place> blocks_;
  mutable Guarded<std::vector<std::pair<size_t, Block>>> cached_;
};

// Writes an index from records in order.
class IndexWriter {
 public:
  explicit IndexWriter(ByteSink& sink) : sink_(sink), block_(kFormat) {}

  Result<void> add(std::string_view path, const Known& known) {
    if (block_.size() - begin_ >= kBlock) RETURN_IF_ERROR(end_block());
    if (first_.empty()) {
      first_ = path;
      begin_ = block_.size();
      before_.clear();
    }
    append_record(block_, before_, path, known);
    before_ = path;
    return {};
  }

  Result<void> finish() {
    RETURN_IF_ERROR(end_block());
    const uint64_t at = written_ + block_.size();
    const uint32_t crc = checksum(table_);
    block_ += table_;
    append_number(block_, at);
    append_number(block_, crc);
    append_number(block_, count_);
    return sink_.write(std::as_bytes(std::span(block_)));
  }

 private:
  Result<void> end_block() {
    if (first_.empty()) return {};
    append_number(block_, checksum(std::string_view(block_).substr(begin_)));
    append_number(table_, written_ + begin_);
    append_number(table_, static_cast<uint32_t>(block_.size() - begin_));
    append_number(table_, static_cast<uint16_t>(first_.size()));
    table_ += first_;
    ++count_;
    first_.clear();
    RETURN_IF_ERROR(sink_.write(std::as_bytes(std::span(block_))));
    written_ += block_.size();
    block_.clear();
    begin_ = 0;
    return {};
  }

  ByteSink& sink_;
  std::string block_, before_, first_, table_;
  size_t begin_ = 0;  // of the block in `block_`
  uint64_t written_ = 0;
  uint32_t count_ = 0;
};

// Records in order.
class RecordSource {
 public:
  virtual ~RecordSource() = default;
  // False at the end; `record` keeps its value from one call to the next.
  virtual Result<bool> next(Record& record) = 0;
};

class RecordsOfFile : public RecordSource {
 public:
  explicit RecordsOfFile(const IndexFile& file) : file_(file) {}
  Result<bool> next(Record& record) override {
    while (bytes_.left.empty() || !take_record(bytes_, record.path, record.known)) {
      bytes_ = {};
      if (number_ == file_.size()) return false;
      block_ = file_.block(number_++);
      if (block_) bytes_ = {*block_};
      record.path.clear();
    }
    return true;
  }

 private:
  const IndexFile& file_;
  size_t number_ = 0;
  IndexFile::Block block_;
  Bytes bytes_;
};

// What was put, laid aside in order: a part of a spool.
struct Run {
  uint64_t begin = 0;
  size_t count = 0;
};

class RecordsOfRun : public RecordSource {
 public:
  RecordsOfRun(const Spool& spool, const Run& run) : spool_(spool), left_(run.count), next_(run.begin) {}
  Result<bool> next(Record& record) override {
    if (left_ == 0) return false;
    --left_;
    while (true) {
      Bytes bytes{std::string_view(buffer_).substr(at_)};
      if (take_record(bytes, record.path, record.known)) {
        at_ = buffer_.size() - bytes.left.size();
        return true;
      }
      buffer_.erase(0, at_);
      at_ = 0;
      const size_t have = buffer_.size();
      buffer_.resize(have + kRead);
      ASSIGN_OR_RETURN(const size_t got, spool_.read_at(next_, std::as_writable_bytes(std::span(buffer_).subspan(have))));
      buffer_.resize(have + got);
      next_ += got;
      if (got == 0) return Error(ErrorKind::kInternal, "records of the index ended early");
    }
  }

 private:
  static constexpr size_t kRead = 16 * 1024;
  const Spool& spool_;
  size_t left_;
  uint64_t next_;
  std::string buffer_;
  size_t at_ = 0;
};

// Several sources as one; of records of one path the one of the last source counts.
class Merge {
 public:
  explicit Merge(std::vector<std::unique_ptr<RecordSource>> sources) {
    heads_.resize(sources.size());
    for (size_t i = 0; i < sources.size(); ++i) heads_[i].source = std::move(sources[i]);
  }
  Result<void> start() {
    for (size_t i = 0; i < heads_.size(); ++i) RETURN_IF_ERROR(advance(i));
    return {};
  }
  // False at the end. `source`: which one counted.
  Result<bool> next(Record& record, size_t& source) {
    if (order_.empty()) return false;
    record.path = heads_[order_.top()].record.path;
    while (!order_.empty() && heads_[order_.top()].record.path == record.path) {
      source = order_.top();
      order_.pop();
      record.known = heads_[source].record.known;
      RETURN_IF_ERROR(advance(source));
    }
    return true;
  }

 private:
  struct Head {
    std::unique_ptr<RecordSource> source;
    Record record;
  };
  struct Later {
    const std::vector<Head>& heads;
    bool operator()(size_t a, size_t b) const {
      return heads[a].record.path == heads[b].record.path ? a > b : path_less(heads[b].record.path, heads[a].record.path);
    }
  };
  Result<void> advance(size_t head) {
    ASSIGN_OR_RETURN(const bool more, heads_[head].source->next(heads_[head].record));
    if (more) order_.push(head);
    return {};
  }
  std::vector<Head> heads_;
  std::priority_queue<size_t, std::vector<size_t>, Later> order_{Later{heads_}};
};

}  // namespace

int64_t realtime_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

struct DigestIndex::Impl {
  struct Fresh {
    std::vector<Record> records;
    Spool laid_aside;
    std::vector<Run> runs;
    std::unordered_set<uint64_t> directories;  // hashes of those that hold what was put
    std::optional<Error> failed;
  };

  Impl(layers::Store& s, std::string n) : store(s), name(std::move(n)) { forget(*fresh.lock()); }

  void forget(Fresh& held) const {
    held = {};
    held.laid_aside = Spool(store.temporary_files());
  }

  // Sorts what is in memory and lays it aside.
  void lay_aside(Fresh& held) const {
    std::stable_sort(held.records.begin(), held.records.end(), [](const Record& a, const Record& b) { return path_less(a.path, b.path); });
    Run run{held.laid_aside.size(), 0};
    std::string_view before;
    std::string bytes;
    for (size_t i = 0; i < held.records.size(); ++i) {
      const Record& record = held.records[i];
      if (i + 1 < held.records.size() && held.records[i + 1].path == record.path) continue;  // the last one counts
      bytes.clear();
      append_record(bytes, before, record.path, record.known);
      before = record.path;
      ++run.count;
      if (auto kept = held.laid_aside.append(bytes); !kept) {
        held.failed = std::move(kept).error();
        return;
      }
    }
    held.records.clear();
    held.runs.push_back(run);
  }

  static bool touched(const Fresh& held, const std::string& path) {
    return held.directories.size() > kDirectories || held.directories.contains(std::hash<std::string>()(internal::parent_of(path)));
  }

  layers::Store& store;
  const std::string name;
  IndexFile file;
  Guarded<Fresh> fresh;
};

DigestIndex::DigestIndex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DigestIndex::~DigestIndex() = default;

std::shared_ptr<DigestIndex> DigestIndex::load(layers::Store& store, const std::string& name) {
  auto impl = std::make_unique<Impl>(store, name);
  if (auto fd = store.open_index(name); fd && *fd) impl->file.open(*std::move(fd));
  return std::shared_ptr<DigestIndex>(new DigestIndex(std::move(impl)));
}

struct DigestIndex::Cursor::Position {
  size_t number = SIZE_MAX;  // of the block
  IndexFile::Block block;
  Bytes bytes;               // what follows the record
  std::string path;          // of the record; empty before the first
  Known known;
};

DigestIndex::Cursor::Cursor(const DigestIndex& index) : index_(index), position_(std::make_unique<Position>()) {}
DigestIndex::Cursor::~Cursor() = default;

bool DigestIndex::Cursor::find(std::string_view path, const Stat& stat, Found& found) {
  const IndexFile& file = index_.impl_->file;
  if (file.size() == 0) return false;
  Position& at = *position_;
  const bool same_block = at.number < file.size() && !path_less(path, file.place(at.number).first) &&
                          (at.number + 1 == file.size() || path_less(path, file.place(at.number + 1).first));
  if (!same_block || at.path.empty() || path_less(path, at.path)) {
    const size_t number = same_block ? at.number : file.block_of(path);
    if (number == file.size()) return false;
    if (number != at.number) at.block = file.block(number);
    at.number = number;
    at.path.clear();
    at.bytes = {at.block ? std::string_view(*at.block) : std::string_view()};
    if (!take_record(at.bytes, at.path, at.known)) {
      at.path.clear();
      return false;
    }
  }
  while (path_less(at.path, path)) {
    if (!take_record(at.bytes, at.path, at.known)) return false;  // the path stays, before what was asked for
  }
  if (at.path != path || !(at.known.stat == stat)) return false;
  const int64_t ctime = stat.ctime_s * 1'000'000'000LL + stat.ctime_ns;
  if (ctime + kClockGranularityNs >= at.known.read_at_ns) return false;  // racily clean
  found = at.known.found;
  return true;
}

bool DigestIndex::find(std::string_view path, const Stat& stat, Found& found) const { return Cursor(*this).find(path, stat, found); }

void DigestIndex::put(std::string_view path, const Stat& stat, const Found& found, int64_t read_at_ns) {
  if (path.empty() || path.size() > UINT16_MAX) return;
  auto fresh = impl_->fresh.lock();
  if (fresh->failed) return;
  fresh->records.push_back({std::string(path), {stat, read_at_ns, found}});
  if (fresh->directories.size() <= kDirectories) fresh->directories.insert(std::hash<std::string>()(internal::parent_of(std::string(path))));
  if (fresh->records.size() >= kFresh) impl_->lay_aside(*fresh);
}

Result<void> DigestIndex::save(const std::function<bool(const std::string& path)>& exists) {
  auto fresh = impl_->fresh.lock();
  if (fresh->failed) return *fresh->failed;
  if (fresh->records.empty() && fresh->runs.empty()) return {};
  impl_->lay_aside(*fresh);
  if (fresh->failed) return *fresh->failed;
  const auto write = [&](ByteSink& sink) -> Result<void> {
    std::vector<std::unique_ptr<RecordSource>> sources;
    sources.push_back(std::make_unique<RecordsOfFile>(impl_->file));
    for (const Run& run : fresh->runs) sources.push_back(std::make_unique<RecordsOfRun>(fresh->laid_aside, run));
    Merge merge(std::move(sources));
    RETURN_IF_ERROR(merge.start());
    IndexWriter writer(sink);
    Record record;
    size_t source = 0;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, merge.next(record, source));
      if (!more) return writer.finish();
      if (source == 0 && Impl::touched(*fresh, record.path) && !exists(record.path)) continue;
      RETURN_IF_ERROR(writer.add(record.path, record.known));
    }
  };
  auto written = impl_->store.put_index(impl_->name, write);
  impl_->forget(*fresh);
  return written;
}

}  // namespace lamina::builder
