"""The store: what it says it takes, what prune leaves, what fsck finds, and kill -9 at any moment."""

import random

from harness import *
from servers import MIB, ServerCase


class StoreCase(ServerCase):
    def usage(self):
        return json.loads(self.ok("du", "--format", "json").out)

    def on_disk(self):
        # The lock file of a program that runs is made and removed by it.
        return int(subprocess.run(["du", "-s", "-B1", self.store], capture_output=True, text=True, check=True).stdout.split()[0])

    def blobs(self):
        room = os.path.join(self.store, "blobs/sha256")
        return {n: os.path.getsize(os.path.join(room, n)) for n in os.listdir(room)}

    def image(self, name, content):
        self.write("data", content)
        self.write("Dockerfile", "FROM scratch\nCOPY data /\n")
        self.build("-t", name)

    def age_records(self, seconds):
        for top, _, names in os.walk(os.path.join(self.store, "records")):
            for name in names:
                path = os.path.join(top, name)
                st = os.stat(path)
                os.utime(path, (st.st_atime, st.st_mtime - seconds))

    def records(self):
        return sum(len(names) for _, _, names in os.walk(os.path.join(self.store, "records")))


class Space(StoreCase):
    def test_du_is_what_the_disk_says(self):
        self.write("Dockerfile", "FROM BUSYBOX\nRUN ln /bin/busybox /second; dd if=/dev/zero of=/hole bs=1 count=1 seek=10000000\nCOPY Dockerfile /x\n".replace("BUSYBOX", busybox()))
        self.build("-t", "x")
        usage = self.usage()
        self.assertEqual(usage["TotalBytes"], self.on_disk())
        self.assertEqual(usage["TotalBytes"], usage["BlobBytes"] + usage["LayerBytes"] + usage["OtherBytes"])

    def test_prune_by_age(self):
        self.image("old", os.urandom(3 * MIB))
        self.ok("rmi", "old")
        self.age_records(7200)
        self.image("new", os.urandom(3 * MIB))
        self.ok("rmi", "new")
        before, records = self.on_disk(), self.records()
        self.ok("prune", "--keep-duration", "1h")
        self.assertLess(self.records(), records)
        self.assertGreater(before - self.on_disk(), 3 * MIB)
        self.assertLess(before - self.on_disk(), 5 * MIB)
        self.write("Dockerfile", "FROM scratch\nCOPY data /\n")
        self.assertIn("CACHED", self.build("--progress=plain", "-t", "new").err)
        self.ok("prune", "--filter", "until=0s")
        self.assertEqual(self.records(), 0)
        self.ok("inspect", "new")

    def test_prune_to_a_size(self):
        for i in range(4):
            self.image("image-%d" % i, os.urandom(3 * MIB))
            self.ok("rmi", "image-%d" % i)
            self.age_records(7200)
        self.assertGreater(self.on_disk(), 12 * MIB)
        self.ok("prune", "--max-used-space", "7m")
        self.assertLessEqual(self.on_disk(), 7 * MIB)
        self.assertGreater(self.on_disk(), 5 * MIB)
        # The one that was used last is still there.
        self.write("Dockerfile", "FROM scratch\nCOPY data /\n")
        self.assertIn("CACHED", self.build("--progress=plain", "-t", "again").err)
        self.assertIn("warning: the images in the store need", self.ok("prune", "--max-used-space", "1m").err)
        self.ok("inspect", "again")

    def test_wrong_filters(self):
        self.image("x", b"x")
        for call in (("--filter", "color=red"), ("--filter", "until=yesterday"), ("--keep-duration", "5x"), ("--max-used-space", "many")):
            self.fails(2, "prune", *call)


class Health(StoreCase):
    def damage(self, path):
        with open(path, "r+b") as f:
            f.seek(os.path.getsize(path) // 2)
            byte = f.read(1)
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte[0] ^ 1]))

    def test_clean(self):
        self.write("Dockerfile", "FROM %s\nRUN echo hi > /x\nCOPY Dockerfile /y\n" % busybox())
        self.build("-t", "x", "-o", "type=oci,dest=" + os.path.join(self.home, "x.tar"))
        self.assertRegex(self.ok("fsck").out, "[1-9][0-9]* blobs, [1-9][0-9]* layers and [1-9][0-9]* images checked")

    def test_damaged_blobs(self):
        self.write("Dockerfile", "FROM %s\nRUN echo hi > /x\n" % busybox())
        first = self.build("-t", "x").out
        blobs = self.blobs()
        largest = max(blobs, key=blobs.get)
        self.damage(os.path.join(self.store, "blobs/sha256", largest))
        result = self.fails(1, "fsck", "--check-only")
        self.assertIn(largest, result.out)
        self.assertIn(largest, self.blobs())
        self.assertIn("moved to quarantine/", self.fails(1, "fsck").out)
        self.assertNotIn(largest, self.blobs())
        self.ok("fsck")
        self.build("-t", "x", "--no-cache", "-o", "type=oci,dest=" + os.path.join(self.home, "x.tar"))
        self.ok("prune", "-a")
        self.assertFalse(os.path.exists(os.path.join(self.store, "quarantine")))
        self.assertTrue(first)

    def test_damaged_files_of_a_built_layer(self):
        self.write("Dockerfile", "FROM %s\nRUN echo right > /x\nRUN cat /x > /y\n" % busybox())
        self.build("-t", "x", "-o", "type=oci,dest=" + os.path.join(self.home, "x.tar"))
        found = subprocess.run(["grep", "-rl", "^right$", os.path.join(self.store, "layers")], capture_output=True, text=True).stdout.split()
        with open([p for p in found if p.endswith("/fs/x")][0], "w") as f:
            f.write("wrong\n")
        self.assertIn("are not those of", self.fails(1, "fsck").out)
        self.ok("fsck")
        self.write("Dockerfile", "FROM %s\nRUN echo right > /x\nRUN cat /x > /y; cat /x > /z\n" % busybox())
        self.build("-t", "x")
        self.assertEqual(self.run_in("x", "cat", "/z"), "right\n")

    def test_image_without_manifest(self):
        self.image("x", b"content")
        digest = self.inspect("x")["Digest"]
        os.unlink(os.path.join(self.store, "blobs/sha256", digest[7:]))
        self.assertIn("lacks its manifest " + digest, self.fails(1, "fsck").out)
        self.ok("fsck")
        self.assertEqual(self.ok("images", "-q").out, "")


class Kill(StoreCase):
    """kill -9 at random instants; LAMINA_TEST_KILLS sets how many (200 takes some minutes)."""

    KILLS = int(os.environ.get("LAMINA_TEST_KILLS", "12"))

    def test_any_moment(self):
        seed = int(os.environ.get("LAMINA_TEST_SEED", "0")) or random.randrange(1 << 30)
        print("\n    seed %d, %d kills" % (seed, self.KILLS), file=sys.stderr)
        rng = random.Random(seed)
        server = self.spec_registry()
        self.write("data", rng.randbytes(4 * MIB))
        self.write("Dockerfile", "FROM %s\nCOPY data /\nRUN cp /data /copy; echo $(wc -c < /copy) > /size\n" % busybox())
        expected = self.build("-t", "reference", store=os.path.join(self.dir, "reference")).out
        for i in range(self.KILLS):
            calls = {
                "build": ("build", *(["--no-cache"] if rng.random() < 0.7 else []), "-t", "x", self.context),
                "push": ("push", "x", server.host + "/x:%d" % i),
                "pull": ("pull", "--platform", "linux/amd64", busybox()),
                "prune": ("prune", *(["-a"] if rng.random() < 0.5 else [])),
            }
            kind = rng.choice(list(calls))
            if kind == "push" and self.call("inspect", "x").code != 0:
                kind = "build"
            process = self.start(*calls[kind], start_new_session=True)
            try:
                process.wait(rng.uniform(0.001, 0.6))
            except subprocess.TimeoutExpired:
                pass
            process.kill()
            process.communicate()
            result = self.call("fsck")
            self.assertEqual(result.code, 0, "after a killed %s (kill %d, seed %d):\n%s" % (kind, i, seed, result.text))
            if i % 4 == 3:
                self.check_build(expected, kind, i, seed)
        self.check_build(expected, "last", self.KILLS, seed)

    def check_build(self, expected, kind, i, seed):
        result = self.call("build", "-t", "x", self.context)
        self.assertEqual(result.code, 0, "after a killed %s (kill %d, seed %d):\n%s" % (kind, i, seed, result.text))
        self.assertEqual(self.run_in("x", "cat", "/size"), str(4 * MIB) + "\n")
        self.assertEqual(self.run_in("x", "cmp", "/data", "/copy"), "")
        self.assertTrue(expected)


if __name__ == "__main__":
    unittest.main()
