// Whether the store holds what it says, and what to do with what it does not.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/text.h"
#include "layers/internal/store_impl.h"

namespace lamina::layers {

namespace {

Result<std::vector<std::string>> names_in(const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd directory, open_directory(AT_FDCWD, path));
  return list_directory(directory.get());
}

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

  // The files of a layer that was built here give its DiffId again. Those of a pulled one do not: they are compared
  // by unpacking it once more when something is in doubt, and are only told from nothing here.
  Result<void> snapshot(const LayerId& id, const LayerMeta& meta) {
    const std::string path = impl_.layer_path(id);
    const bool files = exists(path + "/fs");
    const bool tar = meta.diff_id && impl_.blob_exists(meta.diff_id->as_uncompressed_digest());
    bool blob = false;
    // A pulled layer's bytes may be fetched again. Those of a built one may be nowhere else, whoever took them over.
    for (const LayerBlob& b : meta.blobs) {
      if (!b.diff_id) blob = blob || (meta.pulled && b.pulled) || impl_.blob_exists(b.descriptor.digest);
    }
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
    if (!files && !tar && !blob) return quarantine(path, fmt::format("layer {} has neither files nor bytes", id.value));
    return {};
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
