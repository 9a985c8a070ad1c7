#include "builder/git.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <map>

#include "base/child_process.h"
#include "base/files.h"
#include "base/text.h"
#include "base/trace.h"
#include "builder/secrets.h"
#include "net/url.h"

namespace lamina::builder {

namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;

const char* environment(const char* name) { return std::getenv(name); }  // NOLINT(concurrency-mt-unsafe): nobody sets

// For a shell: GIT_SSH_COMMAND is run by one.
std::string shell_quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Only what git needs, and settings that close every way to run something else.
std::vector<std::string> git_environment(const Settings& settings, const std::string& ssh_command, const std::string& agent) {
  std::vector<std::string> out = {"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "HOME=/nonexistent",
                                  "GIT_LFS_SKIP_SMUDGE=1", "LC_ALL=C", "GIT_SSH_COMMAND=" + ssh_command, "GIT_SSH_VARIANT=ssh"};
  for (const char* name : {"PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}) {
    if (const char* value = environment(name)) out.push_back(fmt::format("{}={}", name, value));
  }
  if (const char* bundle = environment("SSL_CERT_FILE"); bundle != nullptr && *bundle != 0) out.push_back(fmt::format("GIT_SSL_CAINFO={}", bundle));
  if (!agent.empty()) out.push_back("SSH_AUTH_SOCK=" + agent);
  Settings all = {{"protocol.allow", "never"}, {"protocol.http.allow", "always"}, {"protocol.https.allow", "always"}, {"protocol.ssh.allow", "always"}, {"protocol.git.allow", "always"},
                  // A repository's submodules must not be repositories of this machine.
                  {"protocol.file.allow", "user"},
                  {"core.hooksPath", "/dev/null"}, {"core.fsmonitor", "false"}, {"core.attributesFile", "/dev/null"}, {"core.excludesFile", "/dev/null"},
                  {"gc.auto", "0"}, {"pack.threads", "1"}, {"core.logAllRefUpdates", "false"}, {"maintenance.auto", "false"}, {"init.defaultBranch", "master"}, {"advice.detachedHead", "false"}, {"fetch.recurseSubmodules", "false"}};
  all.insert(all.end(), settings.begin(), settings.end());
  out.push_back(fmt::format("GIT_CONFIG_COUNT={}", all.size()));
  for (size_t i = 0; i < all.size(); ++i) {
    out.push_back(fmt::format("GIT_CONFIG_KEY_{}={}", i, all[i].first));
    out.push_back(fmt::format("GIT_CONFIG_VALUE_{}={}", i, all[i].second));
  }
  return out;
}

bool says(const Error& error, std::initializer_list<std::string_view> texts) {
  return std::any_of(texts.begin(), texts.end(), [&](std::string_view t) { return error.message().find(t) != std::string::npos; });
}

// Files that git wrote get one time: a checkout's own order of times means nothing.
Result<void> set_times(int dir_fd, const timespec& time) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(dir_fd));
  const timespec times[2] = {time, time};
  for (const std::string& name : names) {
    struct stat st {};
    if (::fstatat(dir_fd, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return system_error(errno, "stat", name);
    if (S_ISDIR(st.st_mode)) {
      ASSIGN_OR_RETURN(const UniqueFd child, open_at(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      RETURN_IF_ERROR(set_times(child.get(), time));
    }
    if (::utimensat(dir_fd, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) return system_error(errno, "utimensat", name);
  }
  return {};
}

// Git never writes a path with a component ".git": what has that name belongs to a submodule's checkout.
Result<void> remove_git_files(int dir_fd) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(dir_fd));
  for (const std::string& name : names) {
    if (name == ".git") {
      RETURN_IF_ERROR(remove_tree(dir_fd, name));
      continue;
    }
    auto child = open_at(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK);
    if (child) RETURN_IF_ERROR(remove_git_files(child->get()));
  }
  return {};
}

}  // namespace

// Git at work for one source, with its credentials and its bare repository.
class GitRepositories::Session {
 public:
  static Result<Session> open(GitRepositories& owner, const GitSource& source, GitOwner place) {
    Session session(owner, source);
    RETURN_IF_ERROR(session.find_credentials(place));
    return session;
  }

  Result<std::string> run(std::vector<std::string> arguments, const std::string& git_dir, const std::string& work_tree = {}, bool with_origin = false) {
    SpawnOptions options;
    options.argv = {"git"};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    Settings settings = settings_;
    if (with_origin) settings.emplace_back("remote.origin.url", address_);
    options.environment = git_environment(settings, ssh_command_, agent_);
    if (!git_dir.empty()) options.environment->push_back("GIT_DIR=" + git_dir);
    if (!work_tree.empty()) options.environment->push_back("GIT_WORK_TREE=" + work_tree);
    options.working_directory = work_tree.empty() ? "/" : work_tree;
    options.new_process_group = true;
    options.umask = 022;
    auto out = run_and_capture(options, {}, owner_.stop_);
    if (out) return out;
    if (out.error().kind() == ErrorKind::kNotFound) {
      return Error(ErrorKind::kUnsupported, fmt::format("{} is a git source, and the program git is not installed", shown())).with_note("install it: apt-get install git");
    }
    if (out.error().kind() == ErrorKind::kStepFailed) return explained(std::move(out).error());
    return out;
  }

  // The bare repository, made when missing, locked while this object lives.
  Result<std::string> repository(size_t name_size) {
    if (!bare_.empty()) return bare_;
    const std::string room = owner_.store_.path() + "/git";
    RETURN_IF_ERROR(make_directories(AT_FDCWD, room, 0700));
    const std::string path = room + "/" + sha256_hex(address_) + (name_size == 64 ? "-sha256" : "");
    ASSIGN_OR_RETURN(FileLock lock, FileLock::acquire(AT_FDCWD, path + ".lock", FileLock::Mode::kExclusive));
    lock_ = std::make_unique<FileLock>(std::move(lock));
    if (::access((path + "/lamina-complete").c_str(), F_OK) != 0) {
      RETURN_IF_ERROR(remove_tree(AT_FDCWD, path));
      RETURN_IF_ERROR(run({"init", "-q", "--bare", "--template=", std::string("--object-format=") + (name_size == 64 ? "sha256" : "sha1"), path}, {}));
      RETURN_IF_ERROR(write_file_atomically(AT_FDCWD, path + "/lamina-complete", "", Durability::kNone));
    }
    ::unlink((path + "/shallow.lock").c_str());  // of a git that was killed; we hold the lock
    bare_ = path;
    return bare_;
  }

  Result<GitRevision> ask();
  // The bare repository has the object afterwards.
  Result<void> fetch(const GitRevision& revision);
  Result<std::string> commit_of(const GitRevision& revision) {
    ASSIGN_OR_RETURN(const std::string out, run({"rev-parse", "--verify", "--quiet", "--end-of-options", revision.object + "^{commit}"}, bare_));
    return std::string(trim(out));
  }
  Result<int64_t> time_of(const std::string& commit) {
    ASSIGN_OR_RETURN(const std::string out, run({"log", "-1", "--no-show-signature", "--format=%ct", "--end-of-options", commit}, bare_));
    const auto seconds = parse_int(trim(out));
    if (!seconds) return Error(ErrorKind::kCorrupt, fmt::format("the commit {} of {} has no time", commit, shown()));
    return *seconds;
  }
  Result<void> write_files(const GitRevision& revision, const std::string& commit, const GitOptions& options, const layers::PendingLayer& scratch);
  Result<void> make_reproducible(const std::string& git_dir);
  Result<void> make_modules_reproducible(const std::string& directory);

  std::string shown() const { return printable(net::redacted(source_.remote)); }

 private:
  Session(GitRepositories& owner, const GitSource& source) : owner_(owner), source_(source), address_(source.address()) {}

  // A token or header goes to the source's own server only, which takes that redirects are not followed. Git gets
  // the credentials of the URL as a header, too, in its environment: what it is told as a URL it writes into files,
  // and other users see arguments.
  Result<void> find_credentials(GitOwner place) {
    if (source_.http) {
      std::optional<std::string> header;
      for (const std::string& id : {"GIT_AUTH_HEADER." + source_.host, "GIT_AUTH_TOKEN." + source_.host, std::string("GIT_AUTH_HEADER"), std::string("GIT_AUTH_TOKEN")}) {
        ASSIGN_OR_RETURN(const auto secret, read_secret(owner_.request_, id));
        if (!secret) continue;
        // Given for no host, it may not go to any in clear.
        if (id.find('.') == std::string::npos && source_.readable_by_others()) {
          withheld_ = id;
          continue;
        }
        const std::string value(trim(*secret));
        header = id.compare(0, 14, "GIT_AUTH_TOKEN") == 0 ? "basic " + encode_base64("x-access-token:" + value) : value;
        break;
      }
      if (const std::string own = source_.http_credentials(); !header && !own.empty()) header = "Basic " + encode_base64(own);
      if (header) {
        const std::string scope = address_.substr(0, address_.find("://") + 3) + source_.host + "/";
        settings_.emplace_back("http." + scope + ".extraHeader", "Authorization: " + *header);
        settings_.emplace_back("http.followRedirects", "false");
        has_header_ = true;
      }
    }
    agent_ = ssh_agent_socket(owner_.request_, "default");
    if (agent_.empty() && place == GitPlace::kCommandLine) {
      if (const char* own = environment("SSH_AUTH_SOCK")) agent_ = own;
    }
    // Unknown hosts are trusted the first time and held to it, in a file of the store; the user's own list counts too.
    const char* home = environment("HOME");
    const std::string known = shell_quoted("UserKnownHostsFile=\"" + owner_.store_.path() + "/ssh_known_hosts\"" + (home != nullptr && *home != 0 ? fmt::format(" \"{}/.ssh/known_hosts\"", home) : ""));
    ssh_command_ = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o HashKnownHosts=no -o ForwardAgent=no -o LogLevel=ERROR -o " + known;
    // Keys of the user's home are not offered: only the agent's.
    ssh_command_ += " -o IdentityFile=none" + std::string(agent_.empty() ? " -o IdentityAgent=none" : "");
    return {};
  }

  Error explained(Error error) const {
    std::string text = printable(error.message());
    const Error raw = error;
    const std::string detail = fmt::format("git could not read {}: {}", shown(), text);
    const bool credentials = says(raw, {"could not read Username", "Authentication failed", "terminal prompts disabled", "returned error: 401", "returned error: 403", "Permission denied"});
    if (credentials && !withheld_.empty()) {
      return Error(ErrorKind::kDenied, detail).with_note(fmt::format("{} is not sent over plain http; write https://, or give the secret for this host alone: --secret id={}.{},…", withheld_, withheld_, source_.host));
    }
    if (credentials && source_.http) {
      return Error(ErrorKind::kDenied, detail).with_note("give a token with --secret id=GIT_AUTH_TOKEN,env=NAME, or a whole header with id=GIT_AUTH_HEADER");
    }
    if (credentials) {
      return Error(ErrorKind::kDenied, detail).with_note(agent_.empty() ? "no ssh agent is in use; start one, add the key, and pass --ssh default" : "the ssh agent has no key that the server accepts; see ssh-add -l");
    }
    if (has_header_ && says(raw, {"returned error: 30", "redirect"})) {
      return Error(ErrorKind::kDenied, detail).with_note("the server redirects, and a token is never sent along; write the address that it redirects to");
    }
    if (says(raw, {"Could not resolve host", "Connection refused", "Connection timed out", "unable to connect"})) return {ErrorKind::kUnavailable, detail};
    if (says(raw, {"cannot run ssh", "ssh: not found"})) return Error(ErrorKind::kUnsupported, detail).with_note("install it: apt-get install openssh-client");
    return Error(ErrorKind::kStepFailed, detail);
  }

  GitRepositories& owner_;
  GitSource source_;
  std::string address_;  // without credentials
  Settings settings_;
  std::string ssh_command_, agent_, bare_;
  bool has_header_ = false;
  std::string withheld_;  // a secret that was not sent
  std::unique_ptr<FileLock> lock_;
};

// As git-checkout: a full name first, then a branch, then a tag.
Result<GitRevision> GitRepositories::Session::ask() {
  std::string ref = source_.ref;
  std::vector<std::string> arguments = {"ls-remote", "--symref", "--end-of-options", "origin"};
  if (ref.empty()) {
    arguments.push_back("HEAD");
  } else {
    arguments.insert(arguments.end(), {ref, ref + "^{}"});
  }
  ASSIGN_OR_RETURN(const std::string out, run(std::move(arguments), {}, {}, true));
  std::map<std::string, std::string> found;
  std::string head_target;
  for (const std::string& line : split(out, '\n')) {
    const size_t tab = line.find('\t');
    if (tab == std::string::npos) continue;
    if (line.compare(0, 5, "ref: ") == 0 && line.substr(tab + 1) == "HEAD") {
      head_target = line.substr(5, tab - 5);
    } else if (is_commit_name(line.substr(0, tab))) {
      found[line.substr(tab + 1)] = line.substr(0, tab);
    }
  }
  GitRevision revision;
  if (ref.empty()) {
    if (!found.contains("HEAD")) return Error(ErrorKind::kNotFound, fmt::format("{} has no default branch, or is empty", shown())).with_note("name a branch or tag: #NAME");
    revision.object = revision.commit = found["HEAD"];
    revision.ref = head_target;
    return revision;
  }
  const auto without = [&](std::string_view prefix) { return ref.compare(0, prefix.size(), prefix) == 0 ? ref.substr(prefix.size()) : ref; };
  for (const std::string& name : {"refs/" + without("refs/"), "refs/heads/" + without("refs/heads/"), "refs/tags/" + without("refs/tags/")}) {
    const auto it = found.find(name);
    if (it == found.end()) continue;
    revision.object = revision.commit = it->second;
    revision.ref = name;
    if (const auto peeled = found.find(name + "^{}"); peeled != found.end()) revision.commit = peeled->second;
    return revision;
  }
  return Error(ErrorKind::kNotFound, fmt::format("{} has no branch or tag {}", shown(), printable(ref))).with_note("a commit is given by its full name of 40 digits");
}

Result<void> GitRepositories::Session::fetch(const GitRevision& revision) {
  ASSIGN_OR_RETURN(const std::string bare, repository(revision.object.size()));
  const auto has = [&] { return run({"cat-file", "-e", revision.object + "^{commit}"}, bare).has_value(); };
  if (has()) return {};
  const TraceSpan span("git", "fetch " + shown());
  const std::string kept = "refs/lamina/" + revision.object;
  const auto attempt = [&](std::vector<std::string> options, std::vector<std::string> refs) {
    std::vector<std::string> arguments = {"fetch", "-q", "--force", "--no-tags", "--no-write-fetch-head"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    arguments.insert(arguments.end(), {"--end-of-options", "origin"});
    arguments.insert(arguments.end(), refs.begin(), refs.end());
    return run(std::move(arguments), bare, {}, true);
  };
  auto result = attempt({"--depth=1"}, {"+" + revision.object + ":" + kept});
  // Servers that give only what they advertise, or that know no shallow fetches.
  const bool try_more = !result && says(result.error(), {"not our ref", "unadvertised", "shallow", "depth", "remote ref", "dumb"});
  if (try_more && !revision.ref.empty()) {
    result = attempt({"--depth=1"}, {"+" + revision.ref + ":" + kept});
    if (result && has()) return {};
  }
  if (try_more) {
    const bool shallow = ::access((bare + "/shallow").c_str(), F_OK) == 0;
    result = attempt(shallow ? std::vector<std::string>{"--unshallow"} : std::vector<std::string>{}, {"+refs/heads/*:refs/lamina-all/heads/*", "+refs/tags/*:refs/lamina-all/tags/*"});
  }
  if (!result) return std::move(result).error();
  if (!has()) return Error(ErrorKind::kNotFound, fmt::format("{} has no commit {}", shown(), revision.object));
  return {};
}

// In a git directory of its own, which borrows the objects of the bare one: submodules and the index leave no trace.
Result<void> GitRepositories::Session::write_files(const GitRevision& revision, const std::string& commit, const GitOptions& options, const layers::PendingLayer& scratch) {
  const std::string tree = scratch.fs();
  const std::string git_dir = options.keep_git_dir ? tree + "/.git" : scratch.work() + "/git";
  RETURN_IF_ERROR(run({"init", "-q", "--template=", std::string("--object-format=") + (commit.size() == 64 ? "sha256" : "sha1")}, git_dir, tree));
  std::string start = commit;
  if (options.keep_git_dir) {
    const std::string kept = "refs/lamina/" + revision.object;
    RETURN_IF_ERROR(run({"update-ref", kept, revision.object}, bare_));
    const bool named = revision.ref.compare(0, 11, "refs/heads/") == 0 || revision.ref.compare(0, 10, "refs/tags/") == 0;
    RETURN_IF_ERROR(run({"fetch", "-q", "--update-head-ok", "--no-tags", "--depth=1", "--end-of-options", "file://" + bare_, named ? "+" + kept + ":" + revision.ref : kept}, git_dir, tree));
    start = "FETCH_HEAD";
  } else {
    RETURN_IF_ERROR(make_directories(AT_FDCWD, git_dir + "/objects/info"));
    RETURN_IF_ERROR(write_file_atomically(AT_FDCWD, git_dir + "/objects/info/alternates", bare_ + "/objects\n", Durability::kNone));
    ASSIGN_OR_RETURN(const auto shallow, read_file_if_exists(AT_FDCWD, bare_ + "/shallow"));
    if (shallow) RETURN_IF_ERROR(write_file_atomically(AT_FDCWD, git_dir + "/shallow", *shallow, Durability::kNone));
  }
  RETURN_IF_ERROR(run({"checkout", "-q", "--force", "--detach", start}, git_dir, tree));
  // For submodules with relative addresses, and for who gets the git directory.
  RETURN_IF_ERROR(run({"config", "remote.origin.url", address_}, git_dir, tree));
  struct stat st {};
  const bool has_submodules = ::lstat((tree + "/.gitmodules").c_str(), &st) == 0 && S_ISREG(st.st_mode);
  if (options.submodules && has_submodules) {
    RETURN_IF_ERROR_WITH(run({"submodule", "--quiet", "update", "--init", "--recursive", "--depth=1", "--force"}, git_dir, tree), "fetching the submodules of " + shown());
  }
  ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, tree));
  if (!options.keep_git_dir) return remove_git_files(root.get());
  RETURN_IF_ERROR(make_reproducible(git_dir));
  return make_modules_reproducible(git_dir + "/modules");
}

// The same commit gives the same bytes: the index without times, devices and inodes of the checkout, and one pack
// that depends neither on how the server had packed nor on what was fetched before.
Result<void> GitRepositories::Session::make_reproducible(const std::string& git_dir) {
  for (const char* name : {"/index", "/FETCH_HEAD", "/ORIG_HEAD", "/logs"}) RETURN_IF_ERROR(remove_tree(AT_FDCWD, git_dir + name));
  RETURN_IF_ERROR(run({"read-tree", "HEAD"}, git_dir));
  // Few of one commit's files are alike, so no deltas: looking for them costs much of the time.
  RETURN_IF_ERROR(run({"repack", "-q", "-a", "-d", "-F", "-n", "--window=0", "--depth=0"}, git_dir));
  return {};
}

// Submodules' git directories are found by their HEAD; a submodule's name may have "/" in it.
Result<void> GitRepositories::Session::make_modules_reproducible(const std::string& directory) {
  auto opened = open_directory(AT_FDCWD, directory);
  if (!opened && opened.error().kind() == ErrorKind::kNotFound) return {};
  ASSIGN_OR_RETURN(const UniqueFd room, std::move(opened));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(room.get()));
  for (const std::string& name : names) {
    struct stat st {};
    if (::fstatat(room.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return system_error(errno, "stat", name);
    if (!S_ISDIR(st.st_mode)) continue;
    const std::string child = directory + "/" + name;
    const bool is_repository = ::access((child + "/HEAD").c_str(), F_OK) == 0 && ::access((child + "/objects").c_str(), F_OK) == 0;
    if (is_repository) RETURN_IF_ERROR(make_reproducible(child));
    RETURN_IF_ERROR(make_modules_reproducible(is_repository ? child + "/modules" : child));
  }
  return {};
}

Result<GitRevision> GitRepositories::resolve(const GitSource& source, GitOwner owner) {
  const std::string shown = printable(net::redacted(source.remote));
  const auto demand = [&](const GitRevision& r) -> Result<GitRevision> {
    const auto begins = [&](const std::string& name) { return name.compare(0, source.checksum.size(), source.checksum) == 0; };
    if (begins(r.commit) || begins(r.object)) return r;
    return Error(ErrorKind::kCorrupt, fmt::format("{}{} is the commit {} (expected: {})", shown, r.ref.empty() ? "" : " " + printable(r.ref), r.commit, source.checksum));
  };
  if (is_commit_name(source.ref)) {
    const std::string name = to_lower(source.ref);
    return demand({name, name, {}});
  }
  // A full checksum alone says everything.
  if (source.ref.empty() && is_commit_name(source.checksum)) return GitRevision{source.checksum, source.checksum, {}};
  ASSIGN_OR_RETURN(const GitRevision revision, resolved_.get(source.remote + "\n" + source.ref, [&]() -> Result<GitRevision> {
    ASSIGN_OR_RETURN(Session session, Session::open(*this, source, owner));
    return session.ask();
  }));
  return demand(revision);
}

Result<GitCheckout> GitRepositories::checkout(const GitSource& source, const GitRevision& revision, const GitOptions& options) {
  const TraceSpan span("git", "checkout " + net::redacted(source.remote));
  ASSIGN_OR_RETURN(Session session, Session::open(*this, source, options.owner));
  RETURN_IF_ERROR(session.fetch(revision));
  ASSIGN_OR_RETURN(const std::string commit, session.commit_of(revision));
  ASSIGN_OR_RETURN(layers::PendingLayer scratch, store_.begin_layer());
  RETURN_IF_ERROR(session.write_files(revision, commit, options, scratch));
  ASSIGN_OR_RETURN(const int64_t commit_time, session.time_of(commit));
  ASSIGN_OR_RETURN(const UniqueFd root, open_directory(AT_FDCWD, scratch.fs()));
  const timespec time = options.commit_times ? timespec{commit_time, 0} : timespec{now().seconds, 0};
  RETURN_IF_ERROR(set_times(root.get(), time));
  const timespec times[2] = {time, time};
  if (::futimens(root.get(), times) != 0) return system_error(errno, "futimens", scratch.fs());
  std::string directory = scratch.fs();
  if (!source.subdir.empty()) {
    const auto below = open_beneath_nofollow(root.get(), source.subdir, O_PATH | O_DIRECTORY);
    if (!below) return Error(ErrorKind::kNotFound, fmt::format("{} has no directory {} in the commit {}", session.shown(), printable(source.subdir), commit));
    directory += "/" + source.subdir;
  }
  return GitCheckout{std::move(scratch), std::move(directory), commit_time};
}

Result<int64_t> GitRepositories::commit_time(const GitSource& source, const GitRevision& revision, GitOwner owner) {
  ASSIGN_OR_RETURN(Session session, Session::open(*this, source, owner));
  RETURN_IF_ERROR(session.fetch(revision));
  ASSIGN_OR_RETURN(const std::string commit, session.commit_of(revision));
  return session.time_of(commit);
}

// "<name> <address> <seconds> <zone>" of the committer line.
Result<std::optional<int64_t>> work_tree_time(const std::string& directory, const std::stop_token& stop) {
  // Git looks upwards, as its own commands do; without one there is nothing to ask it for.
  std::string at = real_path(directory);
  if (at.empty()) return system_error(errno, "realpath", directory);
  while (::access((at + "/.git").c_str(), F_OK) != 0) {
    if (at.empty()) return std::optional<int64_t>();
    at.resize(at.rfind('/'));
  }
  SpawnOptions options;
  options.argv = {"git", "cat-file", "commit", "HEAD"};
  // The tree is the user's own choice, whoever owns it, and with GIT_DIR git trusts its settings. Only one object is read:
  // the one thing that settings could make of that, a command run to fetch it from a promised place, is forbidden.
  options.environment = git_environment({}, "false", {});
  options.environment->push_back("GIT_ALLOW_PROTOCOL=");
  options.environment->push_back("GIT_NO_LAZY_FETCH=1");
  options.environment->push_back("GIT_DIR=" + at + "/.git");
  options.working_directory = "/";
  options.new_process_group = true;
  const auto commit = run_and_capture(options, {}, stop);
  if (!commit && commit.error().kind() == ErrorKind::kNotFound) return Error(ErrorKind::kUnsupported, fmt::format("{} is in a git work tree, and the program git is not installed", printable(directory))).with_note("install it: apt-get install git");
  if (!commit && commit.error().kind() != ErrorKind::kStepFailed) return Error(commit.error());
  if (!commit && says(commit.error(), {"Not a valid object name HEAD"})) return std::optional<int64_t>();  // no commit yet
  if (!commit) return Error(ErrorKind::kStepFailed, fmt::format("git could not read the commit of {}: {}", printable(at), printable(commit.error().message())));
  for (const std::string& line : split(*commit, '\n')) {
    if (line.empty()) break;
    if (!line.starts_with("committer ")) continue;
    const std::vector<std::string> words = split(line, ' ');
    const auto seconds = words.size() > 2 ? parse_int(words[words.size() - 2]) : std::nullopt;
    if (seconds && *seconds >= 0) return std::optional<int64_t>(*seconds);
  }
  return Error(ErrorKind::kCorrupt, fmt::format("the commit of {} has no time", printable(at)));
}

}  // namespace lamina::builder
