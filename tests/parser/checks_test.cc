#include "parser/checks.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "base/text.h"

using namespace lamina;
using namespace lamina::parser;

namespace {

struct Case {
  const char* name;
  std::string dockerfile;
  std::vector<std::string> expected;  // "line rule"
  std::map<std::string, std::string> build_args = {};
};

CheckInput input_of(const Case& c) {
  CheckInput input;
  input.build_args = c.build_args;
  input.all_stages = true;
  // "known" sets JAVA_HOME and a shell for an image of 64-bit ARM; other images are not known.
  input.base_image = [](const std::string& name, const std::string&) -> std::optional<BaseImage> {
    if (name != "known:1") return std::nullopt;
    return BaseImage{{"PATH", "JAVA_HOME"}, true, "linux/arm64"};
  };
  input.valid_image_name = [](const std::string& name) { return !name.empty() && !name.ends_with(":") && name.find('!') == std::string::npos; };
  return input;
}

std::vector<Diagnostic> check(const Case& c, const std::string& target = {}) {
  const ParsedDockerfile parsed = parse_dockerfile("Dockerfile", c.dockerfile);
  const Tree tree = parse_tree("Dockerfile", c.dockerfile).tree;
  CheckInput input = input_of(c);
  input.target = target;
  input.all_stages = target.empty();
  std::vector<Diagnostic> found = check_dockerfile(parsed, tree, input);
  const auto given = c.build_args.find("BUILDKIT_DOCKERFILE_CHECK");
  const CheckFilter filter(tree, given == c.build_args.end() ? std::nullopt : std::optional(given->second), true);
  found.insert(found.end(), filter.problems().begin(), filter.problems().end());
  sort_by_place(found);
  std::erase_if(found, [&](const Diagnostic& d) { return !filter.keeps(d); });
  return found;
}

std::vector<std::string> rules_of(const std::vector<Diagnostic>& found) {
  std::vector<std::string> out;
  for (const Diagnostic& d : found) out.push_back(fmt::format("{} {}", d.range.line, d.rule));
  return out;
}

void run(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    SUBCASE(c.name) { CHECK(join(rules_of(check(c)), "\n") == join(c.expected, "\n")); }
  }
}

}  // namespace

TEST_CASE("rules about names and case") {
  run({
      {"a name in capitals", "FROM scratch AS Builder\n", {"1 StageNameCasing"}},
      {"as beside FROM", "FROM scratch as b\n", {"1 FromAsCasing"}},
      {"AS beside from", "from scratch AS b\n", {"1 FromAsCasing"}},
      {"a keyword of mixed case says enough", "From scratch AS a\nFROM scratch AS b\nFROM scratch as c\n", {"1 ConsistentInstructionCasing", "3 FromAsCasing"}},
      {"the minority is named", "from scratch\nuser a\nUSER b\n", {"3 ConsistentInstructionCasing"}},
      {"a draw is upper case", "FROM scratch\nuser a\n", {"2 ConsistentInstructionCasing"}},
      {"ARG before FROM has no part in it", "arg A=1\nFROM scratch\n", {}},
      {"two stages of one name", "FROM scratch AS a\nFROM scratch AS A\n", {"2 StageNameCasing", "2 DuplicateStageName"}},
      {"reserved names", "FROM scratch AS scratch\nFROM scratch AS context\n", {"1 ReservedStageName", "2 ReservedStageName"}},
      {"maintainer", "FROM scratch\nMAINTAINER me\n", {"2 MaintainerDeprecated"}},
  });
}

TEST_CASE("rules about variables") {
  run({
      {"declared too late", "FROM scratch\nCOPY $f /\nARG f=x\n", {"2 UndefinedVar"}},
      {"a global ARG is not for stages", "ARG V=1\nFROM unknown:1\nENV X=$V\n", {"3 UndefinedVar"}},
      {"repeated in the stage", "ARG V=1\nFROM unknown:1\nARG V\nENV X=$V\n", {}},
      {"declared without a value", "FROM scratch\nARG V\nENV X=$V\n", {}},
      {"of the stage below", "FROM scratch AS a\nENV V=1\nFROM a\nUSER $V\n", {}},
      {"an image that nobody knows may set it", "FROM unknown:1\nENV X=$JAVA_HOME\n", {}},
      {"but not what is misspelt", "FROM unknown:1\nENV PATH=/x:$PAHT\n", {"2 UndefinedVar"}},
      {"a known image sets it", "FROM known:1\nENV X=$JAVA_HOME Y=$JAVA_HOEM\n", {"1 InvalidBaseImagePlatform", "2 UndefinedVar"}},
      {"in mounts and heredocs", "FROM scratch\nRUN --mount=type=cache,target=$NOPE true\nCOPY <<EOF /x\n$NADA\nEOF\n", {"2 UndefinedVar", "3 UndefinedVar"}},
      {"not in what is not expanded", "FROM scratch\nRUN echo $x\nCMD [\"$x\"]\nCOPY <<'EOF' /x\n$NADA\nEOF\n", {}},
      {"one instruction sees what was before it", "FROM scratch\nENV A=1 B=$A\n", {"2 UndefinedVar"}},
      {"FROM sees global ARGs", "ARG V=1\nFROM unknown:$V$W\n", {"2 UndefinedArgInFrom"}},
      {"a platform is a word of FROM", "FROM --platform=$BUILDPLATFROM scratch\n", {"1 UndefinedArgInFrom"}},
      {"the default makes no name", "ARG T\nFROM unknown:$T\n", {"2 InvalidDefaultArgInFrom"}, {{"T", "1"}}},
      {"the default makes one", "ARG T=1\nFROM unknown:$T\n", {}},
      {"secrets", "FROM scratch\nARG API_KEY\nENV DB_PASSWORD=x PUBLIC_KEY=y TOKEN_FILE=z MONKEY=a\n", {"2 SecretsUsedInArgOrEnv", "3 SecretsUsedInArgOrEnv"}},
  });
}

TEST_CASE("rules about platforms") {
  run({
      {"the target's is the default", "FROM --platform=$TARGETPLATFORM scratch\n", {"1 RedundantTargetPlatform"}},
      {"with more it is none", "FROM --platform=$TARGETPLATFORM$X scratch\nARG X\n", {"1 UndefinedArgInFrom"}},
      {"a constant", "FROM --platform=linux/arm64 scratch AS out\n", {"1 FromPlatformFlagConstDisallowed"}},
      {"named after it", "FROM --platform=linux/arm64 scratch AS out-arm64\nFROM --platform=linux/386 scratch AS linux-old\n", {}},
      {"a variable", "FROM --platform=$BUILDPLATFORM scratch\n", {}},
      {"the base image has another", "FROM known:1\nCMD x\n", {"1 InvalidBaseImagePlatform"}},
  });
}

TEST_CASE("rules about instructions") {
  run({
      {"old form", "FROM scratch\nENV a b c\nLABEL k v\n", {"2 LegacyKeyValueFormat", "3 LegacyKeyValueFormat"}},
      {"shell form", "FROM scratch\nCMD a\nENTRYPOINT b\n", {"2 JSONArgsRecommended", "3 JSONArgsRecommended"}},
      {"the shell is meant", "FROM scratch AS a\nSHELL [\"/x\"]\nFROM a\nCMD a\n", {}},
      {"twice", "FROM scratch\nCMD [\"a\"]\nENTRYPOINT [\"x\"]\nCMD [\"b\"]\n", {"2 MultipleInstructionsDisallowed"}},
      {"once a stage", "FROM scratch AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]\n", {}},
      {"a relative directory", "FROM scratch\nWORKDIR a\nWORKDIR b\n", {"2 WorkdirRelativePath"}},
      {"below an absolute one", "FROM scratch AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n", {}},
      {"ports", "FROM scratch\nEXPOSE 80/UDP 1.2.3.4:80:90 8080\n", {"2 ExposeProtoCasing", "2 ExposeInvalidFormat"}},
      {"an empty line", "FROM scratch\nUSER \\\n\n a\n", {"4 NoEmptyContinuation"}},
      {"single quotes", "FROM scratch\nCMD ['a']\nVOLUME ['/d']\nHEALTHCHECK CMD ['b']\n", {"2 JSONArgsRecommended", "2 InvalidJSONForm", "3 InvalidJSONForm", "4 InvalidJSONForm"}},
      {"a test is no array", "FROM scratch\nRUN [ a = b ] || true\nCOPY [ab].txt /\n", {}},
  });
}

TEST_CASE("rules of our own") {
  run({
      {"no tag, latest, tag, digest", "FROM a AS x\nFROM a:latest\nFROM h:5/a:1\nFROM a@sha256:0000000000000000000000000000000000000000000000000000000000000000\nFROM x\nFROM scratch\n",
       {"1 LatestBaseImage", "2 LatestBaseImage"}},
      {"a registry's port is no tag", "FROM localhost:5000/a\n", {"1 LatestBaseImage"}},
      {"images of COPY", "FROM scratch AS x\nFROM scratch\nCOPY --from=tools /a /\nCOPY --from=x /a /\nCOPY --from=0 /a /\n", {"3 LatestBaseImage"}},
      {"update alone", "FROM a:1\nRUN apt-get -y update\nRUN apt-get update && apt-get install -y x\nRUN apt update\n", {"2 AptGetUpdateAlone", "4 AptGetUpdateAlone"}},
      {"update in a heredoc", "FROM a:1\nRUN <<EOF\napt-get update\nEOF\nRUN <<EOF\napt-get update\napt-get install -y x\nEOF\n", {"2 AptGetUpdateAlone"}},
      {"the list is kept elsewhere", "FROM a:1\nRUN --mount=type=cache,target=/var/lib/apt apt-get update\n", {}},
      {"words that only contain it", "FROM a:1\nRUN echo my-apt-get update; echo apt-getx update\n", {}},
      {"several sources", "FROM a:1\nCOPY a b /dst\nCOPY a b /dst/\nCOPY a b .\nCOPY a /dst\nCOPY --parents a b /dst\n", {"2 MissingTrailingSlash"}},
      {"extensions", "FROM a:1\nARG X=y\nCOPY --if-exists a /\nCOPY --from=$X a /\nCOPY --exclude=$X a /\nCOPY --link --chmod=600 a /\nADD git+https://localhost/x /\nCOPY --link a /\n",
       {"3 NotPortable", "4 NotPortable", "4 LatestBaseImage", "5 NotPortable", "6 NotPortable", "7 NotPortable"}},
  });
}

TEST_CASE("check options") {
  run({
      {"skip some", "# check=skip=StageNameCasing,FromAsCasing\nFROM scratch as A\nUSER $X\n", {"3 UndefinedVar"}},
      {"skip all", "# check=skip=all\nFROM scratch as A\n", {}},
      {"above an instruction", "FROM scratch\n# check=skip=UndefinedVar\nUSER $X\nUSER $Y\n", {"4 UndefinedVar"}},
      {"an empty line between has no effect", "FROM scratch\n# check=skip=UndefinedVar\n\nUSER $X\n", {"4 UndefinedVar"}},
      {"experimental by name", "# check=experimental=InvalidDefinitionDescription\nFROM scratch\n# something\nARG A\n", {"4 InvalidDefinitionDescription"}},
      {"experimental rules are not in all", "# check=skip=all;experimental=all\nFROM scratch\n# something\nARG A\n", {"4 InvalidDefinitionDescription"}},
      {"a description", "# check=experimental=all\nFROM scratch\n# B the second\nARG A B\n# A the first\n\n#\nARG A\n", {}},
      {"the build argument replaces the directive", "# check=skip=all\nFROM scratch as a\n", {"2 FromAsCasing"}, {{"BUILDKIT_DOCKERFILE_CHECK", "skip=StageNameCasing"}}},
      {"a rule that does not exist", "# check=skip=StageNameCasin\nFROM scratch AS A\n", {"1 UnknownCheckRule", "2 StageNameCasing"}},
      {"an option that does not exist", "# check=skp=all\nFROM scratch\n", {"1 "}},
  });
  const auto options = parse_check_options(" skip=A, B because of this ;error=TRUE; experimental=all");
  REQUIRE(options);
  CHECK(options->skip == std::set<std::string>{"A", "B"});
  CHECK(options->error);
  CHECK(options->experimental_all);
  CHECK_FALSE(parse_check_options("error=maybe"));
  CHECK_FALSE(parse_check_options("skip"));
}

TEST_CASE("builds tell what concerns the stages that they build") {
  const Case c{"", "FROM scratch AS a\nENV k v\nFROM scratch AS b\nENV k v\nFROM a AS c\nCOPY --from=b x y\nFROM scratch AS d\nENV k v\n", {}};
  CHECK(rules_of(check(c, "a")) == std::vector<std::string>{"2 LegacyKeyValueFormat"});
  CHECK(rules_of(check(c, "c")) == std::vector<std::string>{"2 LegacyKeyValueFormat", "4 LegacyKeyValueFormat"});
  CHECK(rules_of(check(c)).size() == 3);
}

TEST_CASE("places are those of the words") {
  const auto found = check({"", "FROM scratch AS a\nENV X=1\nENV W=1 \\\n  Y=a${X}b$Z\n", {}});
  REQUIRE(found.size() == 1);
  CHECK(found[0].range == SourceRange{4, 11, 4, 13});
  CHECK(found[0].message == "Usage of undefined variable '$Z'");
}

TEST_CASE("every rule has a description, and only docker/dockerfile's have a page") {
  size_t with_page = 0;
  for (const CheckRule& rule : check_rules()) {
    CHECK_FALSE(rule.description.empty());
    if (!rule.page.empty()) ++with_page;
    CHECK(find_check_rule(rule.name) == find_check_rule(rule.name));
  }
  CHECK(with_page == 21);  // and InvalidBaseImagePlatform, which has none there either
  CHECK(find_check_rule("InvalidBaseImagePlatform") != nullptr);
}
