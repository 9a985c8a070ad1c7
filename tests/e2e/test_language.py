"""Instructions and flags of the Dockerfile language beyond plain COPY and RUN."""

import tarfile

from harness import *


def layers_of(test, *args):
    """(index of the layout, config, [member names of each layer]) of a build written as a layout directory."""
    layout = tempfile.mkdtemp(prefix="layout-", dir=test.dir)
    if USER:
        shutil.chown(layout, USER, USER)
    dest = os.path.join(layout, "out")
    test.build("-o", "type=oci,tar=false,compression=uncompressed,dest=" + dest, *args)
    blob = lambda d: os.path.join(dest, "blobs/sha256", d["digest"].split(":")[1])
    index = json.loads(read(dest, "index.json"))
    manifest = json.loads(read(blob(index["manifests"][0])))
    config = json.loads(read(blob(manifest["config"])))
    names = []
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer)) as tar:
            names.append([m.name for m in tar.getmembers()])
    return config, names


class Link(TestCase):
    def test_layer_is_the_same_on_every_base_and_made_once(self):
        self.write("f", "1")
        self.dockerfile("FROM BUSYBOX\nRUN mkdir -m 700 /a\nCOPY --link f /a/b/f\n")
        first, names = layers_of(self)
        self.assertEqual(names[-1], ["a", "a/b", "a/b/f"])
        self.dockerfile("FROM scratch\nCOPY --link f /a/b/f\n")
        result = self.build()
        self.assertIn("all 1 steps were cached", result.err)
        second, _ = layers_of(self)
        self.assertEqual(first["rootfs"]["diff_ids"][-1], second["rootfs"]["diff_ids"][-1])

    def test_nothing_below_is_followed_or_kept(self):
        self.write("f", "1")
        self.dockerfile("FROM BUSYBOX\nRUN ln -s /tmp /l && mkdir -m 700 /d\nCOPY --link f /l/f\nCOPY --link f /d/f\n")
        self.build("-t", "x")
        self.assertEqual(self.run_in("x", "stat", "-c", "%F %a", "/l", "/d"), "directory 755\ndirectory 755\n")

    def test_chmod_counts_and_names_cannot(self):
        self.write("f", "1", 0o600)
        self.dockerfile("FROM BUSYBOX\nCOPY --link --chmod=711 --chown=0:0 f /x/f\n")
        self.build("-t", "x")
        self.assertEqual(self.run_in("x", "stat", "-c", "%a", "/x/f"), "711\n")
        self.dockerfile("FROM BUSYBOX\nCOPY --link --chown=worker f /x\n")
        self.assertRegex(self.fails(2, "build", self.context).err, r"Dockerfile:2:\d+: error: --link copies without looking")

    def test_a_step_on_top_sees_a_change_below(self):
        self.write("f", "1")
        for text in ("one", "two"):
            self.dockerfile("FROM BUSYBOX\nRUN echo %s > /t\nCOPY --link f /f\nCOPY --link f /g\nRUN cp /t /seen\n" % text)
            self.build("-t", "x")
            self.assertEqual(self.run_in("x", "cat", "/seen"), text + "\n")

    def test_a_missing_source_fails_although_nothing_was_waited_for(self):
        self.dockerfile("FROM BUSYBOX\nRUN sleep 0.1\nCOPY --link nope /f\n")
        self.assertIn("nope was not found", self.fails(1, "build", self.context).err)


class Cache(TestCase):
    def test_filter_by_lines_does_not_mix_old_and_new(self):
        self.dockerfile("FROM BUSYBOX AS one\nRUN cat /proc/sys/kernel/random/uuid > /a\nRUN cp /a /b\nFROM one\nCOPY --from=one /b /c\n")
        self.build("-t", "x")
        first = self.run_in("x", "cat", "/a", "/b", "/c").split()
        self.assertEqual(len(set(first)), 1)
        for lines in (":2", "one:1-2", "one:2-2", ":-2"):
            result = self.build("-t", "x", "--no-cache-filter", lines)
            again = self.run_in("x", "cat", "/a", "/b", "/c").split()
            self.assertEqual(len(set(again)), 1, lines)
            self.assertNotEqual(first, again)
            first = again
        self.assertIn("all 3 steps were cached", self.build("-t", "x").err)
        self.assertIn("all 3 steps were cached", self.build("-t", "x", "--no-cache-filter", "one:5,:4").err)
        self.assertNotIn("all 3", self.build("-t", "x", "--no-cache-filter", "1").err)

    def test_step_executed_again_with_the_same_files_keeps_the_steps_on_top(self):
        self.dockerfile("FROM BUSYBOX\nRUN touch -d @0 /a /\nRUN cp /a /b\n")
        self.build()
        self.assertIn("1 of 2 steps were cached", self.build("--no-cache-filter", ":2", env={"SOURCE_DATE_EPOCH": ""}).err)

    def test_filter_errors(self):
        self.dockerfile("FROM BUSYBOX AS one\nRUN true\n")
        self.assertIn("did you mean one?", self.fails(2, "build", "--no-cache-filter", "onee", self.context).err)
        for wrong in (":", ":x", ":3-2", ":0", ""):
            self.fails(2, "build", "--no-cache-filter", wrong, self.context)

    def test_stage_for_the_build_platform_is_keyed_by_its_own(self):
        self.dockerfile("FROM --platform=$BUILDPLATFORM BUSYBOX AS b\nRUN cat /proc/sys/kernel/random/uuid > /u\nFROM scratch\nCOPY --from=b /u /\n")
        out = os.path.join(self.dir, "out")
        self.build("--platform=linux/amd64,linux/arm64", "-o", out)
        self.assertEqual(read(out, "linux_amd64/u"), read(out, "linux_arm64/u"))


class Contexts(TestCase):
    def test_in_the_place_of_a_stage(self):
        self.write("f", "from the directory", where=os.path.join(self.dir, "other"))
        self.dockerfile("FROM BUSYBOX AS Deps\nRUN exit 1\nFROM BUSYBOX\nCOPY --from=deps /f /f\nCOPY --from=0 /f /g\nRUN --mount=from=deps,target=/m cmp /m/f /g\n")
        self.build("-t", "x", "--build-context", "deps=" + os.path.join(self.dir, "other"))
        self.assertEqual(self.run_in("x", "cat", "/f"), "from the directory")
        self.assertIn("exit code: 1", self.fails(1, "build", self.context).err)

    def test_directory_as_base(self):
        other = os.path.join(self.dir, "other")
        with open("/bin/busybox", "rb") as f:
            self.write("bin/sh", f.read(), 0o755, where=other)
        self.write("Dockerfile", "FROM base:1.2\nRUN echo ran > /n\n")
        self.build("-t", "x", "--build-context", "docker.io/library/base:1.2=" + other)
        self.assertEqual(self.run_in("x", "/bin/sh", "-c", "read a < /n; echo $a"), "ran\n")

    def test_image_names_are_compared_as_docker_shows_them(self):
        self.write("Dockerfile", "FROM docker.io/library/nowhere:latest\nRUN true\n")
        for name in ("nowhere", "nowhere:latest", "docker.io/library/nowhere", "nowhere::linux/amd64"):
            self.build("--build-context", "%s=docker-image://%s" % (name, busybox()))
            self.build("--build-context", "%s=oci-layout://%s" % (name, busybox_layout()))

    def test_stage_before_context_before_image(self):
        self.write("f", "context", where=os.path.join(self.dir, "other"))
        self.dockerfile("FROM scratch\nCOPY --from=name /f /\n")
        out = os.path.join(self.dir, "out")
        self.build("-o", out, "--build-context", "name=" + os.path.join(self.dir, "other"))
        self.assertEqual(read(out, "f"), "context")


class Onbuild(TestCase):
    def test_triggers_with_from_and_mounts(self):
        self.write("Dockerfile.base", "FROM %s\nONBUILD COPY --from=helper /h /copied\nONBUILD RUN --mount=from=helper,source=/h,target=/m cp /m /mounted\nONBUILD ARG A=1\nONBUILD RUN echo $A > /arg\n" % busybox())
        self.build("-t", "base", "-f", os.path.join(self.context, "Dockerfile.base"))
        self.assertEqual(len(self.config("base")["OnBuild"]), 4)
        self.dockerfile("FROM BUSYBOX AS helper\nRUN echo help > /h\nFROM base\nRUN cat /copied /mounted /arg > /n\n")
        self.build("-t", "x", "--build-arg", "A=2")
        self.assertEqual(self.run_in("x", "cat", "/n"), "help\nhelp\n2\n")
        self.assertNotIn("OnBuild", self.config("x"))
        self.dockerfile("FROM base\n")
        self.assertIn("ONBUILD trigger", self.call("build", self.context).err)


class Copies(TestCase):
    def built(self, text, *args):
        self.dockerfile(text)
        out = tempfile.mkdtemp(prefix="out-", dir=self.dir)
        os.rmdir(out)
        result = self.build("-o", out, *args)
        return result, sorted(p for p in tree(out) if not os.path.isdir(os.path.join(out, p)) or os.path.islink(os.path.join(out, p)))

    def setUp(self):
        super().setUp()
        for path in ("a/b/one.txt", "a/b/two.md", "a/c/one.txt", "a/c/deep/three.txt", "top.txt"):
            self.write(path, path)
        os.symlink("top.txt", os.path.join(self.context, "link"))

    def test_parents(self):
        for sources, expected in (
            ("a/b/one.txt top.txt", ["x/a/b/one.txt", "x/top.txt"]),
            ("a/./c/one.txt", ["x/c/one.txt"]),
            ("./a/**/*.txt", ["x/a/b/one.txt", "x/a/c/deep/three.txt", "x/a/c/one.txt"]),
            ("a/*/one.txt", ["x/a/b/one.txt", "x/a/c/one.txt"]),
            ("a/./b/./one.txt", ["x/b/one.txt"]),
            ("link", ["x/link"]),
            ("--exclude=a/c a", ["x/a/b/one.txt", "x/a/b/two.md"]),
            ("--exclude=**/*.txt --exclude=!a/c/deep/*.txt a", ["x/a/b/two.md", "x/a/c/deep/three.txt"]),
            ("--exclude=c/deep a/./c", ["x/c/one.txt"]),
        ):
            self.assertEqual(self.built("FROM scratch\nCOPY --parents %s /x/\n" % sources)[1], expected, sources)

    def test_exclude(self):
        self.assertEqual(self.built("FROM scratch\nARG E=md\nCOPY --exclude=*/*.$E --exclude=c --exclude=!c/deep/** a /x/\n")[1], ["x/b/one.txt", "x/c/deep/three.txt"])
        self.assertEqual(self.built("FROM scratch\nCOPY --exclude=*.txt top.txt a/b/* /x/\n")[1], ["x/two.md"])

    def test_variable_in_from(self):
        _, files = self.built("FROM scratch AS one\nCOPY top.txt /one\nFROM scratch AS two\nCOPY top.txt /two\nFROM scratch\nARG WHICH=one\nCOPY --from=$WHICH / /\n", "--build-arg", "WHICH=two")
        self.assertEqual(files, ["two"])

    def test_optional_sources(self):
        result, files = self.built("FROM scratch\nCOPY --if-exists nope no*pe top.txt /x/\n")
        self.assertEqual(files, ["x/top.txt"])
        self.assertNotIn("no file matches", result.err)
        result, files = self.built("FROM scratch\nCOPY no*pe /x/\nCOPY top.txt /\n")
        self.assertEqual(files, ["top.txt"])
        self.assertIn("no file matches no*pe", result.err)
        self.dockerfile("FROM scratch\nCOPY no*pe /x/\n")
        self.assertIn("--strict", self.fails(1, "build", "--strict", self.context).err)

    def test_unknown_owner_as_buildkit(self):
        self.dockerfile("FROM BUSYBOX\nCOPY --chown=nobody-here:nogroup top.txt /t\n")
        self.fails(1, "build", self.context)
        self.build("-t", "x", "--compat", "unknown-owner")
        self.assertEqual(self.run_in("x", "stat", "-c", "%u:%g", "/t"), "0:0\n")
        self.fails(2, "build", "--compat", "everything", self.context)

    def test_chmod_is_not_for_archives(self):
        with tarfile.open(self.write("t.tar"), "w") as tar:
            info = tarfile.TarInfo("in")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
        self.dockerfile("FROM BUSYBOX\nADD --chmod=600 t.tar /x/\nADD --chmod=600 --unpack=false t.tar /y/\n")
        self.build("-t", "x")
        self.assertEqual(self.run_in("x", "stat", "-c", "%a", "/x", "/x/in", "/y", "/y/t.tar").split(), ["755", "644", "600", "600"])

    def test_squash(self):
        text = "FROM BUSYBOX\nRUN mkdir -p /d/e /gone && echo 1 > /d/e/f && echo 2 > /gone/f && ln /d/e/f /d/e/g && rm /bin/awk && rm -r /home && mkdir /home && echo h > /home/h\nCOPY a /d/e/\nRUN rm -r /gone /d/e/c && rm -r /var && touch /var && rm /d/e/f\nENV A=1\n"
        self.dockerfile(text)
        self.build("-t", "plain")
        plain = tree(self.unpack("plain"))
        config, names = layers_of(self, "--squash")
        self.assertEqual((len(names), len(config["rootfs"]["diff_ids"])), (2, 2))
        self.assertEqual(names[1], [".", "bin", "bin/.wh.awk", "d", "d/e", "d/e/b", "d/e/b/one.txt", "d/e/b/two.md", "d/e/g", "home", "home/.wh..wh..opq", "home/h", "var"][0 if names[1][0] == "." else 1:])
        filled = [h for h in config["history"] if not h.get("empty_layer")]
        self.assertEqual((len(filled), len(config["history"])), (2, 6))
        self.assertEqual(tree(self.unpack("squashed", "--squash")), plain)
        first = self.build("--squash", "-q").out
        self.assertEqual(self.build("--squash", "-q").out, first)


class Configuration(TestCase):
    def test_config_instructions(self):
        self.dockerfile("""FROM BUSYBOX
ARG P=80-81/TCP
SHELL ["/bin/sh", "-ec"]
HEALTHCHECK --interval=1m30s --timeout=2s --start-period=3s --start-interval=4s --retries=5 CMD wget $HOST
EXPOSE $P 53/udp
VOLUME ["/v one"]
VOLUME /two /three
STOPSIGNAL RTMIN+3
WORKDIR /w
WORKDIR rel/..
USER worker:extra
CMD echo hi
ENTRYPOINT ["prog"]
LABEL a=b "c d"='e f'
""")
        self.build("-t", "x", "--label", "a=z")
        config = self.config("x")
        self.assertEqual(config["Healthcheck"], {"Test": ["CMD-SHELL", "wget $HOST"], "Interval": 90 * 10**9, "Timeout": 2 * 10**9, "StartPeriod": 3 * 10**9, "StartInterval": 4 * 10**9, "Retries": 5})
        self.assertEqual(sorted(config["ExposedPorts"]), ["53/udp", "80/tcp", "81/tcp"])
        self.assertEqual(sorted(config["Volumes"]), ["/three", "/two", "/v one"])
        self.assertEqual((config["StopSignal"], config["User"], config["WorkingDir"]), ("RTMIN+3", "worker:extra", "/w"))
        self.assertEqual((config["Cmd"], config["Entrypoint"], config["Shell"]), (["/bin/sh", "-ec", "echo hi"], ["prog"], ["/bin/sh", "-ec"]))
        self.assertEqual(config["Labels"], {"a": "z", "c d": "e f"})
        self.assertFalse(os.path.exists(self.unpack("x") + "/two"))

    def output(self, text, *args):
        self.dockerfile(text)
        result = self.build("--no-cache", "--progress=plain", *args)
        return "".join(m.group(1) + "\n" for m in re.finditer(r"(?m)^#\d+ [0-9]+\.[0-9]+ (.*)$", result.err))

    def test_arguments(self):
        text = "ARG G=global\nARG TARGETARCH\nFROM BUSYBOX AS Last\nARG G\nARG H=own\nARG TARGETSTAGE\nARG TARGETARCH\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nENV E=1\nARG E=2\nRUN echo $G $H $TARGETSTAGE $TARGETARCH $E ${BUILDKIT_SBOM_SCAN_STAGE-unset}\n"
        self.assertEqual(self.output(text), "global own last amd64 2 unset\n")
        self.assertEqual(self.output(text, "--build-arg", "H=given", "--build-arg", "TARGETARCH=sparc", "--build-arg", "E=3"), "global given last sparc 3 unset\n")
        text = "FROM --platform=$TARGETPLATFORM BUSYBOX\nRUN hostname; echo ${http_proxy-unset}:$HTTP_PROXY\n"
        self.assertEqual(self.output(text, "--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=my.host", "--build-arg", "HTTP_PROXY=p"), "my.host\np:p\n")
        self.dockerfile("FROM --platform=$TARGETPLATFORM BUSYBOX\n")
        self.assertIn('"linux/" is no platform', self.fails(2, "build", "--build-arg", "TARGETPLATFORM=linux/", self.context).err)

    def test_frontends(self):
        for line in ("docker/dockerfile:1", "docker/dockerfile:1.7-labs", "docker.io/docker/dockerfile:1@sha256:" + "0" * 64, "docker/dockerfile-upstream:master"):
            self.dockerfile("# syntax=%s\nFROM BUSYBOX\n" % line)
            self.build()
        self.dockerfile("# syntax=somebody/else\nFROM BUSYBOX\n")
        self.assertRegex(self.fails(2, "build", self.context).err, r"Dockerfile:1:\d+: error: the frontend somebody/else cannot be used")
        self.build("--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1")
        self.assertIn("BUILDKIT_SYNTAX", self.fails(2, "build", "--build-arg", "BUILDKIT_SYNTAX=somebody/else", self.context).err)

    def test_network_and_security_need_permission(self):
        self.dockerfile("FROM BUSYBOX\nRUN --network=host true\n")
        self.build()
        self.assertIn("--allow network.host", self.fails(1, "build", "--network=none", self.context).err)
        self.build("--network=none", "--allow=network.host")
        self.dockerfile("FROM BUSYBOX\nRUN --security=insecure grep CapEff /proc/self/status > /n\n")
        self.assertIn("--allow security.insecure", self.fails(1, "build", self.context).err)
        self.build("-t", "x", "--allow", "security.insecure")
        self.assertNotIn("a80425fb", self.run_in("x", "cat", "/n"))

    def test_script_in_another_language(self):
        self.assertEqual(self.output("FROM BUSYBOX\nRUN <<-EOF\n\t#!/bin/awk -f\n\tBEGIN { print \"awk\" }\n\tEOF\nRUN <<ONE cat - <<TWO\nfirst\nONE\nsecond\nTWO\nRUN cat - /dev/fd/3 <<ONE 3<<-TWO\n\tkept\nONE\n\tgone\n\tTWO\n"), "awk\nsecond\n\tkept\ngone\n")


if __name__ == "__main__":
    unittest.main()
