#include "builder/internal/output_plan.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>

#include "base/files.h"
#include "base/text.h"

namespace lamina::builder::internal {

namespace {

using Type = OutputSpec::Type;

Error wrong(std::string message) { return Error(ErrorKind::kInvalidInput, std::move(message)); }

bool pushes(const OutputSpec& output, const BuildRequest& request) {
  return output.type == Type::kRegistry || (output.type == Type::kImage && (output.push || request.push));
}

class Planner {
 public:
  Planner(const BuildRequest& request, bool indexed) : request_(request), indexed_(indexed) {}

  Result<OutputPlan> run() {
    for (const std::string& text : request_.tags) {
      ASSIGN_OR_RETURN(oci::Reference reference, oci::Reference::parse(text));
      if (reference.digest()) return wrong(fmt::format("the name {} for -t must not have a digest", text));
      given_.push_back(std::move(reference));
    }
    plan_.tags = given_;
    plan_.rewrite_timestamp = request_.rewrite_timestamp;
    if (request_.push && given_.empty() && !named_push()) return wrong("--push needs a name: give it with -t");
    for (const OutputSpec& output : request_.outputs) RETURN_IF_ERROR(add(output));
    if (request_.push) add_unpushed();
    return std::move(plan_);
  }

 private:
  bool named_push() const {
    return std::any_of(request_.outputs.begin(), request_.outputs.end(), [&](const OutputSpec& o) { return pushes(o, request_) && !o.names.empty(); });
  }

  Result<void> add(const OutputSpec& output) {
    // Layers are made once, with the times that they have.
    if (output.rewrite_timestamp && plan_.rewrite_timestamp.value_or(*output.rewrite_timestamp) != *output.rewrite_timestamp) {
      return wrong("the outputs of one build cannot differ in rewrite-timestamp").with_note("build once for each");
    }
    if (output.rewrite_timestamp) plan_.rewrite_timestamp = output.rewrite_timestamp;
    std::vector<oci::Reference> names;
    for (const std::string& text : output.names) {
      ASSIGN_OR_RETURN(oci::Reference reference, oci::Reference::parse(text));
      if (reference.digest()) return wrong(fmt::format("the name {} in --output must not have a digest", text));
      names.push_back(std::move(reference));
    }
    if (output.type == Type::kImage && !output.by_digest) plan_.tags.insert(plan_.tags.end(), names.begin(), names.end());
    if (output.names.empty()) names = given_;
    if (output.type == Type::kImage || output.type == Type::kRegistry) return pushes(output, request_) ? add_push(output, std::move(names)) : Result<void>();
    if (output.type == Type::kDocker && indexed_) {
      return Error(ErrorKind::kInvalidInput, output.dest.empty() ? "--load takes an image for one platform" : "a docker archive holds an image for one platform")
          .with_note("use --output type=oci, which holds an index, push it with --push, or give one --platform");
    }
    if (output.type == Type::kOci || (output.type == Type::kDocker && output.compression_given)) compress(output.compression);
    plan_.writes.push_back({&output, std::move(names)});
    return {};
  }

  Result<void> add_push(const OutputSpec& output, std::vector<oci::Reference> names) {
    if (names.empty()) return wrong("an output that pushes needs a name: give it with -t or name=");
    return push({std::move(names), output.compression, output.docker_types, output.by_digest});
  }

  Result<void> push(PushPlan wanted) {
    std::vector<oci::Reference> fresh;
    for (oci::Reference& name : wanted.names) {
      const auto same_name = [&](const PushPlan& p) {
        return std::any_of(p.names.begin(), p.names.end(), [&](const oci::Reference& other) { return other.canonical() == name.canonical(); });
      };
      const auto before = std::find_if(plan_.pushes.begin(), plan_.pushes.end(), same_name);
      if (before == plan_.pushes.end()) {
        if (std::none_of(fresh.begin(), fresh.end(), [&](const oci::Reference& f) { return f.canonical() == name.canonical(); })) fresh.push_back(std::move(name));
      } else if (!(before->compression == wanted.compression) || before->docker_types != wanted.docker_types || before->by_digest != wanted.by_digest) {
        return wrong(fmt::format("two outputs push {} with different options", name.familiar())).with_note("give each a name of its own: -o type=registry,name=…");
      }
    }
    if (fresh.empty()) return {};
    wanted.names = std::move(fresh);
    compress(wanted.compression);
    plan_.pushes.push_back(std::move(wanted));
    return {};
  }

  // --push means every tag: those that no output pushes go with the defaults.
  void add_unpushed() {
    PushPlan rest;
    for (const oci::Reference& tag : given_) {
      const bool pushed = std::any_of(plan_.pushes.begin(), plan_.pushes.end(), [&](const PushPlan& p) {
        return std::any_of(p.names.begin(), p.names.end(), [&](const oci::Reference& n) { return n.canonical() == tag.canonical(); });
      });
      if (!pushed) rest.names.push_back(tag);
    }
    ignore_error(push(std::move(rest)), "names that nobody pushes cannot be in conflict");
  }

  void compress(const layers::CompressionOptions& options) {
    if (options.type == oci::Compression::kNone || std::find(plan_.compressions.begin(), plan_.compressions.end(), options) != plan_.compressions.end()) return;
    plan_.compressions.push_back(options);
  }

  const BuildRequest& request_;
  const bool indexed_;
  std::vector<oci::Reference> given_;  // -t
  OutputPlan plan_;
};

// --- destinations -----------------------------------------------------------------------------------

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// One name for a place, however it is written.
std::string identity(const std::string& dest) {
  const std::string path = without_slashes(dest);
  if (std::string real = real_path(path); !real.empty()) return real;
  const std::string parent = real_path(parent_directory(path));
  return parent.empty() ? path : parent + "/" + path.substr(path.rfind('/') + 1);
}

bool is_directory_output(const OutputSpec& output) { return output.type == Type::kLocal || (output.type == Type::kOci && !output.tar); }

Error at(const OutputSpec& output, const std::string& why) { return wrong(fmt::format("--output dest={}: {}", printable(output.dest), why)); }

// Directories that are missing are made, so the nearest that exists counts.
Result<void> check_directory(const OutputSpec& output) {
  std::string path = without_slashes(output.dest);
  struct stat st {};
  while (::stat(path.c_str(), &st) != 0) {
    if (errno != ENOENT) return at(output, fmt::format("{} cannot be reached: {}", printable(path), errno_text(errno)));
    if (::lstat(path.c_str(), &st) == 0) return at(output, fmt::format("{} is a link to nothing", printable(path)));
    if (path == "." || path == "/") break;
    path = parent_directory(path);
  }
  if (!S_ISDIR(st.st_mode)) return at(output, fmt::format("{} exists and is no directory", printable(path)));
  if (::access(path.c_str(), W_OK | X_OK) != 0) return at(output, fmt::format("{} cannot be written to: {}", printable(path), errno_text(errno)));
  return {};
}

Result<void> check_file(const OutputSpec& output) {
  struct stat st {};
  if (::stat(output.dest.c_str(), &st) == 0) {
    if (S_ISDIR(st.st_mode)) return at(output, "it is a directory, and a file is to be written").with_note("type=local writes a directory, type=oci,tar=false an image layout");
    if (!S_ISREG(st.st_mode)) return {};
  } else if (errno != ENOENT) {
    return at(output, errno_text(errno));
  }
  // The file is written beside its place and renamed; of a link that is the place it leads to.
  const std::string parent = parent_directory(identity(output.dest));
  if (::stat(parent.c_str(), &st) != 0) return at(output, fmt::format("there is no directory {}", printable(parent)));
  if (!S_ISDIR(st.st_mode)) return at(output, fmt::format("{} is no directory", printable(parent)));
  if (::access(parent.c_str(), W_OK | X_OK) != 0) return at(output, fmt::format("{} cannot be written to: {}", printable(parent), errno_text(errno)));
  return {};
}

}  // namespace

Result<OutputPlan> plan_outputs(const BuildRequest& request, bool indexed) { return Planner(request, indexed).run(); }

Result<void> check_destinations(const BuildRequest& request) {
  std::map<std::string, const OutputSpec*> places;
  for (const OutputSpec& output : request.outputs) {
    if (output.dest.empty()) continue;
    if (!places.emplace(output.dest == "-" ? "-" : identity(output.dest), &output).second) {
      return output.dest == "-" ? wrong("two outputs are to go to standard output").with_note("give all but one a file: dest=FILE") : at(output, "two outputs have this destination");
    }
    if (output.dest == "-") continue;
    RETURN_IF_ERROR(is_directory_output(output) ? check_directory(output) : check_file(output));
  }
  return {};
}

}  // namespace lamina::builder::internal
