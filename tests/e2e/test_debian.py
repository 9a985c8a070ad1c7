"""The job of the README on a Debian base, and the tools that run its image. Needs root and the package mirror."""

import subprocess

from harness import *

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: %(name)s
spec:
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: main
    image: %(image)s
    imagePullPolicy: Always
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %(name)s
spec:
  replicas: 1
  selector:
    matchLabels: {app: %(name)s}
  template:
    metadata:
      labels: {app: %(name)s}
    spec:
      hostNetwork: true
      containers:
      - name: main
        image: %(image)s
"""


class Debian(TestCase):
    @classmethod
    def setUpClass(cls):
        push_layout(debian_layout(), registry().host + "/debian:bookworm")
        cls.conf = os.path.join(WORK, "containers.conf")
        with open(cls.conf, "w") as f:
            f.write(CONTAINERS_CONF)
        with open(os.path.join(WORK, "registries.conf"), "w") as f:
            f.write('[[registry]]\nlocation = "%s"\ninsecure = true\n' % registry().host)
        # vfs works on every file system, also below a container's overlay.
        cls.podman_args = ["podman", "--root", WORK + "/podman", "--runroot", WORK + "/podman-run", "--storage-driver", "vfs"]
        cls.environment = dict(os.environ, CONTAINERS_CONF=cls.conf, CONTAINERS_REGISTRIES_CONF=os.path.join(WORK, "registries.conf"))

    def tool(self, *args):
        done = subprocess.run(args, capture_output=True, text=True, env=self.environment)
        self.assertEqual(done.returncode, 0, "%s\n%s%s" % (" ".join(args), done.stdout, done.stderr))
        return done.stdout

    def podman(self, *args):
        return self.tool(*self.podman_args, *args)

    def test_the_whole_job(self):
        self.write("Dockerfile", """\
FROM %s/debian:bookworm
COPY a.txt /directory/b.txt
RUN apt-get update && apt-get install -y --no-install-recommends python3
WORKDIR /home/app/pipeline
COPY . .
RUN python3 -m compileall .
ENV LANG ko_KR.UTF-8
EXPOSE 8080
CMD ["python3","main.py","alarm"]
""" % registry().host)
        self.write("a.txt", "A\n")
        self.write("main.py", "import os, sys\nprint('hello', sys.argv[1], os.environ['LANG'], open('/directory/b.txt').read().strip())\n")
        said = "hello alarm ko_KR.UTF-8 A\n"
        name = registry().host + "/team/my-image:v0.0.1"

        self.ok("build", "-t", "my-image:v0.0.1", self.context)
        self.assertEqual(self.run_in("my-image:v0.0.1"), said)
        again = self.ok("build", "-t", "my-image:v0.0.1", self.context)
        self.assertIn("all 5 steps were cached", again.err)
        self.ok("push", "my-image:v0.0.1", name)

        with self.subTest("skopeo inspect"):
            self.assertIn("v0.0.1", skopeo_inspect(name)["RepoTags"])
        with self.subTest("umoci unpack"):
            layout = os.path.join(self.dir, "copy")
            self.tool("skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + name, "oci:%s:t" % layout)
            self.tool("umoci", "unpack", "--image", layout + ":t", layout + "-bundle")
            self.assertEqual(read(layout + "-bundle/rootfs/directory/b.txt"), "A\n")
        with self.subTest("podman run"):
            self.assertEqual(self.podman("run", "--rm", "--network=host", name), said)
        with self.subTest("podman load"):
            data = self.ok("build", "-t", "loaded:v1", "-o", "type=docker,dest=-", self.context, binary=True).out
            done = subprocess.run([*self.podman_args, "load"], input=data, capture_output=True, env=self.environment)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.podman("run", "--rm", "--network=host", "docker.io/library/loaded:v1"), said)
        with self.subTest("buildah from"):
            buildah = ["buildah", "--root", WORK + "/buildah", "--runroot", WORK + "/buildah-run", "--storage-driver", "vfs"]
            container = self.tool(*buildah, "from", "--tls-verify=false", name).strip()
            self.tool(*buildah, "rm", container)
        for kind, text in (("pod", POD), ("deployment", DEPLOYMENT)):
            with self.subTest("podman play kube", kind=kind):
                manifest = self.write(kind + ".yaml", text % {"name": "lamina-" + kind, "image": name}, where=self.dir)
                self.podman("play", "kube", "--tls-verify=false", manifest)
                container = "lamina-pod-main" if kind == "pod" else "lamina-deployment-pod-0-main"
                try:
                    for _ in range(100):
                        log = self.podman("logs", container)
                        if said in log:
                            break
                        time.sleep(0.1)
                    self.assertIn(said, log)
                finally:
                    self.podman("play", "kube", "--down", manifest)


if __name__ == "__main__":
    unittest.main()
