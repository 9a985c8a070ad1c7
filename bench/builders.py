"""Lamina and its peers behind one interface: clean, build, push; and what a run of them cost."""

import os
import shutil
import signal
import subprocess
import tempfile
import time


class Cost:
    """Wall and CPU seconds and the largest resident size in MiB, of the command and of its daemon."""

    def __init__(self, wall, cpu, peak):
        self.wall, self.cpu, self.peak = wall, cpu, peak


class Failed(Exception):
    pass


def run(command, env=None):
    """Runs to the end; raises Failed with the last words. The kernel counts what a process was before execve(2) to its
    largest size, so it is started by the small time(1) and not by Python."""
    with tempfile.NamedTemporaryFile("r") as report:
        began = time.monotonic()
        child = subprocess.Popen(["/usr/bin/time", "-q", "-o", report.name, "-f", "%M", "--", *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = child.stdout.read()
        child.stdout.close()
        _, status, usage = os.wait4(child.pid, 0)  # time(1) itself counts for half a millisecond
        wall = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            raise Failed("%s: %s" % (" ".join(command), said.decode(errors="replace")[-600:]))
        return Cost(wall, usage.ru_utime + usage.ru_stime, int(report.read()) / 1024)


class Builder:
    daemon = None

    def __init__(self, place):
        self.place = os.path.join(place, self.name)
        os.makedirs(self.place, exist_ok=True)

    def build(self, path, cache=True, tag="bench"):
        raise NotImplementedError

    def build_and_push(self, path, name):
        raise NotImplementedError

    def clean(self):
        """Forgets everything: images, layers, records. The files move aside and go when all is over: ext4 without a
        journal looks past every inode that was freed in the last minutes when it makes a file, which would be timed."""

    def move_aside(self, path):
        if os.path.isdir(path):
            os.rename(path, tempfile.mkdtemp(prefix="gone-", dir=os.path.dirname(self.place)) + "/old")

    def stop(self):
        pass

    def measured(self, work):
        """The cost of work(), which returns a Cost; that of a daemon is added."""
        before = self._daemon_cpu()
        cost = work()
        return Cost(cost.wall, cost.cpu + self._daemon_cpu() - before, cost.peak + self._daemon_peak())

    def _daemon_cpu(self):
        return 0

    def _daemon_peak(self):
        return 0


class Lamina(Builder):
    name = "lamina"
    user = None

    def __init__(self, place, program):
        self.program = program
        super().__init__(place)
        self.store = os.path.join(self.place, "store")

    def call(self, *args):
        env = dict(os.environ, LAMINA_STORE=self.store)
        command = [self.program, *args]
        if self.user:
            env["HOME"] = self.place
            command = ["setpriv", "--reuid=" + self.user, "--regid=" + self.user, "--init-groups", "--", *command]
        return run(command, env)

    def build(self, path, cache=True, tag="bench"):
        return self.call("build", "-q", "-t", tag, *([] if cache else ["--no-cache"]), path)

    def build_and_push(self, path, name):
        return self.call("build", "-q", "-t", name, "--push", path)

    def clean(self):
        self.move_aside(self.store)


class LaminaRootless(Lamina):
    name = "lamina rootless"

    def __init__(self, place, program, user):
        super().__init__(place, program)
        self.user = user
        shutil.chown(self.place, user, user)
        # The program may be in a directory that the user cannot enter.
        self.program = os.path.join(self.place, "build")
        shutil.copy(program, self.program)
        os.chmod(self.program, 0o755)


class Buildah(Builder):
    name = "buildah"

    def __init__(self, place):
        super().__init__(place)
        self.root = os.path.join(self.place, "root")
        self.conf = os.path.join(self.place, "containers.conf")
        with open(self.conf, "w") as f:
            f.write('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\ncgroup_manager = "cgroupfs"\n')
        self.base = ["buildah", "--root", self.root + "/r", "--runroot", self.root + "/rr", "--storage-driver", "overlay"]

    def call(self, *args):
        return run([*self.base, *args], dict(os.environ, CONTAINERS_CONF=self.conf))

    def build(self, path, cache=True, tag="bench"):
        return self.call("bud", "--layers", *([] if cache else ["--no-cache"]), "--runtime", "runc", "--network", "host", "--tls-verify=false", "-q", "-t", tag, path)

    def build_and_push(self, path, name):
        built = self.build(path)
        pushed = self.call("push", "-q", "--tls-verify=false", "bench", name)
        return Cost(built.wall + pushed.wall, built.cpu + pushed.cpu, max(built.peak, pushed.peak))

    def clean(self):
        # A command that failed leaves its container mounted.
        with open("/proc/self/mounts") as f:
            mounted = [line.split()[1] for line in f]
        for place in reversed([m for m in mounted if m.startswith(self.root + "/")]):
            subprocess.run(["umount", place], capture_output=True)
        self.move_aside(self.root)

    def stop(self):
        self.clean()


class DockerBuildKit(Builder):
    """Debian's dockerd of our own, on its own socket and directories."""

    name = "docker buildkit"
    buildkit = "1"

    def __init__(self, place, registry):
        super().__init__(place)
        self.registry = registry
        self.socket = os.path.join(self.place, "docker.sock")
        self.start()

    def start(self):
        self.log = open(os.path.join(self.place, "log"), "a")
        self.daemon = subprocess.Popen(
            ["dockerd", "--data-root", self.place + "/data", "--exec-root", self.place + "/exec", "--pidfile", self.place + "/pid",
             "--storage-driver", "overlay2", "--iptables=false", "--ip6tables=false", "--bridge=none", "--insecure-registry", self.registry,
             "-H", "unix://" + self.socket], stdout=self.log, stderr=self.log)
        for _ in range(300):
            if os.path.exists(self.socket) and subprocess.run(["/usr/bin/docker", "version"], env=self.env(), capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise Failed("dockerd does not start; see %s/log" % self.place)

    def run_once(self):
        """The daemon's own first steps are not timed."""
        path = os.path.join(self.place, "first")
        os.makedirs(path, exist_ok=True)
        with open(path + "/Dockerfile", "w") as f:
            f.write("FROM scratch\nCOPY Dockerfile /\n")
        self.build(path, tag="first")

    def env(self):
        return dict(os.environ, DOCKER_HOST="unix://" + self.socket, DOCKER_BUILDKIT=self.buildkit)

    def call(self, *args):
        return run(["/usr/bin/docker", *args], self.env())

    def build(self, path, cache=True, tag="bench"):
        return self.call("build", "-q", "--network", "host", *([] if cache else ["--no-cache"]), "-t", tag, path)

    def build_and_push(self, path, name):
        built = self.build(path, tag=name)
        pushed = self.call("push", "-q", name)
        return Cost(built.wall + pushed.wall, built.cpu + pushed.cpu, max(built.peak, pushed.peak))

    def clean(self):
        self.stop()
        self.move_aside(self.place + "/data")
        self.start()
        self.run_once()

    def stop(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait()
        self.log.close()

    def _processes(self):
        """dockerd and what it started and keeps running."""
        parents = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % pid) as f:
                    parents[int(pid)] = int(f.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
        found = {self.daemon.pid}
        while True:
            more = {p for p, parent in parents.items() if parent in found} - found
            if not more:
                return found
            found |= more

    def _daemon_cpu(self):
        ticks = 0
        for pid in self._processes():
            try:
                with open("/proc/%d/stat" % pid) as f:
                    ticks += sum(map(int, f.read().rpartition(")")[2].split()[11:15]))
            except OSError:
                pass
        return ticks / os.sysconf("SC_CLK_TCK")

    def measured(self, work):
        for pid in self._processes():
            try:
                with open("/proc/%d/clear_refs" % pid, "w") as f:
                    f.write("5")  # VmHWM starts again from here
            except OSError:
                pass
        return super().measured(work)

    def _daemon_peak(self):
        total = 0
        for pid in self._processes():
            try:
                with open("/proc/%d/status" % pid) as f:
                    total += sum(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))
            except OSError:
                pass
        return total / 1024


class DockerClassic(DockerBuildKit):
    """The classic builder; shares nothing with the other one."""

    name = "docker classic"
    buildkit = "0"
