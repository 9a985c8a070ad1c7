#include "builder/contexts.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>

#include "base/files.h"
#include "base/text.h"
#include "base/trace.h"
#include "builder/copy.h"
#include "builder/internal/paths.h"
#include "net/url.h"

namespace lamina::builder {

namespace {

constexpr uint64_t kMaxDockerfile = 16 << 20;
constexpr uint64_t kMaxIgnoreFile = 16 << 20;
const std::vector<std::string> kDockerfileNames = {"Dockerfile", "dockerfile", "Containerfile"};

bool starts(const std::string& text, std::string_view with) { return text.compare(0, with.size(), with) == 0; }
bool is_http_url(const std::string& text) { return starts(text, "http://") || starts(text, "https://"); }

std::string shown(const std::string& text) { return printable(net::redacted(text)); }

// Yields what was read ahead, then the rest.
class PrefixedSource : public ByteSource {
 public:
  PrefixedSource(std::string head, ByteSource& rest) : head_(std::move(head)), rest_(rest) {}
  Result<size_t> read(std::span<std::byte> buffer) override {
    ASSIGN_OR_RETURN(const size_t n, head_.read(buffer));
    if (n > 0) return n;
    return rest_.read(buffer);
  }

 private:
  StringSource head_;
  ByteSource& rest_;
};

// Standard input, which may never say anything: a stop request ends the waiting.
class InputSource : public ByteSource {
 public:
  explicit InputSource(std::stop_token stop) : stop_(std::move(stop)) {}
  Result<size_t> read(std::span<std::byte> buffer) override {
    while (true) {
      if (stop_.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
      pollfd input{STDIN_FILENO, POLLIN, 0};
      const int ready = ::poll(&input, 1, 100);
      if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
      if (ready < 0) return system_error(errno, "poll", "standard input");
      const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
      if (n >= 0) return static_cast<size_t>(n);
      if (errno != EINTR && errno != EAGAIN) return system_error(errno, "read", "standard input");
    }
  }

 private:
  std::stop_token stop_;
};

// The first bytes: enough for a tar header.
Result<std::string> read_head(ByteSource& source) {
  std::string head(512, '\0');
  size_t have = 0;
  while (have < head.size()) {
    ASSIGN_OR_RETURN(const size_t n, source.read(std::as_writable_bytes(std::span(head.data() + have, head.size() - have))));
    if (n == 0) break;
    have += n;
  }
  head.resize(have);
  return head;
}

// A regular file of a fetched tree; symlinks stay inside it. Nothing when there is none.
Result<std::optional<std::string>> read_inside(const std::string& directory, const std::string& path, uint64_t limit) {
  ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, directory));
  auto fd = open_in_root(root.get(), path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) {
    const int e = fd.error().error_number();
    if (e == ENOENT || e == ENOTDIR || e == ELOOP) return std::optional<std::string>();
    return std::move(fd).error();
  }
  struct stat st {};
  if (::fstat(fd->get(), &st) != 0) return system_error(errno, "fstat", path);
  if (!S_ISREG(st.st_mode)) return std::optional<std::string>();
  ASSIGN_OR_RETURN_WITH(std::string text, read_fd(fd->get(), limit), "reading " + path);
  return std::optional(std::move(text));
}

}  // namespace

bool is_image_context(const std::string& text) { return starts(text, "docker-image://") || starts(text, "oci-layout://"); }

Result<ContextPlace> parse_context(const std::string& text) {
  if (text == "-") return ContextPlace(InputContext{});
  struct stat st {};
  if (::stat(text.c_str(), &st) == 0) return ContextPlace(DirectoryContext{text});
  ASSIGN_OR_RETURN(std::optional<GitSource> git, parse_git_source(text, GitPlace::kCommandLine));
  if (git) return ContextPlace(std::move(*git));
  if (is_http_url(text)) return ContextPlace(HttpContext{text});
  if (const size_t scheme = text.find("://"); scheme != std::string::npos && text.find('/') > scheme) {
    return Error(ErrorKind::kInvalidInput, fmt::format("the context {} is none that can be read", shown(text)))
        .with_note("a context is a directory, - (standard input), an http(s):// URL of a tar, or a git repository: https://….git, git+https://…, ssh://…, git://…, git@host:path");
  }
  return ContextPlace(DirectoryContext{text});
}

// --- fetching -------------------------------------------------------------------------------------

Result<Contexts::Files> Contexts::unpack(ByteSource& source, const std::string& what) {
  Files files;
  files.fetched = true;
  ASSIGN_OR_RETURN(layers::PendingLayer scratch, store_.begin_layer());
  ASSIGN_OR_RETURN(const UnpackedArchive unpacked, unpack_stream(source, what, scratch.fs(), Unpacking::kContext));
  for (const std::string& path : unpacked.left_out) events_.warning(fmt::format("{} of the context {} is a device node or a fifo and is left out", printable(path), what));
  if (unpacked.newest) files.time = unpacked.newest->seconds;
  files.directory = scratch.fs();
  files.scratch = std::move(scratch);
  return files;
}

Result<Contexts::Files> Contexts::from_input() {
  if (request_.dockerfile == "-") {
    return Error(ErrorKind::kInvalidInput, "the context and the Dockerfile cannot both come from standard input").with_note("give the context as a directory, or put the Dockerfile into the archive");
  }
  InputSource source(stop_);
  ASSIGN_OR_RETURN_WITH(std::string head, read_head(source), "reading standard input");
  const bool archive = starts_like_archive(head);
  PrefixedSource whole(std::move(head), source);
  if (archive) return unpack(whole, "standard input");
  if (!request_.dockerfile.empty()) {
    return Error(ErrorKind::kInvalidInput, fmt::format("standard input is no archive, so it is a Dockerfile, and -f {} names another one", request_.dockerfile))
        .with_note("leave -f out, or give a tar");
  }
  Files files;
  files.fetched = true;
  ASSIGN_OR_RETURN_WITH(files.dockerfile, read_to_string(whole, kMaxDockerfile), "reading the Dockerfile on standard input");
  return files;
}

Result<Contexts::Files> Contexts::from_http(const std::string& name, const std::string& url) {
  VertexScope vertex(events_, "[internal] load remote build context " + shown(url));
  const RemoteFiles::Progress progress = [&](uint64_t done, uint64_t total) { events_.progress(vertex.id(), shown(url), done, total); };
  ASSIGN_OR_RETURN(RemoteFile file, files_.look_up(url, std::nullopt, progress));
  ASSIGN_OR_RETURN(const std::string path, files_.path_of(url, file, progress));
  ASSIGN_OR_RETURN(UniqueFd fd, open_at(AT_FDCWD, path, O_RDONLY));
  FdSource source(std::move(fd));
  ASSIGN_OR_RETURN(std::string head, read_head(source));
  const bool archive = starts_like_archive(head);
  PrefixedSource whole(std::move(head), source);
  Files files;
  files.fetched = true;
  if (archive) {
    ASSIGN_OR_RETURN(files, unpack(whole, shown(url)));
  } else if (name.empty()) {
    ASSIGN_OR_RETURN_WITH(files.dockerfile, read_to_string(whole, kMaxDockerfile), "reading the Dockerfile at " + shown(url));
  } else {
    return Error(ErrorKind::kInvalidInput, fmt::format("the named context {} is no tar: {}", name, shown(url))).with_note("a single file is added with ADD " + shown(url));
  }
  if (file.last_modified) files.time = file.last_modified->seconds;
  vertex.done();
  return files;
}

Result<Contexts::Files> Contexts::from_git(const std::string& name, const GitSource& source) {
  VertexScope vertex(events_, "[internal] load git source " + shown(source.remote));
  ASSIGN_OR_RETURN(const GitRevision revision, repositories_.resolve(source, GitPlace::kCommandLine));
  GitOptions options;
  options.owner = GitPlace::kCommandLine;
  options.submodules = source.submodules.value_or(true);
  options.commit_times = source.mtime.empty() ? !request_.source_date_epoch_name.empty() || request_.source_date_epoch : source.mtime == "commit";
  options.keep_git_dir = source.keep_git_dir.value_or(false);
  if (name.empty()) {
    for (const auto& [argument, value] : request_.build_args) {
      if (argument == "BUILDKIT_CONTEXT_KEEP_GIT_DIR" && value && (*value == "1" || iequals(*value, "true") || iequals(*value, "t"))) options.keep_git_dir = true;
    }
  }
  Files files;
  files.fetched = true;
  ASSIGN_OR_RETURN(files.checkout, repositories_.checkout(source, revision, options));
  files.directory = files.checkout->directory;
  files.time = files.checkout->commit_time;
  vertex.done();
  return files;
}

Result<Contexts::Files> Contexts::fetch(const std::string& name, const ContextPlace& place) {
  if (const auto* directory = std::get_if<DirectoryContext>(&place)) {
    Files files;
    files.directory = directory->path;
    return files;
  }
  if (std::holds_alternative<InputContext>(place)) {
    if (name.empty()) return from_input();
    return Error(ErrorKind::kInvalidInput, fmt::format("the named context {} cannot come from standard input", name));
  }
  if (const auto* http = std::get_if<HttpContext>(&place)) return from_http(name, http->url);
  return from_git(name, std::get<GitSource>(place));
}

Result<std::shared_ptr<Contexts::Files>> Contexts::files_of(const std::string& name) {
  return made_.get(name, [&]() -> Result<std::shared_ptr<Files>> {
    ASSIGN_OR_RETURN(const ContextPlace place, parse_context(text_of(name)));
    ASSIGN_OR_RETURN_WITH(Files made, fetch(name, place), name.empty() ? "loading the build context" : "loading the named context " + name);
    auto files = std::make_shared<Files>(std::move(made));
    if (files->directory.empty()) {  // a Dockerfile alone
      ASSIGN_OR_RETURN(layers::PendingLayer scratch, store_.begin_layer());
      files->directory = scratch.fs();
      files->scratch = std::move(scratch);
    }
    return files;
  });
}

// --- the Dockerfile -------------------------------------------------------------------------------

Result<DockerfileText> Contexts::dockerfile_of_directory(const std::string& directory) {
  std::string path = request_.dockerfile;
  if (path.empty()) {
    path = directory + "/" + kDockerfileNames.front();
    for (const std::string& name : kDockerfileNames) {
      if (::access((directory + "/" + name).c_str(), F_OK) != 0) continue;
      path = directory + "/" + name;
      break;
    }
  }
  // A pipe that the user names (-f <(generate)) is read; one that lies in a context is not waited for.
  struct stat st {};
  const bool pipe = !request_.dockerfile.empty() && ::stat(path.c_str(), &st) == 0 && S_ISFIFO(st.st_mode);
  const auto read_pipe = [&]() -> Result<std::string> {
    ASSIGN_OR_RETURN(const UniqueFd fd, open_at(AT_FDCWD, path, O_RDONLY));
    return read_fd(fd.get(), kMaxDockerfile);
  };
  auto text = pipe ? read_pipe() : read_file(AT_FDCWD, path, kMaxDockerfile);
  if (!text && text.error().error_number() == ENOENT) {
    if (::access(directory.c_str(), F_OK) != 0) return Error(ErrorKind::kInvalidInput, fmt::format("the build context {} does not exist", directory));
    return Error(ErrorKind::kInvalidInput, fmt::format("there is no Dockerfile at {}", path)).with_note("name it with -f FILE");
  }
  if (!text) return std::move(text).error();
  dockerfile_path_ = path;
  return DockerfileText{std::move(*text), starts(path, "./") ? path.substr(2) : path, path};
}

Result<DockerfileText> Contexts::dockerfile_inside(const Files& files) {
  const std::vector<std::string> names = request_.dockerfile.empty() ? kDockerfileNames : std::vector<std::string>{clean_path("/" + request_.dockerfile).substr(1)};
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::optional<std::string> text, read_inside(files.directory, name, kMaxDockerfile));
    if (!text) continue;
    dockerfile_inside_ = name;
    return DockerfileText{std::move(*text), name, {}};
  }
  return Error(ErrorKind::kInvalidInput, fmt::format("there is no Dockerfile at {} in the context {}", printable(names.front()), shown(request_.context)))
      .with_note("-f FILE names it: a path in the context, or an absolute path of this machine");
}

Result<DockerfileText> Contexts::dockerfile() {
  const std::string& wanted = request_.dockerfile;
  if (wanted == "-" && request_.context != "-") {
    InputSource input(stop_);
    ASSIGN_OR_RETURN_WITH(std::string text, read_to_string(input, kMaxDockerfile), "reading the Dockerfile on standard input");
    return DockerfileText{std::move(text), "-", {}};
  }
  if (is_http_url(wanted)) {
    ASSIGN_OR_RETURN_WITH(RemoteFile file, files_.look_up(wanted, std::nullopt, {}), "reading the Dockerfile");
    ASSIGN_OR_RETURN(const std::string path, files_.path_of(wanted, file, {}));
    ASSIGN_OR_RETURN_WITH(std::string text, read_file(AT_FDCWD, path, kMaxDockerfile), "reading the Dockerfile");
    return DockerfileText{std::move(text), shown(wanted), {}};
  }
  ASSIGN_OR_RETURN(const ContextPlace place, parse_context(request_.context));
  const bool local = std::holds_alternative<DirectoryContext>(place);
  if (local || starts(wanted, "/")) return dockerfile_of_directory(local ? std::get<DirectoryContext>(place).path : "");
  ASSIGN_OR_RETURN(const std::shared_ptr<Files> files, files_of(""));
  if (!files->dockerfile) return dockerfile_inside(*files);
  if (!wanted.empty()) return Error(ErrorKind::kInvalidInput, fmt::format("{} is no archive, so it is a Dockerfile, and -f {} names another one", shown(request_.context), wanted));
  return DockerfileText{*files->dockerfile, request_.context == "-" ? "-" : shown(request_.context), {}};
}

// --- files ----------------------------------------------------------------------------------------

// The ignore file of the main context: --ignorefile, else <Dockerfile>.dockerignore, else .dockerignore.
Result<parser::IgnoreList> Contexts::ignore_list(const std::string& name, const Files& files) {
  struct Candidate {
    std::string path;
    bool inside;  // of a fetched context: not to be followed out of it
  };
  std::vector<Candidate> candidates;
  if (name.empty() && !request_.ignore_file.empty()) {
    candidates.push_back({request_.ignore_file, false});
  } else {
    if (name.empty() && !dockerfile_path_.empty()) candidates.push_back({dockerfile_path_ + ".dockerignore", false});
    if (name.empty() && !dockerfile_inside_.empty()) candidates.push_back({dockerfile_inside_ + ".dockerignore", true});
    candidates.push_back(files.fetched ? Candidate{".dockerignore", true} : Candidate{files.directory + "/.dockerignore", false});
  }
  for (const auto& [path, inside] : candidates) {
    ASSIGN_OR_RETURN_WITH(const std::optional<std::string> text, inside ? read_inside(files.directory, path, kMaxIgnoreFile) : read_file_if_exists(AT_FDCWD, path, kMaxIgnoreFile), "reading the ignore file " + path);
    if (!text) {
      if (path == request_.ignore_file) return Error(ErrorKind::kNotFound, "the ignore file " + path + " does not exist");
      continue;
    }
    return parser::IgnoreList::parse(std::string(internal::name_of(path)), *text);
  }
  return parser::IgnoreList();
}

Result<Contexts::Opened> Contexts::open(const std::string& name) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Files> files, files_of(name));
  ASSIGN_OR_RETURN(parser::IgnoreList ignore, ignore_list(name, *files));
  Opened opened;
  std::string called = name.empty() ? "build context" : "named context " + name;
  if (files->dockerfile) called = "empty build context (there is only a Dockerfile)";
  if (files->fetched && !ignore.empty()) {
    VertexScope vertex(events_, fmt::format("[internal] load {} of the {}", ignore.file(), called));
    events_.output(vertex.id(), OutputStream::kStdout, "its rules hide files of this context too; BuildKit heeds them in directories only\n");
    vertex.done();
  }
  if (!files->fetched) {
    const std::string real = real_path(files->directory);
    opened.index = DigestIndex::load(store_, "context-" + sha256_hex(real.empty() ? files->directory : real));
  }
  ASSIGN_OR_RETURN(opened.tree, open_context(files->directory, std::move(called), std::move(ignore), opened.index));
  return opened;
}

Result<std::shared_ptr<const SourceTree>> Contexts::get(const std::string& name) {
  ASSIGN_OR_RETURN(const Opened opened, opened_.get(name, [&] {
    const TraceSpan span("context", "open " + name);
    return open(name);
  }));
  return opened.tree;
}

Result<std::optional<int64_t>> Contexts::time_of(const std::string& name) {
  if (is_image_context(text_of(name))) return std::optional<int64_t>();
  ASSIGN_OR_RETURN(const std::shared_ptr<Files> files, files_of(name));
  return files->fetched ? Result<std::optional<int64_t>>(files->time) : work_tree_time(files->directory, stop_);
}

Result<void> Contexts::save_indexes() {
  Result<void> result;
  opened_.for_each([&](const Opened& opened) {
    if (!result || !opened.index) return;
    result = opened.index->save([&](const std::string& path) {
      const auto info = opened.tree->lstat(path);
      return !info || *info;
    });
  });
  return result;
}

}  // namespace lamina::builder
