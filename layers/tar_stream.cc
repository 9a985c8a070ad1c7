#include "layers/internal/tar_stream.h"

#include <algorithm>

#include "layers/internal/file_copy.h"

namespace lamina::layers {
namespace {

constexpr size_t kWindowBytes = 1 << 20;
constexpr size_t kWindowEntries = 512;
constexpr size_t kSmall = 256 * 1024;  // bytes of a file that is read at once
constexpr size_t kSlice = 16;          // files that a thread takes at a time

bool read_in_window(const Entry& entry) { return entry.type == EntryType::kFile && entry.size != 0 && !entry.bytes && entry.opener; }

}  // namespace

struct TarStream::Window {
  struct Slot {
    Entry entry;
    size_t offset = 0;  // of its bytes in `data`
  };
  bool full() const { return used >= kWindowBytes || slots.size() >= kWindowEntries; }
  void clear() {
    slots.clear();
    failed.clear();
    used = 0;
  }
  std::string_view bytes_of(const Slot& slot) const { return {data.get() + slot.offset, static_cast<size_t>(slot.entry.size)}; }

  std::vector<Slot> slots;
  std::vector<std::optional<Error>> failed;  // of each slice
  size_t used = 0;
  // Not value-initialised. A file is read with one byte more than it should have.
  std::unique_ptr<char[]> data{new char[kWindowBytes + kSmall + 1]};
};

TarStream::TarStream(ByteSink& sink, std::optional<int64_t> clamp_mtime, ThreadPool* pool) : writer_(sink, clamp_mtime), pool_(pool) {}
TarStream::~TarStream() {
  if (loaded_.valid()) loaded_.wait();
}

Result<void> TarStream::add(Entry entry) {
  const bool file = read_in_window(entry);
  if (file && entry.size > kSmall) {
    RETURN_IF_ERROR(drain());
    return writer_.add(entry, pool_);
  }
  if (!filling_) filling_ = std::make_unique<Window>();
  const size_t offset = filling_->used;
  if (file) filling_->used += static_cast<size_t>(entry.size) + 1;
  filling_->slots.push_back({std::move(entry), offset});
  return filling_->full() ? turn() : Result<void>();
}

Result<void> TarStream::finish() {
  RETURN_IF_ERROR(drain());
  return writer_.finish();
}

// Starts to read the window that is full and meanwhile writes the one before it.
Result<void> TarStream::turn() {
  std::unique_ptr<Window> next = std::move(filling_);
  std::future<void> loaded;
  if (pool_ != nullptr && next->slots.size() > kSlice) {
    loaded = pool_->submit([this, window = next.get()] { load(*window); });
  } else {
    load(*next);
  }
  auto written = write_loaded();
  filling_ = std::move(loading_);
  loading_ = std::move(next);
  loaded_ = std::move(loaded);
  return written;
}

Result<void> TarStream::drain() {
  if (filling_ && !filling_->slots.empty()) RETURN_IF_ERROR(turn());
  return write_loaded();
}

Result<void> TarStream::write_loaded() {
  if (loaded_.valid()) loaded_.get();
  if (!loading_) return {};
  for (size_t i = 0; i < loading_->slots.size(); ++i) {
    if (std::optional<Error>& failed = loading_->failed[i / kSlice]; failed) return std::move(*failed);
    const Window::Slot& slot = loading_->slots[i];
    RETURN_IF_ERROR(read_in_window(slot.entry) ? writer_.add(slot.entry, loading_->bytes_of(slot)) : writer_.add(slot.entry));
  }
  loading_->clear();
  return {};
}

void TarStream::load(Window& window) const {
  const size_t slices = (window.slots.size() + kSlice - 1) / kSlice;
  window.failed.resize(slices);
  const auto load_slice = [&](size_t slice) {
    for (size_t i = slice * kSlice; i < std::min(window.slots.size(), (slice + 1) * kSlice); ++i) {
      if (!read_in_window(window.slots[i].entry)) continue;
      if (auto read = load_file(window, i); !read) {
        window.failed[slice] = std::move(read).error();
        return;
      }
    }
  };
  if (pool_ != nullptr && slices > 1) {
    parallel_for(*pool_, slices, load_slice);
  } else {
    for (size_t slice = 0; slice < slices; ++slice) load_slice(slice);
  }
}

Result<void> TarStream::load_file(Window& window, size_t index) {
  const Window::Slot& slot = window.slots[index];
  const Entry& entry = slot.entry;
  ASSIGN_OR_RETURN(const UniqueFd fd, entry.opener->open_file(entry.source_path));
  ASSIGN_OR_RETURN(const size_t have, read_small(entry, fd.get(), window.data.get() + slot.offset));
  if (have != entry.size) return content_changed(entry, have < entry.size ? "fewer" : "more");
  return entry.opener->confirm(entry.source_path, fd.get(), window.bytes_of(slot));
}

}  // namespace lamina::layers
