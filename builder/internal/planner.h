// The planner's working state. See plan.h for what it makes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "builder/plan.h"
#include "parser/expand.h"

namespace lamina::builder::internal {

using Variables = std::vector<std::pair<std::string, std::string>>;  // order of first setting

void set_variable(Variables& variables, const std::string& name, const std::string& value);
std::optional<std::string> get_variable(const Variables& variables, std::string_view name);

// ARG values that come from outside the Dockerfile, and the platform's.
class BuildArguments {
 public:
  BuildArguments(const BuildRequest& request, const oci::Platform& platform, std::string target_stage);
  // --build-arg NAME=…; also those taken from the environment.
  std::optional<std::string> given(const std::string& name) const;
  // TARGETPLATFORM and its family, or what --build-arg says in their place.
  std::optional<std::string> of_platform(const std::string& name) const;
  // HTTP_PROXY and its family that were given, for RUN.
  Variables proxies() const;

 private:
  std::map<std::string, std::string> given_;
  std::map<std::string, std::string> platform_;
};

// Makes diagnostics and collects them.
class Complaints {
 public:
  explicit Complaints(const parser::Dockerfile& dockerfile) : dockerfile_(dockerfile) {}
  Error fail(const parser::Instruction& instruction, SourceRange range, std::string message,
             std::vector<std::string> notes = {}, ErrorKind kind = ErrorKind::kInvalidInput) const;

 private:
  const parser::Dockerfile& dockerfile_;
};

class Planner {
 public:
  Planner(const parser::Dockerfile& dockerfile, const BuildRequest& request, const oci::Platform& platform,
          ImageResolver& resolver);
  Result<Plan> run();

 private:
  struct StageScope;  // the stage being evaluated

  Result<void> evaluate_global_args();
  Result<void> evaluate_stage(int index);
  Result<void> resolve_base(StageScope& scope);
  Result<void> start_from(StageScope& scope, const std::string& name, const oci::Platform& platform);
  Result<void> start_from_directory(StageScope& scope, const std::string& context);
  // The key in request.build_contexts of what the user put in the place of a stage or image.
  std::optional<std::string> named_context(const std::string& name, const oci::Platform& platform) const;
  bool is_directory_context(const std::string& context) const;
  Result<oci::Platform> platform_of(const parser::Instruction& from);
  Result<void> check_filters() const;
  bool filtered(const StageScope& scope, const parser::Instruction& i) const;
  Result<void> run_triggers(StageScope& scope, const std::vector<std::string>& triggers, const std::string& origin);
  Result<void> apply(StageScope& scope, const parser::Instruction& instruction);

  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Arg& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Env& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Label& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Run& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Copy& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Workdir& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::User& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Cmd& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Entrypoint& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Expose& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Volume& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::StopSignal& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Shell& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Maintainer& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Healthcheck& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::Onbuild& body);
  Result<void> apply_body(StageScope& scope, const parser::Instruction& i, const parser::From& body);

  Result<std::string> expand(const StageScope& scope, const parser::Instruction& i, const parser::Word& word);
  Result<std::string> expand_global(const parser::Instruction& i, const parser::Word& word);
  Result<SourceRef> source_ref(StageScope& scope, const parser::Instruction& i, const std::string& name,
                               SourceRange range, bool allow_index);
  Result<int> add_image(const std::string& name, const oci::Platform& platform, const parser::Instruction& i,
                        SourceRange range);
  Result<int> add_resolved(Result<ResolvedImage> resolved, const parser::Instruction& i, SourceRange range);
  Result<void> fill_run_command(StageScope& scope, const parser::Run& body, RunStep& step, std::string& history);
  Result<void> fill_run_mounts(StageScope& scope, const parser::Instruction& i, const parser::Run& body, RunStep& step, Step& out);
  Result<void> fill_run_isolation(StageScope& scope, const parser::Instruction& i, const parser::Run& body, RunStep& step);
  Result<void> fill_run_devices(const parser::Instruction& i, const parser::Run& body, RunStep& step);
  // Finds out which sources of ADD are URLs and git repositories.
  Result<void> find_remotes(const StageScope& scope, const parser::Instruction& i, const parser::Copy& body, CopyStep& step);
  Result<RemoteSource> git_remote(const parser::Instruction& i, const parser::Copy& body, GitSource from, SourceRange range, const std::string& checksum);
  Result<RemoteSource> http_remote(const parser::Instruction& i, const parser::Copy& body, const parser::Word& source, const std::string& checksum);
  void add_step(StageScope& scope, const parser::Instruction& i, Step step, std::string created_by);
  void add_history(StageScope& scope, std::string created_by);
  std::vector<std::string> with_shell(const StageScope& scope, const parser::CommandLine& command) const;
  void name_steps();

  const parser::Dockerfile& dockerfile_;
  const BuildRequest& request_;
  ImageResolver& resolver_;
  Complaints complaints_;
  Plan plan_;
  int depth_ = 0;     // of evaluate_stage
  Variables global_;  // ARGs before the first FROM
  std::optional<BuildArguments> arguments_;
  std::map<std::string, int> image_index_;
  std::optional<DeviceRegistry> devices_;  // read when the first RUN asks for one
};

}  // namespace lamina::builder::internal
