// Reading images from directories and archives.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/archive_reader.h"
#include "base/files.h"
#include "base/json.h"
#include "base/stoppable.h"
#include "base/text.h"
#include "registry/layout.h"

namespace lamina::registry {

namespace {

using json::Json;

constexpr uint64_t kMaxJson = 64 << 20;
constexpr int kMaxLinks = 8;

// Named files: a layout directory, or what an archive was unpacked to.
class FileSet {
 public:
  virtual ~FileSet() = default;
  // kNotFound when there is none of that name.
  virtual Result<UniqueFd> open(const std::string& name) const = 0;
};

class DirectoryFiles : public FileSet {
 public:
  explicit DirectoryFiles(UniqueFd root) : root_(std::move(root)) {}
  // Layouts made by hard or symbolic linking of blobs exist, so links may be followed, but not out of it.
  Result<UniqueFd> open(const std::string& name) const override { return open_in_root(root_.get(), name, O_RDONLY | O_NONBLOCK); }

 private:
  UniqueFd root_;
};

// Members of an archive under numbers of our own: no name of the archive ever becomes a path.
class ArchiveFiles : public FileSet {
 public:
  static Result<std::unique_ptr<ArchiveFiles>> unpack(UniqueFd archive, const std::stop_token& stop) {
    const char* tmp = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe)
    ASSIGN_OR_RETURN(TempDir dir, TempDir::create(tmp == nullptr || *tmp == 0 ? "/var/tmp" : tmp, "lamina-archive"));
    auto files = std::unique_ptr<ArchiveFiles>(new ArchiveFiles(std::move(dir)));
    StoppableSource source(std::make_unique<FdSource>(std::move(archive)), stop);
    ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader, ArchiveReader::open(source));
    while (true) {
      ASSIGN_OR_RETURN(const std::optional<ArchiveMember> member, reader->next());
      if (!member) return files;
      RETURN_IF_ERROR(files->add(*member, *reader));
    }
  }

  Result<UniqueFd> open(const std::string& name) const override {
    std::string current = clean_path(name);
    for (int i = 0; i < kMaxLinks; ++i) {
      if (const auto file = files_.find(current); file != files_.end()) return open_at(AT_FDCWD, dir_.path() + "/" + std::to_string(file->second), O_RDONLY);
      const auto link = links_.find(current);
      if (link == links_.end()) break;
      current = link->second;
    }
    return Error(ErrorKind::kNotFound, fmt::format("the archive has no member {}", printable(name)));
  }

 private:
  explicit ArchiveFiles(TempDir dir) : dir_(std::move(dir)) {}

  Result<void> add(const ArchiveMember& member, ArchiveReader& reader) {
    const std::string name = clean_path(member.path);
    if (member.type == ArchiveMember::Type::kSymlink) {
      const size_t slash = name.rfind('/');
      links_[name] = clean_path((slash == std::string::npos ? "" : name.substr(0, slash + 1)) + member.link_target);
    } else if (member.type == ArchiveMember::Type::kHardlink) {
      links_[name] = clean_path(member.link_target);
    } else if (member.type == ArchiveMember::Type::kFile) {
      const size_t number = files_.size() + replaced_;
      ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, dir_.path() + "/" + std::to_string(number), O_WRONLY | O_CREAT | O_EXCL, 0600));
      std::vector<std::byte> block(kCopyBufferSize);
      while (true) {
        ASSIGN_OR_RETURN(const size_t n, reader.read(block));
        if (n == 0) break;
        RETURN_IF_ERROR(write_all(fd.get(), std::string_view(reinterpret_cast<const char*>(block.data()), n)));
      }
      RETURN_IF_ERROR(fd.close());
      if (!files_.insert_or_assign(name, number).second) ++replaced_;
    }
    return {};
  }

  TempDir dir_;
  std::map<std::string, size_t> files_;
  std::map<std::string, std::string> links_;
  size_t replaced_ = 0;
};

Result<std::string> read_named(const FileSet& files, const std::string& name) {
  ASSIGN_OR_RETURN(const UniqueFd fd, files.open(name));
  return read_fd(fd.get(), kMaxJson);
}

class Layout : public ImageFile {
 public:
  Layout(std::unique_ptr<FileSet> files, oci::Index index) : files_(std::move(files)), index_(std::move(index)) {}

  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Descriptor& descriptor) override {
    auto fd = files_->open("blobs/sha256/" + descriptor.digest.hex());
    if (!fd && fd.error().kind() == ErrorKind::kNotFound) return Error(ErrorKind::kNotFound, fmt::format("the layout lacks the blob {}", descriptor.digest.text()));
    if (!fd) return std::move(fd).error();
    return oci::verify_stream(std::make_unique<FdSource>(std::move(*fd)), descriptor);
  }

  Result<oci::Descriptor> find(const std::optional<std::string>& tag, const std::optional<oci::Digest>& digest) override {
    if (digest) return by_digest(*digest);
    std::vector<oci::Descriptor> found;
    std::vector<std::string> choices;
    for (const oci::Descriptor& entry : index_.manifests) {
      const std::vector<std::string> names = names_of(entry);
      choices.push_back(names.empty() ? entry.digest.text() : names.front());
      const bool wanted = !tag || std::find(names.begin(), names.end(), *tag) != names.end();
      const bool known = std::any_of(found.begin(), found.end(), [&](const auto& f) { return f.digest == entry.digest; });
      if (wanted && !known) found.push_back(entry);
    }
    if (found.size() == 1) return found.front();
    const std::string list = choices.empty() ? "it holds no image" : "it holds: " + join(choices, ", ");
    if (found.empty()) return Error(ErrorKind::kNotFound, tag ? fmt::format("there is no image {} in it", *tag) : "there is no image in it").with_note(list);
    return Error(ErrorKind::kInvalidInput, "it holds several images: say which one with :tag or @digest").with_note(list);
  }

 private:
  static std::vector<std::string> names_of(const oci::Descriptor& entry) {
    std::vector<std::string> names;
    for (const char* key : {"org.opencontainers.image.ref.name", "io.containerd.image.name"}) {
      const auto it = entry.annotations.find(key);
      if (it == entry.annotations.end()) continue;
      names.push_back(it->second);
      // ref.name may be a whole name too; its tag is what a user types behind the path.
      const size_t colon = it->second.rfind(':');
      if (colon != std::string::npos && it->second.find('/', colon) == std::string::npos) names.push_back(it->second.substr(colon + 1));
    }
    return names;
  }

  Result<oci::Descriptor> by_digest(const oci::Digest& digest) {
    for (const oci::Descriptor& entry : index_.manifests) {
      if (entry.digest == digest) return entry;
    }
    // A manifest inside one of the indexes.
    auto bytes = read_named(*files_, "blobs/sha256/" + digest.hex());
    if (!bytes || !(oci::Digest::of(*bytes) == digest)) return Error(ErrorKind::kNotFound, fmt::format("there is no image {} in it", digest.text()));
    oci::Descriptor descriptor;
    descriptor.media_type = oci::detect_manifest_type(*bytes);
    if (descriptor.media_type.empty()) return Error(ErrorKind::kNotFound, fmt::format("{} is no image", digest.text()));
    descriptor.digest = digest;
    descriptor.size = bytes->size();
    return descriptor;
  }

  std::unique_ptr<FileSet> files_;
  oci::Index index_;
};

// What `docker save` wrote before it wrote layouts: a manifest is made up for it here.
class DockerArchive : public ImageFile {
 public:
  static Result<std::unique_ptr<ImageFile>> load(std::unique_ptr<FileSet> files, std::stop_token stop) {
    auto archive = std::unique_ptr<DockerArchive>(new DockerArchive(std::move(files), std::move(stop)));
    ASSIGN_OR_RETURN(const std::string text, read_named(*archive->files_, "manifest.json"));
    const Json list = Json::parse(text, nullptr, false);
    if (!list.is_array()) return Error(ErrorKind::kCorrupt, "manifest.json is not a list of images");
    for (const Json& entry : list) RETURN_IF_ERROR(archive->add_image(entry));
    return std::unique_ptr<ImageFile>(std::move(archive));
  }

  Result<std::unique_ptr<ByteSource>> open_blob(const oci::Descriptor& descriptor) override {
    if (const auto text = manifests_.find(descriptor.digest); text != manifests_.end()) return std::unique_ptr<ByteSource>(std::make_unique<StringSource>(text->second));
    const auto name = blobs_.find(descriptor.digest);
    if (name == blobs_.end()) return Error(ErrorKind::kNotFound, fmt::format("the archive lacks the blob {}", descriptor.digest.text()));
    ASSIGN_OR_RETURN(UniqueFd fd, files_->open(name->second));
    return oci::verify_stream(std::make_unique<FdSource>(std::move(fd)), descriptor);
  }

  Result<oci::Descriptor> find(const std::optional<std::string>& tag, const std::optional<oci::Digest>& digest) override {
    std::vector<const NamedImage*> found;
    std::vector<std::string> choices;
    for (const NamedImage& image : images_) {
      const std::string text = image.tags.empty() ? image.descriptor.digest.text() : join(image.tags, ", ");
      choices.push_back(text);
      const auto has_tag = [&](const std::string& t) { return t == *tag || t.substr(t.rfind(':') + 1) == *tag; };
      if (digest ? image.descriptor.digest == *digest : !tag || std::any_of(image.tags.begin(), image.tags.end(), has_tag)) found.push_back(&image);
    }
    if (found.size() == 1) return found.front()->descriptor;
    const std::string list = "it holds: " + join(choices, "; ");
    if (found.empty()) return Error(ErrorKind::kNotFound, "there is no such image in the archive").with_note(list);
    return Error(ErrorKind::kInvalidInput, "it holds several images: say which one with :tag").with_note(list);
  }

 private:
  struct NamedImage {
    oci::Descriptor descriptor;
    std::vector<std::string> tags;
  };
  DockerArchive(std::unique_ptr<FileSet> files, std::stop_token stop) : files_(std::move(files)), stop_(std::move(stop)) {}

  // Size and digest by reading, compression by looking.
  Result<oci::Descriptor> describe(const std::string& name) {
    ASSIGN_OR_RETURN(UniqueFd fd, files_->open(name));
    StoppableSource source(std::make_unique<FdSource>(std::move(fd)), stop_);
    Sha256 hash;
    oci::Descriptor descriptor;
    std::string head;
    FunctionSink sink([&](std::span<const std::byte> data) -> Result<void> {
      hash.update(data);
      if (head.size() < 4) head.append(reinterpret_cast<const char*>(data.data()), std::min<size_t>(data.size(), 4));
      return {};
    });
    ASSIGN_OR_RETURN(descriptor.size, copy_stream(source, sink));
    descriptor.digest = oci::Digest::from_bytes(hash.finish());
    const bool gzip = head.compare(0, 2, "\x1f\x8b") == 0;
    const bool zstd = head.compare(0, 4, "\x28\xb5\x2f\xfd") == 0;
    descriptor.media_type = oci::oci_layer_type(gzip ? oci::Compression::kGzip : zstd ? oci::Compression::kZstd : oci::Compression::kNone);
    blobs_[descriptor.digest] = name;
    return descriptor;
  }

  Result<void> add_image(const Json& entry) {
    if (!entry.is_object()) return Error(ErrorKind::kCorrupt, "manifest.json has an entry that is no object");
    ASSIGN_OR_RETURN(const auto config, json::get_string(entry, "Config"));
    ASSIGN_OR_RETURN(const auto layers, json::get_strings(entry, "Layers"));
    ASSIGN_OR_RETURN(auto tags, json::get_strings(entry, "RepoTags"));
    if (!config || !layers) return Error(ErrorKind::kCorrupt, "manifest.json has an entry without Config or Layers");
    oci::Manifest manifest;
    ASSIGN_OR_RETURN(manifest.config, describe(*config));
    manifest.config.media_type = oci::media_type::kOciConfig;
    for (const std::string& layer : *layers) {
      ASSIGN_OR_RETURN(oci::Descriptor descriptor, describe(layer));
      manifest.layers.push_back(std::move(descriptor));
    }
    NamedImage image;
    const std::string text = manifest.to_json();
    image.descriptor.media_type = manifest.media_type;
    image.descriptor.digest = oci::Digest::of(text);
    image.descriptor.size = text.size();
    if (tags) image.tags = std::move(*tags);
    manifests_[image.descriptor.digest] = text;
    images_.push_back(std::move(image));
    return {};
  }

  std::unique_ptr<FileSet> files_;
  std::stop_token stop_;
  std::vector<NamedImage> images_;
  std::map<oci::Digest, std::string> manifests_;
  std::map<oci::Digest, std::string> blobs_;
};

}  // namespace

Result<std::unique_ptr<ImageFile>> ImageFile::open(const std::string& path, std::stop_token stop) {
  ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, path, O_RDONLY));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return system_error(errno, "stat", path);
  std::unique_ptr<FileSet> files;
  if (S_ISDIR(st.st_mode)) {
    files = std::make_unique<DirectoryFiles>(std::move(fd));
  } else {
    ASSIGN_OR_RETURN(files, ArchiveFiles::unpack(std::move(fd), stop));
  }
  auto index = read_named(*files, "index.json");
  if (index) {
    ASSIGN_OR_RETURN_WITH(oci::Index parsed, oci::Index::parse(*index), "reading index.json");
    return std::unique_ptr<ImageFile>(std::make_unique<Layout>(std::move(files), std::move(parsed)));
  }
  if (index.error().kind() != ErrorKind::kNotFound) return std::move(index).error();
  if (files->open("manifest.json")) return DockerArchive::load(std::move(files), std::move(stop));
  return Error(ErrorKind::kInvalidInput, fmt::format("{} is neither an OCI layout (it lacks index.json) nor a docker archive (it lacks manifest.json)", path));
}

}  // namespace lamina::registry
