#include "builder/image_diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>

#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "layers/tar.h"
#include "oci/image_config.h"

namespace lamina::builder {

namespace {

using json::Json;
using layers::Entry;
using layers::EntryType;

// Contents are remembered as one hash for each block of this size, and looked at again where the hashes differ.
constexpr size_t kBlock = 4096;
constexpr size_t kMostShown = 24;  // bytes of either side

struct Seen {
  Entry entry;
  std::vector<uint64_t> blocks;
  size_t position = 0;
};
using Tree = std::map<std::string, Seen>;

std::string_view type_name(EntryType type) {
  switch (type) {
    case EntryType::kFile: return "file";
    case EntryType::kDirectory: return "directory";
    case EntryType::kSymlink: return "symbolic link";
    case EntryType::kHardlink: return "hard link";
    case EntryType::kCharDevice: return "character device";
    case EntryType::kBlockDevice: return "block device";
    case EntryType::kFifo: return "fifo";
    case EntryType::kWhiteout: return "whiteout";
    case EntryType::kOpaqueWhiteout: return "opaque whiteout";
  }
  return "entry";
}

// Calls `use` with every block of the stream.
Result<void> for_blocks(ByteSource& source, const std::function<void(std::span<const std::byte>)>& use) {
  std::array<std::byte, kBlock> block;
  size_t filled = 0;
  while (true) {
    ASSIGN_OR_RETURN(const size_t n, source.read(std::span(block).subspan(filled)));
    filled += n;
    if (filled == block.size() || (n == 0 && filled > 0)) {
      use(std::span(block).first(filled));
      filled = 0;
    }
    if (n == 0) return {};
  }
}

uint64_t short_hash(std::span<const std::byte> data) {
  const Sha256Bytes hash = sha256(std::string_view(reinterpret_cast<const char*>(data.data()), data.size()));
  uint64_t value = 0;
  std::memcpy(&value, hash.data(), sizeof value);
  return value;
}

Result<Tree> read_tree(ByteSource& tar) {
  Tree tree;
  layers::TarReader reader(tar);
  while (true) {
    ASSIGN_OR_RETURN(std::optional<Entry> entry, reader.next());
    if (!entry) break;
    Seen seen;
    seen.position = tree.size();
    if (entry->type == EntryType::kFile) {
      RETURN_IF_ERROR(for_blocks(reader.content(), [&](std::span<const std::byte> block) { seen.blocks.push_back(short_hash(block)); }));
    }
    // An opaque whiteout shares its directory's path.
    std::string key = entry->path + (entry->type == EntryType::kOpaqueWhiteout ? "/.wh..wh..opq" : "");
    seen.entry = std::move(*entry);
    tree[std::move(key)] = std::move(seen);
  }
  NullSink nowhere;
  RETURN_IF_ERROR(copy_stream(tar, nowhere));
  return tree;
}

// Which block of a file is to be looked at.
using Wanted = std::map<std::string, size_t>;
using Blocks = std::map<std::string, std::string>;

Result<Blocks> read_blocks(ByteSource& tar, const Wanted& wanted) {
  Blocks out;
  layers::TarReader reader(tar);
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<Entry> entry, reader.next());
    if (!entry) break;
    const auto want = wanted.find(entry->path);
    if (entry->type != EntryType::kFile || want == wanted.end()) continue;
    size_t number = 0;
    RETURN_IF_ERROR(for_blocks(reader.content(), [&](std::span<const std::byte> block) {
      if (number++ == want->second) out[entry->path].assign(reinterpret_cast<const char*>(block.data()), block.size());
    }));
  }
  NullSink nowhere;
  RETURN_IF_ERROR(copy_stream(tar, nowhere));
  return out;
}

std::string shown(std::string_view bytes) {
  const std::string_view head = bytes.substr(0, kMostShown);
  const bool text = std::all_of(head.begin(), head.end(), [](char c) { return (c >= ' ' && c < 127) || c == '\n' || c == '\t'; });
  std::string out;
  for (const char c : head) {
    if (!text) {
      out += fmt::format("{}{:02x}", out.empty() ? "" : " ", static_cast<unsigned char>(c));
    } else {
      out += c == '\n' ? "\\n" : c == '\t' ? "\\t" : std::string(1, c);
    }
  }
  return (text ? "\"" + out + "\"" : out) + (bytes.size() > head.size() ? "…" : "");
}

// "bytes 12 to 14 differ: "abc" and "xyz"".
std::string byte_range(std::string_view a, std::string_view b, uint64_t start) {
  const size_t common = std::min(a.size(), b.size());
  size_t first = 0;
  while (first < common && a[first] == b[first]) ++first;
  if (first == common) return fmt::format("the same up to byte {}, where one ends", start + common);
  size_t end = first + 1;
  while (end < common && a[end] != b[end]) ++end;
  return fmt::format("byte{} {}{} differ{}: {} and {}", end - first == 1 ? "" : "s", start + first, end - first == 1 ? "" : fmt::format(" to {}", start + end - 1), end - first == 1 ? "s" : "",
                     shown(a.substr(first, end - first)), shown(b.substr(first, end - first)));
}

// --- documents ----------------------------------------------------------------------------------------

bool is_time(const std::string& path) { return path == "created" || path.ends_with(".created"); }

std::string short_text(const Json& value) {
  std::string text = json::dump(value);
  if (text.size() > 120) text = text.substr(0, 117) + "...";
  return printable(text);
}

void diff_json(const std::string& where, const std::string& path, const Json& a, const Json& b, ImageDiff& out) {
  if (a == b) return;
  const auto below = [&](const std::string& name) { return path.empty() ? name : path + "." + name; };
  if (a.is_object() && b.is_object()) {
    for (const auto& [key, value] : a.items()) diff_json(where, below(key), value, b.contains(key) ? b[key] : Json(), out);
    for (const auto& [key, value] : b.items()) {
      if (!a.contains(key)) diff_json(where, below(key), Json(), value, out);
    }
    return;
  }
  if (a.is_array() && b.is_array()) {
    for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
      diff_json(where, fmt::format("{}[{}]", path, i), i < a.size() ? a[i] : Json(), i < b.size() ? b[i] : Json(), out);
    }
    return;
  }
  // Which layers there are is told layer by layer.
  if (path.compare(0, 15, "rootfs.diff_ids") == 0) return;
  const std::string text = a.is_null() ? fmt::format("{} only in the second: {}", path, short_text(b)) : b.is_null() ? fmt::format("{} only in the first: {}", path, short_text(a)) : fmt::format("{}: {} and {}", path, short_text(a), short_text(b));
  out.lines.push_back({where, text, is_time(path)});
}

// --- layers -------------------------------------------------------------------------------------------

class LayerDiff {
 public:
  using Open = std::function<Result<std::unique_ptr<ByteSource>>()>;
  LayerDiff(std::string where, Open open_a, Open open_b, ImageDiff& out) : where_(std::move(where)), open_a_(std::move(open_a)), open_b_(std::move(open_b)), out_(out) {}

  Result<void> run() {
    const size_t before = out_.lines.size();
    ASSIGN_OR_RETURN(const auto tar_a, open_a_());
    ASSIGN_OR_RETURN(const Tree a, read_tree(*tar_a));
    ASSIGN_OR_RETURN(const auto tar_b, open_b_());
    ASSIGN_OR_RETURN(const Tree b, read_tree(*tar_b));
    for (const auto& [path, seen] : a) {
      const auto twin = b.find(path);
      if (twin == b.end()) {
        say(path, fmt::format("{} only in the first", type_name(seen.entry.type)));
      } else {
        compare(path, seen, twin->second);
      }
    }
    for (const auto& [path, seen] : b) {
      if (!a.contains(path)) say(path, fmt::format("{} only in the second", type_name(seen.entry.type)));
    }
    RETURN_IF_ERROR(compare_contents());
    if (out_.lines.size() == before) say_order(a, b);
    return {};
  }

 private:
  void say(const std::string& path, std::string text, bool time = false) { out_.lines.push_back({where_, fmt::format("{}: {}", path.empty() ? "/" : printable(path), text), time}); }

  template <typename T>
  void differ(const std::string& path, std::string_view what, const T& a, const T& b, bool time = false) {
    if (!(a == b)) say(path, fmt::format("{} {} and {}", what, a, b), time);
  }

  void compare(const std::string& path, const Seen& one, const Seen& two) {
    const Entry& a = one.entry;
    const Entry& b = two.entry;
    if (a.type != b.type) {
      say(path, fmt::format("{} and {}", type_name(a.type), type_name(b.type)));
      return;
    }
    differ(path, "mode", fmt::format("{:04o}", a.mode), fmt::format("{:04o}", b.mode));
    differ(path, "owner", fmt::format("{}:{}", a.uid, a.gid), fmt::format("{}:{}", b.uid, b.gid));
    differ(path, "target", printable(a.link_target), printable(b.link_target));
    differ(path, "device", fmt::format("{},{}", a.dev_major, a.dev_minor), fmt::format("{},{}", b.dev_major, b.dev_minor));
    differ(path, "size", a.size, b.size);
    differ(path, "time", format_rfc3339(a.mtime), format_rfc3339(b.mtime), true);
    for (const auto& [name, value] : a.xattrs) {
      const auto twin = b.xattrs.find(name);
      if (twin == b.xattrs.end() || twin->second != value) say(path, "attribute " + printable(name) + (twin == b.xattrs.end() ? " only in the first" : " differs"));
    }
    for (const auto& [name, value] : b.xattrs) {
      if (!a.xattrs.contains(name)) say(path, "attribute " + printable(name) + " only in the second");
    }
    if (one.blocks == two.blocks) return;
    const auto different = std::mismatch(one.blocks.begin(), one.blocks.end(), two.blocks.begin(), two.blocks.end());
    const size_t block = static_cast<size_t>(different.first - one.blocks.begin());
    wanted_[a.path] = block;
  }

  Result<void> compare_contents() {
    if (wanted_.empty()) return {};
    ASSIGN_OR_RETURN(const auto tar_a, open_a_());
    ASSIGN_OR_RETURN(Blocks a, read_blocks(*tar_a, wanted_));
    ASSIGN_OR_RETURN(const auto tar_b, open_b_());
    ASSIGN_OR_RETURN(Blocks b, read_blocks(*tar_b, wanted_));
    for (const auto& [path, block] : wanted_) say(path, byte_range(a[path], b[path], block * kBlock));
    return {};
  }

  // The same members in another order, or written in another way.
  void say_order(const Tree& a, const Tree& b) {
    for (const auto& [path, seen] : a) {
      if (seen.position != b.at(path).position) {
        out_.lines.push_back({where_, fmt::format("the same members in another order, first {}", printable(path)), false});
        return;
      }
    }
    out_.lines.push_back({where_, "the same members, written as different tar headers", false});
  }

  std::string where_;
  Open open_a_, open_b_;
  ImageDiff& out_;
  Wanted wanted_;
};

struct Side {
  layers::Store& store;
  const oci::Image& image;
  oci::BlobSource* remote;
  oci::ImageConfig config;

  static Result<Side> of(layers::Store& store, const oci::Image& image, oci::BlobSource* remote) {
    ASSIGN_OR_RETURN(oci::ImageConfig config, oci::ImageConfig::parse(image.config_json));
    if (config.diff_ids.size() != image.manifest.layers.size()) return Error(ErrorKind::kCorrupt, "an image's manifest and config name different numbers of layers");
    return Side{store, image, remote, std::move(config)};
  }
  Result<std::unique_ptr<ByteSource>> open(size_t i) const {
    ASSIGN_OR_RETURN(const layers::LayerId id, store.add_pulled(config.diff_ids[i], image.manifest.layers[i]));
    return store.open_tar(id, remote);
  }
};

}  // namespace

bool ImageDiff::only_times() const {
  return !lines.empty() && std::all_of(lines.begin(), lines.end(), [](const Line& l) { return l.time; });
}

Result<ImageDiff> diff_images(layers::Store& store, const oci::Image& image_a, oci::BlobSource* remote_a, const oci::Image& image_b, oci::BlobSource* remote_b) {
  ImageDiff out;
  ASSIGN_OR_RETURN(const Side a, Side::of(store, image_a, remote_a));
  ASSIGN_OR_RETURN(const Side b, Side::of(store, image_b, remote_b));
  diff_json("config", "", Json::parse(image_a.config_json, nullptr, false), Json::parse(image_b.config_json, nullptr, false), out);
  diff_json("manifest", "annotations", image_a.manifest.annotations, image_b.manifest.annotations, out);
  const size_t common = std::min(a.config.diff_ids.size(), b.config.diff_ids.size());
  for (size_t i = 0; i < common; ++i) {
    const std::string where = fmt::format("layer {}", i + 1);
    if (a.config.diff_ids[i] == b.config.diff_ids[i]) continue;
    LayerDiff layer(where, [&a, i] { return a.open(i); }, [&b, i] { return b.open(i); }, out);
    RETURN_IF_ERROR_WITH(layer.run(), "comparing " + where);
  }
  for (size_t i = common; i < a.config.diff_ids.size(); ++i) out.lines.push_back({fmt::format("layer {}", i + 1), "only in the first: " + a.config.diff_ids[i].text(), false});
  for (size_t i = common; i < b.config.diff_ids.size(); ++i) out.lines.push_back({fmt::format("layer {}", i + 1), "only in the second: " + b.config.diff_ids[i].text(), false});
  return out;
}

}  // namespace lamina::builder
