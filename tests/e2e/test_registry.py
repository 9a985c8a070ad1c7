"""Registries that are down, locked, or wrong."""

import subprocess

from harness import *


class RegistryErrors(TestCase):
    def test_registry_down(self):
        name = "127.0.0.1:%d/x" % free_port()
        self.write("Dockerfile", "FROM %s\n" % name)
        result = self.fails(1, "build", self.context)
        self.assertIn("connection refused", result.err)
        self.assertIn(name, result.err)
        self.assertIn("Dockerfile:1:6", result.err)

    def test_unknown_tag(self):
        self.write("Dockerfile", "FROM %s:nope\n" % busybox())
        result = self.fails(1, "build", self.context)
        self.assertIn("busybox:nope", result.err)
        self.assertRegex(result.err, "does not have|not found|no image")

    def locked(self):
        htpasswd = os.path.join(WORK, "htpasswd")
        if "locked" not in globals():
            subprocess.run(["htpasswd", "-Bbc", htpasswd, "joe", "secret-word"], check=True, capture_output=True)
            globals()["locked"] = Registry(htpasswd)
            push_layout(busybox_layout(), globals()["locked"].host + "/busybox:latest", "--dest-creds", "joe:secret-word")
        return globals()["locked"]

    def test_wrong_and_right_credentials(self):
        host = self.locked().host
        self.write("Dockerfile", "FROM %s/busybox\nRUN true > /x\n" % host)
        result = self.fails(1, "build", self.context)
        self.assertIn("refuses access", result.err)
        self.assertIn("there are no credentials for " + host, result.err)
        self.assertIn("build login", result.err)

        result = self.fails(1, "login", "--username", "joe", "--password-stdin", host, stdin=b"wrong-word")
        self.assertIn("does not accept these credentials of joe", result.err)
        self.write(".docker/config.json", json.dumps({"auths": {host: {"auth": base64.b64encode(b"joe:wrong-word").decode()}}}), where=self.home)
        result = self.fails(1, "build", self.context)
        self.assertNotIn("wrong-word", result.text)
        self.assertNotIn(base64.b64encode(b"joe:wrong-word").decode(), result.text)

        self.ok("login", "--username", "joe", "--password-stdin", host, stdin=b"secret-word\n")
        config = os.path.join(self.home, ".docker/config.json")
        self.assertEqual(os.stat(config).st_mode & 0o777, 0o600)
        self.build("-t", host + "/me/app-%s:1" % AS, "--push")
        self.ok("logout", host)
        self.fails(1, "build", "--no-cache", "--pull=always", self.context)

    def test_authfile(self):
        host = self.locked().host
        auth = base64.b64encode(b"joe:secret-word").decode()
        path = self.write("auth.json", json.dumps({"auths": {host: {"auth": auth}}}), where=self.home)
        self.write("Dockerfile", "FROM %s/busybox\n" % host)
        self.build("--authfile", path, "-t", "x")
        self.write("auth.json", "{broken", where=self.home)
        result = self.fails(1, "build", "--pull=always", "--authfile", path, self.context)
        self.assertIn(path, result.err)

    def damaged(self, change):
        """A base image whose layer blob was changed behind the registry's back."""
        host = registry().host
        name = "%s/damaged-%d" % (host, free_port())
        layout = os.path.join(self.dir, "layout")
        write_layout(layout, tar_of([("file", 0o644, os.urandom(300000))]))
        push_layout(layout, name)
        layer = skopeo_inspect(name, "--raw")["layers"][0]
        path = registry().blob_path(layer["digest"])
        with open(path, "rb") as f:
            data = f.read()
        with open(path, "wb") as f:
            f.write(change(data))
        self.write("Dockerfile", "FROM %s\nCOPY Dockerfile /x\n" % name)
        result = self.fails(1, "build", "-t", "x", "-o", "type=oci,dest=" + os.path.join(self.dir, "out.tar"), self.context, timeout=120)
        self.assertIn(layer["digest"], result.err)
        self.assertFalse(os.path.exists(os.path.join(self.dir, "out.tar")))
        # Once it is whole again, so is the build: nothing wrong was kept.
        with open(path, "wb") as f:
            f.write(data)
        self.build("-t", "x", "-o", "type=oci,dest=" + os.path.join(self.dir, "out.tar"))
        return result

    def test_digest_mismatch(self):
        result = self.damaged(lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
        self.assertIn("damaged", result.err)

    def test_truncated_blob(self):
        self.damaged(lambda data: data[: len(data) // 2])

    def test_docker_media_types(self):
        host = registry().host
        name = "%s/v2s2-%s:1" % (host, AS)
        push_layout(busybox_layout(), name, "--format", "v2s2")
        self.assertIn("docker.distribution", skopeo_inspect(name, "--raw")["mediaType"])
        self.write("Dockerfile", "FROM %s\nRUN echo hi > /x\n" % name)
        self.build("-t", name + "-new", "--push")
        raw = skopeo_inspect(name + "-new", "--raw")
        self.assertTrue(all(layer["mediaType"].startswith("application/vnd.oci.image.layer") for layer in raw["layers"]), raw)

    def test_what_was_pulled_is_pushed_byte_for_byte(self):
        host = registry().host
        for kind in ("v2s2", "oci"):
            name = "%s/whole-%s-%s:1" % (host, kind, AS)
            push_layout(busybox_layout(), name, "--format", kind)
            self.ok("pull", name)
            self.ok("tag", name, name + "-again")
            self.ok("push", name + "-again")
            self.assertEqual(skopeo_inspect(name + "-again")["Digest"], skopeo_inspect(name)["Digest"])

    def test_pull_never_and_missing(self):
        self.write("Dockerfile", "FROM %s\n" % busybox())
        result = self.fails(1, "build", "--pull=never", self.context)
        self.assertIn("--pull=never", result.err)
        self.ok("pull", busybox())
        self.build("--pull=never", "-t", "x")

    def test_base_in_store_needs_no_network(self):
        other = Registry()
        push_layout(busybox_layout(), other.host + "/busybox:latest")
        self.write("Dockerfile", "FROM %s/busybox\nRUN echo 1 > /x\n" % other.host)
        self.build("-t", "x")
        other.stop()
        self.write("Dockerfile", "FROM %s/busybox\nRUN echo 2 > /x\n" % other.host)
        self.build("-t", "x")


if __name__ == "__main__":
    unittest.main()
