"""The store: what it says it takes, what prune leaves, what fsck finds, and kill -9 at any moment."""

import random
import threading

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

    def test_an_image_whose_layer_was_one_of_two_of_the_same_files(self):
        self.write("Dockerfile", "FROM %s\nRUN echo 1 > /one\n" % busybox())
        epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-t", "x"]
        self.build(*epoch)
        self.build("--no-cache", *epoch)
        self.ok("rmi", "x")
        self.ok("prune")
        self.build(*epoch, "-o", "type=tar,dest=" + self.dir + "/tree.tar")
        self.assertIn("one", subprocess.run(["tar", "-tf", self.dir + "/tree.tar"], capture_output=True, text=True).stdout.split())
        self.build(*epoch, "-o", "type=oci,dest=" + self.dir + "/oci.tar")

    def test_wrong_filters(self):
        self.image("x", b"x")
        for call in (("--filter", "color=red"), ("--filter", "until=yesterday"), ("--keep-duration", "5x"), ("--max-used-space", "many")):
            self.fails(2, "prune", *call)


class Sampler(threading.Thread):
    """The largest size of a store while something goes on; what moves within it counts once."""

    def __init__(self, store):
        super().__init__(daemon=True)
        self.store, self.largest, self.samples, self.done = store, 0, 0, threading.Event()
        self.start()

    def sample(self):
        seen, total = set(), 0
        for top, _, names in os.walk(self.store):
            for path in [top] + [os.path.join(top, n) for n in names]:
                try:
                    st = os.lstat(path)
                except OSError:
                    continue
                if st.st_ino not in seen:
                    seen.add(st.st_ino)
                    total += st.st_blocks * 512
        return total

    def run(self):
        while not self.done.wait(0.005):
            self.largest = max(self.largest, self.sample())
            self.samples += 1

    def stop(self):
        self.done.set()
        self.join()
        return self.largest


class Limit(StoreCase):
    """--max-used-space holds while builds go on."""

    LIMIT = 64 * MIB
    TEXT = "FROM %s\nCOPY data /\nRUN cp /data /copy; echo $(wc -c < /copy) > /size\n"

    def setUp(self):
        super().setUp()
        # The store's limit, like any setting, may come from the environment.
        self.dockerfile(self.TEXT % busybox())

    def differing(self, *args, context=None, size=6 * MIB):
        self.write("data", os.urandom(size), where=context)
        return self.call("build", "--progress=plain", "--max-used-space", "64m", *args, context or self.context)

    def test_thirty_builds(self):
        self.assertEqual(self.differing("-t", "first").code, 0)
        sampler = Sampler(self.store)
        for i in range(30):
            result = self.differing("-t", "app", *(["-o", "type=oci,dest=" + os.path.join(self.dir, "x.tar")] if i % 5 == 0 else []))
            self.assertEqual(result.code, 0, result.err)
            # What the next build needs is still there: the base, and this build.
            again = self.ok("build", "--progress=plain", "--max-used-space", "64m", self.context)
            self.assertEqual(again.err.count("CACHED"), 2, again.err)
        largest = sampler.stop()
        print("\n    largest size %.1f of 64 MiB in %d samples" % (largest / MIB, sampler.samples), file=sys.stderr)
        self.assertLessEqual(largest, self.LIMIT)
        self.assertGreater(largest, self.LIMIT // 3, "the room is used")
        self.ok("fsck")
        for name in ("first", "app"):
            self.assertEqual(self.run_in(name, "cmp", "/data", "/copy"), "")

    def test_two_at_once(self):
        contexts = [os.path.join(self.dir, "c%d" % i) for i in range(2)]
        for context in contexts:
            self.write("Dockerfile", self.TEXT % busybox(), where=context)
        self.ok("pull", busybox())
        sampler, failures = Sampler(self.store), []

        def work(context):
            for i in range(12):
                result = self.differing("-t", os.path.basename(context), context=context, size=4 * MIB)
                if result.code != 0:
                    failures.append(result.err)
                elif self.run_in(os.path.basename(context), "cmp", "/data", "/copy") != "":
                    failures.append("wrong content")

        threads = [threading.Thread(target=work, args=(c,)) for c in contexts]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(failures, [])
        self.assertLessEqual(sampler.stop(), self.LIMIT)
        self.ok("fsck")

    def test_a_build_that_does_not_fit(self):
        self.write("data", os.urandom(6 * MIB))
        self.build("-t", "kept")
        self.dockerfile("FROM BUSYBOX\nRUN dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null\n")
        result = self.fails(1, "build", "-t", "big", "--max-used-space", "64m", self.context)
        self.assertIn("the store may take 67.1 MB (--max-used-space), and what is in use needs", result.err)
        self.assertIn("what is being written: ", result.err)
        self.assertIn("images with a name (build rmi): ", result.err)
        self.assertNotIn("big", self.ok("images").out)
        self.assertLessEqual(self.on_disk(), self.LIMIT)
        self.ok("fsck")
        self.assertEqual(self.run_in("kept", "cmp", "/data", "/copy"), "")
        # What was there before is there still.
        self.dockerfile(self.TEXT % busybox())
        self.assertEqual(self.differing("-t", "next").code, 0)

    def test_what_cannot_fit_is_not_begun(self):
        self.write("data", b"x")
        self.build("-t", "app")
        result = self.fails(1, "build", "--max-used-space", "100k", self.context)
        self.assertIn("the store may take 102.4 kB", result.err)
        self.ok("run", "app", "true")

    def test_caches_and_old_downloads_go_too(self):
        self.dockerfile("FROM BUSYBOX\nRUN --mount=type=cache,target=/c dd if=/dev/urandom of=/c/big bs=1M count=12 2>/dev/null\n")
        self.build("-t", "old")
        os.makedirs(os.path.join(self.store, "partial"), exist_ok=True)
        self.write("partial/" + "a" * 64, os.urandom(8 * MIB), where=self.store)
        for name in os.listdir(self.store + "/cache-mounts"):
            os.utime(os.path.join(self.store, "cache-mounts", name), (1, 1))
        os.utime(self.store + "/partial/" + "a" * 64, (1, 1))
        self.dockerfile(self.TEXT % busybox())
        for _ in range(3):
            self.assertEqual(self.differing("-t", "new", size=8 * MIB).code, 0)
        self.assertEqual(os.listdir(self.store + "/cache-mounts"), [])
        self.assertEqual(os.listdir(self.store + "/partial"), [])
        self.assertLessEqual(self.on_disk(), self.LIMIT)

    def test_setting_of_the_environment(self):
        self.write("data", b"x")
        for value, code in (("100k", 1), ("64m", 0), ("0", 0), ("", 0), ("much", 2)):
            self.assertEqual(self.call("build", self.context, env={"LAMINA_MAX_USED_SPACE": value}).code, code, value)
        self.assertIn("reading LAMINA_MAX_USED_SPACE", self.call("build", self.context, env={"LAMINA_MAX_USED_SPACE": "much"}).err)
        self.assertIn("the store may take", self.fails(1, "pull", busybox(), store=self.store + "-2", env={"LAMINA_MAX_USED_SPACE": "500k"}).err)

    def test_the_files_of_another_build_stay(self):
        # A build that takes long, without a limit of its own, beside one that needs all the room there is.
        slow = os.path.join(self.dir, "slow")
        self.write("Dockerfile", "FROM %s\nCOPY data /\nRUN cat /data > /dev/null; touch /tmp/x; sleep 4\nRUN cat /data > /second\n" % busybox(), where=slow)
        self.write("data", os.urandom(8 * MIB), where=slow)
        process = self.start("build", "-t", "slow", slow)
        for i in range(200):
            if any("data" in files for _, _, files in os.walk(self.store + "/layers")):
                break
            time.sleep(0.02)
        for _ in range(8):
            self.assertEqual(self.differing("-t", "app", size=5 * MIB).code, 0)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual(self.run_in("slow", "cmp", "/data", "/second"), "")
        self.ok("fsck")


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

    def test_changed_files_of_a_pulled_layer(self):
        layer = tar_of([("d", 0o755, None), ("d/one", 0o644, b"1" * 5000), ("d/two", 0o4755, b"two"), ("link", 0o777, "d/one")])
        layout = os.path.join(self.dir, "layout")
        write_layout(layout, layer)
        self.write("Dockerfile", "FROM base\nRUN [\"/none\"]\n")
        build = lambda: self.call("build", "-t", "x", "--build-context", "base=oci-layout://" + layout, self.context)
        build()
        found = subprocess.run(["find", self.store + "/layers", "-path", "*/fs/d"], capture_output=True, text=True).stdout.split()
        self.assertEqual(len(found), 1)
        self.assertNotIn("not verified", self.ok("fsck").out)

        def content(d):
            with open(d + "/one", "r+b") as f:
                f.seek(3000)
                f.write(b"2")
            os.utime(d + "/one", (1700000000, 1700000000))

        def unlink(d):
            os.unlink(d + "/two")
            os.utime(d, (1700000000, 1700000000))

        def another(d):
            self.write("d/three", "3", where=os.path.dirname(d))
            os.utime(d, (1700000000, 1700000000))

        changes = {
            "d/one was changed": content,
            "d/two was changed": lambda d: os.chmod(d + "/two", 0o755),
            "d/two is missing": unlink,
            "d/three is no part of the layer": another,
            "link was changed": lambda d: (os.unlink(d + "/../link"), os.symlink("d/two", d + "/../link")),
            "d was changed": lambda d: os.chmod(d, 0o777),
            "the root directory was changed": lambda d: os.chmod(d + "/..", 0o777),
        }
        for says, change in changes.items():
            change(found[0])
            for option in ("--check-only", None):
                self.assertIn(says, self.fails(1, "fsck", *([option] if option else [])).out)
            self.assertFalse(os.path.exists(found[0]), "removed")
            self.ok("fsck")
            build()  # from the blob that was kept
            self.assertEqual(read(found[0], "two"), "two")
        for name in self.blobs():
            with open(os.path.join(self.store, "blobs/sha256", name), "rb") as f:
                compressed = f.read(2) == b"\x1f\x8b"
            if compressed:
                os.unlink(f.name)
        self.assertIn("the files of 1 pulled layer were not verified", self.ok("fsck").out)

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
                "limited": ("build", "--no-cache", "--max-used-space", "48m", "-t", "y", self.context),
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
