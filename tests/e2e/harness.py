"""A registry, base images, users and a way to call the program under test.

Every test has its own store and directories. LAMINA_BUILD is the program, LAMINA_TEST_AS one of root, range (a plain
user with subordinate ids), single (one without) and self (whoever runs the tests)."""

import atexit
import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
import urllib.error
import urllib.request

AS = os.environ.get("LAMINA_TEST_AS", "self")
USERS = {"range": "lamina-e2e-range", "single": "lamina-e2e-single"}
SANITIZED = "asan" in os.environ["LAMINA_BUILD"]


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64

    def server_activate(self):
        super().server_activate()
        # A client that is gone again between select(2) and accept(2) must not keep the server from being stopped.
        self.socket.settimeout(5)

    def handle_error(self, request, client_address):
        pass  # broken connections are what is tested


def make_users():
    if os.geteuid() != 0:
        raise RuntimeError("LAMINA_TEST_AS=%s needs root, to become that user" % AS)
    for user in USERS.values():
        try:
            pwd.getpwnam(user)
        except KeyError:
            subprocess.run(["useradd", "--create-home", user], check=True)
    single = USERS["single"]
    for path in ("/etc/subuid", "/etc/subgid"):
        with open(path) as f:
            lines = f.readlines()
        kept = [line for line in lines if not line.startswith(single + ":")]
        if kept != lines:
            with open(path, "w") as f:
                f.writelines(kept)


if AS in USERS:
    make_users()
USER = USERS.get(AS)
ROOT = os.geteuid() == 0 and USER is None

WORK = tempfile.mkdtemp(prefix="lamina-e2e-", dir="/var/tmp")
os.chmod(WORK, 0o755)


def remove_work():
    # A store of a user with subordinate ids has files that only that user's namespace, or root, may remove.
    subprocess.run(["rm", "-rf", WORK], check=False)


atexit.register(remove_work)
# Copied: another user may not be able to reach the build directory.
BUILD = os.path.join(WORK, "build")
shutil.copy(os.environ["LAMINA_BUILD"], BUILD)
os.chmod(BUILD, 0o755)


def debian_layout():
    """Made once a machine, which takes about half a minute."""
    cache = os.environ.get("LAMINA_TEST_CACHE", "/var/cache/lamina-tests")
    os.makedirs(cache, exist_ok=True)
    tar = os.path.join(cache, "debian-bookworm.tar")
    if not os.path.exists(tar):
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", "bookworm", tar + ".part"], check=True)
        os.rename(tar + ".part", tar)
    layout = os.path.join(WORK, "debian-layout")
    if not os.path.exists(layout):
        with open(tar, "rb") as f:
            write_layout(layout, f.read(), {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]})
    return layout


# Limits as far as the machine that runs the tests allows them; podman would try to raise them.
NOFILE = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20000)
NPROC = min(n for n in (*resource.getrlimit(resource.RLIMIT_NPROC), 20000) if n > 0)
# For podman.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=%d:%d", "nproc=%d:%d"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
""" % (NOFILE, NOFILE, NPROC, NPROC)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Registry:
    """Debian's docker-registry on loopback, with a storage directory of its own."""

    def __init__(self, htpasswd=None, auth=None, tls=None, client_ca=None):
        """auth: the "auth" section. tls: (certificate, key). client_ca: whose client certificates are asked for."""
        self.port = free_port()
        self.host = "127.0.0.1:%d" % self.port
        self.storage = tempfile.mkdtemp(prefix="registry-", dir=WORK)
        config = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": self.storage}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        if htpasswd:
            config["auth"] = {"htpasswd": {"realm": "test", "path": htpasswd}}
        if auth:
            config["auth"] = auth
        if tls:
            config["http"]["tls"] = {"certificate": tls[0], "key": tls[1]}
            if client_ca:
                config["http"]["tls"]["clientcas"] = [client_ca]
        path = os.path.join(self.storage, "config.yml")
        with open(path, "w") as f:
            json.dump(config, f)
        self.process = subprocess.Popen(["docker-registry", "serve", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        atexit.register(self.stop)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("docker-registry does not answer")

    def stop(self):
        self.process.kill()
        self.process.wait()

    def blob_path(self, digest):
        hexdigest = digest.split(":")[1]
        return os.path.join(self.storage, "docker/registry/v2/blobs/sha256", hexdigest[:2], hexdigest, "data")


def tar_of(entries):
    """A layer tar from (name, mode, content | None for a directory | -> link target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode, content in entries:
            info = tarfile.TarInfo(name)
            info.mode = mode
            info.mtime = 1700000000
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(content, str):
                info.type = tarfile.SYMTYPE
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write_layout(directory, layer_tar, config=None):
    """An OCI layout with one image, written without the program under test; the tag is "latest"."""
    blobs = os.path.join(directory, "blobs/sha256")
    os.makedirs(blobs)

    def put(data):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as f:
            f.write(data)
        return {"digest": "sha256:" + digest, "size": len(data)}

    diff_id = "sha256:" + hashlib.sha256(layer_tar).hexdigest()
    layer = dict(put(gzip.compress(layer_tar, 1, mtime=0)), mediaType="application/vnd.oci.image.layer.v1.tar+gzip")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": config or {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "base"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": dict(put(json.dumps(config).encode()), mediaType="application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    }
    entry = dict(put(json.dumps(manifest).encode()), mediaType=manifest["mediaType"], annotations={"org.opencontainers.image.ref.name": "latest"})
    with open(os.path.join(directory, "index.json"), "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [entry]}, f)
    with open(os.path.join(directory, "oci-layout"), "w") as f:
        f.write('{"imageLayoutVersion":"1.0.0"}')


def busybox_tar():
    with open("/bin/busybox", "rb") as f:
        busybox = f.read()
    entries = [(d, 0o755, None) for d in ("bin", "etc", "home", "usr", "usr/bin", "var")]
    entries += [("root", 0o700, None), ("tmp", 0o1777, None)]
    entries.append(("bin/busybox", 0o755, busybox))
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            entries.append(("bin/" + applet, 0o777, "busybox"))
    entries.append(("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n"))
    entries.append(("etc/group", 0o644, b"root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n"))
    return tar_of(entries)


_shared = {}


def registry():
    if "registry" not in _shared:
        _shared["registry"] = Registry()
        layout = os.path.join(WORK, "busybox-layout")
        write_layout(layout, busybox_tar())
        push_layout(layout, "%s/busybox:latest" % _shared["registry"].host)
        _shared["layout"] = layout
    return _shared["registry"]


def busybox_layout():
    registry()
    return _shared["layout"]


def push_layout(layout, name, *extra):
    subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", *extra, "oci:%s:latest" % layout, "docker://" + name], check=True)


def busybox():
    return registry().host + "/busybox"


def read(*parts):
    with open(os.path.join(*parts)) as f:
        return f.read()


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.text = err if isinstance(out, bytes) else out + err


class TestCase(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="test-", dir=WORK)
        os.chmod(self.dir, 0o755)
        self.store = os.path.join(self.dir, "store")
        self.home = os.path.join(self.dir, "home")
        self.context = os.path.join(self.dir, "context")
        for d in (self.home, self.context):
            os.mkdir(d)
        if USER:
            for d in (self.dir, self.home, self.context):
                shutil.chown(d, USER, USER)

    def tearDown(self):
        self.assertNotIn(self.dir, read("/proc/self/mountinfo"), "a mount was left")
        tmp = os.path.join(self.store, "tmp")
        left = [n for n in os.listdir(tmp) if not n.endswith(".lock")] if os.path.isdir(tmp) else []
        self.assertEqual(left, [], "temporary files were left")
        subprocess.run(["rm", "-rf", self.dir], check=True)

    def write(self, name, content="", mode=None, where=None):
        path = os.path.join(where or self.context, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
        if mode is not None:
            os.chmod(path, mode)
        if USER:
            at = path
            while at != self.dir:
                os.chown(at, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
                at = os.path.dirname(at)
        return path

    def dockerfile(self, text):
        return self.write("Dockerfile", text.replace("BUSYBOX", busybox()))

    def command(self, *args, user=None, env=None, store=None, umask=None):
        user = USER if user is None else user
        environment = {"HOME": self.home, "PATH": os.environ["PATH"], "LAMINA_STORE": store or self.store, "LANG": "C.UTF-8"}
        environment.update(env or {})
        call = [BUILD, *args]
        if umask is not None:
            call = ["sh", "-c", "umask %o; exec \"$0\" \"$@\"" % umask, *call]
        if user:
            call = ["setpriv", "--reuid=" + user, "--regid=" + user, "--init-groups", "--", "env", "-i", *["%s=%s" % kv for kv in environment.items()], *call]
        return call, environment

    def start(self, *args, env=None, **kw):
        call, environment = self.command(*args, env=env)
        return subprocess.Popen(call, env=environment, cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)

    def call(self, *args, env=None, stdin=None, user=None, store=None, umask=None, timeout=300, binary=False):
        call, environment = self.command(*args, user=user, env=env, store=store, umask=umask)
        done = subprocess.run(call, env=environment, cwd=self.dir, input=stdin, capture_output=True, timeout=timeout)
        out = done.stdout if binary else done.stdout.decode(errors="replace")
        return Result(done.returncode, out, done.stderr.decode(errors="replace"))

    def ok(self, *args, **kw):
        result = self.call(*args, **kw)
        self.assertEqual(result.code, 0, "%s\n%s" % (" ".join(args), result.text))
        return result

    def fails(self, code, *args, **kw):
        result = self.call(*args, **kw)
        self.assertEqual(result.code, code, "%s\n%s" % (" ".join(args), result.text))
        return result

    def build(self, *args, **kw):
        return self.ok("build", *args, self.context, **kw)

    def run_in(self, image, *command):
        return self.ok("run", image, *command).out

    def inspect(self, name):
        return json.loads(self.ok("inspect", name).out)[0]

    def config(self, name):
        return self.inspect(name)["Config"]["config"]

    def unpack(self, name, *args):
        """The image's root file system as an independent reader sees it, as a directory (with umoci)."""
        layout = os.path.join(self.dir, "unpack-" + re.sub("[^a-z0-9]", "-", name))
        archive = layout + ".tar"
        for before in (layout, layout + "-bundle"):
            shutil.rmtree(before, ignore_errors=True)
        with open(archive, "wb") as f:
            f.write(self.ok("build", "-o", "type=oci,dest=-", "-t", name, *args, self.context, binary=True).out)
        os.mkdir(layout)
        subprocess.run(["tar", "-xf", archive, "-C", layout], check=True)
        bundle = layout + "-bundle"
        tag = name.split(":")[-1] if ":" in name else "latest"
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        subprocess.run(["umoci", "unpack", *rootless, "--image", "%s:%s" % (layout, tag), bundle], check=True, capture_output=True)
        return os.path.join(bundle, "rootfs")


def http_json(url):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def skopeo_inspect(name, *extra):
    out = subprocess.run(["skopeo", "inspect", "--tls-verify=false", *extra, "docker://" + name], capture_output=True, text=True, check=True).stdout
    return json.loads(out)


def tree(directory):
    """path → what matters of a file, for comparisons."""
    out = {}
    for top, dirs, files in os.walk(directory):
        for name in dirs + files:
            path = os.path.join(top, name)
            st = os.lstat(path)
            value = [oct(st.st_mode), st.st_uid, st.st_gid]
            if os.path.islink(path):
                value.append(os.readlink(path))
            elif os.path.isfile(path):
                with open(path, "rb") as f:
                    value.append(hashlib.sha256(f.read()).hexdigest())
            out[os.path.relpath(path, directory)] = value
    return out


__all__ = [name for name in dir() if not name.startswith("_")]
