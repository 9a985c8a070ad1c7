#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/text.h"
#include "base/trace.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/output.h"

namespace lamina::cli {

namespace {

void print_error(const std::string& text) { ignore_error(write_all(STDERR_FILENO, text), "standard error is gone"); }

// The archive itself goes to standard output: nothing else may.
bool uses_stdout(const builder::BuildRequest& request) {
  for (const builder::OutputSpec& o : request.outputs) {
    if (o.dest == "-") return true;
  }
  return false;
}

// An archive on standard output must arrive as it is written.
Result<void> check_streams(const BuildOptions& options) {
  if (!uses_stdout(options.request)) return {};
  if (::isatty(STDOUT_FILENO) == 1) return Error(ErrorKind::kInvalidInput, "the output would go to the terminal").with_note("redirect standard output, or give dest=FILE");
  struct stat out {}, err{};
  const bool same = ::fstat(STDOUT_FILENO, &out) == 0 && ::fstat(STDERR_FILENO, &err) == 0 && out.st_dev == err.st_dev && out.st_ino == err.st_ino && !S_ISCHR(out.st_mode);
  if (!same || options.progress == ProgressMode::kQuiet) return {};
  return Error(ErrorKind::kInvalidInput, "standard output and standard error are the same file: the progress would get into the archive").with_note("send them apart, or use --quiet");
}

Result<void> write_results(const BuildOptions& options, const builder::BuildResult& result) {
  if (!options.iid_file.empty()) {
    RETURN_IF_ERROR(write_text(options.iid_file, result.image_id.text()));
  }
  const oci::Descriptor& d = result.pushed ? *result.pushed : result.index ? *result.index : result.images.front().manifest;
  if (!options.digest_file.empty()) {
    RETURN_IF_ERROR(write_text(options.digest_file, d.digest.text() + "\n"));
  }
  if (options.metadata_file.empty()) return {};
  nlohmann::json json = {{"containerimage.config.digest", result.images.front().config.text()},
                         {"containerimage.digest", d.digest.text()},
                         {"containerimage.descriptor", {{"mediaType", d.media_type}, {"digest", d.digest.text()}, {"size", d.size}}}};
  std::vector<std::string> names;
  for (const oci::Reference& r : result.tagged) names.push_back(r.canonical());
  if (!names.empty()) json["image.name"] = join(names, ",");
  return write_text(options.metadata_file, json.dump(2) + "\n");
}

std::string summary(const builder::BuildResult& result) {
  std::string text;
  for (const oci::Reference& r : result.tagged) text += "tagged " + r.familiar() + "\n";
  if (result.pushed) text += "pushed " + result.pushed->digest.text() + "\n";
  for (const std::string& where : result.loaded) text += "loaded into " + where + "\n";
  if (result.steps > 0) {
    text += result.cached == result.steps ? fmt::format("all {} steps were cached\n", result.steps) : fmt::format("{} of {} steps were cached\n", result.cached, result.steps);
  }
  return text;
}

}  // namespace

int build_command(const std::vector<std::string>& arguments, const Session& session) {
  auto parsed = parse_build(arguments);
  if (!parsed) return report(parsed.error());
  if (parsed->help) {
    print(parsed->help->text);
    return 0;
  }
  BuildOptions& options = parsed->options;
  if (options.call) return call_command(options, session);
  if (options.common.debug) print_error(fmt::format("isolation: {}\n", to_string(session.isolation)));
  if (!options.common.trace_file.empty()) start_trace();
  if (const auto sound = check_streams(options); !sound) return report(sound.error());
  auto store = layers::Store::open(store_path(options.common, session.isolation == builder::Isolation::kRoot));
  if (!store) return report(store.error());
  (*store)->stop_on(session.stop);
  const std::unique_ptr<Progress> progress = make_progress(options.progress, STDERR_FILENO, options.explain);
  if (options.dry_run) {
    const auto plan = builder::describe_plan(**store, options.request, *progress);
    progress->finish(!plan);
    if (!plan) return report(plan.error());
    print(*plan);
    return 0;
  }
  const auto result = builder::build(**store, options.request, *progress, session.stop);
  progress->finish(!result);
  if (!options.common.trace_file.empty()) {
    if (const auto written = write_trace(options.common.trace_file); !written) report(written.error());
  }
  if (!result) return report(result.error());
  if (const auto written = write_results(options, *result); !written) return report(written.error());
  if (options.progress != ProgressMode::kQuiet && options.progress != ProgressMode::kRawJson) print_error(summary(*result));
  if (!uses_stdout(options.request)) print(result->image_id.text() + "\n");
  return 0;
}

}  // namespace lamina::cli
