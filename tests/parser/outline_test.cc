#include "parser/outline.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "base/text.h"

using namespace lamina;
using namespace lamina::parser;

namespace {

const char* const kText =
    "# VERSION of the compiler\n"
    "ARG VERSION=12\n"
    "ARG TAG=v${VERSION}\n"
    "ARG UNUSED=1\n"
    "# build makes the program\n"
    "FROM debian:$TAG AS build\n"
    "# JOBS at the same time\n"
    "ARG JOBS=2 VERSION\n"
    "RUN --mount=type=secret,id=npm,required --mount=type=cache,target=/root/.cache --mount=type=ssh make\n"
    "\n"
    "FROM scratch AS docs\n"
    "ARG THEME\n"
    "RUN --mount=type=secret,id=other true\n"
    "\n"
    "# not a description\n"
    "FROM scratch\n"
    "ARG TARGETARCH\n"
    "ARG MODE=$TARGETARCH-x\n"
    "COPY --from=build /a /\n";

std::string names(const std::vector<OutlineArg>& args) {
  std::string out;
  for (const OutlineArg& a : args) out += fmt::format("{}={}({})@{} ", a.name, a.value, a.description, a.range.line);
  return out;
}

}  // namespace

TEST_CASE("an outline lists what the target takes, through the stages that it needs") {
  const auto parsed = parse_dockerfile("D", kText);
  REQUIRE_FALSE(has_errors(parsed.diagnostics));
  CheckInput input;
  input.build_args["JOBS"] = "8";
  const Outline outline = make_outline(parsed.dockerfile, input);
  CHECK(outline.name.empty());
  CHECK(names(outline.args) == "VERSION=12(of the compiler)@2 TAG=v12()@3 JOBS=8(at the same time)@8 MODE=amd64-x()@18 ");
  REQUIRE(outline.secrets.size() == 1);
  CHECK(outline.secrets[0].id == "npm");
  CHECK(outline.secrets[0].required);
  REQUIRE(outline.ssh.size() == 1);
  CHECK(outline.ssh[0].id == "default");
  REQUIRE(outline.caches.size() == 1);
  CHECK(outline.caches[0].id == "/root/.cache");
}

TEST_CASE("an outline of a named target") {
  const auto parsed = parse_dockerfile("D", kText);
  CheckInput input;
  input.target = "Docs";
  const Outline docs = make_outline(parsed.dockerfile, input);
  CHECK(docs.name == "docs");
  CHECK(names(docs.args) == "THEME=()@12 ");
  CHECK(docs.secrets.size() == 1);
  input.target = "build";
  CHECK(make_outline(parsed.dockerfile, input).description == "makes the program");
}

TEST_CASE("targets have names, descriptions, and one of them is the default") {
  const std::vector<Target> targets = list_targets(parse_dockerfile("D", kText).dockerfile);
  REQUIRE(targets.size() == 3);
  CHECK(targets[0].name == "build");
  CHECK(targets[0].description == "makes the program");
  CHECK(targets[0].base == "debian:$TAG");
  CHECK_FALSE(targets[0].is_default);
  CHECK(targets[2].name.empty());
  CHECK(targets[2].is_default);
  CHECK(targets[2].range.line == 16);
}
