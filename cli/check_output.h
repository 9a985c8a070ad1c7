// What the checks, the outline and the targets look like: text, JSON as BuildKit's subrequests give it, SARIF 2.1.0.
#pragma once

#include <string>
#include <vector>

#include "builder/checks.h"
#include "parser/outline.h"

namespace lamina::cli {

// Excerpt, cause and mend of every finding, and a last line with their numbers.
std::string check_text(const builder::CheckReport& report);
// {"warnings": […], "sources": […], "buildError": …}. Lines count from 1, characters from 0, in bytes.
std::string check_json(const builder::CheckReport& report);
// One run with every rule; columns count from 1, in code points.
std::string check_sarif(const builder::CheckReport& report, const std::string& version);

std::string outline_text(const parser::Outline& outline);
std::string outline_json(const parser::Outline& outline, const std::string& source);
std::string targets_text(const std::vector<parser::Target>& targets);
std::string targets_json(const std::vector<parser::Target>& targets, const std::string& source);

}  // namespace lamina::cli
