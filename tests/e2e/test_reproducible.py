"""The same image digest for another user, in another directory, with another umask."""

from harness import *

make_users()


SMALL = """\
FROM %s
COPY a.txt /directory/b.txt
RUN echo made > /made && mkdir -p /x/y && ln /made /x/hard && chown 1000:2000 /made && rm /bin/awk
WORKDIR /home/app
COPY . .
RUN find d | sort > listing
ENV LANG ko_KR.UTF-8
EXPOSE 8080
CMD ["cat", "listing"]
"""
# apt and dpkg write the time into logs and caches of their own, which no builder can help: they are removed.
DEBIAN = """\
FROM %s
COPY a.txt /directory/b.txt
RUN apt-get update && apt-get install -y --no-install-recommends python3 && \\
    rm -rf /var/log/apt /var/log/*.log /var/lib/apt/lists /var/cache/apt /var/cache/ldconfig/aux-cache
WORKDIR /home/app/pipeline
COPY . .
RUN python3 -m compileall .
ENV LANG ko_KR.UTF-8
EXPOSE 8080
CMD ["python3", "main.py", "alarm"]
"""


class Reproducible(TestCase):
    def digest(self, dockerfile, who, umask):
        """Of the image that `who` pushes, built from a context and a store of their own."""
        place = os.path.join(self.dir, "%s-%o" % (who, umask))
        context = os.path.join(place, "some", "context")
        for path, content, mode in (("Dockerfile", dockerfile, 0o644), ("main.txt", "main", 0o644), ("main.py", "print()\n", 0o644), ("d/run.sh", "#!/bin/sh\n", 0o755), ("a.txt", "A", 0o644)):
            path = os.path.join(context, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as f:
                f.write(content)
            os.chmod(path, mode)
            os.utime(path, (1700000000 + umask, 1700000000 + umask))
        for top, _, _ in os.walk(place):
            os.chmod(top, 0o755)
        if who != "root":
            subprocess.run(["chown", "-R", who, place], check=True)
        name = "%s/repro-%s-%o:1" % (registry().host, who.split("-")[-1], umask)
        result = self.call("build", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", name, "--push", "-q", context,
                           user=None if who == "root" else who, store=place + "/store", umask=umask, env={"HOME": place})
        self.assertEqual(result.code, 0, result.text)
        return skopeo_inspect(name)["Digest"]

    def test_same_digest_for_everybody(self):
        digests = {(who, umask): self.digest(SMALL % busybox(), who, umask) for who, umask in (("root", 0o022), ("lamina-e2e-range", 0o077), ("root", 0o027))}
        self.assertEqual(len(set(digests.values())), 1, digests)

    def test_same_digest_of_a_debian_image(self):
        name = registry().host + "/debian:bookworm"
        push_layout(debian_layout(), name)
        digests = {(who, umask): self.digest(DEBIAN % name, who, umask) for who, umask in (("root", 0o022), ("lamina-e2e-range", 0o077))}
        self.assertEqual(len(set(digests.values())), 1, digests)


class Times(TestCase):
    """SOURCE_DATE_EPOCH, and what --rewrite-timestamp makes of it."""

    def setUp(self):
        super().setUp()
        self.dockerfile("FROM BUSYBOX\nCOPY file /file\nRUN echo 1 > /one\n")
        self.write("file", "x")

    def later(self, name, *args, **kw):
        """The same build at another time: every file is newer."""
        time.sleep(1.1)
        os.utime(os.path.join(self.context, "file"))
        return self.build("--no-cache", "-t", name, *args, **kw)

    def times(self, archive):
        with tarfile.open(archive) as outer:
            manifest = json.load(outer.extractfile("manifest.json"))[0]
            found = {}
            for name in manifest["Layers"]:
                with tarfile.open(fileobj=io.BytesIO(outer.extractfile(name).read())) as layer:
                    found.update({m.name: m.mtime for m in layer})
            return found

    def test_a_hostile_repository_runs_nothing(self):
        """Git would fetch a missing commit from a promised remote, whose settings name a command."""
        ran = os.path.join(self.dir, "ran")
        repository = os.path.join(self.context, ".git")
        subprocess.run(["git", "init", "-q", self.context], check=True)
        with open(repository + "/HEAD", "w") as f:
            f.write("1" * 40 + "\n")
        with open(repository + "/config", "w") as f:
            f.write("[core]\nrepositoryformatversion = 1\n[extensions]\npartialClone = origin\n[remote \"origin\"]\nurl = %s\n"
                    "promisor = true\nuploadpack = \"touch %s; false\"\npartialclonefilter = blob:none\n" % (repository, ran))
        self.dockerfile("ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nCOPY file /file\n")
        self.call("build", "-t", "hostile", self.context)
        self.assertFalse(os.path.exists(ran))

    def test_the_same_bytes_at_another_time(self):
        epoch = {"SOURCE_DATE_EPOCH": "1700000123"}
        for i, (first, second) in enumerate((((), ()), (("--rewrite-timestamp",), ("-o", "type=docker,rewrite-timestamp=true,dest=" + os.path.join(self.dir, "again.tar"))))):
            a, b = "a%d" % i, "b%d" % i
            self.build("-t", a, *first, env=epoch)
            self.later(b, *second, env=epoch)
            self.assertEqual(self.ok("diff", a, b).out, "The images are the same.\n")
            self.assertEqual(self.inspect(a)["Digest"], self.inspect(b)["Digest"])
        self.assertEqual({self.times(os.path.join(self.dir, "again.tar"))[n] for n in ("file", "one")}, {1700000123})

    def test_times_are_kept_on_request(self):
        epoch = {"SOURCE_DATE_EPOCH": "1700000123"}
        before = int(time.time())
        self.build("-t", "rewritten", env=epoch)
        archive = os.path.join(self.dir, "kept.tar")
        self.build("-t", "kept", "--rewrite-timestamp=false", "-o", "type=docker,dest=" + archive, env=epoch)
        self.assertTrue(all(self.times(archive)[n] >= before - 60 for n in ("file", "one")), self.times(archive))
        self.assertEqual(self.inspect("kept")["Config"]["created"], "2023-11-14T22:15:23Z", "what says when the image was made")
        self.later("later", "--rewrite-timestamp=false", env=epoch)
        self.assertIn("Only times differ", self.fails(1, "diff", "kept", "later").out)
        # Each has its own records.
        self.assertEqual(self.build("-t", "again", env=epoch).out, self.build("-t", "rewritten", env=epoch).out)

    def test_without_a_time(self):
        self.assertIn("rewrite-timestamp changes nothing without a time", self.build("--rewrite-timestamp").err)
        self.assertIn("rewrite-timestamp changes nothing without a time", self.build("-o", "type=image,rewrite-timestamp=true").err)
        self.assertNotIn("rewrite-timestamp", self.build("--rewrite-timestamp=false").err)
        self.fails(2, "build", "--rewrite-timestamp=maybe", self.context)
        result = self.fails(2, "build", "-o", "type=tar,dest=x,rewrite-timestamp=true", "-o", "type=tar,dest=y,rewrite-timestamp=false", self.context)
        self.assertIn("cannot differ in rewrite-timestamp", result.err)

    def git(self, *args, **env):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=n@localhost", *args], cwd=self.context, check=True, capture_output=True, env=dict(os.environ, **env))

    def test_the_commit_of_the_context(self):
        context = {"SOURCE_DATE_EPOCH": "context"}
        self.assertIn("gives no time", self.build("-t", "x", env=context).err)
        self.git("init", "-q")
        self.assertIn("gives no time", self.build("-t", "x", env=context).err, "no commit yet")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "one", GIT_COMMITTER_DATE="1600000000 +0200", GIT_AUTHOR_DATE="1500000000 +0000")
        self.build("-t", "x", env=context)
        self.assertEqual(self.inspect("x")["Config"]["created"], "2020-09-13T12:26:40Z", "when it was committed")
        other = os.path.join(self.dir, "other")
        self.git("worktree", "add", "-q", other, "-b", "other")
        # A directory within, a tree whose settings would run something, and a work tree of another.
        self.write("sub/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        self.git("config", "core.fsmonitor", "touch %s/ran" % self.dir)
        self.git("config", "core.pager", "touch %s/ran" % self.dir)
        self.ok("build", "-t", "sub", os.path.join(self.context, "sub"), env=context)
        self.assertEqual(self.inspect("sub")["Config"]["created"], "2020-09-13T12:26:40Z")
        self.git("config", "log.showSignature", "true")
        self.ok("build", "-t", "other", other, env=context)
        self.assertEqual(self.inspect("other")["Config"]["created"], "2020-09-13T12:26:40Z")
        self.assertFalse(os.path.exists(self.dir + "/ran"))
        self.write(".git/HEAD", "garbage")
        self.assertIn("git could not read the commit", self.fails(1, "build", self.context, env=context).err)


if __name__ == "__main__":
    unittest.main()
