"""Images for several platforms, and commands of another one."""

import tarfile

from harness import *


def registered(architecture):
    """Whether an emulator that a sandbox can use is registered in binfmt_misc (qemu-user-static, binfmt-support)."""
    try:
        text = read("/proc/sys/fs/binfmt_misc/qemu-" + architecture)
    except OSError:
        return False
    return text.startswith("enabled") and re.search("flags: .*F", text) is not None


def own_binfmt():
    """Whether a user namespace may have an empty binfmt_misc of its own (Linux 6.7)."""
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"]
    return ROOT and os.path.isdir("/proc/sys/fs/binfmt_misc") and subprocess.run(probe, capture_output=True).returncode == 0


def foreign_busybox(architecture):
    """Debian's static busybox for another architecture, downloaded once a machine without a trace in dpkg."""
    cache = os.path.join(os.environ.get("LAMINA_TEST_CACHE", "/var/cache/lamina-tests"), "busybox-" + architecture)
    if not os.path.exists(cache):
        work = tempfile.mkdtemp(prefix="apt-", dir=WORK)
        for d in ("state/lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(work, d))
        options = ["APT::Architecture=" + architecture, "APT::Architectures::=" + architecture, "Dir::State=%s/state" % work, "Dir::Cache=%s/cache" % work,
                   "Dir::State::status=/dev/null", "APT::Sandbox::User=root"]
        apt = ["apt-get", "-qq"] + [a for o in options for a in ("-o", o)]
        subprocess.run(apt + ["update"], check=True, cwd=work, capture_output=True)
        subprocess.run(apt + ["download", "busybox-static"], check=True, cwd=work, capture_output=True)
        package = [n for n in os.listdir(work) if n.endswith(".deb")][0]
        subprocess.run(["dpkg-deb", "-x", os.path.join(work, package), os.path.join(work, "root")], check=True)
        os.makedirs(os.path.dirname(cache), exist_ok=True)
        shutil.move(os.path.join(work, "root/bin/busybox"), cache)
    return cache


class Platforms(TestCase):
    CROSS = """FROM --platform=$BUILDPLATFORM BUSYBOX AS cross
ARG BUILDPLATFORM TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT
RUN echo $BUILDPLATFORM $TARGETPLATFORM $TARGETOS $TARGETARCH $TARGETVARIANT > /made
FROM scratch
COPY --from=cross /made /
"""
    BOTH = "--platform=linux/amd64,linux/arm/v7"

    def layout(self, *args):
        dest = os.path.join(self.dir, "layout-%d" % len(os.listdir(self.dir)))
        self.build("-o", "type=oci,tar=false,dest=" + dest, *args)
        blob = lambda d: json.loads(read(dest, "blobs/sha256", d["digest"].split(":")[1]))
        return json.loads(read(dest, "index.json")), blob

    def test_cross_compiling_needs_no_emulator(self):
        self.dockerfile(self.CROSS)
        top, blob = self.layout(self.BOTH, "-t", "x:1")
        self.assertEqual([m["annotations"]["org.opencontainers.image.ref.name"] for m in top["manifests"]], ["1"])
        index = blob(top["manifests"][0])
        self.assertEqual([m["platform"] for m in index["manifests"]], [{"architecture": "amd64", "os": "linux"}, {"architecture": "arm", "os": "linux", "variant": "v7"}])
        for member in index["manifests"]:
            config = blob(blob(member)["config"])
            self.assertEqual({k: config[k] for k in member["platform"]}, member["platform"])

    def test_archive_of_an_index_is_read_by_others(self):
        self.dockerfile(self.CROSS)
        archive = os.path.join(self.dir, "x.tar")
        self.build(self.BOTH, "-o", "type=oci,dest=" + archive)
        for arch, variant, expected in (("amd64", "", "linux/amd64 linux/amd64 linux amd64\n"), ("arm", "v7", "linux/amd64 linux/arm/v7 linux arm v7\n")):
            directory = os.path.join(self.dir, arch)
            subprocess.run(["skopeo", "--override-arch", arch, "--override-variant", variant, "copy", "-q", "oci-archive:" + archive, "dir:" + directory], check=True)
            layer = json.loads(read(directory, "manifest.json"))["layers"][0]["digest"].split(":")[1]
            with tarfile.open(os.path.join(directory, layer)) as tar:
                self.assertEqual(tar.extractfile("made").read().decode(), expected)

    def test_push_of_an_index(self):
        self.dockerfile(self.CROSS)
        name = registry().host + "/multi-" + AS
        meta = os.path.join(self.dir, "meta.json")
        self.build(self.BOTH, "--push", "-t", name, "--metadata-file", meta)
        raw = json.loads(subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", "docker://" + name], capture_output=True, check=True).stdout)
        self.assertEqual([m["platform"]["architecture"] for m in raw["manifests"]], ["amd64", "arm"])
        self.assertEqual(json.loads(read(meta))["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json")

    def test_plain_files_in_a_directory_for_each(self):
        self.dockerfile(self.CROSS)
        out = os.path.join(self.dir, "out")
        self.build(self.BOTH, "-o", out)
        self.assertEqual(sorted(os.listdir(out)), ["linux_amd64", "linux_arm_v7"])
        self.assertIn("linux/arm/v7", read(out, "linux_arm_v7/made"))
        with tarfile.open(fileobj=io.BytesIO(self.ok("build", self.BOTH, "-o", "-", self.context, binary=True).out)) as tar:
            self.assertEqual(tar.getnames(), ["linux_amd64", "linux_amd64/made", "linux_arm_v7", "linux_arm_v7/made"])

    def test_one_platform_as_an_index(self):
        self.dockerfile(self.CROSS)
        top, blob = self.layout("--build-arg", "BUILDKIT_MULTI_PLATFORM=1")
        self.assertEqual(len(blob(top["manifests"][0])["manifests"]), 1)

    def test_docker_archive_is_refused_before_anything_is_done(self):
        self.dockerfile("FROM BUSYBOX\nRUN exit 1\n")
        result = self.fails(2, "build", self.BOTH, "-o", "type=docker,dest=" + os.path.join(self.dir, "x.tar"), self.context)
        self.assertIn("one platform", result.err)
        self.assertFalse(os.path.exists(os.path.join(self.dir, "x.tar")))

    def test_platform_errors(self):
        self.dockerfile("ARG P\nFROM --platform=$P BUSYBOX\n")
        self.assertRegex(self.fails(2, "build", self.context).err, r"Dockerfile:2:\d+: error: the platform \(\$P\) is empty")
        self.dockerfile("FROM BUSYBOX\n")
        self.assertIn("was pulled with platform \"linux/amd64\", expected \"linux/s390x\"", self.build("--platform=linux/s390x").err)


class Foreign(TestCase):
    def foreign_base(self):
        with open(foreign_busybox("arm64"), "rb") as f:
            self.write("busybox", f.read(), 0o755)
        self.write("Dockerfile", "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nRUN uname -m > /machine\n")

    @unittest.skipUnless(registered("aarch64"), "no emulator for arm64 is registered in binfmt_misc (qemu-user-static, binfmt-support)")
    def test_commands_through_an_emulator(self):
        self.foreign_base()
        self.build("--platform=linux/arm64", "-t", "x")
        self.assertEqual(self.inspect("x")["Config"]["architecture"], "arm64")
        self.assertEqual(read(self.unpack("x", "--platform=linux/arm64"), "machine"), "aarch64\n")

    @unittest.skipUnless(registered("s390x"), "no emulator for s390x is registered in binfmt_misc (qemu-user-static, binfmt-support)")
    def test_every_probe_program_runs(self):
        # A platform whose probe fails is refused with its own words; one that runs gets as far as the missing shell.
        self.write("Dockerfile", "FROM scratch\nRUN true\n")
        for platform in ("386", "arm64", "arm/v7", "riscv64", "ppc64le", "s390x", "mips64le", "loong64"):
            result = self.fails(1, "build", "--platform=linux/" + platform, self.context)
            self.assertIn("the image has no shell", result.err, platform)

    @unittest.skipUnless(own_binfmt(), "this kernel gives user namespaces no binfmt_misc of their own, or not root")
    def test_missing_emulator_is_said_before_anything_is_done(self):
        self.dockerfile("FROM BUSYBOX AS one\nRUN echo executed\nFROM scratch\nCOPY --from=one / /\nRUN true\n")
        call, environment = self.command("build", "--progress=plain", "--platform=linux/amd64,linux/arm64", self.context)
        inside = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && exec \"$0\" \"$@\""
        done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, *call], env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, r"Dockerfile:2:1: error: a RUN for linux/arm64 cannot be executed on this linux/amd64 machine|Dockerfile:5:1: error: a RUN for linux/arm64")
        self.assertIn("qemu-user-static", done.stderr)
        self.assertNotIn("executed", done.stderr.replace("cannot be executed", "").replace("echo executed", ""))


if __name__ == "__main__":
    unittest.main()
