"""build check, --check, --call, and what builds say of the same things. Nothing here needs a registry unless it says so."""

from harness import *


def goldens(text):
    """The findings of a text output: (line, rule)."""
    return [(int(line), rule) for line, rule in re.findall(r"(?m)^\S+?:(\d+)(?::\d+)?: (?:warning|error): .* \[(\w+)\]$", text)]


class Check(TestCase):
    def test_nothing_to_say(self):
        self.dockerfile("FROM scratch\nCOPY a /\n")
        self.write("a")
        for args in (["check"], ["build", "--check"], ["--check"], ["--call=check"], ["--call", "check"]):
            result = self.ok(*args, self.context)
            self.assertEqual(result.out, "Check complete, no warnings found.\n")

    def test_text(self):
        self.dockerfile("FROM scratch as a\nCMD x\n")
        result = self.ok("check", self.context)
        file = os.path.join(self.context, "Dockerfile")
        self.assertEqual(result.out, f"""{file}:1:14: warning: 'as' and 'FROM' keywords' casing do not match [FromAsCasing]
    1 | FROM scratch as a
      |              ^~
mend: --fix writes AS

{file}:2:1: warning: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals [JSONArgsRecommended]
    2 | CMD x
      | ^~~~~
note: this form runs a shell, which does not pass signals on; write a JSON array, or set SHELL when the shell is meant

Check complete, 2 warnings found.
""")

    def test_exit_status(self):
        self.dockerfile("FROM scratch as a\n")
        self.ok("check", self.context)
        self.fails(2, "check", "--check=error", self.context)
        self.fails(2, "--check=error", self.context)
        self.fails(2, "check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true", self.context)
        self.ok("check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all;error=true", self.context)
        self.dockerfile("FROM scratch\nCOYP a b\nENV x y\n")
        result = self.fails(2, "check", self.context)
        self.assertIn("unknown instruction: COYP", result.out)
        self.assertIn("[LegacyKeyValueFormat]", result.out)  # errors do not hide warnings
        self.assertIn("1 error and 1 warning found", result.out)

    def test_wrong_use(self):
        self.dockerfile("FROM scratch\n")
        for args in (["--format=json"], ["--fix"], ["--call=chek"], ["--call=outline,format=sarif"], ["--check", "--call=targets"],
                     ["--call=check,colour=red"], ["--check=maybe"], ["check", "--format=xml"], ["check", "--dry-run"], ["check", "--fix", "--format=json"],
                     ["check", "--target", "nope"]):
            result = self.fails(2, *args, self.context)
            self.assertTrue(result.err.startswith("error: "), result.err)
        self.assertIn("did you mean check", self.call("--call=chek", self.context).err)
        self.fails(2, "check", os.path.join(self.dir, "nowhere"))

    def test_nothing_is_asked_of_a_registry_and_nothing_is_stored(self):
        self.dockerfile("FROM localhost:1/none:1\nCOPY a /\nRUN x\n")
        self.write("a")
        self.assertEqual(self.ok("check", self.context).out, "Check complete, no warnings found.\n")
        self.assertFalse(os.path.exists(self.store))

    def test_dockerfile_from_standard_input(self):
        result = self.ok("check", "-f", "-", self.context, stdin=b"FROM scratch as a\n")
        self.assertIn("-:1:14: warning", result.out)
        self.fails(2, "check", "--fix", "-f", "-", self.context, stdin=b"FROM scratch as a\n")
        self.assertIn("+FROM scratch AS a", self.ok("check", "--fix", "--dry-run", "-f", "-", self.context, stdin=b"FROM scratch as a\n").out)

    def test_context_and_ignore_file(self):
        self.dockerfile("FROM scratch\nCOPY secret.txt docs /x/\nCOPY . /all/\n")
        for name in ("secret.txt", "docs/a.md", "docs/keep.txt", "node_modules/x", "web/node_modules/x", "web/id_rsa"):
            self.write(name, "x")
        self.write(".dockerignore", "# rules\nsecret.*\n**/*.md\n!docs/keep.txt\nnode_modules\n")
        result = self.ok("check", self.context)
        self.assertEqual(goldens(result.out), [(2, "CopyIgnoredFile"), (3, "SecretCopied"), (5, "IgnoreOnlyMatchesRoot")], result.out)
        self.assertIn(".dockerignore:2 hides it: secret.*", result.out)
        self.assertIn("web/id_rsa", result.out)
        self.assertIn("web/node_modules", result.out)

    def test_base_images_that_the_store_knows(self):
        self.dockerfile("FROM BUSYBOX:latest\nENV X=$PATHH\n")
        registry()
        self.ok("pull", busybox() + ":latest")
        rules = [rule for _, rule in goldens(self.ok("check", "--platform=linux/arm64", self.context).out)]
        self.assertEqual(rules, ["LatestBaseImage", "InvalidBaseImagePlatform", "UndefinedVar"])
        self.assertNotIn("InvalidBaseImagePlatform", self.ok("check", "--platform=linux/amd64", self.context).out)


class Formats(TestCase):
    def setUp(self):
        super().setUp()
        self.dockerfile("FROM scratch as b\nLABEL name=\u00e4\u00f6 $X=1\nEXPOSE 80/TCP\n")
        self.write("node_modules/x")

    def test_json(self):
        value = json.loads(self.ok("check", "--format=json", self.context).out)
        self.assertEqual([w["ruleName"] for w in value["warnings"]], ["FromAsCasing", "UndefinedVar", "ExposeProtoCasing"])
        first = value["warnings"][0]
        self.assertEqual(first["url"], "https://docs.docker.com/go/dockerfile/rule/from-as-casing/")
        self.assertEqual(first["description"], "The 'as' keyword should match the case of the 'from' keyword")
        self.assertEqual(first["detail"], "'as' and 'FROM' keywords' casing do not match")
        self.assertEqual(first["location"]["ranges"], [{"start": {"line": 1, "character": 13}, "end": {"line": 1, "character": 15}}])
        self.assertEqual(first["fix"]["replacement"], "AS")
        self.assertEqual(base64.b64decode(value["sources"][0]["data"]).decode(), read(self.context, "Dockerfile"))
        self.assertNotIn("buildError", value)
        self.dockerfile("FROM scratch\nBAD\n")
        value = json.loads(self.fails(2, "--call=check,format=json", self.context).out)
        self.assertEqual(value["buildError"]["location"]["ranges"][0]["start"]["line"], 2)

    def test_sarif(self):
        value = json.loads(self.ok("check", "--format=sarif", self.context).out)
        self.assertEqual(value["version"], "2.1.0")
        run, = value["runs"]
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        self.assertEqual(len(rules), len(set(rules)))
        self.assertEqual(run["columnKind"], "unicodeCodePoints")
        by_rule = {result["ruleId"]: result for result in run["results"]}
        self.assertEqual(set(by_rule), {"FromAsCasing", "UndefinedVar", "ExposeProtoCasing"})
        self.assertLessEqual(set(by_rule), set(rules))
        for result in run["results"]:
            self.assertEqual(result["level"], "warning")
            self.assertTrue(result["message"]["text"])
            physical = result["locations"][0]["physicalLocation"]
            self.assertTrue(physical["artifactLocation"]["uri"].endswith("/Dockerfile"))
        # The second word of LABEL stands behind two letters of two bytes.
        region = by_rule["UndefinedVar"]["locations"][0]["physicalLocation"]["region"]
        self.assertEqual(region, {"startLine": 2, "startColumn": 15, "endLine": 2, "endColumn": 17})
        change = by_rule["ExposeProtoCasing"]["fixes"][0]["artifactChanges"][0]["replacements"][0]
        self.assertEqual(change["insertedContent"]["text"], "80/tcp")


class Fix(TestCase):
    BEFORE = "FROM scratch as B\nENV a b c\nADD f /\nEXPOSE 80/TCP # web\n"
    AFTER = "FROM scratch AS b\nENV a=\"b c\"\nCOPY f /\n# web\nEXPOSE 80/tcp\n"

    def setUp(self):
        super().setUp()
        self.write("f", "text")
        self.path = self.write("Dockerfile", self.BEFORE, mode=0o640)

    def test_dry_run_changes_nothing(self):
        before = os.lstat(self.path)
        result = self.ok("check", "--fix", "--dry-run", self.context)
        self.assertIn("-FROM scratch as B\n", result.out)
        self.assertIn("+FROM scratch AS b\n", result.out)
        self.assertEqual(read(self.path), self.BEFORE)
        self.assertEqual(os.lstat(self.path).st_ino, before.st_ino)

    def test_in_place(self):
        before = os.lstat(self.path)
        result = self.ok("check", "--fix", self.context)
        self.assertEqual(read(self.path), self.AFTER)
        after = os.lstat(self.path)
        self.assertEqual((after.st_mode, after.st_uid, after.st_gid), (before.st_mode, before.st_uid, before.st_gid))
        self.assertEqual(sorted(os.listdir(self.context)), ["Dockerfile", "f"])
        self.assertEqual(goldens(result.out), [])  # what is told is what is left
        # Nothing is left to do, and nothing is written then.
        self.ok("check", "--fix", self.context)
        self.assertEqual(os.lstat(self.path).st_ino, after.st_ino)

    def test_the_image_stays_the_same(self):
        self.dockerfile("FROM --platform=$TARGETPLATFORM scratch as B\nENV a b  $PATH c\nLABEL k 'v w'\nadd f \\\n\n  /x/\nEXPOSE 80/TCP 1.2.3.4:5:6\n")
        self.build("--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", "before")
        self.assertEqual(goldens(self.ok("check", "--fix", self.context).out), [])
        self.build("--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", "after")
        before, after = self.inspect("before"), self.inspect("after")
        self.assertEqual(before["Config"]["config"], after["Config"]["config"])
        self.assertEqual(before["Config"]["rootfs"], after["Config"]["rootfs"])

    def test_link_and_byte_order_mark(self):
        real = self.write("real", b"\xef\xbb\xbfFROM scratch as b\n")
        os.unlink(self.path)
        os.symlink("real", self.path)
        self.ok("check", "--fix", self.context)
        self.assertTrue(os.path.islink(self.path))
        with open(real, "rb") as f:
            self.assertEqual(f.read(), b"\xef\xbb\xbfFROM scratch AS b\n")

    def test_an_error_that_can_be_mended(self):
        self.write("Dockerfile", "FROM scratch # the base\nCOPY f /\n")
        self.ok("check", "--fix", self.context)
        self.assertEqual(read(self.path), "# the base\nFROM scratch\nCOPY f /\n")

    def test_a_directory_that_cannot_be_written(self):
        if ROOT:
            self.skipTest("root may write everywhere")
        os.chmod(self.context, 0o555)
        try:
            result = self.fails(1, "check", "--fix", self.context)
            self.assertIn("EACCES", result.err)
            self.assertEqual(read(self.path), self.BEFORE)
        finally:
            os.chmod(self.context, 0o755)


class Calls(TestCase):
    def setUp(self):
        super().setUp()
        self.dockerfile("# VERSION of the tool\nARG VERSION=3\n"
                        "# build compiles\nFROM none:$VERSION AS build\nARG JOBS\nRUN --mount=type=secret,id=key,required --mount=type=ssh --mount=type=cache,target=/c x\n\n"
                        "FROM scratch AS other\nARG UNSEEN\n\nFROM scratch\nCOPY --from=build /a /\n")

    def test_targets(self):
        self.assertEqual(self.ok("--call=targets", self.context).out, "TARGET      DESCRIPTION\nbuild       compiles\nother\n(default)\n")
        value = json.loads(self.ok("--call=targets,format=json", self.context).out)
        self.assertEqual(value["targets"][0], {"name": "build", "description": "compiles", "base": "none:$VERSION", "location": {"ranges": [{"start": {"line": 4}, "end": {"line": 4, "character": 27}}]}})
        self.assertEqual([t.get("default", False) for t in value["targets"]], [False, False, True])
        self.assertEqual(base64.b64decode(value["sources"][0]).decode(), read(self.context, "Dockerfile"))

    def test_outline(self):
        text = self.ok("build", "--call", "outline", "--build-arg", "JOBS=4", self.context).out
        self.assertEqual(text, "BUILD ARG   VALUE   DESCRIPTION\nVERSION     3       of the tool\nJOBS        4\n\n"
                               "SECRET   REQUIRED\nkey      true\n\nSSH       REQUIRED\ndefault\n\nCACHE MOUNT\n/c\n")
        value = json.loads(self.ok("--call=outline", "--format=json", "--target=build", self.context).out)
        self.assertEqual((value["name"], value["description"]), ("build", "compiles"))
        self.assertEqual([(a["name"], a.get("value"), a["location"]["ranges"][0]["start"]["line"]) for a in value["args"]], [("VERSION", "3", 2), ("JOBS", None, 5)])
        self.assertEqual([(s["name"], s["required"]) for s in value["secrets"]], [("key", True)])
        self.assertEqual([s["name"] for s in value["ssh"]], ["default"])
        self.assertEqual([c["ID"] for c in value["cache"]], ["/c"])
        self.assertIn("UNSEEN", self.ok("--call=outline", "--target=other", self.context).out)

    def test_errors(self):
        self.fails(2, "--call=outline", "--target=bild", self.context)
        self.dockerfile("FROM scratch\nNOPE\n")
        self.assertIn("unknown instruction: NOPE", self.fails(2, "--call=targets", self.context).err)


class Builds(TestCase):
    def test_warnings_once_and_without_the_advice(self):
        self.dockerfile("FROM BUSYBOX as base\nENV a b\nADD f /\nEXPOSE 1.2.3.4:80:80\n")
        self.write("f")
        result = self.build("-t", "x", "--platform=linux/amd64")
        for rule in ("FromAsCasing", "LegacyKeyValueFormat", "ExposeInvalidFormat"):
            self.assertEqual(result.err.count("[%s]" % rule), 1, result.err)
        self.assertNotIn("AddWhereCopySuffices", result.err)
        self.assertNotIn("LatestBaseImage", result.err)

    def test_quiet_builds_are_quiet(self):
        self.dockerfile("FROM scratch as a\n")
        self.assertEqual(self.build("-q", "-t", "x").err, "")
        self.assertIn("[FromAsCasing]", self.fails(2, "build", "-q", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true", self.context).err)

    def test_only_stages_that_are_built(self):
        self.dockerfile("FROM scratch AS a\nENV k v\nFROM scratch\nENV k v\n")
        result = self.build("-t", "x")
        self.assertEqual(goldens(result.err), [(4, "LegacyKeyValueFormat")])

    def test_warnings_as_errors(self):
        self.dockerfile("# check=error=true\nFROM BUSYBOX as base\nRUN echo not-run\n")
        result = self.fails(2, "build", "-t", "x", self.context)
        self.assertEqual(result.err.count("[FromAsCasing]"), 1)
        self.assertIn("error: the Dockerfile does not pass its checks: FromAsCasing", result.err)
        self.assertNotIn("#3 0", result.err)
        self.fails(1, "inspect", "x")
        self.build("--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=FromAsCasing;error=true")
        self.dockerfile("# check=skp=all\nFROM scratch\n")
        self.assertIn("Dockerfile:1:9: error: invalid check option \"skp=all\"", self.fails(2, "build", self.context).err)

    def test_errors_come_with_the_warnings(self):
        self.dockerfile("FROM scratch AS A\nMAINTAINER me\nBAD\n")
        err = self.fails(2, "build", self.context).err
        for text in ("[StageNameCasing]", "[MaintainerDeprecated]", "unknown instruction: BAD"):
            self.assertEqual(err.count(text), 1, err)


class RunTime(TestCase):
    """What fails while it is built is told in the same form, at the step's place."""

    def failed(self, dockerfile, status=1):
        self.dockerfile(dockerfile)
        err = self.fails(status, "build", "-t", "x", self.context).err
        start = err.index(os.path.join(self.context, "Dockerfile:"))
        return err[start:].replace(self.context + "/", "")

    def test_run(self):
        self.assertEqual(self.failed("FROM BUSYBOX\nRUN true && \\\n  exit 3\n").split("\n")[:3],
                         ["Dockerfile:2:1: error: process \"/bin/sh -c true &&   exit 3\" did not complete successfully: exit code: 3", "    2 | RUN true && \\", "      | ^~~"])

    def test_copy_source_on_a_continued_line(self):
        self.write("main.txt")
        text = self.failed("FROM BUSYBOX\nCOPY main.txt \\\n  mian.txt /x/\n")
        self.assertEqual(text.split("\n")[:4], ["Dockerfile:3:3: error: mian.txt was not found in the build context", "    3 |   mian.txt /x/", "      |   ^~~~~~~~", "note: did you mean main.txt?"])

    def test_unknown_owner(self):
        self.write("f")
        text = self.failed("FROM BUSYBOX\nCOPY --chown=wroker f /\n")
        self.assertEqual(text.split("\n")[:3], ["Dockerfile:2:14: error: unable to find user wroker: no matching entries in /etc/passwd", "    2 | COPY --chown=wroker f /", "      |              ^~~~~~"])
        self.assertIn("note: did you mean worker?", text)

    def test_unknown_user(self):
        text = self.failed("FROM BUSYBOX\nUSER wroker\nRUN true\n")
        self.assertIn("Dockerfile:3:1: error", text)
        self.assertIn("note: did you mean worker?", text)


if __name__ == "__main__":
    unittest.main()
