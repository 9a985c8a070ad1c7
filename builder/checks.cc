#include "builder/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/text.h"
#include "builder/internal/context_checks.h"
#include "oci/image_config.h"
#include "registry/client.h"

namespace lamina::builder {

namespace {

// What the store knows of an image, without asking a registry.
std::optional<parser::BaseImage> known_image(layers::Store& store, const std::string& name, const std::string& platform_text) {
  const auto reference = oci::Reference::parse(name);
  const auto platform = oci::Platform::parse(platform_text);
  if (!reference || !platform) return std::nullopt;
  const auto record = store.image(reference->canonical());
  if (!record || !*record) return std::nullopt;
  const auto loaded = registry::load_image(store, (*record)->descriptor, *platform);
  if (!loaded) return std::nullopt;
  const auto config = oci::ImageConfig::parse(loaded->image.config_json);
  if (!config) return std::nullopt;
  parser::BaseImage image;
  for (const std::string& e : config->env) image.env_names.push_back(e.substr(0, e.find('=')));
  image.has_shell = config->shell && !config->shell->empty();
  image.platform = config->platform.text();
  return image;
}

}  // namespace

parser::CheckInput check_input(const BuildRequest& request, const oci::Platform& platform, layers::Store& store) {
  parser::CheckInput input;
  for (const auto& [name, value] : request.build_args) {
    if (value) {
      input.build_args[name] = *value;
    } else if (const char* from_environment = std::getenv(name.c_str())) {  // NOLINT(concurrency-mt-unsafe)
      input.build_args[name] = from_environment;
    }
  }
  input.build_platform = oci::Platform::host().text();
  input.target_platform = platform.text();
  input.target = request.target;
  for (const auto& [name, place] : request.build_contexts) input.named_contexts.insert(name);
  input.base_image = [&request, &store](const std::string& name, const std::string& wanted) -> std::optional<parser::BaseImage> {
    constexpr std::string_view kDockerImage = "docker-image://";
    const auto named = request.build_contexts.find(name);
    if (named == request.build_contexts.end()) return known_image(store, name, wanted);
    if (!named->second.starts_with(kDockerImage)) return std::nullopt;
    return known_image(store, named->second.substr(kDockerImage.size()), wanted);
  };
  input.valid_image_name = [](const std::string& name) { return bool(oci::Reference::parse(name)); };
  return input;
}

Result<CheckReport> run_checks(const CheckScope& scope) {
  const parser::Dockerfile& dockerfile = scope.parsed.dockerfile;
  const parser::Tree tree = parser::parse_tree(dockerfile.file, *dockerfile.text).tree;
  parser::CheckInput input = check_input(scope.request, scope.platform, scope.store);
  input.all_stages = scope.all && scope.request.target.empty();
  const auto given = input.build_args.find("BUILDKIT_DOCKERFILE_CHECK");
  const parser::CheckFilter filter(tree, given == input.build_args.end() ? std::nullopt : std::optional(given->second), scope.all);

  std::vector<Diagnostic> found = parser::check_dockerfile(scope.parsed, tree, input);
  for (const Diagnostic& d : scope.parsed.diagnostics) {
    if (d.severity == Severity::kError) found.push_back(d);
  }
  found.insert(found.end(), filter.problems().begin(), filter.problems().end());
  std::vector<Diagnostic> about_ignore_file;
  const std::vector<parser::ContextCopy> copies = parser::context_copies(dockerfile, input);
  if (scope.contexts != nullptr && (scope.all || !copies.empty())) {
    ASSIGN_OR_RETURN(const std::shared_ptr<const SourceTree> context, scope.contexts->get(""));
    internal::ContextChecks checks(dockerfile, *context, filter, scope.all);
    checks.run(copies);
    found.insert(found.end(), checks.about_dockerfile.begin(), checks.about_dockerfile.end());
    about_ignore_file = std::move(checks.about_ignore_file);
  }
  parser::sort_by_place(found);
  found.insert(found.end(), about_ignore_file.begin(), about_ignore_file.end());
  std::erase_if(found, [&](const Diagnostic& d) { return !filter.keeps(d); });

  CheckReport report;
  report.file = dockerfile.file;
  report.text = dockerfile.text;
  report.diagnostics = std::move(found);
  report.warnings_are_errors = filter.warnings_are_errors();
  return report;
}

}  // namespace lamina::builder
