// Whether the store holds what it says, and what to do with what it does not.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "base/text.h"
#include "layers/internal/needed.h"
#include "layers/internal/store_impl.h"

namespace lamina::layers {

namespace {

// Of a small file that a killed program did not finish (write_file_atomically); prune removes it.
bool is_leftover(const std::string& name) { return name.starts_with(".tmp."); }

bool exists(const std::string& path) { return ::faccessat(AT_FDCWD, path.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0; }

}  // namespace

class Fsck {
 public:
  Fsck(Store::Impl& impl, bool repair) : impl_(impl), repair_(repair) {}

  // Bytes before what refers to them.
  Result<FsckReport> run() {
    impl_.metas.lock()->clear();
    impl_.with_snapshot.lock()->clear();
    impl_.known_blocks.lock()->clear();
    RETURN_IF_ERROR_WITH(blobs(), "checking the blobs");
    RETURN_IF_ERROR_WITH(layers(), "checking the layers");
    RETURN_IF_ERROR_WITH(diffs(), "checking the names of layers");
    RETURN_IF_ERROR_WITH(images(), "checking the image names");
    impl_.metas.lock()->clear();
    return std::move(report_);
  }

 private:
  // Out of everybody's sight, but not lost.
  Result<void> quarantine(const std::string& path, std::string what) {
    const std::string name = path.substr(path.rfind('/') + 1);
    std::string done;
    if (repair_) {
      RETURN_IF_ERROR(make_directories(AT_FDCWD, impl_.path + "/quarantine", 0700));
      const std::string place = "quarantine/" + temporary_name(name);
      if (::rename(path.c_str(), (impl_.path + "/" + place).c_str()) != 0 && errno != ENOENT) return system_error(errno, "rename", path);
      done = "moved to " + place;
    }
    report_.problems.push_back({std::move(what), std::move(done)});
    return {};
  }

  Result<void> remove(const std::string& path, std::string what, std::string_view done) {
    if (repair_) RETURN_IF_ERROR(remove_tree(AT_FDCWD, path));
    report_.problems.push_back({std::move(what), repair_ ? std::string(done) : std::string()});
    return {};
  }

  Result<void> blobs() {
    const std::string room = impl_.path + "/blobs/sha256";
    ASSIGN_OR_RETURN(const auto names, names_in(room));
    std::vector<std::byte> block(kCopyBufferSize);
    for (const std::string& name : names) {
      if (is_leftover(name)) continue;
      ++report_.blobs;
      if (!oci::Digest::parse("sha256:" + name)) {
        RETURN_IF_ERROR(quarantine(room + "/" + name, fmt::format("blobs/sha256/{} is no name of a blob", printable(name))));
        continue;
      }
      auto fd = open_at(AT_FDCWD, room + "/" + name, O_RDONLY);
      if (!fd) return std::move(fd).error();
      FdSource source(*std::move(fd));
      Sha256 hash;
      std::string trouble;
      while (true) {
        const auto n = source.read(block);
        if (!n) trouble = "cannot be read: " + n.error().message();  // the disk's own damage
        if (!n || *n == 0) break;
        hash.update(std::span<const std::byte>(block).first(*n));
        report_.bytes += *n;
      }
      const std::string digest = to_hex(hash.finish());
      if (trouble.empty() && digest != name) trouble = "has the digest sha256:" + digest;
      if (!trouble.empty()) RETURN_IF_ERROR(quarantine(room + "/" + name, fmt::format("blob sha256:{} {}", name, trouble)));
    }
    return {};
  }

  Result<void> layers() {
    ASSIGN_OR_RETURN(const auto names, names_in(impl_.path + "/layers"));
    for (const std::string& name : names) {
      if (name.front() == '.') continue;
      ++report_.layers;
      const LayerId id{name};
      const std::string path = impl_.layer_path(id);
      const auto meta = impl_.read_meta(id);
      if (!meta) {
        RETURN_IF_ERROR(quarantine(path, fmt::format("layer {} has no readable meta: {}", name, meta.error().message())));
        continue;
      }
      RETURN_IF_ERROR(snapshot(id, *meta));
    }
    return {};
  }

  // The files of a layer that was built here give its DiffId again. Those of a pulled one do not, since its tar is
  // somebody else's: they are compared with what its bytes give once more.
  Result<void> snapshot(const LayerId& id, const LayerMeta& meta) {
    const std::string path = impl_.layer_path(id);
    const bool files = exists(path + "/fs");
    const bool tar = meta.diff_id && impl_.blob_exists(meta.diff_id->as_uncompressed_digest());
    bool blob = false;
    // A pulled layer's bytes may be fetched again. Those of a built one may be nowhere else, whoever took them over.
    for (const LayerBlob& b : meta.blobs) blob = blob || (!b.diff_id && impl_.blob_exists(b.descriptor.digest));
    if (files && !meta.pulled && meta.diff_id) {
      HashingWriter hash(-1);
      const auto written = impl_.write_tar(id, meta, hash, nullptr);
      const auto summary = hash.finish();
      if (summary) report_.bytes += summary->size;
      const bool sound = written && summary && oci::DiffId::from_bytes(summary->sha256) == *meta.diff_id;
      if (!sound) {
        std::string what = fmt::format("the files of layer {} are not those of {}", id.value, meta.diff_id->text());
        // First what shows the same damage: were it last, nothing would tell of it after an interruption.
        if (repair_) {
          RETURN_IF_ERROR(remove_blocks());
          RETURN_IF_ERROR(remove_children(path, "chain-"));
        }
        // The bytes of the layer, if there are any, give the files again.
        if (tar || blob) return remove(path + "/fs", std::move(what), "removed: they are made again from the layer's bytes");
        return quarantine(path, std::move(what));
      }
    }
    if (meta.pulled) return pulled_files(id, meta);
    if (!files && !tar && !blob) return quarantine(path, fmt::format("layer {} has neither files nor bytes", id.value));
    return {};
  }

  // A pulled layer without files or bytes is none of the worse: they are fetched when they are needed. Files that were
  // unpacked for one stack (chain-*) depend on what is below, and on bytes that are gone nothing can be said.
  Result<void> pulled_files(const LayerId& id, const LayerMeta& meta) {
    const std::string path = impl_.layer_path(id);
    ASSIGN_OR_RETURN(const auto names, names_in(path));
    bool apart = std::any_of(names.begin(), names.end(), [](const std::string& name) { return name.starts_with("chain-"); });
    const bool here = (meta.diff_id && impl_.blob_exists(meta.diff_id->as_uncompressed_digest())) ||
                      std::any_of(meta.blobs.begin(), meta.blobs.end(), [&](const LayerBlob& b) { return !b.diff_id && impl_.blob_exists(b.descriptor.digest); });
    if (exists(path + "/fs")) {
      if (here) {
        ASSIGN_OR_RETURN(const std::string difference, difference_from_bytes(id, meta));
        if (!difference.empty()) {
          if (repair_) {
            RETURN_IF_ERROR(remove_blocks());
            RETURN_IF_ERROR(remove_children(path, "chain-"));
          }
          return remove(path + "/fs", fmt::format("the files of layer {} are not those of its bytes: {}", id.value, difference), "removed: they are unpacked again when they are needed");
        }
      }
      apart = apart || !here;
    }
    if (apart) ++report_.unverified;
    return {};
  }

  // What differs between the files of a pulled layer and those of its tar, unpacked once more; "" when nothing does.
  Result<std::string> difference_from_bytes(const LayerId& id, const LayerMeta& meta) {
    ASSIGN_OR_RETURN(const PendingLayer again, impl_.self->begin_layer());
    const auto nothing_below = []() -> Result<std::shared_ptr<const RootfsView>> {
      ASSIGN_OR_RETURN(std::shared_ptr<RootfsView> view, RootfsView::open({}));
      return std::shared_ptr<const RootfsView>(std::move(view));
    };
    const auto unpacked = impl_.unpack_into(again.fs(), id, meta, nothing_below, nullptr);
    if (!unpacked) return fmt::format("the bytes cannot be unpacked: {}", unpacked.error().message());
    report_.bytes += unpacked->tar_size;
    ASSIGN_OR_RETURN(const auto theirs, SnapshotReader::open(again.fs(), true));
    ASSIGN_OR_RETURN(const auto ours, SnapshotReader::open(impl_.layer_path(id) + "/fs", true));
    const std::set<std::string> timeless(unpacked->implicit_directories.begin(), unpacked->implicit_directories.end());
    while (true) {
      ASSIGN_OR_RETURN(const std::optional<Entry> should, theirs->next());
      auto is = ours->next();
      if (!is) return "it cannot be read: " + is.error().message();
      if (!should && !*is) return std::string();
      if (!should || !*is || should->path != (*is)->path) {
        const bool more = !should || (*is && path_less((*is)->path, should->path));
        return printable(more ? (*is)->path : should->path) + (more ? " is no part of the layer" : " is missing");
      }
      const bool no_time = should->path.empty() || timeless.contains(should->path);
      ASSIGN_OR_RETURN(const bool same, same_entry(*should, **is, no_time));
      if (!same) return (should->path.empty() ? "the root directory" : printable(should->path)) + std::string(" was changed");
    }
  }

  static Result<bool> same_entry(const Entry& a, const Entry& b, bool no_time) {
    const bool same = a.type == b.type && a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && (no_time || a.mtime == b.mtime) && a.size == b.size && a.link_target == b.link_target &&
                      a.dev_major == b.dev_major && a.dev_minor == b.dev_minor && a.xattrs == b.xattrs;
    if (!same || a.type != EntryType::kFile || a.size == 0) return same;
    ASSIGN_OR_RETURN(UniqueFd one, a.opener->open_file(a.source_path));
    ASSIGN_OR_RETURN(UniqueFd two, b.opener->open_file(b.source_path));
    std::vector<std::byte> block_one(kCopyBufferSize), block_two(kCopyBufferSize);
    FdSource first(std::move(one)), second(std::move(two));
    while (true) {
      ASSIGN_OR_RETURN(const size_t n, first.read(block_one));
      size_t m = 0;
      while (m < std::max<size_t>(n, 1)) {
        ASSIGN_OR_RETURN(const size_t got, second.read(std::span(block_two).subspan(m, std::max<size_t>(n, 1) - m)));
        if (got == 0) break;
        m += got;
      }
      if (n != m || !std::equal(block_one.begin(), block_one.begin() + static_cast<ptrdiff_t>(n), block_two.begin())) return false;
      if (n == 0) return true;
    }
  }

  Result<void> remove_children(const std::string& directory, std::string_view prefix) {
    ASSIGN_OR_RETURN(const auto names, names_in(directory));
    for (const std::string& name : names) {
      if (name.starts_with(prefix)) RETURN_IF_ERROR(remove_tree(AT_FDCWD, directory + "/" + name));
    }
    return {};
  }

  // The merged snapshots of deep images are hard links to the files of layers, and any may hold a damaged one. They are
  // made again when they are needed.
  Result<void> remove_blocks() {
    if (std::exchange(blocks_removed_, true)) return {};
    ASSIGN_OR_RETURN(const auto layers, names_in(impl_.path + "/layers"));
    for (const std::string& layer : layers) {
      if (layer.front() != '.') RETURN_IF_ERROR(remove_children(impl_.path + "/layers/" + layer, "block-"));
    }
    return {};
  }

  Result<void> diffs() {
    ASSIGN_OR_RETURN(const auto names, names_in(impl_.path + "/diffs"));
    for (const std::string& name : names) {
      if (name.size() > 64) continue;  // link_diff's, before its rename
      std::string target(256, '\0');
      const std::string path = impl_.path + "/diffs/" + name;
      const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
      target.resize(size < 0 ? 0 : static_cast<size_t>(size));
      if (!target.empty() && target.find('/') == std::string::npos && exists(impl_.path + "/layers/" + target)) continue;
      RETURN_IF_ERROR(remove(path, fmt::format("diffs/{} names the layer {}, which does not exist", printable(name), printable(target)), "removed"));
    }
    return {};
  }

  Result<void> images() {
    const std::string room = impl_.path + "/images";
    ASSIGN_OR_RETURN(const auto names, names_in(room));
    for (const std::string& name : names) {
      if (is_leftover(name)) continue;
      ++report_.images;
      const std::string path = room + "/" + name;
      const auto record = impl_.read_image(path);
      if (!record || !*record) {
        RETURN_IF_ERROR(quarantine(path, fmt::format("images/{} cannot be read", printable(name))));
        continue;
      }
      const ImageRecord& image = **record;
      if (sha256_hex(image.name) != name) {
        RETURN_IF_ERROR(quarantine(path, fmt::format("images/{} is about {}", printable(name), printable(image.name))));
      } else if (!impl_.self->has_blob(image.descriptor)) {
        RETURN_IF_ERROR(quarantine(path, fmt::format("the image {} lacks its manifest {}: pull or build it again", printable(image.name), image.descriptor.digest.text())));
      }
    }
    return {};
  }

  Store::Impl& impl_;
  bool repair_;
  bool blocks_removed_ = false;
  FsckReport report_;
};

Result<FsckReport> Store::fsck(bool repair) {
  return impl_->alone<FsckReport>([&] { return Fsck(*impl_, repair).run(); });
}

}  // namespace lamina::layers
