#include "builder/checks.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/text.h"
#include "builder/event_hub.h"

using namespace lamina;
using namespace lamina::builder;

namespace {

class NoEvents : public BuildEvents {
 public:
  void vertex_announced(const Vertex&) override {}
  void vertex_started(int) override {}
  void vertex_finished(int, VertexStatus, const std::string&) override {}
  void output(int, OutputStream, std::string_view) override {}
  void progress(int, const std::string&, uint64_t, uint64_t) override {}
  void diagnostic(const Diagnostic&) override {}
  void warning(const std::string&) override {}
};

// A context on disk, an empty store, and what the checks say about them.
struct World {
  World() : directory(*TempDir::create("/tmp", "checks-test")), store(*layers::Store::open(directory.path() + "/store")) {
    request.context = directory.path() + "/context";
    std::filesystem::create_directory(request.context);
  }

  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path full = request.context + "/" + path;
    std::filesystem::create_directories(full.parent_path());
    REQUIRE(write_file_atomically(AT_FDCWD, full.string(), text, Durability::kNone));
  }

  CheckReport check(const std::string& dockerfile, bool all = true) {
    write("Dockerfile", dockerfile);
    const parser::ParsedDockerfile parsed = parser::parse_dockerfile("Dockerfile", dockerfile);
    NoEvents listener;
    EventHub events(listener);
    BuildSources sources(*store, request, events, {});
    REQUIRE(sources.contexts.dockerfile());
    auto report = run_checks({parsed, request, oci::Platform::host(), *store, &sources.contexts, all});
    REQUIRE(report);
    return std::move(*report);
  }

  // "line rule", and of what has an ignore rule its line.
  std::vector<std::string> rules(const std::string& dockerfile, bool all = true) {
    std::vector<std::string> out;
    for (const Diagnostic& d : check(dockerfile, all).diagnostics) {
      const std::string note = d.rule == "CopyIgnoredFile" ? " " + d.notes.at(0).substr(0, d.notes[0].find(" hides")) : "";
      out.push_back(fmt::format("{} {}{}", d.range.line, d.rule, note));
    }
    return out;
  }

  TempDir directory;
  std::unique_ptr<layers::Store> store;
  BuildRequest request;
};

using Rules = std::vector<std::string>;

const std::string kRecorded = LAMINA_SOURCE_DIR "/../shared/cases/data/lint/lint.json";

bool has_recorded() { return std::filesystem::exists(kRecorded); }

}  // namespace

TEST_CASE("an ignored source is judged by path") {
  World w;
  w.write("a.txt", "");
  w.write("b.md", "");
  w.write("dir/x.md", "");
  w.write("dir/keep.txt", "");
  w.write("only/x.md", "");
  SUBCASE("by the rule that decides") {
    w.write(".dockerignore", "# notes\n*.md\nonly\n");
    CHECK(w.rules("FROM scratch\nCOPY b.md /\nCOPY a.txt only /x/\nADD /b.md /\n", false) ==
          Rules{"2 CopyIgnoredFile .dockerignore:2", "3 CopyIgnoredFile .dockerignore:3", "4 CopyIgnoredFile .dockerignore:2"});
  }
  SUBCASE("also when the file has lines with !") {
    w.write(".dockerignore", "*\n!a.txt\n!dir/keep.txt\n");
    CHECK(w.rules("FROM scratch\nCOPY a.txt /\nCOPY dir /\nCOPY . /\nCOPY b.md /\nCOPY only /\n", false) ==
          Rules{"5 CopyIgnoredFile .dockerignore:1", "6 CopyIgnoredFile .dockerignore:1"});
  }
  SUBCASE("patterns match what is there") {
    w.write(".dockerignore", "*.md\n");
    CHECK(w.rules("FROM scratch\nCOPY *.md /\nCOPY *.txt /\nCOPY dir/*.md /\nCOPY nothing* /\n", false) == Rules{"2 CopyIgnoredFile .dockerignore:1"});
  }
  SUBCASE("the whole context") {
    w.write(".dockerignore", "**\n");
    CHECK(w.rules("FROM scratch\nCOPY . /\n", false) == Rules{"2 CopyIgnoredFile .dockerignore:1"});
  }
  SUBCASE("other stages and contexts have other files") {
    w.write(".dockerignore", "*\n");
    CHECK(w.rules("FROM scratch AS a\nFROM scratch\nCOPY --from=a b.md /\n", false).empty());
  }
  SUBCASE("without an ignore file") { CHECK(w.rules("FROM scratch\nCOPY b.md nothing /\n", false).empty()); }
}

TEST_CASE("ignore patterns that match at the root only") {
  World w;
  w.write("node_modules/a", "");
  w.write("web/node_modules/a", "");
  w.write("web/app/node_modules/a", "");
  w.write("web/x.log", "");
  w.write(".dockerignore", "node_modules\n/web.log\n**/x.log\n*.tmp\n");
  const std::string dockerfile = "FROM scratch\nCOPY . /\n";
  CHECK(w.rules(dockerfile) == Rules{"1 IgnoreOnlyMatchesRoot"});
  const CheckReport report = w.check(dockerfile);
  CHECK(report.diagnostics[0].file == ".dockerignore");
  CHECK(report.diagnostics[0].message == "node_modules matches at the root of the context only, not web/app/node_modules and 1 more");
  CHECK(w.rules(dockerfile, false).empty());  // builds do not walk the context for it
  CHECK(w.rules("# check=skip=IgnoreOnlyMatchesRoot\n" + dockerfile).empty());
}

TEST_CASE("secrets") {
  World w;
  w.write(".env", "A=1");
  w.write(".env.example", "A=");
  w.write("conf/key.pem", "-----BEGIN PRIVATE KEY-----\n");
  w.write("conf/ca.pem", "-----BEGIN CERTIFICATE-----\n");
  w.write("conf/id_rsa.pub", "ssh-rsa");
  SUBCASE("named") { CHECK(w.rules("FROM scratch\nCOPY .env /\nCOPY conf/ca.pem /\nCOPY .env.example /\n", false) == Rules{"2 SecretCopied"}); }
  SUBCASE("with a directory, when the checks are asked for") {
    const std::string dockerfile = "FROM scratch\nCOPY . /\nCOPY conf /c\nCOPY --exclude=*.pem conf /c\n";
    CHECK(w.rules(dockerfile) == Rules{"2 SecretCopied", "3 SecretCopied"});
    CHECK(w.check(dockerfile).diagnostics[0].message == "COPY puts .env, conf/key.pem into a layer, which usually holds a secret");
    CHECK(w.rules(dockerfile, false).empty());
  }
  SUBCASE("not what is ignored") {
    w.write(".dockerignore", ".env\n**/*.pem\n");
    CHECK(w.rules("FROM scratch\nCOPY . /\n").empty());
  }
}

TEST_CASE("ADD where COPY suffices") {
  World w;
  w.write("plain.txt", "text");
  w.write("looks.tar.gz", "no archive");
  w.write("packed", std::string("\x1f\x8b\x08\x00", 4));
  const CheckReport report = w.check("FROM scratch\nADD plain.txt /\nadd looks.tar.gz /\nADD packed /\nADD --unpack=false packed /\nADD https://localhost/x /\nADD missing /\n");
  Rules seen;
  for (const Diagnostic& d : report.diagnostics) {
    if (d.rule == "AddWhereCopySuffices") seen.push_back(fmt::format("{} {}", d.range.line, d.mend ? d.mend->replacement : ""));
  }
  CHECK(seen.size() >= 2);
  CHECK(seen[0] == "2 COPY");
  CHECK(seen[1] == "3 copy");
  CHECK(std::none_of(seen.begin(), seen.end(), [](const std::string& s) { return s[0] > '4'; }));
}

TEST_CASE("the build's own options") {
  World w;
  CHECK(w.check("# check=error=true\nFROM scratch\n").warnings_are_errors);
  w.request.build_args = {{"BUILDKIT_DOCKERFILE_CHECK", "skip=all"}};
  CHECK_FALSE(w.check("# check=error=true\nFROM scratch as a\n").warnings_are_errors);
  CHECK(w.rules("FROM scratch as a\n").empty());
  w.request.build_args = {{"BUILDKIT_DOCKERFILE_CHECK", "skip"}};
  const CheckReport wrong = w.check("FROM scratch\n");
  REQUIRE(wrong.diagnostics.size() == 1);
  CHECK(wrong.diagnostics[0].severity == Severity::kError);
}

// What docker/dockerfile was recorded to say. Only its own rules are compared.
TEST_CASE("recorded lint cases" * doctest::skip(!has_recorded())) {
  const auto text = read_file(AT_FDCWD, kRecorded);
  REQUIRE(text);
  const nlohmann::json cases = nlohmann::json::parse(*text);
  CHECK(cases.size() >= 30);
  for (const auto& c : cases) {
    World w;
    if (c["dockerignore"].is_string()) w.write(".dockerignore", c["dockerignore"]);
    for (const auto& [name, value] : c["build_args"].items()) w.request.build_args.emplace_back(name, value.get<std::string>());
    const std::string dockerfile = c["dockerfile"];
    CAPTURE(c["test"].get<std::string>());
    CAPTURE(dockerfile);
    std::vector<std::string> actual, expected;
    for (const Diagnostic& d : w.check(dockerfile).diagnostics) {
      const parser::CheckRule* rule = parser::find_check_rule(d.rule);
      if (rule == nullptr || (rule->page.empty() && rule->name != "InvalidBaseImagePlatform")) continue;
      actual.push_back(fmt::format("{} {} {} {} {}", d.range.line, d.rule, d.message, rule->description, rule->url()));
    }
    for (const auto& warning : c["warnings"]) {
      expected.push_back(fmt::format("{} {} {} {} {}", warning["line"].get<int>(), warning["rulename"].get<std::string>(), warning["detail"].get<std::string>(),
                                     warning["description"].get<std::string>(), warning.value("url", "")));
    }
    std::sort(actual.begin(), actual.end());
    std::sort(expected.begin(), expected.end());
    CHECK(join(actual, "\n") == join(expected, "\n"));
  }
}
