#include "registry/copy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <set>

#include "base/files.h"
#include "base/json.h"
#include "base/scope_exit.h"
#include "base/stoppable.h"
#include "registry/internal/ustar.h"

namespace lamina::registry {

namespace {

constexpr int kMaxDepth = 4;  // indexes in indexes
constexpr std::pair<std::string_view, Place::Kind> kTransports[] = {
    {"docker://", Place::Kind::kRegistry}, {"oci:", Place::Kind::kLayout}, {"oci-archive:", Place::Kind::kLayoutArchive}, {"docker-archive:", Place::Kind::kDockerArchive}};

// A manifest with everything below it, children before parents.
struct Tree {
  struct Node {
    oci::Descriptor descriptor;
    std::string bytes;
    bool index = false;
  };
  std::vector<Node> nodes;
  std::vector<oci::Descriptor> blobs;  // each once
};

class TreeReader {
 public:
  TreeReader(oci::BlobSource& source, Tree& tree) : source_(source), tree_(tree) {}

  Result<void> add(const oci::Descriptor& descriptor, std::optional<std::string> bytes, int depth) {
    if (!seen_.insert(descriptor.digest.hex()).second) return {};
    if (depth > kMaxDepth) return Error(ErrorKind::kUnsupported, "indexes are nested too deeply");
    Tree::Node node{descriptor, {}, oci::media_type::is_index(descriptor.media_type)};
    if (bytes) {
      node.bytes = std::move(*bytes);
    } else {
      ASSIGN_OR_RETURN_WITH(node.bytes, oci::read_blob(source_, descriptor), "reading " + descriptor.digest.text());
    }
    if (node.index) {
      ASSIGN_OR_RETURN(const oci::Index index, oci::Index::parse(node.bytes));
      for (const oci::Descriptor& child : index.manifests) RETURN_IF_ERROR(add(child, std::nullopt, depth + 1));
    } else {
      ASSIGN_OR_RETURN(const oci::Manifest manifest, oci::Manifest::parse(node.bytes));
      add_blob(manifest.config);
      for (const oci::Descriptor& layer : manifest.layers) add_blob(layer);
    }
    tree_.nodes.push_back(std::move(node));
    return {};
  }

 private:
  void add_blob(const oci::Descriptor& blob) {
    if (seen_.insert(blob.digest.hex()).second) tree_.blobs.push_back(blob);
  }

  oci::BlobSource& source_;
  Tree& tree_;
  std::set<std::string> seen_;
};

Result<Tree> read_tree(const OpenedImage& image, const CopyOptions& options) {
  Tree tree;
  TreeReader reader(*image.blobs, tree);
  if (!options.platform || !oci::media_type::is_index(image.top.media_type)) {
    RETURN_IF_ERROR(reader.add(image.top, image.bytes, 0));
    return tree;
  }
  ASSIGN_OR_RETURN(const oci::Index index, oci::Index::parse(image.bytes));
  ASSIGN_OR_RETURN(oci::Descriptor chosen, index.select(*options.platform));
  chosen.annotations.clear();
  chosen.platform.reset();
  RETURN_IF_ERROR(reader.add(chosen, std::nullopt, 0));
  return tree;
}

// --- to a registry ----------------------------------------------------------------------------------

// Blobs in parallel; the first failure ends the others.
Result<void> push_blobs(Client& client, const Tree& tree, oci::BlobSource& source, const oci::Reference& to, const std::vector<std::string>& mounts, const CopyOptions& options, CopyReport& report) {
  std::vector<oci::Descriptor> blobs = tree.blobs;
  std::stable_sort(blobs.begin(), blobs.end(), [](const auto& a, const auto& b) { return a.size > b.size; });
  std::atomic<bool> failed = false;
  std::atomic<uint64_t> moved = 0;
  std::optional<Error> failure;
  {
    std::vector<std::future<Result<void>>> results;
    ThreadPool pool(std::max(1u, client.options().parallel_transfers));
    for (const oci::Descriptor& blob : blobs) {
      results.push_back(pool.submit([&, &blob = blob]() -> Result<void> {
        if (failed) return {};
        auto outcome = client.push_blob(to, blob, source, mounts, options.progress);
        if (!outcome) {
          failed = true;
          return std::move(outcome).error();
        }
        if (*outcome == PushOutcome::kUploaded) moved += blob.size;
        return {};
      }));
    }
    for (auto& result : results) {
      auto done = result.get();
      if (!done && !failure) failure = std::move(done).error();
    }
  }
  report.moved_bytes += moved;
  if (failure) return std::move(*failure);
  return {};
}

Result<void> to_registry(Client& client, const Tree& tree, oci::BlobSource& source, const oci::Reference& to, const std::vector<std::string>& mounts, const CopyOptions& options, CopyReport& report) {
  RETURN_IF_ERROR(push_blobs(client, tree, source, to, mounts, options, report));
  for (const Tree::Node& node : tree.nodes) {
    const bool top = &node == &tree.nodes.back();
    // Without the tag, which belongs to the top alone.
    ASSIGN_OR_RETURN(const oci::Reference by_digest, oci::Reference::parse(fmt::format("{}/{}@{}", to.registry(), to.repository(), node.descriptor.digest.text())));
    const oci::Reference& name = top ? to : by_digest;
    if (top && to.digest() && !(*to.digest() == node.descriptor.digest)) {
      return Error(ErrorKind::kInvalidInput, fmt::format("{} cannot have the digest of {}: it is {}", to.familiar(), to.digest()->text(), node.descriptor.digest.text()));
    }
    ASSIGN_OR_RETURN(const oci::Descriptor put, client.push_manifest(name, node.descriptor.media_type, node.bytes));
    if (!(put.digest == node.descriptor.digest)) return Error(ErrorKind::kCorrupt, fmt::format("{} became {} on its way", node.descriptor.digest.text(), put.digest.text()));
  }
  return {};
}

// --- to files ---------------------------------------------------------------------------------------

std::string blob_path(const oci::Digest& digest) { return "blobs/sha256/" + digest.hex(); }

oci::Descriptor index_entry(const oci::Descriptor& top, const Place& to) {
  oci::Descriptor entry = top;
  entry.annotations.clear();
  if (to.tag) entry.annotations["org.opencontainers.image.ref.name"] = *to.tag;
  return entry;
}

// Whether the bytes are there, which a size alone does not say.
Result<bool> holds(int directory, const std::string& path, const oci::Descriptor& blob, const std::stop_token& stop) {
  struct stat st {};
  if (::fstatat(directory, path.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) != blob.size) return false;
  ASSIGN_OR_RETURN(UniqueFd fd, open_at(directory, path, O_RDONLY | O_NOFOLLOW));
  const auto stream = oci::verify_stream(std::make_unique<StoppableSource>(std::make_unique<FdSource>(std::move(fd)), stop), blob);
  NullSink nowhere;
  const auto read = copy_stream(*stream, nowhere);
  if (!read && read.error().kind() != ErrorKind::kCorrupt) return std::move(read).error();
  return read.has_value();
}

// Puts one blob beside its place and moves it there: a layout that others read never has half of one.
Result<bool> put_file(int directory, const oci::Descriptor& blob, const std::stop_token& stop, const std::function<Result<void>(ByteSink&)>& write) {
  const std::string path = blob_path(blob.digest);
  ASSIGN_OR_RETURN(const bool there, holds(directory, path, blob, stop));
  if (there) return false;
  const std::string temp = path + "." + temporary_name("part");
  const auto fill = [&]() -> Result<void> {
    ASSIGN_OR_RETURN(UniqueFd fd, open_at(directory, temp, O_WRONLY | O_CREAT | O_EXCL, 0644));
    FdSink sink(fd.get());
    RETURN_IF_ERROR(write(sink));
    RETURN_IF_ERROR(fd.close());
    if (::renameat(directory, temp.c_str(), directory, path.c_str()) != 0) return system_error(errno, "rename", path);
    return {};
  };
  auto done = fill();
  if (!done) {
    ::unlinkat(directory, temp.c_str(), 0);
    return std::move(done).error().with_context("writing " + blob.digest.text());
  }
  return true;
}

// Whole blobs stay when it is interrupted, for the next try; what names them is written last.
Result<void> to_layout(const Tree& tree, oci::BlobSource& source, const Place& to, const std::stop_token& stop, CopyReport& report) {
  RETURN_IF_ERROR(make_directories(AT_FDCWD, to.path + "/blobs/sha256"));
  ASSIGN_OR_RETURN(const UniqueFd directory, open_directory(AT_FDCWD, to.path));
  ASSIGN_OR_RETURN(const FileLock only, FileLock::acquire(directory.get(), ".lock", FileLock::Mode::kExclusive));
  const ScopeExit unlock([&] { ::unlinkat(directory.get(), ".lock", 0); });
  for (const oci::Descriptor& blob : tree.blobs) {
    ASSIGN_OR_RETURN(const bool written, put_file(directory.get(), blob, stop, [&](ByteSink& sink) -> Result<void> {
      ASSIGN_OR_RETURN(const auto stream, source.open_blob(blob));
      RETURN_IF_ERROR(copy_stream(*stream, sink));
      return {};
    }));
    if (written) report.moved_bytes += blob.size;
  }
  for (const Tree::Node& node : tree.nodes) {
    RETURN_IF_ERROR(put_file(directory.get(), node.descriptor, stop, [&](ByteSink& sink) { return sink.write(as_bytes(node.bytes)); }));
  }
  oci::Index index;
  ASSIGN_OR_RETURN(const auto before, read_file_if_exists(directory.get(), "index.json", 64 << 20));
  if (before) {
    ASSIGN_OR_RETURN_WITH(index, oci::Index::parse(*before), "reading " + to.path + "/index.json");
  }
  const oci::Descriptor entry = index_entry(tree.nodes.back().descriptor, to);
  std::erase_if(index.manifests, [&](const oci::Descriptor& old) {
    const auto name = old.annotations.find("org.opencontainers.image.ref.name");
    return to.tag ? name != old.annotations.end() && name->second == *to.tag : old.digest == entry.digest && name == old.annotations.end();
  });
  index.manifests.push_back(entry);
  RETURN_IF_ERROR(write_file_atomically(directory.get(), "oci-layout", R"({"imageLayoutVersion":"1.0.0"})", Durability::kNone));
  RETURN_IF_ERROR(write_file_atomically(directory.get(), "index.json", index.to_json(), Durability::kNone));
  return {};
}

Result<void> to_layout_archive(const Tree& tree, oci::BlobSource& source, const Place& to, CopyReport& report) {
  oci::Index index;
  index.manifests.push_back(index_entry(tree.nodes.back().descriptor, to));
  return write_whole_file(to.path, [&](ByteSink& out) -> Result<void> {
    internal::UstarWriter tar(out);
    RETURN_IF_ERROR(tar.file("oci-layout", R"({"imageLayoutVersion":"1.0.0"})"));
    RETURN_IF_ERROR(tar.file("index.json", index.to_json()));
    RETURN_IF_ERROR(tar.directory("blobs"));
    RETURN_IF_ERROR(tar.directory("blobs/sha256"));
    for (const Tree::Node& node : tree.nodes) RETURN_IF_ERROR(tar.file(blob_path(node.descriptor.digest), node.bytes));
    for (const oci::Descriptor& blob : tree.blobs) {
      ASSIGN_OR_RETURN(const auto stream, source.open_blob(blob));
      RETURN_IF_ERROR_WITH(tar.file(blob_path(blob.digest), blob.size, *stream), "writing " + blob.digest.text());
      report.moved_bytes += blob.size;
    }
    return tar.finish();
  });
}

Result<void> to_docker_archive(const Tree& tree, oci::BlobSource& source, const Place& to, CopyReport& report) {
  const Tree::Node& node = tree.nodes.back();
  if (node.index) return Error(ErrorKind::kUnsupported, "a docker archive holds one image, not an index").with_note("choose one with --platform, or copy to oci-archive:");
  oci::Image image;
  image.descriptor = node.descriptor;
  image.manifest_json = node.bytes;
  ASSIGN_OR_RETURN(image.manifest, oci::Manifest::parse(node.bytes));
  ASSIGN_OR_RETURN(image.config_json, oci::read_blob(source, image.manifest.config));
  for (const oci::Descriptor& blob : tree.blobs) report.moved_bytes += blob.size;
  ExportImage exported{&image, {}};
  if (to.tag) exported.names.push_back(to.name);
  return write_whole_file(to.path, [&](ByteSink& out) { return write_docker_archive(out, exported, source); });
}

Result<void> copy_referrers(Client& client, const Place& from, const Place& to, const oci::Digest& subject, const CopyOptions& options, CopyReport& report) {
  ASSIGN_OR_RETURN(const oci::Index index, client.referrers(from.name.with_digest(subject), ""));
  for (const oci::Descriptor& referrer : index.manifests) {
    Place source = from, target = to;
    source.name = from.name.with_digest(referrer.digest);
    ASSIGN_OR_RETURN(target.name, oci::Reference::parse(fmt::format("{}/{}@{}", to.name.registry(), to.name.repository(), referrer.digest.text())));
    CopyOptions plain;
    plain.progress = options.progress;
    ASSIGN_OR_RETURN(const CopyReport one, copy_image(client, source, target, plain));
    report.manifests += one.manifests;
    report.blobs += one.blobs;
    report.moved_bytes += one.moved_bytes;
  }
  return {};
}

}  // namespace

Result<void> write_whole_file(const std::string& path, const std::function<Result<void>(ByteSink&)>& write) {
  if (path == "-") {
    FdSink sink(STDOUT_FILENO);
    return write(sink);
  }
  return write_output_file(path, [&](int fd) {
    FdSink sink(fd);
    return write(sink);
  });
}

bool names_transport(std::string_view text) {
  return std::any_of(std::begin(kTransports), std::end(kTransports), [&](const auto& t) { return text.starts_with(t.first); });
}

Result<Place> parse_place(std::string_view text) {
  Place place;
  place.text = text;
  for (const auto& [prefix, kind] : kTransports) {
    if (!text.starts_with(prefix)) continue;
    place.kind = kind;
    text.remove_prefix(prefix.size());
    break;
  }
  if (place.kind == Place::Kind::kRegistry) {
    ASSIGN_OR_RETURN(place.name, oci::Reference::parse(text));
    return place;
  }
  std::string rest(text);
  if (const size_t at = rest.rfind("@sha256:"); at != std::string::npos) {
    ASSIGN_OR_RETURN(place.digest, oci::Digest::parse(rest.substr(at + 1)));
    rest.resize(at);
  } else if (const size_t colon = rest.find(':'); colon != std::string::npos) {
    place.tag = rest.substr(colon + 1);
    rest.resize(colon);
    if (place.kind == Place::Kind::kDockerArchive) {
      ASSIGN_OR_RETURN(place.name, oci::Reference::parse(*place.tag));
    }
  }
  place.path = rest;
  if (place.path.empty()) return Error(ErrorKind::kInvalidInput, fmt::format("\"{}\" names no file", place.text)).with_note("write docker://NAME, oci:DIRECTORY:TAG, oci-archive:FILE:TAG or docker-archive:FILE:NAME");
  return place;
}

Result<OpenedImage> open_image(Client& client, const Place& place) {
  OpenedImage opened;
  if (place.kind == Place::Kind::kRegistry) {
    ASSIGN_OR_RETURN(FetchedManifest fetched, client.fetch_manifest(place.name));
    opened.top = fetched.descriptor;
    opened.bytes = std::move(fetched.bytes);
    opened.blobs = repository_source(client, place.name);
    return opened;
  }
  ASSIGN_OR_RETURN_WITH(std::shared_ptr<ImageFile> file, ImageFile::open(place.path, client.options().stop), "opening " + place.text);
  ASSIGN_OR_RETURN_WITH(opened.top, file->find(place.tag, place.digest), "looking for the image in " + place.text);
  ASSIGN_OR_RETURN_WITH(opened.bytes, oci::read_blob(*file, opened.top), "reading " + place.text);
  opened.top.annotations.clear();
  opened.blobs = std::move(file);
  return opened;
}

Result<CopyReport> copy_image(Client& client, const Place& from, const Place& to, const CopyOptions& options) {
  const bool between_registries = from.kind == Place::Kind::kRegistry && to.kind == Place::Kind::kRegistry;
  if (options.referrers && !between_registries) return Error(ErrorKind::kInvalidInput, "--referrers is for copies from registry to registry");
  ASSIGN_OR_RETURN(const OpenedImage image, open_image(client, from));
  ASSIGN_OR_RETURN(const Tree tree, read_tree(image, options));
  CopyReport report;
  report.top = tree.nodes.back().descriptor;
  report.manifests = static_cast<unsigned>(tree.nodes.size());
  report.blobs = static_cast<unsigned>(tree.blobs.size());
  std::vector<std::string> mounts;
  if (between_registries && from.name.registry() == to.name.registry() && from.name.repository() != to.name.repository()) mounts.push_back(from.name.repository());
  const std::stop_token& stop = client.options().stop;
  const auto blobs = oci::stoppable(*image.blobs, stop);
  switch (to.kind) {
    case Place::Kind::kRegistry: RETURN_IF_ERROR(to_registry(client, tree, *blobs, to.name, mounts, options, report)); break;
    case Place::Kind::kLayout: RETURN_IF_ERROR(to_layout(tree, *blobs, to, stop, report)); break;
    case Place::Kind::kLayoutArchive: RETURN_IF_ERROR(to_layout_archive(tree, *blobs, to, report)); break;
    case Place::Kind::kDockerArchive: RETURN_IF_ERROR(to_docker_archive(tree, *blobs, to, report)); break;
  }
  if (options.referrers) {
    for (const Tree::Node& node : tree.nodes) RETURN_IF_ERROR(copy_referrers(client, from, to, node.descriptor.digest, options, report));
  }
  return report;
}

}  // namespace lamina::registry
