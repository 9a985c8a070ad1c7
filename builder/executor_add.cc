// ADD of URLs and git repositories. The server is asked first, which gives the key; bytes are fetched only for a miss.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/text.h"
#include "builder/executor.h"
#include "net/url.h"

namespace lamina::builder {

namespace {

std::string flag(bool value) { return value ? "true" : "false"; }

// Points at the source in the instruction.
Error at_source(const Step& step, const parser::Word& source, Error error) {
  if (!error.diagnostics().empty() || error.kind() == ErrorKind::kCancelled) return error;
  Diagnostic d;
  d.file = step.file;
  d.range = source.range;
  d.message = error.message();
  if (source.range.line == step.instruction.range.line) d.line_text = step.line_text;
  // A missing program is a failed build, not a wrong Dockerfile.
  if (error.kind() == ErrorKind::kUnsupported) {
    Error failed(ErrorKind::kStepFailed, error.message());
    for (const std::string& note : error.notes()) failed = std::move(failed).with_note(note);
    error = std::move(failed);
  }
  return std::move(error).with_diagnostic(std::move(d));
}

std::string shown(const parser::Word& source) { return printable(net::redacted(source.text)); }

}  // namespace

bool Executor::commit_times(const GitSource& source) const {
  return source.mtime.empty() ? env_.request.source_date_epoch.has_value() : source.mtime == "commit";
}

RemoteFiles::Progress Executor::progress_of(const Step& step, const parser::Word& source) const {
  return [this, id = step.id, what = shown(source)](uint64_t done, uint64_t total) {
    if (env_.progress) env_.progress(id, what, done, total);
  };
}

Result<std::vector<Executor::RemotePart>> Executor::look_up_remotes(const Step& step, const CopyStep& copy) {
  std::vector<RemotePart> parts;
  for (const auto& [index, remote] : copy.remotes) {
    const parser::Word& source = copy.sources[index];
    RemotePart part{index, {}};
    if (const auto* http = std::get_if<HttpSource>(&remote.from)) {
      auto file = env_.sources.files.look_up(http->url, http->checksum, progress_of(step, source));
      if (!file) return at_source(step, source, std::move(file).error());
      part.found = std::move(*file);
    } else {
      auto revision = env_.sources.repositories.resolve(std::get<GitSource>(remote.from), GitPlace::kDockerfile);
      if (!revision) return at_source(step, source, std::move(revision).error());
      part.found = std::move(*revision);
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

void Executor::add_remote_inputs(const CopyStep& copy, const std::vector<RemotePart>& parts, KeyInputs& inputs) const {
  for (const RemotePart& part : parts) {
    const RemoteSource& remote = copy.remotes.at(part.order);
    const std::string place = fmt::format("source[{}].", part.order);
    if (const auto* file = std::get_if<RemoteFile>(&part.found)) {
      const std::string& url = std::get<HttpSource>(remote.from).url;
      // Not when it was changed: the same bytes are the same file.
      inputs.add(place + "file", file_name_of_url(url));
      inputs.add("content of " + net::redacted(url), file->digest.text());
      continue;
    }
    const auto& revision = std::get<GitRevision>(part.found);
    const auto& git = std::get<GitSource>(remote.from);
    inputs.add("commit of " + net::redacted(git.remote), revision.commit);
    inputs.add(place + "subdir", git.subdir);
    inputs.add(place + "options", fmt::format("submodules={} commit-times={}", flag(git.submodules.value_or(true)), flag(commit_times(git))));
    // The git directory names these.
    if (remote.keep_git_dir) inputs.add(place + "git directory", fmt::format("{} {} {}", git.address(), revision.ref, revision.object));
  }
}

Result<std::vector<GitCheckout>> Executor::fetch_remotes(const Step& step, const CopyStep& copy, std::vector<RemotePart>& parts, Selection& selection) {
  std::vector<GitCheckout> checkouts;
  for (RemotePart& part : parts) {
    const RemoteSource& remote = copy.remotes.at(part.order);
    const parser::Word& source = copy.sources[part.order];
    SelectedSource selected;
    if (auto* file = std::get_if<RemoteFile>(&part.found)) {
      const std::string& url = std::get<HttpSource>(remote.from).url;
      auto path = env_.sources.files.path_of(url, *file, progress_of(step, source));
      if (!path) return at_source(step, source, std::move(path).error());
      ASSIGN_OR_RETURN(selected, select_file(url, *file, *path, copy.excludes));
    } else {
      const auto& git = std::get<GitSource>(remote.from);
      GitOptions options;
      options.keep_git_dir = remote.keep_git_dir;
      options.submodules = git.submodules.value_or(true);
      options.commit_times = commit_times(git);
      auto checkout = env_.sources.repositories.checkout(git, std::get<GitRevision>(part.found), options);
      if (!checkout) return at_source(step, source, std::move(checkout).error());
      ASSIGN_OR_RETURN(std::shared_ptr<const SourceTree> tree, open_context(checkout->directory, "git repository", {}, nullptr));
      ASSIGN_OR_RETURN(selected, select_whole_tree(std::move(tree), shown(source), env_.store.temporary_files(), copy.excludes));
      checkouts.push_back(std::move(*checkout));
    }
    selected.named = shown(source);
    selected.order = part.order;
    selected.remote = true;
    if (selected.files) selection.sources.push_back(std::move(selected));
  }
  std::stable_sort(selection.sources.begin(), selection.sources.end(), [](const SelectedSource& a, const SelectedSource& b) { return a.order < b.order; });
  return checkouts;
}

// Without files when --exclude matches its name.
Result<SelectedSource> Executor::select_file(const std::string& url, const RemoteFile& file, const std::string& path, const std::vector<std::string>& excludes) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return system_error(errno, "stat", path);
  SelectedSource selected;
  selected.base_name = file_name_of_url(url);
  if (selected.base_name.compare(0, 4, ".wh.") == 0) {
    return Error(ErrorKind::kInvalidInput, fmt::format("{} cannot be added: in an image, names that begin with .wh. mean removed files", printable(selected.base_name)));
  }
  ASSIGN_OR_RETURN(const parser::IgnoreList ignore, parser::IgnoreList::from_patterns(excludes));
  if (ignore.ignored(selected.base_name)) return selected;
  selected.tree = tree_of_file(path, selected.base_name, static_cast<uint64_t>(st.st_size), file.last_modified.value_or(Timestamp{}), sha256_from_hex(file.digest.hex()));
  ASSIGN_OR_RETURN(const auto info, selected.tree->lstat(selected.base_name));
  selected.files = std::make_shared<FileList>(selected.base_name, TemporaryFile());
  RETURN_IF_ERROR(selected.files->append({"", *info, sha256_from_hex(file.digest.hex()), "", {}}));
  return selected;
}

}  // namespace lamina::builder
