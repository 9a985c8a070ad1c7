"""Contexts other than a directory: standard input, URLs, git repositories, named contexts; and times taken from them."""

from sources import *

DOCKERFILE = "FROM scratch\nCOPY . /all/\n"


def archive(files, mtime=1600000000):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mtime, info.mode, info.uid, info.gid, info.uname = mtime, 0o640, 4242, 4242, "someone"
            if isinstance(content, tarfile.TarInfo):
                content.name, content.mtime = name, mtime
                tar.addfile(content)
                continue
            data = content.encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def special(kind, target=""):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    info.devmajor, info.devminor = 1, 3
    return info


class StandardInput(SourcesCase):
    def test_tar_of_every_compression(self):
        plain = archive({"Dockerfile": DOCKERFILE, "./d/f": "text", "hard": special(tarfile.LNKTYPE, "d/f"), "soft": special(tarfile.SYMTYPE, "d/f")})
        for tool in (None, "gzip", "bzip2", "xz", "zstd"):
            with self.subTest(tool):
                data = subprocess.run([tool, "-c"], input=plain, capture_output=True, check=True).stdout if tool else plain
                files = self.members(context="-", stdin=data)
                self.assertEqual(sorted(files), ["all", "all/Dockerfile", "all/d", "all/d/f", "all/hard", "all/soft"])
                # The owners of a context never reach an image.
                self.assertEqual((files["all/d/f"].text or files["all/hard"].text, files["all/d/f"].mode, files["all/d/f"].uid), ("text", 0o640, 0))
                self.assertTrue(files["all/hard"].islnk() or files["all/d/f"].islnk())
                self.assertEqual(files["all/soft"].linkname, "d/f")

    def test_dockerfile_in_the_tar(self):
        data = archive({"sub/Other": "FROM scratch\nCOPY f /other\n", "f": "text", "Containerfile": "FROM scratch\nCOPY f /container\n"})
        self.assertEqual(self.texts("-f", "sub/Other", context="-", stdin=data), {"other": "text"})
        self.assertEqual(self.texts(context="-", stdin=data), {"container": "text"})
        self.assertEqual(self.texts("-f", self.write("Mine", "FROM scratch\nCOPY f /mine\n"), context="-", stdin=data), {"mine": "text"})
        for args in (["-f", "../../Mine"], ["-f", "nowhere"]):
            self.assertIn("there is no Dockerfile at", self.fails(2, "build", *args, "-", stdin=data).err)
        self.assertIn("standard input", self.fails(2, "build", "-f", "-", "-", stdin=data).err)

    def test_ignore_files(self):
        files = {"Dockerfile": DOCKERFILE, "keep": "k", "drop": "d", ".dockerignore": "drop\n"}
        self.assertEqual(sorted(self.texts(context="-", stdin=archive(files))), ["all/.dockerignore", "all/Dockerfile", "all/keep"])
        self.assertIn("BuildKit heeds them in directories only", self.ok("build", "-", stdin=archive(files)).err)
        files["Dockerfile.dockerignore"] = "keep\n"
        self.assertEqual(sorted(self.texts(context="-", stdin=archive(files))), ["all/.dockerignore", "all/Dockerfile", "all/Dockerfile.dockerignore", "all/drop"])
        mine = self.write("ignore", "*\n!keep\n")
        self.assertEqual(sorted(self.texts("--ignorefile", mine, context="-", stdin=archive(files))), ["all/keep"])
        files["Dockerfile"] = "FROM scratch\nCOPY keep /\n"
        result = self.fails(1, "build", "-", stdin=archive(files))
        self.assertIn("Dockerfile.dockerignore:1", result.err)

    def test_dockerfile_alone(self):
        self.assertEqual(self.texts(context="-", stdin=b"FROM scratch\nCOPY <<x /y\nhello\nx\n"), {"y": "hello\n"})
        result = self.fails(1, "build", "-", stdin=b"FROM scratch\nCOPY f /\n")
        self.assertIn("there is only a Dockerfile", result.err)
        self.assertIn("-:2:6", result.err)
        self.assertIn("no archive", self.fails(2, "build", "-f", "x", "-", stdin=b"FROM scratch\n").err)
        self.assertIn("-:1:1", self.fails(2, "build", "-", stdin=b"FORM scratch\n").err)
        self.fails(2, "build", "-", stdin=b"")
        self.fails(2, "build", "-", stdin=archive({}))

    def test_hostile_archives_stay_inside(self):
        outside = os.path.join(self.dir, "outside")
        os.mkdir(outside)
        if USER:
            shutil.chown(outside, USER, USER)
        cases = [
            {"../../../../../..%s/a" % outside: "x"},
            {"%s/a" % outside: "x"},
            {"link": special(tarfile.SYMTYPE, outside), "link/a": "x"},
            {"link": special(tarfile.SYMTYPE, "../../../../../../.." + outside), "link/a": "x"},
            {"hard": special(tarfile.LNKTYPE, "/etc/passwd")},
            {"hard": special(tarfile.LNKTYPE, "../../../../../../etc/passwd")},
            {"Dockerfile.dockerignore": special(tarfile.SYMTYPE, "/etc/passwd"), ".dockerignore": special(tarfile.SYMTYPE, "../../../../../../../etc/passwd")},
        ]
        for case in cases:
            with self.subTest(list(case)):
                result = self.call("build", "-o", "type=tar,dest=-", "-", stdin=archive(dict({"Dockerfile": DOCKERFILE}, **case)), binary=True)
                self.assertIn(result.code, (0, 1), result.err)
                self.assertEqual(os.listdir(outside), [])
                self.assertNotIn(b"root:x:0", result.out)
        result = self.fails(2, "build", "-", stdin=archive({"Dockerfile": special(tarfile.SYMTYPE, "/etc/passwd")}))
        self.assertNotIn("root:x", result.err)

    def test_devices_are_left_out(self):
        data = archive({"Dockerfile": DOCKERFILE, "null": special(tarfile.CHRTYPE), "pipe": special(tarfile.FIFOTYPE)})
        result = self.ok("build", "-o", "type=tar,dest=-", "-", stdin=data, binary=True)
        self.assertIn("null of the context standard input is a device node", result.err)
        with tarfile.open(fileobj=io.BytesIO(result.out)) as tar:
            self.assertEqual(sorted(tar.getnames()), ["all", "all/Dockerfile"])

    def test_damaged(self):
        data = gzip.compress(archive({"Dockerfile": DOCKERFILE, "f": "x" * 100000}))
        self.assertIn("standard input", self.fails(1, "build", "-", stdin=data[: len(data) // 2]).err)

    def test_same_content_is_cached_whatever_the_way(self):
        self.write("Dockerfile", DOCKERFILE)
        self.write("f", "text", mode=0o640)
        os.chmod(os.path.join(self.context, "Dockerfile"), 0o640)
        self.build("-t", "x")
        self.assertIn("all 1 steps were cached", self.ok("build", "-t", "x", "-", stdin=archive({"Dockerfile": DOCKERFILE, "f": "text"})).err)

    def test_run_mount(self):
        data = archive({"Dockerfile": "FROM %s\nRUN --mount=target=/src cat /src/f > /out\n" % busybox(), "f": "text"})
        self.ok("build", "-t", "x", "-", stdin=data)
        self.assertEqual(self.run_in("x", "cat", "/out"), "text")

    def test_interrupted(self):
        child = self.start("build", "--progress=plain", "-", stdin=subprocess.PIPE, start_new_session=True)
        child.stdin.write(archive({"Dockerfile": "FROM %s\nRUN echo started; sleep 977\n" % busybox()}).decode())
        child.stdin.close()
        child.stdin = None
        for line in child.stderr:
            if line.rstrip().endswith(" started"):
                break
        os.killpg(child.pid, signal.SIGINT)
        child.communicate(timeout=30)
        self.assertEqual(child.returncode, 130)  # tearDown looks for what was left


    def test_interrupted_while_waiting_for_input(self):
        for args in (["-"], ["-f", "-", self.context]):
            child = self.start("build", *args, stdin=subprocess.PIPE, start_new_session=True)
            time.sleep(0.5)
            os.killpg(child.pid, signal.SIGINT)
            self.assertEqual(child.wait(timeout=10), 130)
            child.communicate()


class Url(SourcesCase):
    def test_tar(self):
        url = self.site.page("/c.tgz", gzip.compress(archive({"Dockerfile": DOCKERFILE, "f": "text", "g": "no", ".dockerignore": "g\nD*\n.d*"})), etag='"1"')
        self.assertEqual(self.texts(context=url), {"all/f": "text"})
        self.assertEqual(self.texts(context=url), {"all/f": "text"})
        self.assertEqual(self.site.requests[-1][2].get("If-None-Match"), '"1"')

    def test_dockerfile_alone(self):
        url = self.site.page("/Dockerfile.x", "FROM scratch\nCOPY <<x /y\nhello\nx\n")
        self.assertEqual(self.texts(context=url), {"y": "hello\n"})
        self.assertIn("/bad:1:1", self.fails(2, "build", self.site.page("/bad", "FORM scratch\n")).err)
        self.assertIn("404", self.fails(1, "build", self.site.url("/missing")).err)

    def test_dockerfile_from_a_url(self):
        self.write("f", "text")
        url = self.site.page("/D", "FROM scratch\nCOPY f /g\n")
        self.assertEqual(self.texts("-f", url), {"g": "text"})

    def test_unknown_kind(self):
        self.assertIn("a context is a directory", self.fails(2, "build", "ftp://127.0.0.1/x").err)


class Git(SourcesCase):
    def setUp(self):
        super().setUp()
        self.repository = Repository(self.repositories)
        self.first = self.repository.commit({"Dockerfile": DOCKERFILE, "f": "one", "sub/Dockerfile": "FROM scratch\nCOPY . /sub/\n", "sub/g": "g"})
        self.repository.git("tag", "v1")
        self.repository.commit({"f": "two", ".dockerignore": "sub\n"})
        self.daemon = GitDaemon(self.repositories)
        self.addCleanup(self.daemon.stop)
        self.url = self.daemon.url("project.git")

    def test_references_and_directories(self):
        self.assertEqual(self.texts(context=self.url), {"all/.dockerignore": "sub\n", "all/Dockerfile": DOCKERFILE, "all/f": "two"})
        self.assertEqual(self.texts(context=self.url + "#v1")["all/f"], "one")
        self.assertEqual(sorted(self.texts(context=self.url + "#v1:sub")), ["sub/Dockerfile", "sub/g"])
        self.assertEqual(self.texts(context=self.url + "?commit=%s&subdir=sub" % self.first)["sub/g"], "g")
        self.assertEqual(self.texts("-f", "sub/Dockerfile", context=self.url + "#v1")["sub/f"], "one")
        self.assertIn("no branch or tag", self.fails(1, "build", self.url + "#v2").err)

    def test_dry_run(self):
        self.assertIn("COPY . /sub/", self.ok("build", "--dry-run", self.url + "#v1:sub").out)

    def test_git_directory(self):
        self.assertNotIn("all/.git/HEAD", self.texts(context=self.url))
        self.assertIn("all/.git/HEAD", self.texts(context=self.url + "?keep-git-dir=1"))
        self.assertIn("all/.git/HEAD", self.texts("--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", context=self.url))

    def test_second_build_is_cached_and_fetches_nothing(self):
        self.ok("build", "-t", "x", self.url)
        fetched = sum("Request upload-pack" in line for line in self.daemon.lines)
        self.assertIn("all 1 steps were cached", self.ok("build", "-t", "x", self.url).err)
        time.sleep(0.2)
        self.assertEqual(sum("Request upload-pack" in line for line in self.daemon.lines) - fetched, 1)  # ls-remote

    def test_local_repository(self):
        if USER:
            shutil.chown(self.repository.bare, USER, USER)
            subprocess.run(["chown", "-R", USER, self.repository.bare], check=True)
        self.assertEqual(self.texts(context="file://" + self.repository.bare)["all/f"], "two")
        self.assertEqual(self.texts(context="git+file://%s#v1" % self.repository.bare)["all/f"], "one")

    def test_symlinked_directory_is_refused(self):
        self.repository.commit({"out": ("/etc",), "Dockerfile": "FROM scratch\nCOPY out/passwd /p\n"})
        self.fails(1, "build", self.url + "#main:out")
        self.fails(1, "build", self.url)  # the link is followed inside the context only

    def test_a_directory_of_that_name_is_a_directory(self):
        where = os.path.join(self.dir, "github.com", "x")
        os.makedirs(where)
        with open(os.path.join(where, "Dockerfile"), "w") as f:
            f.write("FROM scratch\nCOPY <<a /b\nc\na\n")
        self.assertEqual(self.texts(context="github.com/x"), {"b": "c\n"})


class Named(SourcesCase):
    def setUp(self):
        super().setUp()
        self.other = os.path.join(self.dir, "other")
        os.mkdir(self.other)
        for name, content in (("f", "other f"), ("g", "other g"), (".dockerignore", "g\n")):
            self.write(name, content, where=self.other)

    def test_kinds(self):
        repository = Repository(self.repositories)
        repository.commit({"f": "git f", "sub/f": "sub f"})
        daemon = GitDaemon(self.repositories)
        self.addCleanup(daemon.stop)
        url = self.site.page("/x.tar", archive({"f": "web f", "g": "web g", ".dockerignore": "g"}))
        self.dockerfile("FROM scratch\nCOPY --from=dir / /dir/\nCOPY --from=git f /git/\nCOPY --from=web / /web/\nCOPY --from=image /etc/passwd /image/\n")
        files = self.texts("--build-context", "dir=" + self.other, "--build-context", "git=%s#main:sub" % daemon.url("project.git"), "--build-context", "web=" + url,
                           "--build-context", "image=docker-image://" + busybox())
        self.assertEqual({n: files[n] for n in files if n != "image/passwd"}, {"dir/.dockerignore": "g\n", "dir/f": "other f", "git/f": "sub f", "web/.dockerignore": "g", "web/f": "web f"})
        self.assertIn("worker", files["image/passwd"])
        layout = self.texts("--build-context", "dir=" + self.other, "--build-context", "git=" + self.other, "--build-context", "web=" + self.other, "--build-context", "image=oci-layout://" + busybox_layout() + ":latest")
        self.assertIn("worker", layout["image/passwd"])

    def test_unused_ones_are_not_fetched(self):
        self.dockerfile("FROM scratch\nCOPY <<a /b\nc\na\n")
        self.texts("--build-context", "x=" + self.site.url("/missing"))
        self.assertEqual(self.site.requests, [])

    def test_as_a_base_and_for_a_stage(self):
        self.dockerfile("FROM dir\nCOPY <<a /b\nc\na\n")
        self.assertEqual(self.texts("--build-context", "dir=" + self.other), {".dockerignore": "g\n", "f": "other f", "b": "c\n"})
        self.dockerfile("FROM nowhere.invalid/none AS tools\nRUN false\nFROM scratch\nCOPY --from=tools /f /\n")
        self.assertEqual(self.texts("--build-context", "tools=" + self.other), {"f": "other f"})
        self.dockerfile("FROM nowhere.invalid/none AS tools\nFROM tools\nRUN cat /etc/passwd > /p\n")
        self.assertIn("worker", self.texts("--build-context", "tools=docker-image://" + busybox())["p"])

    def test_errors(self):
        self.dockerfile("FROM scratch\nCOPY --from=x /f /\n")
        self.assertIn("is no tar", self.fails(2, "build", "--build-context", "x=" + self.site.page("/t", "text"), self.context).err)
        self.fails(2, "build", "--build-context", "x=ftp://h/x", self.context)
        self.fails(2, "build", "--build-context", "x=", self.context)
        self.assertIn("absent", self.fails(1, "build", "--build-context", "x=" + os.path.join(self.dir, "absent"), self.context).err)


class Times(SourcesCase):
    DOCKERFILE = "FROM scratch\nARG SOURCE_DATE_EPOCH\nENV T=$SOURCE_DATE_EPOCH\nCOPY <<a /b\nc\na\n"

    def created(self, *args, context=None, stdin=None, epoch="context", env=None):
        flags = ["--build-arg", "SOURCE_DATE_EPOCH=" + epoch] if epoch else []
        self.ok("build", "-t", "x", *flags, *args, context or self.context, stdin=stdin, env=env)
        image = self.inspect("x")["Config"]
        return image["created"], next(e for e in image["config"]["Env"] if e.startswith("T="))

    def test_of_the_context(self):
        repository = Repository(self.repositories)
        repository.commit({"Dockerfile": self.DOCKERFILE}, date="1500000000 +0000")
        daemon = GitDaemon(self.repositories)
        self.addCleanup(daemon.stop)
        self.assertEqual(self.created(context=daemon.url("project.git")), ("2017-07-14T02:40:00Z", "T=1500000000"))
        data = archive({"Dockerfile": self.DOCKERFILE}, mtime=1400000000)
        self.assertEqual(self.created(context="-", stdin=data), ("2014-05-13T16:53:20Z", "T=1400000000"))
        self.assertEqual(self.created(context=self.site.page("/a.tar", data, modified=DATE)), ("1994-11-06T08:49:37Z", "T=%d" % DATE_SECONDS))
        self.assertEqual(self.created(context=self.site.page("/b.tar", data)), ("2014-05-13T16:53:20Z", "T=1400000000"))
        self.assertEqual(self.created(epoch=None, env={"SOURCE_DATE_EPOCH": "context"}, context="-", stdin=data)[1], "T=1400000000")

    def test_of_a_directory_there_is_none(self):
        self.dockerfile(self.DOCKERFILE)
        created, variable = self.created()
        self.assertNotIn("1970", created)
        self.assertEqual(variable, "T=")

    def test_of_a_named_context_and_a_stage(self):
        self.dockerfile(self.DOCKERFILE)
        url = self.site.page("/a.tar", archive({"f": "x"}, mtime=1400000000))
        self.assertEqual(self.created("--build-context", "src=" + url, epoch="src"), ("2014-05-13T16:53:20Z", "T=1400000000"))
        self.dockerfile("ARG V=f\nFROM scratch AS source\nARG V\nADD %s /\n%s" % (self.site.page("/f", "x", modified=DATE).replace("/f", "/$V"), self.DOCKERFILE))
        self.assertEqual(self.created(epoch="source"), ("1994-11-06T08:49:37Z", "T=%d" % DATE_SECONDS))
        self.dockerfile("ARG SOURCE_DATE_EPOCH=source\nFROM scratch AS source\nADD --checksum=sha256:%s %s /\n%s" % (hashlib.sha256(b"x").hexdigest(), self.site.url("/f"), self.DOCKERFILE))
        self.assertEqual(self.created(epoch=None), ("1994-11-06T08:49:37Z", "T=%d" % DATE_SECONDS))

    def test_wrong(self):
        self.dockerfile(self.DOCKERFILE)
        self.assertIn("invalid SOURCE_DATE_EPOCH: yesterday", self.fails(2, "build", "--build-arg", "SOURCE_DATE_EPOCH=yesterday", self.context).err)
        self.dockerfile("ARG SOURCE_DATE_EPOCH=yesterday\nFROM scratch\n")
        self.assertIn("Dockerfile:1:", self.fails(2, "build", self.context).err)
        self.dockerfile("FROM scratch AS s\nCOPY f /\nFROM scratch\n")
        self.assertIn("exactly one ADD", self.fails(2, "build", "--build-arg", "SOURCE_DATE_EPOCH=s", self.context).err)


if __name__ == "__main__":
    unittest.main()
