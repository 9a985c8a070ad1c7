"""An interrupt in the middle of what takes long after the steps: compression, outputs, copies."""

import glob

from harness import *
from servers import *

SIZE = 600 * MIB
# A sanitizer makes everything slower.
SOON = 2 if not SANITIZED else 20


class Interrupted(TestCase):
    def setUp(self):
        super().setUp()
        with open(os.path.join(self.context, "big"), "wb") as f, open("/dev/urandom", "rb") as source:
            for _ in range(SIZE // (8 * MIB)):
                f.write(source.read(8 * MIB))
        self.write("Dockerfile", "FROM scratch\nCOPY big /\n")
        self.build("-t", "big")
        self.out = os.path.join(self.dir, "out")

    def growing(self, *patterns):
        """Whether a file of those names holds something, not all of it."""
        for pattern in patterns:
            for path in glob.glob(pattern, recursive=True, include_hidden=True):
                try:
                    if os.path.isfile(path) and MIB < os.path.getsize(path) < SIZE * 9 // 10:
                        return True
                except OSError:
                    pass
        return False

    def interrupt(self, patterns, *args, env=None):
        os.mkdir(self.out)
        process = self.start(*args, env=env)
        while not self.growing(*patterns):
            self.assertIsNone(process.poll(), "it ended too early: " + " ".join(args))
            time.sleep(0.002)
        process.send_signal(signal.SIGSTOP)
        self.assertTrue(self.growing(*patterns), "it was too fast to be interrupted")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        started = time.time()
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn("interrupted", err)
        self.assertLess(time.time() - started, SOON)
        left = sorted(os.path.relpath(p, self.out) for p in glob.glob(self.out + "/**", recursive=True, include_hidden=True) if os.path.isfile(p))
        shutil.rmtree(self.out)
        self.assertEqual(glob.glob(self.store + "/tmp/*/*"), [])
        return left

    def test_outputs(self):
        plain = "compression=uncompressed"
        for output, place in (("type=oci,dest=%s/x.tar," + plain, "/x.tar*"), ("type=oci,tar=false,dest=%s/x," + plain, "/.oci-layout*/blobs/sha256/*"), ("type=docker,dest=%s/x.tar", "/x.tar*"), ("type=tar,dest=%s/x.tar", "/x.tar*"), ("type=local,dest=%s/x", "/x/big")):
            with self.subTest(output=output):
                self.assertEqual(self.interrupt([self.out + place], "build", "-o", output % self.out, self.context), [])
        # The next one is whole.
        archive = os.path.join(self.dir, "x.tar")
        self.build("-o", "type=tar,dest=" + archive)
        with tarfile.open(archive) as tar, open(os.path.join(self.context, "big"), "rb") as f:
            self.assertEqual(hashlib.sha256(tar.extractfile("big").read()).digest(), hashlib.sha256(f.read()).digest())

    def test_compression(self):
        # Cached, and in the background of a build that goes on with other steps.
        self.write("Dockerfile", "FROM scratch\nCOPY big /\nFROM %s\nCOPY --from=0 /big /\nRUN sleep 60\n" % busybox(), where=self.dir)
        background = ["build", "-f", os.path.join(self.dir, "Dockerfile"), "-o", "type=oci,dest=%s/y.tar" % self.out, self.context]
        for call in (["build", "-o", "type=oci,dest=%s/x.tar" % self.out, self.context], ["push", "big", registry().host + "/big:1"], background):
            with self.subTest(call=call):
                self.assertEqual(self.interrupt([self.store + "/tmp/*/*"], *call), [])

    def test_copies(self):
        layout, archive, docker = (os.path.join(self.dir, n) for n in ("layout", "archive.tar", "docker.tar"))
        self.build("-t", "big:1", "-o", "type=oci,tar=false,compression=uncompressed,dest=" + layout, "-o", "type=oci,compression=uncompressed,dest=" + archive, "-o", "type=docker,dest=" + docker)
        shutil.rmtree(self.store)
        for source, target, place in (("oci:" + layout, "oci:%s/x:1", "/x/blobs/sha256/*"), ("oci:" + layout, "oci-archive:%s/x.tar:1", "/x.tar*"), ("oci:" + layout, "docker-archive:%s/x.tar:a:1", "/x.tar*")):
            with self.subTest(target=target):
                left = self.interrupt([self.out + place], "copy", source, target % self.out)
                # Of a layout whole blobs stay for the next try; nothing names them.
                self.assertEqual([name for name in left if not re.fullmatch("x/blobs/sha256/[0-9a-f]{64}", name)], [])
        for source in ("oci-archive:" + archive, "docker-archive:" + docker):
            with self.subTest(source=source):
                temporary = os.path.join(self.dir, "tmp")
                os.mkdir(temporary)
                self.assertEqual(self.interrupt([temporary + "/*/*"], "copy", source, "oci:%s/x:1" % self.out, env={"TMPDIR": temporary}), [])
                self.assertEqual(os.listdir(temporary), [])
                os.rmdir(temporary)


if __name__ == "__main__":
    unittest.main()
