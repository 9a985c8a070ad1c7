// `build check`, --check and --call: what is said about a Dockerfile instead of building it. docs/checks.md has the exit
// statuses.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/diff.h"
#include "base/files.h"
#include "base/text.h"
#include "builder/checks.h"
#include "cli/check_output.h"
#include "cli/commands.h"
#include "cli/output.h"

namespace lamina::cli {

namespace {

// Checks say what they find when they are done; only what is no finding is told on the way.
class QuietEvents : public builder::BuildEvents {
 public:
  void vertex_announced(const builder::Vertex&) override {}
  void vertex_started(int) override {}
  void vertex_finished(int, builder::VertexStatus, const std::string&) override {}
  void output(int, builder::OutputStream, std::string_view) override {}
  void progress(int, const std::string&, uint64_t, uint64_t) override {}
  void diagnostic(const Diagnostic&) override {}
  void warning(const std::string& text) override { ignore_error(write_all(STDERR_FILENO, "warning: " + text + "\n"), "standard error is gone"); }
};

// The store only adds what it knows of base images: where it cannot be opened an empty one serves.
struct OpenedStore {
  std::optional<TempDir> temporary;  // outlives the store
  std::unique_ptr<layers::Store> store;
};

Result<OpenedStore> open_store(const CommonOptions& options) {
  OpenedStore opened;
  const std::string path = store_path(options, ::geteuid() == 0);
  if (::access(path.c_str(), R_OK | W_OK | X_OK) == 0) {
    auto store = layers::Store::open(path);
    if (store) {
      opened.store = std::move(*store);
      return opened;
    }
    if (!options.store.empty()) return std::move(store).error();  // named by the user
  }
  const char* temporary = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe)
  ASSIGN_OR_RETURN(opened.temporary, TempDir::create(temporary != nullptr && *temporary != 0 ? temporary : "/tmp", "lamina-check"));
  ASSIGN_OR_RETURN(opened.store, layers::Store::open(opened.temporary->path()));
  return opened;
}

int status_of(const builder::CheckReport& report) {
  if (parser::has_errors(report.diagnostics)) return 2;
  return report.warnings_are_errors && !report.diagnostics.empty() ? 2 : 0;
}

// The user's own file: on the disk before the old one goes.
Result<void> replace_file(const std::string& path, const std::string& text) {
  return write_output_file(path, [&](int fd) -> Result<void> {
    RETURN_IF_ERROR(write_all(fd, text));
    if (::fsync(fd) != 0) return system_error(errno, "fsync", path);
    return {};
  });
}

// Applies the mends, shows the difference, and gives the report of what is left.
Result<builder::CheckReport> fix(layers::Store& store, const BuildOptions& options, builder::BuildEvents& events) {
  ASSIGN_OR_RETURN(builder::MendedBuild mended, builder::mend_build(store, options.request, events));
  builder::CheckReport& report = mended.before;
  if (mended.after.text == *report.text) return std::move(report);
  print(unified_diff(*report.text, mended.after.text, report.file) + "\n");
  if (options.dry_run) return std::move(report);
  if (report.path.empty()) return Error(ErrorKind::kInvalidInput, "a Dockerfile from standard input cannot be changed in place").with_note("--fix --dry-run only shows the difference");
  constexpr std::string_view kBom = "\xEF\xBB\xBF";
  ASSIGN_OR_RETURN(const std::string before, read_file(AT_FDCWD, report.path));
  const bool bom = before.starts_with(kBom);
  if (std::string_view(before).substr(bom ? kBom.size() : 0) != *report.text) return Error(ErrorKind::kUnavailable, report.path + " was changed by somebody else meanwhile; nothing was written");
  RETURN_IF_ERROR_WITH(replace_file(report.path, (bom ? std::string(kBom) : std::string()) + mended.after.text), "changing " + report.path);
  return builder::check_build(store, options.request, events);
}

int print_check(layers::Store& store, const BuildOptions& options, builder::BuildEvents& events) {
  auto report = options.call->fix ? fix(store, options, events) : builder::check_build(store, options.request, events);
  if (!report) return lamina::cli::report(report.error());
  report->warnings_are_errors = report->warnings_are_errors || options.call->warnings_are_errors;
  const int status = status_of(*report);
  switch (options.call->format) {
    case CallOptions::Format::kText: print(check_text(*report)); break;
    case CallOptions::Format::kJson: print(check_json(*report)); break;
    case CallOptions::Format::kSarif: print(check_sarif(*report, LAMINA_VERSION)); break;
  }
  return status;
}

int print_definition(layers::Store& store, const BuildOptions& options, builder::BuildEvents& events) {
  const auto dockerfile = builder::load_definition(store, options.request, events);
  if (!dockerfile) return report(dockerfile.error());
  const bool json = options.call->format == CallOptions::Format::kJson;
  if (options.call->what == CallOptions::What::kTargets) {
    const std::vector<parser::Target> targets = parser::list_targets(*dockerfile);
    print(json ? targets_json(targets, *dockerfile->text) : targets_text(targets));
    return 0;
  }
  const builder::BuildRequest& request = options.request;
  const oci::Platform platform = request.platforms.empty() ? oci::Platform::host() : request.platforms.front();
  const parser::Outline outline = parser::make_outline(*dockerfile, builder::check_input(request, platform, store));
  print(json ? outline_json(outline, *dockerfile->text) : outline_text(outline));
  return 0;
}

}  // namespace

int call_command(const BuildOptions& options, const Session&) {
  auto opened = open_store(options.common);
  if (!opened) return report(opened.error());
  QuietEvents events;
  return options.call->what == CallOptions::What::kCheck ? print_check(*opened->store, options, events) : print_definition(*opened->store, options, events);
}

// The same flags as build, so that a call can be turned into a check.
int check_command(const std::vector<std::string>& arguments, const Session& session) {
  const auto parsed = parse_build(arguments, true);
  if (!parsed) return report(parsed.error());
  if (parsed->help) {
    print(parsed->help->text);
    return 0;
  }
  return call_command(parsed->options, session);
}

}  // namespace lamina::cli
