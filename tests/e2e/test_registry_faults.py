"""Registries that speak the protocol to the letter, and networks that break: what arrives is right, or there is an
error that names the cause."""

from harness import *
from servers import *

# 1024 gives the figures of docs/registries.md.
PUSH_MIB = int(os.environ.get("LAMINA_TEST_PUSH_MIB", "128"))
# For what is to fail.
FEW = {"LAMINA_REGISTRY_RETRIES": "1", "LAMINA_REGISTRY_TIMEOUT": "2"}


def random_file(path, size):
    with open(path, "wb") as f, open("/dev/urandom", "rb") as source:
        while size > 0:
            f.write(source.read(min(size, 4 * MIB)))
            size -= 4 * MIB


class FaultCase(ServerCase):
    def command(self, *args, env=None, **kw):
        return super().command(*args, env={"LAMINA_REGISTRY_TIMEOUT": "10", **(env or {})}, **kw)

    def image(self, name, sizes):
        """An image in the store with a layer of random bytes for each size."""
        lines = ["FROM scratch"]
        for i, size in enumerate(sizes):
            random_file(os.path.join(self.context, "file-%d" % i), size)
            lines.append("COPY file-%d /" % i)
        self.write("Dockerfile", "\n".join(lines) + "\n")
        self.build("-t", name)

    def pushed_base(self, server, megabytes):
        """A base image in a registry; the digest of its layer."""
        layout = os.path.join(self.dir, "base-layout")
        write_layout(layout, tar_of([("file", 0o644, os.urandom(megabytes * MIB))]))
        push_layout(layout, server.host + "/base:latest")
        return skopeo_inspect(server.host + "/base:latest", "--raw")["layers"][0]

    def assert_blobs_whole(self, directory):
        blobs = [n for n in os.listdir(directory) if n.startswith("sha256-")]
        self.assertTrue(blobs)
        for name in blobs:
            with open(os.path.join(directory, name), "rb") as f:
                self.assertEqual(hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(f.read()).hexdigest(), name[7:])

    def store_blob(self, descriptor):
        path = os.path.join(self.store, "blobs/sha256", descriptor["digest"][7:])
        with open(path, "rb") as f:
            self.assertEqual("sha256:" + hashlib.sha256(f.read()).hexdigest(), descriptor["digest"])


class Push(FaultCase):
    def resets(self, megabytes, **options):
        server = self.spec_registry(**options)
        proxy = FaultProxy(server.host)
        size = megabytes * MIB
        self.image("big", [size])
        proxy.reset_up = [size * (2 * i + 1) // 20 for i in range(10)]
        started = time.time()
        self.ok("push", "--compression", "uncompressed", "big", proxy.host + "/big:1", timeout=600)
        self.assertEqual(proxy.faults, 10)
        again = proxy.up - size
        print("\n    %d MiB in %.1f s through ten resets: %.1f MiB sent again (%.1f %%)" % (megabytes, time.time() - started, again / MIB, 100 * again / size), file=sys.stderr)
        self.assert_blobs_whole(server.directory)
        return again / size

    def test_ten_resets(self):
        self.assertLess(self.resets(PUSH_MIB), 0.1)

    def test_ten_resets_and_what_broke_off_is_dropped(self):
        # The first break costs most of a large chunk; from then on chunks are small.
        self.assertLess(self.resets(PUSH_MIB, keep_partial=False), 0.1 if PUSH_MIB >= 1024 else 0.6)

    def test_ten_resets_of_many_layers(self):
        # docker-registry forgets an upload that broke off, so here only the layer that was hit is sent again.
        server = self.docker_registry()
        proxy = FaultProxy(server.host)
        self.image("many", [4 * MIB] * 48)
        size = 4 * MIB * 48
        proxy.reset_up = [size * (2 * i + 1) // 20 for i in range(10)]
        self.ok("push", "--compression", "uncompressed", "many", proxy.host + "/many:1", timeout=600)
        again = (proxy.up - size) / size
        print("\n    48 layers of 4 MiB through ten resets: %.1f %% sent again" % (100 * again), file=sys.stderr)
        self.assertEqual(proxy.faults, 10)
        self.assertLess(again, 0.2)
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", "docker://%s/many:1" % server.host, "dir:" + os.path.join(self.dir, "copy")], check=True)

    def test_answers_are_lost(self):
        server = self.spec_registry()
        proxy = FaultProxy(server.host)
        proxy.answers = [["PUT .*digest=", 2, b""], ["POST ", 1, b""], ["PUT .*/manifests/", 1, b""]]
        self.image("x", [3 * MIB])
        self.ok("push", "x", proxy.host + "/x:1")
        self.assertEqual(proxy.faults, 4)
        self.assert_blobs_whole(server.directory)

    def test_busy_registry(self):
        server = self.spec_registry()
        proxy = FaultProxy(server.host)
        proxy.answers = [
            ["POST ", 2, canned("429 Too Many Requests", "Retry-After: 1")],
            ["PUT .*digest=", 2, canned("503 Service Unavailable", "Retry-After: 1")],
            ["PUT .*/manifests/", 1, canned("502 Bad Gateway")],
        ]
        self.image("x", [MIB])
        started = time.time()
        self.ok("push", "x", proxy.host + "/x:1")
        self.assertGreaterEqual(time.time() - started, 2)
        self.assertEqual(proxy.faults, 5)

    def test_too_long_a_wait_is_an_error(self):
        server = self.spec_registry()
        proxy = FaultProxy(server.host)
        proxy.answers = [["GET .*/manifests/", 100, canned("429 Too Many Requests", "Retry-After: 3600")]]
        result = self.fails(1, "pull", proxy.host + "/x:1")
        self.assertRegex(result.err, "asks to wait 3[0-9]{3} seconds")

    def test_smallest_chunk(self):
        server = self.spec_registry(minimum=70 * MIB)
        self.image("big", [80 * MIB])
        self.ok("push", "--compression", "uncompressed", "big", server.host + "/big:1")
        self.assertEqual(server.short_chunks, 1, "only the last chunk may be short")
        self.assertEqual(len([r for r in server.requests if r[0] == "PATCH"]), 2)
        self.assert_blobs_whole(server.directory)

    def test_long_pages_instead_of_answers(self):
        page = b"<p>no</p>\n" * (3 * MIB // 10)
        self.image("x", [MIB])
        for rule, status, words in (
            ("PUT .*digest=", "413 Payload Too Large", "status 413"),
            ("PUT .*/manifests/", "413 Payload Too Large", "status 413"),
            ("PUT .*/manifests/", "502 Bad Gateway", "status 502"),
        ):
            with self.subTest(rule=rule, status=status):
                proxy = FaultProxy(self.spec_registry().host)
                proxy.answers = [[rule, 1000, canned(status, "Content-Type: text/html", body=page)]]
                result = self.fails(1, "push", "--compression", "uncompressed", "x", proxy.host + "/x:1", timeout=40, env=FEW)
                self.assertIn(words, result.err)
                self.assertNotIn("<p>", result.err)

    def test_answers_that_come_early(self):
        # Nobody reads the body, and the connection is reset behind the answer.
        self.image("x", [24 * MIB, 100000])
        page = b"<html><head><title>502 Bad\n Gateway</title></head><body>" + b"<p>no</p>\n" * 8000 + b"</body></html>"
        for answer, words in (
            (canned("413 Payload Too Large"), "(status 413)"),
            (canned("403 Forbidden", body=b'{"errors":[{"code":"DENIED","message":"quota is used up"}]}'), "(status 403, DENIED: quota is used up)"),
            (canned("429 Too Many Requests", "Retry-After: 0"), "(status 429)"),
            (canned("500 Internal Server Error", "Retry-After: 0"), "(status 500)"),
            (canned("502 Bad Gateway", "Retry-After: 0", "Content-Type: text/html", body=page), "(status 502, 502 Bad Gateway)"),
        ):
            with self.subTest(words=words):
                proxy = FaultProxy(self.spec_registry().host)
                proxy.rude = True
                proxy.answers = [["PUT .*digest=|PATCH", 1000, answer]]
                result = self.fails(1, "push", "--compression", "uncompressed", "x", proxy.host + "/x:1", timeout=60, env=FEW)
                self.assertIn(words, result.err)
                self.assertNotIn("connection broke", result.err)

    def test_registry_that_never_takes_it(self):
        server = self.spec_registry()
        proxy = FaultProxy(server.host)
        self.image("x", [MIB])
        proxy.answers = [["PUT .*digest=", 1000, canned("500 Internal Server Error", "Retry-After: 0")]]
        result = self.fails(1, "push", "x", proxy.host + "/x:1", timeout=300, env=FEW)
        self.assertIn("has a problem of its own", result.err)
        self.assertFalse(server.manifests)


class Pull(FaultCase):
    def pull_through(self, megabytes=8, timeout="3", **faults):
        server = self.docker_registry()
        layer = self.pushed_base(server, megabytes)
        proxy = FaultProxy(server.host)
        for name, value in faults.items():
            setattr(proxy, name, value)
        started = time.time()
        self.ok("pull", proxy.host + "/base", env={"LAMINA_REGISTRY_TIMEOUT": timeout})
        self.store_blob(layer)
        return proxy, layer, time.time() - started

    def test_resets(self):
        proxy, layer, _ = self.pull_through(megabytes=24, reset_down=[3 * (i + 1) * MIB for i in range(6)])
        self.assertEqual(proxy.faults, 6)
        # What a reset finds in the buffers of the way is lost.
        self.assertLess(proxy.down, layer["size"] * 1.5)

    def test_truncated(self):
        self.assertEqual(self.pull_through(truncate_down=3 * MIB)[0].faults, 1)

    def test_stalled(self):
        proxy, _, seconds = self.pull_through(stall_down=3 * MIB, timeout="2")
        self.assertEqual(proxy.faults, 1)
        self.assertGreater(seconds, 2)

    def test_slow_is_not_dead(self):
        # Slower than the time limit as a whole, but something always moves.
        _, _, seconds = self.pull_through(megabytes=3, rate=700 * 1024, timeout="1")
        self.assertGreater(seconds, 3)

    def test_busy(self):
        answers = [["GET .*/manifests/", 2, canned("429 Too Many Requests", "Retry-After: 1")], ["GET .*/blobs/", 2, canned("503 Service Unavailable")], ["GET .*/blobs/", 1, b""]]
        self.assertEqual(self.pull_through(answers=answers)[0].faults, 5)

    def test_continued_by_a_later_run(self):
        server = self.docker_registry()
        layer = self.pushed_base(server, 16)
        proxy = FaultProxy(server.host)
        proxy.reset_down, proxy.refuse_after = [12 * MIB], 1
        result = self.fails(1, "pull", proxy.host + "/base", timeout=60, env=FEW)
        self.assertIn(layer["digest"], result.err)
        kept = os.path.getsize(os.path.join(self.store, "partial", layer["digest"][7:]))
        # A reset throws away what was on the way.
        self.assertGreater(kept, 4 * MIB)
        before, proxy.refuse = proxy.down, False
        self.ok("pull", proxy.host + "/base")
        self.store_blob(layer)
        self.assertLess(proxy.down - before, layer["size"] - kept + MIB)
        self.assertEqual(os.listdir(os.path.join(self.store, "partial")), [])

    def test_continued_after_a_kill(self):
        server = self.docker_registry()
        layer = self.pushed_base(server, 16)
        proxy = FaultProxy(server.host)
        proxy.rate = 16 * MIB
        process = self.start("pull", proxy.host + "/base")
        while proxy.down < 8 * MIB:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        before, proxy.rate = proxy.down, None
        # This time by a build that needs the files.
        self.write("Dockerfile", "FROM %s/base\nCOPY --from=%s/base /file /again\n" % (proxy.host, proxy.host))
        self.build("-t", "x")
        self.assertLess(proxy.down - before, 11 * MIB)
        self.store_blob(layer)

    def test_a_damaged_part_is_dropped(self):
        server = self.docker_registry()
        layer = self.pushed_base(server, 8)
        proxy = FaultProxy(server.host)
        proxy.reset_down, proxy.refuse_after = [4 * MIB], 1
        self.fails(1, "pull", proxy.host + "/base", timeout=60, env=FEW)
        with open(os.path.join(self.store, "partial", layer["digest"][7:]), "r+b") as f:
            f.seek(MIB)
            f.write(b"damage")
        proxy.refuse = False
        self.ok("pull", proxy.host + "/base")
        self.store_blob(layer)


if __name__ == "__main__":
    unittest.main()
