#include "builder/remote_files.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/files.h"
#include "base/text.h"
#include "base/trace.h"
#include "builder/secrets.h"
#include "net/url.h"

namespace lamina::builder {

namespace {

constexpr std::string_view kFormat = "lamina-http 1";

std::string index_name(const std::string& url) { return "http-" + sha256_hex(url); }

// Counts what goes through.
class CountingSource : public ByteSource {
 public:
  CountingSource(ByteSource& source, uint64_t total, const RemoteFiles::Progress& progress) : source_(source), total_(total), progress_(progress) {}
  Result<size_t> read(std::span<std::byte> buffer) override {
    auto n = source_.read(buffer);
    if (n && progress_) progress_(done_ += *n, total_);
    return n;
  }

 private:
  ByteSource& source_;
  uint64_t total_;
  uint64_t done_ = 0;
  const RemoteFiles::Progress& progress_;
};

class FileTree : public SourceTree {
 public:
  FileTree(std::string path, std::string file_name, uint64_t size, Timestamp mtime, const Sha256Bytes& digest)
      : opener_(std::make_shared<Opener>(std::move(path))), file_name_(std::move(file_name)), digest_(digest) {
    info_.mode = 0600;
    info_.size = size;
    info_.mtime = mtime;
  }
  std::string name() const override { return "remote file"; }
  Result<std::optional<FileInfo>> lstat(const std::string& path) const override {
    if (path == file_name_) return std::optional(info_);
    if (!path.empty()) return std::optional<FileInfo>();
    FileInfo root;
    root.type = EntryType::kDirectory;
    root.mode = 0755;
    return std::optional(root);
  }
  Result<std::string> resolve(const std::string& path, bool) const override { return path; }
  Result<std::vector<DirectoryEntry>> list(const std::string&) const override { return std::vector<DirectoryEntry>{{file_name_, EntryType::kFile}}; }
  Result<std::string> read_link(const std::string& path) const override { return Error(ErrorKind::kInternal, path + " is no link"); }
  Result<std::map<std::string, std::string>> xattrs(const std::string&) const override { return std::map<std::string, std::string>(); }
  Result<Sha256Bytes> file_digest(const std::string&, const FileInfo&, bool, ThreadPool*) const override { return digest_; }
  std::shared_ptr<const layers::FileOpener> opener() const override { return opener_; }

 private:
  struct Opener : layers::FileOpener {
    explicit Opener(std::string p) : path(std::move(p)) {}
    Result<UniqueFd> open_file(const std::string&) const override { return open_at(AT_FDCWD, path, O_RDONLY); }
    std::string path;
  };
  std::shared_ptr<Opener> opener_;
  std::string file_name_;
  Sha256Bytes digest_;
  FileInfo info_;
};

}  // namespace

struct RemoteFiles::Known {
  std::string etag, last_modified;
  bool last_modified_is_strong = false;
  std::optional<oci::Digest> digest;

  RemoteFile file() const {
    RemoteFile out;
    if (digest) out.digest = *digest;
    if (const auto seconds = net::parse_http_date(last_modified)) out.last_modified = Timestamp{*seconds, 0};
    return out;
  }
  std::string text() const {
    return fmt::format("{}\n{}\n{}\n{}\n{}\n", kFormat, etag, last_modified, last_modified_is_strong ? 1 : 0, digest->text());
  }
};

RemoteFiles::RemoteFiles(layers::Store& store, const BuildRequest& request, std::stop_token stop, std::function<void(const std::string&)> warn)
    : store_(store), request_(request), fetcher_(std::move(stop)) {
  fetcher_.on_warning(std::move(warn));
}

// An index that cannot be read counts as absent.
Result<RemoteFiles::Known> RemoteFiles::known_of(const std::string& url) {
  Known known;
  ASSIGN_OR_RETURN(const auto text, store_.index(index_name(url)));
  if (!text) return known;
  const std::vector<std::string> lines = split(*text, '\n');
  if (lines.size() < 5 || lines[0] != kFormat) return known;
  auto digest = oci::Digest::parse(lines[4]);
  if (!digest) return known;
  return Known{lines[1], lines[2], lines[3] == "1", std::move(*digest)};
}

Result<std::string> RemoteFiles::authorization_for(const std::string& text) {
  ASSIGN_OR_RETURN(const net::Url url, net::Url::parse(text));
  for (const std::string& host : {url.authority(), url.host}) {
    ASSIGN_OR_RETURN(const auto header, read_secret(request_, "HTTP_AUTH_HEADER_" + host));
    if (header) return std::string(trim(*header));
    ASSIGN_OR_RETURN(const auto token, read_secret(request_, "HTTP_AUTH_TOKEN_" + host));
    if (token) return "Bearer " + std::string(trim(*token));
  }
  return std::string();
}

Result<RemoteFiles::Known> RemoteFiles::download(const std::string& url, const Known& before, const std::optional<oci::Digest>& expected, const Progress& progress) {
  const TraceSpan span("http", "get " + net::redacted(url));
  net::FetchRequest request;
  request.url = url;
  ASSIGN_OR_RETURN(request.authorization, authorization_for(url));
  request.etag = before.etag;
  if (before.last_modified_is_strong) request.last_modified = before.last_modified;
  Known fresh;
  const auto take = [&](const net::FetchAnswer& answer, ByteSource& body) -> Result<void> {
    CountingSource counted(body, answer.size.value_or(0), progress);
    auto blob = store_.add_blob(counted, expected);
    if (!blob) return std::move(blob).error();
    fresh.digest = blob->digest;
    return {};
  };
  ASSIGN_OR_RETURN(const net::FetchAnswer answer, fetcher_.get(request, take));
  if (answer.unchanged) fresh.digest = before.digest;
  fresh.etag = answer.etag;
  fresh.last_modified = answer.last_modified;
  fresh.last_modified_is_strong = answer.last_modified_is_strong || (answer.unchanged && before.last_modified_is_strong);
  RETURN_IF_ERROR(store_.put_index(index_name(url), fresh.text()));
  return fresh;
}

Result<RemoteFile> RemoteFiles::look_up(const std::string& url, const std::optional<oci::Digest>& checksum, const Progress& progress) {
  if (checksum) return RemoteFile{*checksum, {}};
  return looked_up_.get(url, [&]() -> Result<RemoteFile> {
    ASSIGN_OR_RETURN(const Known before, known_of(url));
    ASSIGN_OR_RETURN(const Known fresh, download(url, before.digest ? before : Known{}, std::nullopt, progress));
    return fresh.file();
  });
}

Result<std::string> RemoteFiles::path_of(const std::string& url, RemoteFile& file, const Progress& progress) {
  ASSIGN_OR_RETURN(const Known known, known_of(url));
  if (known.digest == file.digest && !file.last_modified) file.last_modified = known.file().last_modified;
  auto path = store_.checked_blob_path(file.digest);
  if (path || path.error().kind() != ErrorKind::kNotFound) return path;
  ASSIGN_OR_RETURN(const Known fresh, download(url, Known{}, file.digest, progress));
  file.last_modified = fresh.file().last_modified;
  return store_.checked_blob_path(file.digest);
}

std::string file_name_of_url(const std::string& text) {
  const auto url = net::Url::parse(text);
  const auto path = url ? net::percent_decode(url->path) : Result<std::string>(std::string());
  if (!path) return "__unnamed__";
  // Go's path.Base: trailing slashes do not count.
  const std::vector<std::string> parts = path_components(*path);
  const std::string name = parts.empty() ? "" : parts.back();
  return name.empty() || name == ".." || name.find('\0') != std::string::npos ? "__unnamed__" : name;
}

std::shared_ptr<const SourceTree> tree_of_file(std::string path, std::string name, uint64_t size, Timestamp mtime, const Sha256Bytes& digest) {
  return std::make_shared<FileTree>(std::move(path), std::move(name), size, mtime, digest);
}

}  // namespace lamina::builder
