#include "parser/instructions.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "parser/internal/typing.h"

namespace lamina::parser {

// We are the frontend: images of the built-in one are accepted, others would be programs to run.
bool is_builtin_frontend(std::string name) {
  for (const char* prefix : {"docker.io/", "index.docker.io/"}) {
    if (name.compare(0, std::string_view(prefix).size(), prefix) == 0) name.erase(0, std::string_view(prefix).size());
  }
  if (name == "dockerfile.v0") return true;
  const std::string repository = name.substr(0, name.find_first_of(":@"));
  return repository == "docker/dockerfile" || repository == "docker/dockerfile-upstream";
}

namespace {

void check_directives(const Tree& tree, internal::Typer& typer) {
  if (!tree.directives.syntax || is_builtin_frontend(tree.directives.syntax->text)) return;
  typer.report(Severity::kError, tree.directives.syntax->range, fmt::format("the frontend {} cannot be used", printable(tree.directives.syntax->text)),
               {"this program reads the language of docker/dockerfile itself and runs no other frontend; remove the line or name docker/dockerfile:1"});
}

}  // namespace

ParsedDockerfile parse_dockerfile(std::string file, std::string text, bool ignore_syntax) {
  ParsedTree parsed = parse_tree(std::move(file), std::move(text));
  ParsedDockerfile out;
  out.diagnostics = std::move(parsed.diagnostics);
  out.dockerfile.file = parsed.tree.file;
  out.dockerfile.text = parsed.tree.text;
  out.dockerfile.directives = parsed.tree.directives;
  const bool readable = !has_errors(out.diagnostics);
  internal::Typer typer(out.dockerfile.file, *out.dockerfile.text, out.diagnostics);
  if (!ignore_syntax) check_directives(parsed.tree, typer);
  bool in_stage = false;
  for (const Node& node : parsed.tree.nodes) {
    std::optional<Instruction> instruction = typer.type(node);
    in_stage = in_stage || node.keyword == "from";
    if (!instruction) continue;
    if (node.keyword == "from") {
      Stage stage;
      if (const auto& name = std::get<From>(instruction->body).name) stage.name = name->text;
      stage.from = std::move(*instruction);
      out.dockerfile.stages.push_back(std::move(stage));
    } else if (!out.dockerfile.stages.empty()) {
      out.dockerfile.stages.back().instructions.push_back(std::move(*instruction));
    } else if (node.keyword == "arg" && !in_stage) {
      out.dockerfile.global_args.push_back(std::move(*instruction));
    } else if (!in_stage) {
      typer.report(Severity::kError, node.keyword_range, fmt::format("no build stage in current context: {} stands before the first FROM", instruction->name), {"only ARG may come before FROM"});
      in_stage = true;  // said once
    }
  }
  if (out.dockerfile.stages.empty() && readable && !has_errors(out.diagnostics)) {
    typer.report(Severity::kError, {1, 1, 1, 1}, "dockerfile contains no stages to build", {"a Dockerfile needs a FROM"});
  }
  std::stable_sort(out.diagnostics.begin(), out.diagnostics.end(), [](const Diagnostic& a, const Diagnostic& b) { return a.range.line < b.range.line; });
  return out;
}

ParsedInstruction parse_trigger(const std::string& file, const std::string& text) {
  ParsedTree parsed = parse_tree(file, text);
  ParsedInstruction out;
  out.diagnostics = std::move(parsed.diagnostics);
  if (parsed.tree.nodes.size() != 1) return out;
  internal::Typer typer(file, text, out.diagnostics);
  out.instruction = typer.type(parsed.tree.nodes[0]);
  return out;
}

Diagnostic diagnostic_at(const Dockerfile& dockerfile, Severity severity, SourceRange range, std::string message, std::vector<std::string> notes) {
  Diagnostic d;
  d.severity = severity;
  d.file = dockerfile.file;
  d.range = range;
  d.message = std::move(message);
  d.notes = std::move(notes);
  if (dockerfile.text) d.line_text = std::string(line_of(*dockerfile.text, range.line));
  return d;
}

}  // namespace lamina::parser
