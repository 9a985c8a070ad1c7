// What a Dockerfile offers and takes: its targets, and the parameters of one target (--call=targets, --call=outline).
#pragma once

#include <string>
#include <vector>

#include "parser/checks.h"
#include "parser/instructions.h"

namespace lamina::parser {

struct Target {
  std::string name;         // empty when the stage has none
  bool is_default = false;  // built when no --target is given
  std::string description;  // from the comment above: "# name description"
  std::string base;         // as written
  std::string platform;     // as written, or empty
  SourceRange range;
};
std::vector<Target> list_targets(const Dockerfile& dockerfile);

struct OutlineArg {
  std::string name, description;
  std::string value;  // from the command line or the default, expanded
  SourceRange range;
};
// A secret, an ssh agent, or a cache mount.
struct OutlineMount {
  std::string id;
  bool required = false;
  SourceRange range;
};
struct Outline {
  std::string name, description;  // of the target
  // Of the target and the stages it needs, in the order of lines.
  std::vector<OutlineArg> args;
  std::vector<OutlineMount> secrets, ssh, caches;
};
// The stage is input.target, or the last.
Outline make_outline(const Dockerfile& dockerfile, const CheckInput& input);

}  // namespace lamina::parser
