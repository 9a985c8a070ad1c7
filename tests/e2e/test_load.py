"""--load: into a docker and a podman that the test starts, each on its own socket and directories."""

import threading

from harness import *


class Daemon:
    def __init__(self, place, command, socket_path, ready):
        self.log = open(os.path.join(place, "log"), "w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(600):
            if os.path.exists(socket_path) and subprocess.run(ready, capture_output=True).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.log.seek(0)
        raise RuntimeError("it does not start:\n" + self.log.read()[-3000:])

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class FakeDaemon:
    """Answers on a Unix socket what the test says."""

    def __init__(self, path, answer):
        self.path, self.answer, self.received = path, answer, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        break
                    data += more
                if not data:  # somebody only looked whether we listen
                    continue
                line = data.split(b"\r\n")[0].decode()
                if "/_ping" in line:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
                    continue
                self.received.append(data)
                while not data.endswith(b"0\r\n\r\n"):
                    more = connection.recv(65536)
                    if not more:
                        break
                    data += more
                self.received[-1] = data
                connection.sendall(self.answer)

    def stop(self):
        self.listener.close()


def answer(status, body):
    return ("HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)).encode()


class Errors(TestCase):
    """What does not depend on a daemon of somebody's."""

    def setUp(self):
        super().setUp()
        self.dockerfile("FROM BUSYBOX\nRUN echo hello > /hello\nCMD [\"cat\", \"/hello\"]\n")
        self.none = {"DOCKER_HOST": "", "XDG_RUNTIME_DIR": os.path.join(self.dir, "run")}
        if ROOT:  # no podman either; plain users' builds do not call it
            self.none["PATH"] = os.path.join(self.dir, "bin")

    def fake(self, reply):
        path = os.path.join(tempfile.mkdtemp(prefix="s", dir=WORK), "s")
        daemon = FakeDaemon(path, reply)
        self.addCleanup(daemon.stop)
        os.chmod(os.path.dirname(path), 0o755)
        os.chmod(path, 0o666)
        return daemon, {"DOCKER_HOST": "unix://" + path}

    @unittest.skipIf(os.path.exists("/var/run/docker.sock"), "a docker runs on this machine")
    def test_nothing_runs(self):
        result = self.fails(1, "build", "--load", self.context, env=self.none)
        self.assertIn("there is no running docker or podman to load the image into", result.err)
        for tried in ("unix:///var/run/docker.sock: ENOENT", "run/podman/podman.sock: ENOENT", "leave --load out"):
            self.assertIn(tried, result.err)
        self.assertNotIn("RUN echo", result.err, "nothing is built")
        self.assertIn("no running docker to load", self.fails(1, "build", "--load=docker", self.context, env=self.none).err)

    def test_addresses(self):
        for host, says in (("unix:///nowhere/x.sock", "unix:///nowhere/x.sock: ENOENT"), ("ssh://me@host", "through unix:// and tcp:// only"), ("tcp://127.0.0.1:%d" % free_port(), "connection refused")):
            self.assertIn(says, self.fails(1, "build", "--load", self.context, env={"DOCKER_HOST": host}).err)
        self.assertIn("--load=pdman: it is docker or podman", self.fails(2, "build", "--load=pdman", self.context).err)
        self.assertIn("takes an image for one platform", self.fails(2, "build", "--load", "--platform", "linux/amd64,linux/arm64", self.context).err)

    @unittest.skipIf(ROOT, "root may open every socket")
    def test_a_socket_of_others(self):
        daemon, env = self.fake(answer("200 OK", ""))
        os.chmod(daemon.path, 0o600)
        os.chown(daemon.path, 0, 0)
        result = self.fails(1, "build", "--load", self.context, env=env)
        self.assertIn("this user may not speak to docker at " + daemon.path, result.err)
        self.assertIn("usermod -aG docker", result.err)

    def test_the_daemon_says_no(self):
        for reply, says in ((answer("200 OK", json.dumps({"stream": "Loading"}) + "\n" + json.dumps({"errorDetail": {"message": "no space left on device"}, "error": "no space left on device"})), "no space left on device"),
                            (answer("500 Internal Server Error", json.dumps({"message": "the graph driver is on strike"})), "the graph driver is on strike"),
                            (answer("404 Not Found", "page not found"), "status 404 page not found"),
                            (b"", "loading the image into docker")):
            daemon, env = self.fake(reply)
            result = self.fails(1, "build", "-t", "x", "--load", self.context, env=env)
            self.assertIn(says, result.err)
            self.assertIn("while loading the image into docker at unix://" + daemon.path, result.err)

    def test_what_is_sent(self):
        daemon, env = self.fake(answer("200 OK", json.dumps({"stream": "Loaded image: x:1\n"})))
        result = self.build("-t", "x:1", "-o", "type=docker", env=env)
        self.assertIn("loaded into docker at unix://%s: Loaded image: x:1" % daemon.path, result.err)
        head, body = daemon.received[0].split(b"\r\n\r\n", 1)
        self.assertTrue(head.startswith(b"POST /images/load?quiet=1 HTTP/1.1"))
        tar = b""
        while body:
            size, body = body.split(b"\r\n", 1)
            tar += body[: int(size, 16)]
            body = body[int(size, 16) + 2 :]
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            self.assertEqual(json.load(archive.extractfile("manifest.json"))[0]["RepoTags"], ["x:1"])
        # Once, however often it is asked for.
        self.build("-t", "x:1", "-o", "type=docker", "--load", env=env)
        self.assertEqual(len(daemon.received), 2)

    def test_the_context_of_the_docker_command(self):
        daemon, env = self.fake(answer("200 OK", json.dumps({"stream": "Loaded image: x\n"})))
        name = hashlib.sha256(b"mine").hexdigest()
        self.write(".docker/contexts/meta/%s/meta.json" % name, json.dumps({"Name": "mine", "Endpoints": {"docker": {"Host": env["DOCKER_HOST"]}}}), where=self.home)
        self.write(".docker/config.json", json.dumps({"currentContext": "mine"}), where=self.home)
        self.assertIn("docker at unix://" + daemon.path, self.build("-t", "x", "--load").err)


@unittest.skipUnless(ROOT, "daemons of one's own take root")
class Docker(TestCase):
    @classmethod
    def setUpClass(cls):
        place = tempfile.mkdtemp(prefix="docker-", dir=WORK)
        cls.host = "unix://" + place + "/docker.sock"
        cls.tool = ["/usr/bin/docker", "-H", cls.host]
        cls.daemon = Daemon(place, ["dockerd", "--data-root", place + "/data", "--exec-root", place + "/exec", "--pidfile", place + "/pid", "--storage-driver", "overlay2",
                                    "--iptables=false", "--ip6tables=false", "--bridge=none", "-H", cls.host], place + "/docker.sock", [*cls.tool, "version"])

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def tearDown(self):
        subprocess.run("docker -H %s rmi -f $(docker -H %s images -q)" % (self.host, self.host), shell=True, capture_output=True)
        super().tearDown()

    def docker(self, *args):
        done = subprocess.run([*self.tool, *args], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_load_and_run(self):
        self.dockerfile("FROM BUSYBOX\nRUN echo hello > /hello && rm /bin/awk\nENV GREETING=yes\nCMD [\"cat\", \"/hello\"]\n")
        result = self.build("-t", "app:v1", "-t", "app:v2", "--load", env={"DOCKER_HOST": self.host})
        self.assertIn("loaded into docker at " + self.host, result.err)
        self.assertIn("Loaded image: app:v1", result.err)
        self.assertEqual(self.docker("run", "--rm", "--network", "none", "app:v2"), "hello\n")
        self.assertEqual(self.docker("run", "--rm", "--network", "none", "app:v1", "sh", "-c", "echo $GREETING; ls /bin/awk || echo gone"), "yes\ngone\n")
        self.assertEqual(self.docker("inspect", "-f", "{{.Id}}", "app:v1").strip(), result.out.strip(), "the same image id")

    def test_without_a_name(self):
        self.dockerfile("FROM BUSYBOX\nRUN echo 1 > /one\nCMD [\"cat\", \"/one\"]\n")
        image = self.build("-o", "type=docker,compression=gzip", env={"DOCKER_HOST": self.host}).out.strip()
        self.assertEqual(self.docker("run", "--rm", "--network", "none", image), "1\n")

    def test_its_own_words(self):
        # A daemon that cannot write any more.
        layers = os.path.join(os.path.dirname(self.host[7:]), "data/image/overlay2/imagedb/content/sha256")
        subprocess.run(["chattr", "+i", layers], check=True)
        try:
            self.dockerfile("FROM BUSYBOX\nRUN echo other > /other\n")
            result = self.fails(1, "build", "-t", "app", "--load", self.context, env={"DOCKER_HOST": self.host})
        finally:
            subprocess.run(["chattr", "-i", layers], check=True)
        self.assertIn("operation not permitted", result.err)
        self.assertIn("while loading the image into docker at " + self.host, result.err)


@unittest.skipUnless(ROOT, "daemons of one's own take root")
class Podman(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.mkdtemp(prefix="podman-", dir=WORK)
        cls.storage = os.path.join(cls.place, "storage.conf")
        with open(cls.storage, "w") as f:
            f.write('[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' % (cls.place, cls.place))
        # Limits that any machine allows, and no systemd.
        conf = os.path.join(cls.place, "containers.conf")
        with open(conf, "w") as f:
            f.write('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\ncgroup_manager = "cgroupfs"\nruntime = "runc"\n')
        cls.env = dict(os.environ, CONTAINERS_STORAGE_CONF=cls.storage, CONTAINERS_CONF=conf)

    def podman(self, *args):
        done = subprocess.run(["podman", *args], capture_output=True, text=True, env=self.env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def check(self, result):
        self.assertEqual(self.podman("run", "--rm", "--network=host", "app:v1"), "hello\n")
        self.assertIn("Loaded image", result.err)

    def setUp(self):
        super().setUp()
        self.dockerfile("FROM BUSYBOX\nRUN echo hello > /hello\nCMD [\"cat\", \"/hello\"]\n")

    def tearDown(self):
        subprocess.run(["podman", "rmi", "-af"], capture_output=True, env=self.env)
        super().tearDown()

    def test_service(self):
        path = self.place + "/podman.sock"
        log = open(os.path.join(self.place, "log"), "w")
        service = subprocess.Popen(["podman", "system", "service", "--time=0", "unix://" + path], env=self.env, stdout=log, stderr=log)
        try:
            for _ in range(300):
                if os.path.exists(path):
                    break
                time.sleep(0.1)
            result = self.build("-t", "app:v1", "--load=podman", env={"CONTAINER_HOST": "unix://" + path})
            self.assertIn("loaded into podman at unix://" + path, result.err)
            self.check(result)
        finally:
            service.terminate()
            service.wait()
            log.close()

    @unittest.skipIf(os.path.exists("/run/podman/podman.sock"), "a podman runs on this machine")
    def test_program(self):
        result = self.build("-t", "app:v1", "--load=podman", env={"CONTAINERS_STORAGE_CONF": self.storage})
        self.assertIn("loaded into podman load: Loaded image", result.err)
        self.check(result)
        # Its own words when it fails.
        broken = os.path.join(self.dir, "broken.conf")
        self.write("broken.conf", '[storage]\ndriver = "overlay"\nrunroot = "/proc/none"\ngraphroot = "/proc/none"\n', where=self.dir)
        result = self.fails(1, "build", "-t", "app:v1", "--load=podman", self.context, env={"CONTAINERS_STORAGE_CONF": broken})
        self.assertIn("/proc/none", result.err)
        self.assertIn("while loading the image into podman load", result.err)


if __name__ == "__main__":
    unittest.main()
