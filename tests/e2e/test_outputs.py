"""Layouts, archives and plain files, and reading them back."""

import stat
import subprocess
import tarfile

from harness import *


class Outputs(TestCase):
    def setUp(self):
        super().setUp()
        self.dockerfile("FROM BUSYBOX\nRUN echo 1 > /one && rm /bin/awk\nCOPY Dockerfile /\n")

    def out(self, name):
        return os.path.join(self.dir, name)

    def run_tool(self, *args, **kw):
        done = subprocess.run(args, capture_output=True, text=True, **kw)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_oci_layout_directory(self):
        self.build("-t", "app:v1", "-t", "app:v2", "-o", "type=oci,dest=%s,tar=false" % self.out("layout"))
        one = json.loads(self.run_tool("skopeo", "inspect", "oci:%s:v1" % self.out("layout")))
        two = json.loads(self.run_tool("skopeo", "inspect", "oci:%s:v2" % self.out("layout")))
        self.assertEqual(one["Digest"], two["Digest"])
        # A second export replaces the first as a whole.
        self.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
        self.build("-t", "app:v3", "-o", "type=oci,dest=%s,tar=false" % self.out("layout"))
        self.assertEqual([e["annotations"]["org.opencontainers.image.ref.name"] for e in json.loads(read(self.out("layout"), "index.json"))["manifests"]], ["v3"])
        self.assertEqual(len(os.listdir(self.out("layout") + "/blobs/sha256")), 3)

    def test_other_directory_is_not_replaced(self):
        os.mkdir(self.out("mine"))
        self.write("precious", "x", where=self.out("mine"))
        result = self.fails(2, "build", "-o", "type=oci,dest=%s,tar=false" % self.out("mine"), self.context)
        self.assertIn("no OCI layout", result.err)
        self.assertEqual(os.listdir(self.out("mine")), ["precious"])

    def test_oci_tar_is_the_same_twice(self):
        self.build("-t", "app:v1", "-o", "type=oci,dest=" + self.out("a.tar"))
        self.build("-t", "app:v1", "-o", "type=oci,dest=" + self.out("b.tar"))
        with open(self.out("a.tar"), "rb") as a, open(self.out("b.tar"), "rb") as b:
            self.assertEqual(a.read(), b.read())
        self.run_tool("skopeo", "inspect", "oci-archive:" + self.out("a.tar"))

    def test_docker_archive(self):
        data = self.ok("build", "-t", "app:v1", "-o", "type=docker,dest=-", self.context, binary=True).out
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            manifest = json.load(tar.extractfile("manifest.json"))[0]
            self.assertEqual(manifest["RepoTags"], ["app:v1"])
            for name in manifest["Layers"] + [manifest["Config"]]:
                digest = hashlib.sha256(tar.extractfile(name).read()).hexdigest()
                self.assertIn(digest, name)
        with open(self.out("docker.tar"), "wb") as f:
            f.write(data)
        self.run_tool("skopeo", "inspect", "docker-archive:" + self.out("docker.tar"))

    def test_zstd_and_uncompressed(self):
        for kind, suffix in (("zstd", "tar+zstd"), ("uncompressed", "v1.tar"), ("gzip", "tar+gzip")):
            dest = self.out(kind)
            self.build("-t", "app:v1", "-o", "type=oci,dest=%s/,compression=%s,force-compression=true" % (dest, kind))
            raw = json.loads(self.run_tool("skopeo", "inspect", "--raw", "oci:%s:v1" % dest))
            self.assertTrue(all(layer["mediaType"].endswith(suffix) for layer in raw["layers"]), raw)
            self.run_tool("umoci", "unpack", *([] if os.geteuid() == 0 else ["--rootless"]), "--image", dest + ":v1", dest + "-bundle") if kind != "zstd" else None

    def test_compression_is_as_asked_for_whatever_others_have(self):
        name = registry().host + "/twin:%d" % os.getpid()
        self.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
        epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", "app:v1"]
        self.build(*epoch, "-o", "type=registry,compression=zstd,name=" + name)
        self.store = self.dir + "/other"
        self.ok("pull", name)
        self.build(*epoch, "-o", "type=docker,compression=gzip,dest=" + self.out("docker.tar"))
        self.build(*epoch, "-o", "type=oci,compression=gzip,dest=" + self.out("oci/"))
        layers = json.loads(self.run_tool("skopeo", "inspect", "--raw", "oci:%s:v1" % self.out("oci")))["layers"]
        self.assertEqual([layer["mediaType"].rsplit(".", 1)[1] for layer in layers], ["tar+gzip"])

    def test_local_and_tar(self):
        self.build("-o", self.out("files"))
        self.build("-o", "type=tar,dest=" + self.out("files.tar"))
        self.assertEqual(read(self.out("files"), "one"), "1\n")
        self.assertFalse(os.path.lexists(self.out("files") + "/bin/awk"))
        with tarfile.open(self.out("files.tar")) as tar:
            names = {m.name.rstrip("/") for m in tar}
        self.assertIn("one", names)
        self.assertNotIn("bin/awk", names)
        self.assertFalse(any(".wh." in n for n in names))

    def test_build_context_from_layouts_and_archives(self):
        self.build("-t", "app:v1", "-o", "type=oci,dest=%s/" % self.out("layout"), "-o", "type=oci,dest=" + self.out("oci.tar"), "-o", "type=docker,dest=" + self.out("docker.tar"))
        for source in ("layout:v1", "oci.tar", "docker.tar"):
            other = self.out("store-" + source.split(":")[0])
            self.write("Dockerfile", "FROM base\nRUN cat /one > /two\n")
            self.ok("build", "-t", "x", "--build-context", "base=oci-layout://" + self.out(source), self.context, store=other)
            self.assertEqual(self.ok("run", "x", "cat", "/two", store=other).out, "1\n")
        self.write("Dockerfile", "FROM base\n")
        result = self.fails(1, "build", "--build-context", "base=oci-layout://" + self.out("layout:nope"), self.context)
        self.assertIn("v1", result.err)

    def test_build_context_directory_and_image(self):
        self.write("extra/file", "from elsewhere", where=self.dir)
        self.write("Dockerfile", "FROM scratch\nCOPY --from=other file /f\nCOPY --from=image /etc/passwd /p\n")
        self.build("--build-context", "other=" + self.out("extra"), "--build-context", "image=docker-image://" + busybox(), "-o", self.out("o"))
        self.assertEqual(read(self.out("o"), "f"), "from elsewhere")

    def test_bad_destinations(self):
        self.write("file", "x", where=self.dir)
        os.symlink("nowhere/x", self.out("dangling"))
        bad = {
            "type=nope": "known: image",
            "type=oci": "needs dest=",
            "type=oci,dest=/nonexistent-directory/x.tar": "there is no directory /nonexistent-directory",
            "type=oci,dest=%s,compresion=gzip" % self.out("x"): "did you mean compression?",
            "type=tar,dest=" + self.dir: "it is a directory",
            "type=local,dest=" + self.out("file"): "is no directory",
            "type=local,dest=" + self.out("file/below"): "file",
            "type=local,dest=-": "cannot go to standard output",
            "type=docker,dest=" + self.out("file/below"): "ENOTDIR",
            "type=oci,dest=" + self.out("dangling/x"): "there is no directory",
            "type=image,dest=" + self.out("x"): "dest= has no meaning",
            "type=tar,push=true,dest=x": "push= has no meaning",
            "type=local,compression=zstd,dest=x": "compression= has no meaning",
        }
        for output, says in bad.items():
            result = self.fails(2, "build", "-o", output, self.context)
            self.assertIn(says, result.err, output)
            self.assertNotIn("RUN echo", result.err, "nothing is built")
        if not ROOT:
            os.mkdir(self.out("locked"), 0o555)
            self.assertIn("cannot be written to", self.fails(2, "build", "-o", "type=tar,dest=" + self.out("locked/x"), self.context).err)
        self.assertFalse(os.path.exists(self.out("x")))

    def test_the_same_destination_twice(self):
        os.symlink("context", self.out("other-name"))
        for one, two in (("type=tar,dest=x", "type=oci,dest=x"), ("type=tar,dest=x", "type=local,dest=./x/"), ("-", "type=oci,dest=-"), ("type=tar,dest=context/x", "type=tar,dest=other-name/x")):
            result = self.fails(2, "build", "-o", one, "-o", two, self.context)
            self.assertIn("two outputs", result.err)

    def test_standard_output_is_for_the_archive(self):
        call, environment = self.command("build", "-o", "-", self.context)
        with open(self.out("both"), "wb") as both:
            done = subprocess.run(call, env=environment, stdout=both, stderr=both)
        self.assertEqual(done.returncode, 2)
        self.assertIn("progress would get into the archive", read(self.out("both")))

    def test_each_output_as_asked_for(self):
        host = registry().host
        self.dockerfile("FROM BUSYBOX\nRUN seq 100000 > /numbers\nCOPY Dockerfile /\n")
        self.build("-t", "local:1", "--metadata-file", self.out("meta.json"),
                   "-o", "type=registry,name=%s/a:1,compression=zstd" % host,
                   "-o", "type=registry,name=%s/b:1,name=%s/b:2,compression=gzip,compression-level=9,oci-mediatypes=false" % (host, host),
                   "-o", "type=image,name=%s/c:1,push=true,push-by-digest=true,compression=uncompressed" % host,
                   "-o", "type=oci,dest=%s,compression=gzip,name=other:7" % self.out("x.tar"), "-o", "type=oci,dest=%s/,compression=zstd,compression-level=1" % self.out("layout"),
                   "-o", "type=local,dest=" + self.out("d"), "-o", "type=tar,dest=" + self.out("files.tar"))
        raw = lambda place: json.loads(self.run_tool("skopeo", "inspect", "--raw", "--tls-verify=false", place))
        types = lambda manifest: [layer["mediaType"].rsplit(".", 1)[1] for layer in manifest["layers"]]
        a, b = raw("docker://%s/a:1" % host), raw("docker://%s/b:2" % host)
        # The base's layer stays as it was pulled.
        self.assertEqual(types(a), ["tar+gzip", "tar+zstd", "tar+zstd"])
        self.assertEqual(b["mediaType"], "application/vnd.docker.distribution.manifest.v2+json")
        self.assertEqual(types(b), ["gzip"] * 3)
        self.assertEqual(b, raw("docker://%s/b:1" % host))
        self.assertEqual(types(raw("oci-archive:" + self.out("x.tar") + ":7")), ["tar+gzip"] * 3)
        layout = raw("oci:%s:1" % self.out("layout"))
        self.assertEqual(types(layout), ["tar+gzip", "tar+zstd", "tar+zstd"])
        self.assertNotEqual(layout["layers"][1]["digest"], a["layers"][1]["digest"], "another level")
        self.assertNotEqual(b["layers"][1]["digest"], raw("oci-archive:" + self.out("x.tar") + ":7")["layers"][1]["digest"])
        self.assertEqual(read(self.out("d"), "Dockerfile"), read(self.context, "Dockerfile"))
        with tarfile.open(self.out("files.tar")) as tar:
            self.assertIn("numbers", tar.getnames())
        digest = json.loads(read(self.out("meta.json")))["containerimage.digest"]
        self.assertEqual(digest, skopeo_inspect(host + "/a:1")["Digest"], "that of the first that pushes")
        # Pushed by digest: no tag.
        manifests = os.path.join(registry().storage, "docker/registry/v2/repositories/c/_manifests")
        self.assertEqual(os.listdir(manifests), ["revisions"])
        self.assertRegex(self.ok("images").out, "local +1 ")

    def test_the_same_name_with_different_options(self):
        name = registry().host + "/conflict:1"
        result = self.fails(2, "build", "-o", "type=registry,compression=zstd,name=" + name, "-o", "type=registry,name=" + name, self.context)
        self.assertIn("with different options", result.err)
        self.ok("build", "-o", "type=registry,compression=zstd,name=" + name, "-o", "type=registry,compression=zstd,name=" + name, self.context)

    def test_push_takes_the_options_of_the_output(self):
        name = registry().host + "/options:1"
        self.build("-t", name, "--push", "-o", "type=image,compression=zstd,force-compression=true")
        manifest = json.loads(self.run_tool("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://" + name))
        self.assertEqual({layer["mediaType"].rsplit(".", 1)[1] for layer in manifest["layers"]}, {"tar+zstd"})


class Destinations(TestCase):
    def setUp(self):
        super().setUp()
        self.dockerfile("FROM BUSYBOX\n")

    def test_link_stays_a_link(self):
        os.symlink("real", os.path.join(self.dir, "link"))
        for option in ("--iidfile", "--metadata-file"):
            self.build(option, os.path.join(self.dir, "link"))
            self.assertTrue(os.path.islink(os.path.join(self.dir, "link")))
            self.assertIn("sha256:", read(self.dir, "real"))

    @unittest.skipUnless(ROOT, "device nodes take root to make")
    def test_device_is_not_replaced(self):
        null = os.path.join(self.dir, "null")
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        self.build("--iidfile", null, "-o", "type=tar,dest=" + null)
        self.assertTrue(stat.S_ISCHR(os.stat(null).st_mode))

    def test_result_that_cannot_be_written_is_no_success(self):
        call, environment = self.command("build", "-q", self.context)
        with open("/dev/full", "w") as full:
            done = subprocess.run(call, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No space left", done.stderr)

    def test_nobody_waits_for_a_fifo(self):
        for name in ("Dockerfile", ".dockerignore"):
            other = os.path.join(self.dir, "with-" + name)
            os.mkdir(other)
            if name != "Dockerfile":
                self.write("Dockerfile", "FROM scratch\nCOPY . /\n", where=other)
            os.mkfifo(os.path.join(other, name))
            result = self.call("build", other, timeout=20)
            self.assertNotEqual(result.code, 0)
            self.assertIn("is not a regular file", result.err)
        self.dockerfile("FROM BUSYBOX\nRUN rm /etc/passwd && mkfifo /etc/passwd\nRUN true\n")
        self.assertIn("is not a regular file", self.call("build", self.context, timeout=60).err)

    def test_dockerfile_from_a_pipe_that_is_named(self):
        fifo = os.path.join(self.dir, "pipe")
        os.mkfifo(fifo)
        os.chmod(fifo, 0o666)
        writer = subprocess.Popen(["sh", "-c", "echo FROM scratch > '%s'" % fifo])
        self.ok("build", "-f", fifo, self.context, timeout=30)
        writer.wait(timeout=30)

    def test_very_many_stages_that_need_each_other(self):
        stages = "FROM scratch AS s0\n" + "".join("FROM s%d AS s%d\n" % (i, i + 1) for i in range(5000))
        self.dockerfile(stages)
        self.assertIn("more than 200 stages", self.fails(2, "build", self.context).err)


if __name__ == "__main__":
    unittest.main()
