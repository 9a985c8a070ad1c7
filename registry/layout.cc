#include "registry/layout.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>

#include "base/files.h"
#include "base/json.h"
#include "registry/internal/ustar.h"

namespace lamina::registry {

namespace internal {

namespace {
constexpr size_t kBlock = 512;
constexpr std::array<std::byte, kBlock> kZeros{};
}  // namespace

Result<void> UstarWriter::header(const std::string& name, uint64_t size, unsigned mode, char type) {
  std::array<char, kBlock> block{};
  std::memcpy(block.data(), name.data(), std::min<size_t>(name.size(), 100));
  const auto octal = [&](size_t at, size_t width, uint64_t value) {
    const std::string digits = fmt::format("{:0{}o}", value, width - 1);
    std::memcpy(block.data() + at, digits.data(), width - 1);
  };
  octal(100, 8, mode);
  octal(108, 8, 0);
  octal(116, 8, 0);
  if (size < (uint64_t{1} << 33)) {
    octal(124, 12, size);
  } else {
    block[124] = static_cast<char>(0x80);
    for (size_t i = 0; i < 8; ++i) block[135 - i] = static_cast<char>(size >> (8 * i));
  }
  octal(136, 12, 0);
  block[156] = type;
  std::memcpy(block.data() + 257, "ustar\00000", 8);
  std::memset(block.data() + 148, ' ', 8);
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  const std::string checksum = fmt::format("{:06o}", sum);
  std::memcpy(block.data() + 148, checksum.data(), 6);
  block[154] = 0;
  return out_.write(std::as_bytes(std::span(block)));
}

Result<void> UstarWriter::pad(uint64_t size) { return out_.write(std::span(kZeros).first((kBlock - size % kBlock) % kBlock)); }

Result<void> UstarWriter::directory(const std::string& name) { return header(name + "/", 0, 0755, '5'); }

Result<void> UstarWriter::file(const std::string& name, std::string_view content) {
  RETURN_IF_ERROR(header(name, content.size(), 0644, '0'));
  RETURN_IF_ERROR(out_.write(as_bytes(content)));
  return pad(content.size());
}

Result<void> UstarWriter::file(const std::string& name, uint64_t size, ByteSource& content) {
  RETURN_IF_ERROR(header(name, size, 0644, '0'));
  ASSIGN_OR_RETURN(const uint64_t written, copy_stream(content, out_));
  if (written != size) return Error(ErrorKind::kCorrupt, fmt::format("{} has {} instead of {} bytes", name, written, size));
  return pad(size);
}

Result<void> UstarWriter::finish() {
  RETURN_IF_ERROR(out_.write(kZeros));
  return out_.write(kZeros);
}

}  // namespace internal

namespace {

using json::Json;

constexpr std::string_view kLayoutFile = R"({"imageLayoutVersion":"1.0.0"})";

std::string blob_path(const oci::Digest& digest) { return "blobs/sha256/" + digest.hex(); }

// image-layout.md "index.json file"; containerd's annotation carries the whole name.
std::string index_json(const ExportImage& image) {
  oci::Index index;
  oci::Descriptor entry = image.index == nullptr ? image.image->descriptor : image.index->descriptor;
  entry.annotations = image.annotations;
  if (image.names.empty()) index.manifests.push_back(entry);
  for (const oci::Reference& name : image.names) {
    entry.annotations["io.containerd.image.name"] = name.canonical();
    entry.annotations["org.opencontainers.image.ref.name"] = name.tag_or_latest();
    index.manifests.push_back(entry);
  }
  return index.to_json();
}

// Every blob once: layers and configs.
std::vector<oci::Descriptor> blobs_of(const ExportImage& exported) {
  std::vector<oci::Descriptor> blobs;
  for (const oci::Image* image : exported.images()) {
    blobs.insert(blobs.end(), image->manifest.layers.begin(), image->manifest.layers.end());
    blobs.push_back(image->manifest.config);
  }
  std::sort(blobs.begin(), blobs.end(), [](const auto& a, const auto& b) { return a.digest < b.digest; });
  blobs.erase(std::unique(blobs.begin(), blobs.end(), [](const auto& a, const auto& b) { return a.digest == b.digest; }), blobs.end());
  return blobs;
}

// Manifests, and the index of them: by digest, since two platforms may have the same image.
std::map<oci::Digest, const std::string*> manifests_of(const ExportImage& exported) {
  std::map<oci::Digest, const std::string*> out;
  for (const oci::Image* image : exported.images()) out.emplace(image->descriptor.digest, &image->manifest_json);
  if (exported.index != nullptr) out.emplace(exported.index->descriptor.digest, &exported.index->json);
  return out;
}

// What manifest.json says of the image; docker save format 1.2.
std::string docker_manifest(const ExportImage& image) {
  Json entry = Json::object();
  entry["Config"] = blob_path(image.image->manifest.config.digest);
  entry["RepoTags"] = Json::array();
  for (const oci::Reference& name : image.names) entry["RepoTags"].push_back(name.familiar_repository() + ":" + name.tag_or_latest());
  entry["Layers"] = Json::array();
  for (const oci::Descriptor& layer : image.image->manifest.layers) entry["Layers"].push_back(blob_path(layer.digest));
  return json::dump(Json::array({entry}));
}

Result<void> write_tar(ByteSink& out, const ExportImage& image, oci::BlobSource& blobs, bool docker) {
  internal::UstarWriter tar(out);
  RETURN_IF_ERROR(tar.file("oci-layout", kLayoutFile));
  RETURN_IF_ERROR(tar.file("index.json", index_json(image)));
  if (docker) RETURN_IF_ERROR(tar.file("manifest.json", docker_manifest(image)));
  RETURN_IF_ERROR(tar.directory("blobs"));
  RETURN_IF_ERROR(tar.directory("blobs/sha256"));
  for (const auto& [digest, json] : manifests_of(image)) RETURN_IF_ERROR(tar.file(blob_path(digest), *json));
  for (const oci::Descriptor& blob : blobs_of(image)) {
    ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> stream, blobs.open_blob(blob));
    RETURN_IF_ERROR_WITH(tar.file(blob_path(blob.digest), blob.size, *stream), "writing " + blob.digest.text());
  }
  return tar.finish();
}

Result<void> write_blob_file(int dir_fd, const oci::Descriptor& blob, oci::BlobSource& blobs) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> stream, blobs.open_blob(blob));
  ASSIGN_OR_RETURN(UniqueFd fd, open_at(dir_fd, blob_path(blob.digest), O_WRONLY | O_CREAT | O_EXCL, 0644));
  FdSink sink(fd.get());
  RETURN_IF_ERROR_WITH(copy_stream(*stream, sink), "writing " + blob.digest.text());
  return fd.close();
}

// A directory that holds something else is not replaced.
Result<bool> existing_layout(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) {
    if (errno == ENOENT) return false;
    return system_error(errno, "stat", path);
  }
  if (!S_ISDIR(st.st_mode)) return Error(ErrorKind::kInvalidInput, fmt::format("{} exists and is no directory", path));
  ASSIGN_OR_RETURN(const UniqueFd fd, open_directory(AT_FDCWD, path));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(fd.get()));
  if (names.empty() || std::find(names.begin(), names.end(), "oci-layout") != names.end()) return true;
  return Error(ErrorKind::kInvalidInput, fmt::format("{} exists and is no OCI layout: it is left as it is", path)).with_note("give another dest, or remove it first");
}

}  // namespace

Result<void> write_layout_directory(const std::string& path, const ExportImage& image, oci::BlobSource& blobs) {
  std::string place = path;
  while (place.size() > 1 && place.back() == '/') place.pop_back();
  ASSIGN_OR_RETURN(const bool exists, existing_layout(place));
  const size_t slash = place.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : place.substr(0, slash);
  RETURN_IF_ERROR(make_directories(AT_FDCWD, parent));
  ASSIGN_OR_RETURN(TempDir temp, TempDir::create(parent, ".oci-layout"));
  {
    ASSIGN_OR_RETURN(const UniqueFd fd, open_directory(AT_FDCWD, temp.path()));
    // TempDir is private to its owner; a layout is as readable as any other output. What the umask leaves is seen on a
    // new directory: asking for the umask sets it, under the other threads.
    RETURN_IF_ERROR(make_directories(fd.get(), "blobs/sha256", 0777));
    struct stat made {};
    if (::fstatat(fd.get(), "blobs", &made, AT_SYMLINK_NOFOLLOW) != 0) return system_error(errno, "stat", temp.path() + "/blobs");
    if (::fchmod(fd.get(), made.st_mode & 0777) != 0) return system_error(errno, "chmod", temp.path());
    for (const oci::Descriptor& blob : blobs_of(image)) RETURN_IF_ERROR(write_blob_file(fd.get(), blob, blobs));
    for (const auto& [digest, json] : manifests_of(image)) RETURN_IF_ERROR(write_file_atomically(fd.get(), blob_path(digest), *json, Durability::kNone));
    RETURN_IF_ERROR(write_file_atomically(fd.get(), "oci-layout", kLayoutFile, Durability::kNone));
    RETURN_IF_ERROR(write_file_atomically(fd.get(), "index.json", index_json(image), Durability::kNone));
  }
  // Exchanged in one step; the old one is then removed with the temporary name.
  const int renamed = exists ? ::renameat2(AT_FDCWD, temp.path().c_str(), AT_FDCWD, place.c_str(), RENAME_EXCHANGE) : ::rename(temp.path().c_str(), place.c_str());
  if (renamed != 0) return system_error(errno, "rename", place);
  if (!exists) temp.release();
  return {};
}

Result<void> write_layout_tar(ByteSink& out, const ExportImage& image, oci::BlobSource& blobs) { return write_tar(out, image, blobs, false); }

Result<void> write_docker_archive(ByteSink& out, const ExportImage& image, oci::BlobSource& blobs) {
  if (image.index != nullptr) return Error(ErrorKind::kUnsupported, "a docker archive cannot hold images for several platforms").with_note("use type=oci");
  for (const oci::Descriptor& layer : image.image->manifest.layers) {
    if (oci::layer_compression(layer.media_type) == oci::Compression::kZstd) {
      return Error(ErrorKind::kUnsupported, "a docker archive cannot hold zstd layers").with_note("use compression=gzip or compression=uncompressed with force-compression=true, or type=oci");
    }
  }
  return write_tar(out, image, blobs, true);
}

}  // namespace lamina::registry
