// The checks of a build: those of the parser, and those that need the context, its ignore file, or what the store knows
// about base images. No registry is asked. docs/checks.md describes every rule.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "builder/build.h"
#include "builder/contexts.h"
#include "parser/checks.h"
#include "parser/mend.h"

namespace lamina::builder {

struct CheckReport {
  std::string file;                         // the Dockerfile as messages name it
  std::string path;                         // where it is; empty for standard input
  std::shared_ptr<const std::string> text;  // its text
  // Errors and warnings, already filtered: the Dockerfile's in the order of lines, then the ignore file's.
  std::vector<Diagnostic> diagnostics;
  bool warnings_are_errors = false;         // by the check options
};

// What the parser's checks are told about a build.
parser::CheckInput check_input(const BuildRequest& request, const oci::Platform& platform, layers::Store& store);

struct CheckScope {
  const parser::ParsedDockerfile& parsed;
  const BuildRequest& request;
  const oci::Platform& platform;
  layers::Store& store;
  Contexts* contexts = nullptr;  // null: rules about the context are left out
  bool all = false;              // all stages unless there is a target, and the rules that builds leave out
};
// Errors are about the context and its ignore file.
Result<CheckReport> run_checks(const CheckScope& scope);

// `build check`: reads the Dockerfile and checks it; builds nothing. An unreadable Dockerfile or context is an error, a
// wrong one is in the report.
Result<CheckReport> check_build(layers::Store& store, const BuildRequest& request, BuildEvents& events);

// The same, and the text to which the mends lead: checked again after each round of them. Nothing is written.
struct MendedBuild {
  CheckReport before;
  parser::Mended after;
};
Result<MendedBuild> mend_build(layers::Store& store, const BuildRequest& request, BuildEvents& events);

// The parsed Dockerfile of a request, for --call=outline and --call=targets. kInvalidInput with all its errors, or when
// there is no such target.
Result<parser::Dockerfile> load_definition(layers::Store& store, const BuildRequest& request, BuildEvents& events);

}  // namespace lamina::builder
