"""Layers that go to the registry while the build goes on."""

from harness import *
from servers import *
from test_registry_faults import FaultCase, random_file


class EarlyPush(FaultCase):
    def copy_of(self, megabytes):
        random_file(os.path.join(self.context, "data"), megabytes * MIB)
        self.dockerfile("FROM BUSYBOX\nCOPY data /data\n")

    def assert_pushed(self, name):
        """Another reader finds the file of the context in the image."""
        copy = os.path.join(self.dir, "copy")
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + name, "dir:" + copy], check=True)
        with open(copy + "/manifest.json") as f:
            layer = json.load(f)["layers"][-1]["digest"][7:]
        with tarfile.open(os.path.join(copy, layer)) as tar, open(os.path.join(self.context, "data"), "rb") as data:
            self.assertEqual(tar.extractfile("data").read(), data.read())

    def test_layers_go_up_while_later_steps_run(self):
        server = self.spec_registry()
        self.dockerfile("FROM BUSYBOX\nRUN head -c 6000000 /dev/urandom > /first\nRUN sleep 3; date +%s > /second\n")
        self.build("-t", server.host + "/early:1", "--push")
        ended = int(self.run_in(server.host + "/early:1", "cat", "/second"))
        self.assertTrue([1 for r, at in zip(server.requests, server.times) if r[0] in ("PUT", "PATCH") and at < ended], server.requests)
        self.assert_blobs_whole(server.directory)

    def test_a_blob_goes_up_while_it_is_made(self):
        server = self.spec_registry()
        self.copy_of(20)
        self.build("-t", server.host + "/grown:1", "--push")
        self.assertGreaterEqual(len([r for r in server.requests if r[0] == "PATCH"]), 2)
        self.assert_blobs_whole(server.directory)
        self.assertFalse([n for n in os.listdir(server.directory) if n.startswith("upload-")], "no session is left open")
        self.assert_pushed(server.host + "/grown:1")
        # What is in the store is the blob alone; everything else is made from it.
        requests = len(server.requests)
        self.assertIn("steps were cached", self.build("-t", server.host + "/grown:2", "--push").err)
        self.assertFalse([r for r in server.requests[requests:] if r[0] in ("PATCH", "POST")])
        self.assertIn("20971520", self.run_in(server.host + "/grown:1", "wc", "-c", "/data"))
        self.ok("fsck")
        self.build("-o", "type=oci,compression=uncompressed,dest=" + os.path.join(self.dir, "plain.tar"))
        self.write("Dockerfile", "FROM %s/grown:1\nRUN test $(wc -c < /data) = 20971520\n" % server.host)
        self.build("-t", "above")

    def test_breaks(self):
        for number, server in enumerate((self.spec_registry(), self.spec_registry(keep_partial=False), self.docker_registry())):
            with self.subTest(number=number):
                proxy = FaultProxy(server.host)
                proxy.reset_up = [3 * MIB, 9 * MIB, 10 * MIB, 17 * MIB]
                self.copy_of(20)
                name = "%s/broken:%d" % (proxy.host, number)
                self.build("-t", name, "--push")
                self.assertEqual(proxy.faults, 4)
                self.assert_pushed(name)

    def test_a_slow_registry_does_not_hold_the_step(self):
        server = self.spec_registry()
        proxy = FaultProxy(server.host)
        proxy.rate = 4 * MIB
        self.copy_of(24)
        trace = os.path.join(self.dir, "trace.json")
        began = time.time()
        self.build("-t", proxy.host + "/slow:1", "--push", "--trace=" + trace)
        took = time.time() - began
        with open(trace) as f:
            events = json.load(f)
        events = events["traceEvents"] if isinstance(events, dict) else events
        added = [e["dur"] / 1e6 for e in events if e.get("name", "").startswith("add ") and "COPY data" in e["name"]]
        self.assertEqual(len(added), 1)
        self.assertGreater(took, 5)
        self.assertLess(added[0], took / 2)
        self.assertGreaterEqual(len([r for r in server.requests if r[0] == "PATCH"]), 2)
        self.assertFalse([n for n in os.listdir(server.directory) if n.startswith("upload-")], "no session is left open")
        self.assert_pushed(server.host + "/slow:1")

    def test_registry_that_takes_no_chunks(self):
        proxy = FaultProxy(self.spec_registry().host)
        proxy.answers = [["PATCH ", 100, canned("405 Method Not Allowed")]]
        self.copy_of(20)
        self.build("-t", proxy.host + "/whole:1", "--push")
        self.assert_pushed(proxy.host + "/whole:1")

    def test_a_layer_that_is_known_from_elsewhere_without_its_bytes(self):
        """The store knows a pulled layer, of another compression, whose blob it never fetched; the build makes the same."""
        server = self.spec_registry()
        epoch = {"SOURCE_DATE_EPOCH": "1700000000"}
        random_file(os.path.join(self.context, "data"), 6 * MIB)
        self.write("Dockerfile", "FROM scratch\nCOPY data /data\n")
        self.build("-o", "type=registry,compression=zstd,name=%s/twin:1" % server.host, env=epoch)
        other = dict(epoch, LAMINA_STORE=os.path.join(self.dir, "other-store"))
        self.write("Above", "FROM %s/twin:1\nLABEL a=b\n" % server.host)
        self.ok("build", "-q", "-f", os.path.join(self.context, "Above"), "-t", "above", self.context, env=other)
        self.ok("build", "-q", "--push", "-t", server.host + "/elsewhere:1", self.context, env=other)
        self.assert_pushed(server.host + "/elsewhere:1")

    def test_a_failing_step_does_not_wait_for_compression(self):
        server = self.spec_registry()
        self.dockerfile("FROM BUSYBOX\nRUN head -c 400000000 /dev/urandom > /first\nRUN sleep 1; date +%s; false\n")
        result = self.fails(1, "build", "--progress=plain", "-t", server.host + "/failed:1", "--push", self.context)
        failed = int(re.search(r"(?m)^#\d+ [0-9.]+ (\d{10})$", result.err)[1])
        self.assertLess(time.time() - failed, 4)

    def test_a_failing_build_pushes_no_image(self):
        server = self.spec_registry()
        self.dockerfile("FROM BUSYBOX\nRUN head -c 6000000 /dev/urandom > /first\nRUN sleep 1; false\n")
        self.fails(1, "build", "-t", server.host + "/failed:1", "--push", self.context)
        self.assertEqual(server.manifests, {})
