"""Credentials, certificates, mirrors, redirects and proxies, against registries that insist on them."""

from harness import *
from servers import *

HELPER = """#!/bin/sh
# Keeps one entry a server in files; protocol of docker's credential helpers.
echo "$*" >> %(log)s
read -r input
case $1 in
  get) cat %(dir)s/$(echo "$input" | tr -c 'a-z0-9\\n' _) 2>/dev/null || { echo "credentials not found"; exit 1; } ;;
  store) server=$(echo "$input" | sed 's/.*"ServerURL":"\\([^"]*\\)".*/\\1/'); echo "$input" > %(dir)s/$(echo "$server" | tr -c 'a-z0-9\\n' _) ;;
  erase) rm %(dir)s/$(echo "$input" | tr -c 'a-z0-9\\n' _) ;;
esac
"""


class AccessCase(ServerCase):
    def config(self, content):
        return self.write(".docker/config.json", json.dumps(content), where=self.home)

    def registries_conf(self, text):
        return self.write(".config/containers/registries.conf", text, where=self.home)

    def auth(self, user, password):
        return base64.b64encode(("%s:%s" % (user, password)).encode()).decode()

    def helper(self):
        directory = os.path.join(self.dir, "helper")
        os.makedirs(directory, exist_ok=True)
        log = os.path.join(directory, "log")
        self.write("bin/docker-credential-files", HELPER % {"log": log, "dir": directory}, mode=0o755, where=self.dir)
        return log, {"PATH": os.path.join(self.dir, "bin") + ":" + os.environ["PATH"]}

    def small_image(self, name="x"):
        self.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        self.build("-t", name)


class Tokens(AccessCase):
    def token_registry(self, **options):
        service = TokenService(tempfile.mkdtemp(prefix="token-", dir=self.dir), **options)
        return service, self.docker_registry(auth=service.auth())

    def push_and_pull(self, host, secrets, **kw):
        self.small_image()
        trace = os.path.join(self.home, "trace.json")
        output = self.ok("push", "x", host + "/team/app:1", **kw).text
        output += self.ok("pull", host + "/team/app:1", "--trace", trace, **kw).text
        if os.path.exists(trace):
            output += read(trace)
        for secret in secrets:
            self.assertNotIn(secret, output)

    def test_password(self):
        service, server = self.token_registry()
        self.config({"auths": {server.host: {"auth": self.auth("joe", "secret-word")}}})
        self.push_and_pull(server.host, ["secret-word", self.auth("joe", "secret-word")])
        self.assertIn(("GET", ["repository:team/app:pull,push"]), service.granted)
        # One token served many requests.
        self.assertLessEqual(len(service.granted), 3)

    def test_oauth2_only(self):
        service, server = self.token_registry(get=False)
        self.config({"auths": {server.host: {"auth": self.auth("joe", "secret-word")}}})
        self.push_and_pull(server.host, ["secret-word"])
        self.assertEqual({method for method, _ in service.granted}, {"POST"})

    def test_identity_token(self):
        service, server = self.token_registry(get=False, refresh=["identity-secret"])
        self.config({"auths": {server.host: {"identitytoken": "identity-secret"}}})
        self.push_and_pull(server.host, ["identity-secret"])

    def test_wrong_password(self):
        _, server = self.token_registry()
        self.config({"auths": {server.host: {"auth": self.auth("joe", "wrong-word")}}})
        self.small_image()
        result = self.fails(1, "push", "x", server.host + "/team/app:1")
        self.assertIn("is not given access", result.err)
        self.assertNotIn("wrong-word", result.text)

    def test_token_expires_in_the_middle(self):
        service, server = self.token_registry(life=4)
        self.config({"auths": {server.host: {"auth": self.auth("joe", "secret-word")}}})
        lines = ["FROM scratch"]
        for i in range(8):
            self.write("f%d" % i, os.urandom(MIB))
            lines.append("COPY f%d /" % i)
        self.write("Dockerfile", "\n".join(lines) + "\n")
        self.build("-t", "x")
        proxy = FaultProxy(server.host)
        proxy.rate = MIB * 2 // 3
        self.config({"auths": {proxy.host: {"auth": self.auth("joe", "secret-word")}}})
        self.ok("push", "x", proxy.host + "/team/app:1")
        self.assertGreater(len(service.granted), 1)
        self.ok("pull", proxy.host + "/team/app:1")

    def test_login_asks_the_registry(self):
        _, server = self.token_registry()
        result = self.fails(1, "login", "-u", "joe", "--password-stdin", server.host, stdin=b"wrong-word")
        self.assertNotIn("wrong-word", result.text)
        self.assertFalse(os.path.exists(os.path.join(self.home, ".docker/config.json")))
        self.ok("login", "-u", "joe", "--password-stdin", server.host, stdin=b"secret-word\n")
        self.small_image()
        self.ok("push", "x", server.host + "/team/app:1")


    def test_login_obtains_an_identity_token(self):
        for options in ({"offline": ["GET"]}, {"offline": ["POST"]}, {"offline": ["POST"], "get": False}):
            with self.subTest(options=options):
                service, server = self.token_registry(**options)
                result = self.ok("login", "-u", "joe", "--password-stdin", server.host, stdin=b"secret-word\n")
                entry = json.loads(read(self.home, ".docker/config.json"))["auths"][server.host]
                self.assertEqual(entry, {"auth": self.auth("joe", ""), "identitytoken": service.refresh[0]})
                self.assertNotIn(service.refresh[0], result.text)
                # The password is needed no more.
                service.password = "changed"
                self.push_and_pull(server.host, [service.refresh[0]])
                service.refresh.clear()
                result = self.fails(1, "push", "x", server.host + "/team/app:2")
                self.assertIn("is not given access", result.err)
                self.ok("logout", server.host)
                self.assertNotIn(server.host, json.loads(read(self.home, ".docker/config.json"))["auths"])

    def test_login_without_an_identity_token(self):
        for options in ({}, {"get": False}, {"offline": ["GET", "POST"], "broken": True}):
            with self.subTest(options=options):
                _, server = self.token_registry(**options)
                self.ok("login", "-u", "joe", "--password-stdin", server.host, stdin=b"secret-word\n")
                self.assertEqual(json.loads(read(self.home, ".docker/config.json"))["auths"][server.host], {"auth": self.auth("joe", "secret-word")})
                self.push_and_pull(server.host, ["secret-word"])

    def test_identity_token_in_a_helper(self):
        service, server = self.token_registry(offline=["POST"])
        log, env = self.helper()
        self.config({"credsStore": "files"})
        self.ok("login", "-u", "joe", "--password-stdin", server.host, stdin=b"secret-word\n", env=env)
        stored = json.loads(read(os.path.dirname(log), re.sub("[^a-z0-9]", "_", server.host)))
        self.assertEqual((stored["Username"], stored["Secret"]), ("<token>", service.refresh[0]))
        self.push_and_pull(server.host, [service.refresh[0]], env=env)


class Credentials(AccessCase):
    def test_helper_for_one_registry(self):
        server = self.spec_registry(basic="joe:secret-word")
        log, env = self.helper()
        self.config({"credHelpers": {server.host: "files"}})
        self.ok("login", "-u", "joe", "--password-stdin", server.host, stdin=b"secret-word", env=env)
        self.assertNotIn("secret-word", read(self.home, ".docker/config.json") + read(log))
        self.small_image()
        self.ok("push", "x", server.host + "/a:1", env=env)
        self.ok("logout", server.host, env=env)
        self.fails(1, "push", "x", server.host + "/a:2", env=env)
        self.assertEqual(set(read(log).split()), {"store", "get", "erase"})

    def test_store_for_all(self):
        server = self.spec_registry(basic="joe:secret-word")
        _, env = self.helper()
        self.config({"credsStore": "files"})
        self.ok("login", "-u", "joe", "--password-stdin", server.host, stdin=b"secret-word", env=env)
        self.small_image()
        self.ok("push", "x", server.host + "/a:1", env=env)

    def test_each_repository_its_own(self):
        server = self.spec_registry(basic="joe:secret-word")
        self.small_image()
        self.config({"auths": {server.host: {"auth": self.auth("joe", "wrong-word")}, server.host + "/team": {"auth": self.auth("joe", "secret-word")}}})
        self.ok("push", "x", server.host + "/team/app:1")
        self.fails(1, "push", "x", server.host + "/other/app:1")

    def test_nothing_goes_to_another_host(self):
        server = self.spec_registry(basic="joe:secret-word")
        recorder = Recorder()
        self.config({"auths": {server.host: {"auth": self.auth("joe", "secret-word")}}})
        self.small_image()
        self.ok("push", "x", server.host + "/a:1")
        server.options["redirect"] = "http://" + recorder.host
        result = self.fails(1, "pull", server.host + "/a:1", store=os.path.join(self.dir, "other"))
        self.assertTrue(recorder.requests)
        self.assertNotIn("signature=not-to-be-shown", result.text)
        server.options["redirect"] = None
        server.options.update(page=1, link_host="http://" + recorder.host)
        self.ok("push", "x", server.host + "/a:2")
        self.fails(1, "tags", server.host + "/a")
        self.assertGreater(len(recorder.requests), 1)
        self.assertEqual({authorization for _, authorization in recorder.requests}, {None})

    def test_redirect_to_a_file_of_this_machine(self):
        server = self.spec_registry()
        self.small_image()
        self.ok("push", "x", server.host + "/a:1")
        server.options["redirect"] = "file://"
        result = self.fails(1, "pull", server.host + "/a:1", store=os.path.join(self.dir, "other"))
        self.assertIn("the registry redirects to file:///v2/a/blobs/", result.err)
        self.assertIn("which is no http or https URL", result.err)

    def test_warning_is_shown_once(self):
        server = self.spec_registry(warning="this registry closes in May")
        self.small_image()
        result = self.ok("push", "x", server.host + "/a:1")
        self.assertEqual(result.err.count("this registry closes in May"), 1)


class Certified(AccessCase):
    def setUp(self):
        super().setUp()
        self.certificates = Certificates(tempfile.mkdtemp(prefix="tls-", dir=self.dir))
        self.small_image()

    def trust(self, host, client=False):
        with open(self.certificates.ca) as f:
            self.write(".config/containers/certs.d/%s/ca.crt" % host, f.read(), where=self.home)
        if client:
            for path, name in zip(self.certificates.client, ("client.cert", "client.key")):
                self.write(".config/containers/certs.d/%s/%s" % (host, name), read(path), where=self.home)

    def test_private_authority(self):
        server = self.docker_registry(tls=self.certificates.server)
        result = self.fails(1, "push", "x", server.host + "/a:1")
        self.assertIn("certificate is not trusted", result.err)
        self.trust(server.host)
        self.ok("push", "x", server.host + "/a:1")
        self.ok("pull", server.host + "/a:1")

    def test_insecure_means_unchecked(self):
        server = self.docker_registry(tls=self.certificates.server)
        self.ok("push", "--insecure-registry", server.host, "x", server.host + "/a:1")

    def layered(self, sizes):
        lines = ["FROM scratch"]
        for i, size in enumerate(sizes):
            self.write("f%d" % i, os.urandom(size))
            lines.append("COPY f%d /" % i)
        self.write("Dockerfile", "\n".join(lines) + "\n")
        self.build("-t", "x")

    def shared(self, sizes):
        """A docker-registry that speaks HTTP/2 behind a proxy that counts, and an image to push to it."""
        server = self.docker_registry(tls=self.certificates.server)
        proxy = FaultProxy(server.host)
        self.trust(proxy.host)
        self.layered(sizes)
        return server, proxy

    def test_exchanges_share_a_connection(self):
        _, proxy = self.shared([30000] * 24)
        self.ok("push", "x", proxy.host + "/a:1")
        self.assertEqual(proxy.connections, 1)
        self.ok("pull", proxy.host + "/a:1", store=os.path.join(self.dir, "other"))
        self.assertEqual(proxy.connections, 2)
        # Long bodies have connections of their own.
        proxy.connections = 0
        self.layered([3 * MIB] * 6 + [30000] * 6)
        self.ok("push", "x", proxy.host + "/a:2")
        self.assertIn(proxy.connections, range(2, 1 + 4 + 1))

    def test_a_broken_shared_connection(self):
        _, proxy = self.shared([100000] * 24)
        proxy.reset_up = [400000 * (i + 1) for i in range(5)]
        self.ok("push", "x", proxy.host + "/a:1")
        self.assertEqual(proxy.faults, 5)
        proxy.reset_down = [proxy.down + 400000 * (i + 1) for i in range(5)]
        self.ok("pull", proxy.host + "/a:1", store=os.path.join(self.dir, "other"))
        self.assertEqual(proxy.faults, 10)

    def test_a_silent_shared_connection(self):
        _, proxy = self.shared([100000] * 12)
        self.ok("push", "x", proxy.host + "/a:1")
        proxy.stall_down = proxy.down + 500000
        started = time.time()
        self.ok("pull", proxy.host + "/a:1", store=os.path.join(self.dir, "other"), env={"LAMINA_REGISTRY_TIMEOUT": "2"})
        self.assertEqual(proxy.faults, 1)
        self.assertIn(int(time.time() - started), range(2, 30))

    def test_interrupted_on_a_shared_connection(self):
        _, proxy = self.shared([100000] * 12)
        self.ok("push", "x", proxy.host + "/a:1")
        proxy.stall_down = proxy.down + 500000
        process = self.start("pull", "--store", os.path.join(self.dir, "other"), proxy.host + "/a:1")
        while not proxy.faults:
            time.sleep(0.05)
        time.sleep(0.5)
        started = time.time()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)
        self.assertLess(time.time() - started, 2)

    def test_a_manifest_larger_than_a_buffer(self):
        _, proxy = self.shared([1000])
        layout = os.path.join(self.dir, "large")
        write_layout(layout, tar_of([("x", 0o644, b"x")]))
        index = json.loads(read(layout, "index.json"))
        path = os.path.join(layout, "blobs/sha256", index["manifests"][0]["digest"][7:])
        manifest = json.loads(read(path))
        manifest["annotations"] = {"filler": base64.b64encode(os.urandom(2800000)).decode()}
        data = json.dumps(manifest).encode()
        index["manifests"][0].update(digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))
        self.write("blobs/sha256/" + hashlib.sha256(data).hexdigest(), data, where=layout)
        self.write("index.json", json.dumps(index), where=layout)
        self.ok("copy", "oci:" + layout, proxy.host + "/large:1")
        self.assertEqual(self.ok("inspect", "--remote", "--raw", "manifest", proxy.host + "/large:1", binary=True).out, data)

    def test_client_certificate(self):
        server = self.docker_registry(tls=self.certificates.server, client_ca=self.certificates.ca)
        self.trust(server.host)
        self.fails(1, "push", "x", server.host + "/a:1", env={"LAMINA_REGISTRY_RETRIES": "1"})
        self.trust(server.host, client=True)
        self.ok("push", "x", server.host + "/a:1")
        os.unlink(os.path.join(self.home, ".config/containers/certs.d", server.host, "client.key"))
        self.assertIn("lacks its twin client.key", self.fails(1 + 1, "push", "x", server.host + "/a:2").err)


class Places(AccessCase):
    def test_mirrors(self):
        main, mirror = self.spec_registry(), self.spec_registry()
        self.small_image()
        self.ok("push", "x", mirror.host + "/copies/app:1")
        dead = "127.0.0.1:%d" % free_port()
        self.registries_conf('[[registry]]\nprefix = "apps.test/team"\nlocation = "%s/team"\ninsecure = true\n'
                             '[[registry.mirror]]\nlocation = "%s/x"\n[[registry.mirror]]\nlocation = "%s/copies"\ninsecure = true\n' % (main.host, dead, mirror.host))
        self.write("Dockerfile", "FROM apps.test/team/app:1\nCOPY Dockerfile /second\n")
        self.build("-t", "y")
        self.assertFalse([r for r in main.requests if "/blobs/" in r[1]])
        # What the mirrors lack comes from the place itself.
        self.ok("push", "x", main.host + "/team/only-here:1")
        self.ok("pull", "apps.test/team/only-here:1", store=os.path.join(self.dir, "other"))
        self.assertTrue(main.requests)

    def test_mirror_with_wrong_bytes(self):
        main, mirror = self.spec_registry(), self.spec_registry()
        self.small_image()
        self.ok("push", "x", main.host + "/app:1")
        self.ok("push", "x", mirror.host + "/app:1")
        for name in os.listdir(mirror.directory):
            with open(os.path.join(mirror.directory, name), "r+b") as f:
                f.write(b"damage")
        self.registries_conf('[[registry]]\nlocation = "%s"\n[[registry.mirror]]\nlocation = "%s"\n' % (main.host, mirror.host))
        result = self.fails(1, "pull", main.host + "/app:1", store=os.path.join(self.dir, "other"))
        self.assertIn("damaged", result.err)

    def test_blocked(self):
        server = self.spec_registry()
        self.small_image()
        path = self.registries_conf('[[registry]]\nlocation = "%s"\nblocked = true\n' % server.host)
        for call in (("pull", server.host + "/a"), ("push", "x", server.host + "/a")):
            result = self.fails(1, *call)
            self.assertIn("is blocked by " + path, result.err)
        self.assertEqual(server.requests, [])

    def test_mistakes_are_named(self):
        path = self.registries_conf('[[registry]]\nlocation = "apps.test"\ninsecure = "yes"\n')
        self.assertIn(path + ":3", self.fails(2, "pull", "apps.test/a").err)
        self.registries_conf("[[registry]\n")
        self.assertIn(path + ":1", self.fails(2, "pull", "apps.test/a").err)

    def test_proxy(self):
        server = self.spec_registry()
        self.small_image()
        # The proxy is asked for a host that no DNS knows; forwarding to the registry answers for it.
        proxy = FaultProxy(server.host)
        env = {"HTTP_PROXY": "http://user:proxy-secret@" + proxy.host}
        self.registries_conf('[[registry]]\nlocation = "apps.test:80"\ninsecure = true\n')
        self.write_absolute_urls(server)
        result = self.ok("push", "x", "apps.test:80/a:1", env=env)
        self.assertGreater(proxy.up, 0)
        self.assertNotIn("proxy-secret", result.text)
        seen = proxy.up
        result = self.fails(1, "pull", "apps.test:80/a:1", env={**env, "NO_PROXY": "apps.test", "LAMINA_REGISTRY_RETRIES": "1"})
        self.assertIn("resolve host", result.err)
        self.assertEqual(proxy.up, seen)

    def write_absolute_urls(self, server):
        """A proxy is sent whole URLs; the registry behind this one understands them."""
        handler = server.server.RequestHandlerClass
        inner = handler.handle_one

        def handle(self):
            self.path = re.sub("^http://[^/]*", "", self.path)
            inner(self)

        for verb in ("GET", "HEAD", "POST", "PUT", "PATCH"):
            setattr(handler, "do_" + verb, handle)


if __name__ == "__main__":
    unittest.main()
