"""RUN with mounts of every type, and with devices."""

import socket
import threading

from harness import *


class Mounts(TestCase):
    def run_with(self, mount, command, *args, before=""):
        self.dockerfile("FROM BUSYBOX\n%sRUN %s %s\n" % (before, mount, command))
        return self.build("--no-cache", "-t", "x", *args)

    def test_cache_is_kept_and_told_apart(self):
        count = "echo x >> /c/f; wc -l < /c/f > /n"
        seen = lambda mount, *args: (self.run_with("--mount=type=cache,target=/c" + mount, count, *args), self.run_in("x", "cat", "/n").strip())[1]
        self.assertEqual([seen(""), seen(",sharing=locked"), seen(",id=/c"), seen(",id=other"), seen("")], ["1", "2", "3", "1", "4"])
        self.assertEqual([seen("", "--build-arg", "BUILDKIT_CACHE_MOUNT_NS=ns"), seen("")], ["1", "5"])
        self.assertFalse(os.path.exists(self.unpack("x") + "/c"))
        self.run_with("--mount=type=cache,target=/c,ro", "touch /c/new 2>/dev/null && echo wrote > /n || true")
        self.assertNotEqual(self.call("run", "x", "cat", "/n").code, 0)

    def test_cache_mode_and_owner(self):
        owner = "" if AS == "single" else ",uid=1000,gid=2000"
        self.run_with("--mount=type=cache,target=/c,mode=0711" + owner, "stat -c '%a %u:%g' /c > /n")
        self.assertEqual(self.run_in("x", "cat", "/n"), "711 0:0\n" if AS == "single" else "711 1000:2000\n")

    def test_cache_seed(self):
        before = "RUN mkdir -m 750 -p /s && echo seed > /s/f\nFROM BUSYBOX\n".replace("BUSYBOX", busybox())
        for args, expected in ((("--no-cache",), "seed more 750"), ((), "seed more more 750"), (("--no-cache",), "seed more 750")):
            self.dockerfile("FROM BUSYBOX AS s\n%sARG N=0\nRUN --mount=type=cache,from=s,source=/s,target=/c echo more >> /c/f; echo $(cat /c/f) $(stat -c %%a /c) > /n\n" % before)
            self.build("-t", "x", *args, "--build-arg", "N=%s" % time.time())
            self.assertEqual(self.run_in("x", "cat", "/n").strip(), expected)

    def two_stages(self, mount, command):
        self.dockerfile("FROM BUSYBOX AS a\nRUN %s N=a; %s\nFROM BUSYBOX AS b\nRUN %s N=b; %s\nFROM BUSYBOX\nCOPY --from=a /out /a\nCOPY --from=b /out /b\n" % (mount, command, mount, command))
        self.build("-t", "x")
        return self.run_in("x", "cat", "/a", "/b").split()

    def test_locked_cache_is_used_by_one_at_a_time(self):
        self.assertEqual(self.two_stages("--mount=type=cache,target=/c,sharing=locked", "mkdir /c/busy && sleep 0.3 && rmdir /c/busy && echo alone > /out"), ["alone", "alone"])

    def test_private_cache_is_not_shared(self):
        self.assertEqual(self.two_stages("--mount=type=cache,target=/c,sharing=private", "touch /c/$N; sleep 0.5; ls /c > /out"), ["a", "b"])

    def test_shared_cache_is_shared(self):
        self.assertEqual(self.two_stages("--mount=type=cache,target=/c", "touch /c/$N; for i in 1 2 3 4 5 6 7 8 9; do [ $(ls /c | wc -l) = 2 ] && break; sleep 0.2; done; ls /c | wc -l > /out"), ["2", "2"])

    def test_two_caches_in_opposite_order_do_not_wait_for_each_other(self):
        first = "--mount=type=cache,target=/c,id=1,sharing=locked --mount=type=cache,target=/d,id=2,sharing=locked"
        second = "--mount=type=cache,target=/d,id=2,sharing=locked --mount=type=cache,target=/c,id=1,sharing=locked --mount=type=cache,target=/e,id=1"
        self.dockerfile("FROM BUSYBOX AS a\nRUN %s sleep 0.1\nFROM BUSYBOX AS b\nRUN %s sleep 0.1\nFROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n" % (first, second))
        self.build()

    def test_bind_writes_are_thrown_away(self):
        self.write("f[1]", "1")
        self.run_with("--mount=target=/m,rw --mount=target=/one,source=f[1]", "cat /one > /n; echo 2 > /m/f[1]; echo 3 > /m/new; cat /m/f[1] >> /n")
        self.assertEqual(self.run_in("x", "cat", "/n"), "12\n")
        self.assertEqual((read(self.context, "f[1]"), sorted(os.listdir(self.context))), ("1", ["Dockerfile", "f[1]"]))
        self.run_with("--mount=target=/m", "touch /m/new 2>/dev/null && echo wrote > /n || echo refused > /n")
        self.assertEqual(self.run_in("x", "cat", "/n"), "refused\n")

    def test_bind_of_a_part_of_a_stage_is_known_by_its_bytes(self):
        text = "FROM BUSYBOX AS s\nRUN mkdir /p && echo same > /p/f && echo %s > /q\nFROM BUSYBOX\nRUN --mount=from=s,source=/p,target=/p cp /p/f /n; cat /proc/sys/kernel/random/uuid > /u\n"
        for other in ("1", "2"):
            self.dockerfile(text % other)
            self.build("-t", "x" + other)
        self.assertEqual(self.run_in("x1", "cat", "/u"), self.run_in("x2", "cat", "/u"))

    def test_tmpfs_size(self):
        self.run_with("--mount=type=tmpfs,target=/t,size=2m", "head -c 3000000 /dev/zero > /t/f 2>/dev/null; stat -c %s /t/f > /n")
        self.assertEqual(self.run_in("x", "cat", "/n"), "2097152\n")

    def test_secret_forms(self):
        secret = self.write("s", "hush", where=self.dir)
        owner = "" if AS == "single" else ",uid=1000,gid=2000"
        self.run_with("--mount=type=secret,id=a,target=/t,mode=0440%s --mount=type=secret,id=a,env=E --mount=type=secret,id=none" % owner, "echo $(cat /t) $E $(stat -c '%a %u' /t) $(ls /run/secrets 2>/dev/null) > /n",
                      "--secret", "id=a,src=" + secret)
        self.assertEqual(self.run_in("x", "cat", "/n").strip(), "hush hush 440 " + ("0" if AS == "single" else "1000"))
        self.dockerfile("FROM BUSYBOX\nRUN --mount=type=secret,id=a,required true\n")
        self.assertRegex(self.fails(1, "build", self.context).err, r"Dockerfile:2:1: error: the secret a is required")
        big = self.write("big", b"x" * (500 * 1024 + 1), where=self.dir)
        self.fails(1, "build", "--secret", "id=a,src=" + big, self.context)

    def test_secret_is_never_on_a_disk(self):
        secret = self.write("s", "unmistakable-token", where=self.dir)
        self.dockerfile("FROM BUSYBOX\nRUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null; echo ready; sleep 3\n")
        process = self.start("build", "--progress=plain", "--secret", "id=s,src=" + secret, self.context)
        for line in process.stderr:
            if line.rstrip().endswith(" ready"):
                break
        found = subprocess.run(["grep", "-rl", "unmistakable-token", self.store], capture_output=True, text=True).stdout
        process.communicate()
        self.assertEqual((found, process.returncode), ("", 0))

    CLIENT = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(void) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  char buffer[100];
  strcpy(a.sun_path, getenv("SSH_AUTH_SOCK"));
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(fd, (void *)&a, sizeof a)) return perror("connect"), 1;
  for (int i = 0; i < 2; ++i) {
    write(fd, "sign", 4);
    write(1, buffer, read(fd, buffer, sizeof buffer));
  }
}
"""

    def agent(self):
        path = os.path.join(self.dir, "agent.sock")
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        if USER:
            shutil.chown(path, USER, USER)
        os.chmod(path, 0o600)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                while connection.recv(4) == b"sign":
                    connection.sendall(b"signed ")
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        self.addCleanup(lambda: (server.shutdown(socket.SHUT_RDWR), server.close()))
        return path

    def test_stuck_ssh_agent_and_interrupt(self):
        """The agent takes the connection and reads nothing."""
        path = os.path.join(self.dir, "stuck.sock")
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(path)
        server.listen()
        if USER:
            shutil.chown(path, USER, USER)
        source = self.write("client.c", self.CLIENT.replace('write(fd, "sign", 4);', 'for (int k = 0; k < 2000; ++k) { send(fd, path, sizeof path, k < 1000 ? 0 : MSG_DONTWAIT); if (k == 20) write(1, "ready\\n", 6); }').replace("char buffer[100];", "char buffer[100]; static char path[4096];"), where=self.dir)
        subprocess.run(["cc", "-static", "-o", os.path.join(self.context, "client"), source], check=True)
        self.dockerfile("FROM BUSYBOX\nCOPY client /client\nRUN --mount=type=ssh /client\n")
        process = self.start("build", "--progress=plain", "--ssh", "default=" + path, self.context)
        for line in process.stderr:
            if line.rstrip().endswith(" ready"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)

    def test_ssh_agent(self):
        source = self.write("client.c", self.CLIENT, where=self.dir)
        subprocess.run(["cc", "-static", "-o", os.path.join(self.context, "client"), source], check=True)
        agent = self.agent()
        as_worker = AS != "single"  # the socket has an owner of its own, whoever the agent belongs to
        self.dockerfile("FROM BUSYBOX\nCOPY client /client\nRUN chmod 777 /tmp\n%sRUN --mount=type=ssh%s echo $SSH_AUTH_SOCK $(/client) $(stat -c %%a $SSH_AUTH_SOCK) > /tmp/n\n"
                        % ("USER worker\n" if as_worker else "", ",uid=1000" if as_worker else ""))
        self.build("-t", "x", "--ssh", "default=" + agent)
        self.assertEqual(self.run_in("x", "cat", "/tmp/n"), "/run/buildkit/ssh_agent.0 signed signed 600\n")
        self.assertFalse(os.path.exists(self.unpack("x") + "/run/buildkit"))
        self.build("--no-cache", "-t", "y", "--ssh", "default", env={"SSH_AUTH_SOCK": agent})
        self.dockerfile("FROM BUSYBOX\nRUN --mount=type=ssh,id=k,required=true true\n")
        self.assertIn("the ssh agent k is required", self.fails(1, "build", self.context).err)
        self.dockerfile("FROM BUSYBOX\nRUN --mount=type=ssh,id=k [ -z \"$SSH_AUTH_SOCK\" ]\n")
        self.build()
        key = self.write("key", "PRIVATE KEY", where=self.dir)
        self.dockerfile("FROM BUSYBOX\nRUN --mount=type=ssh,id=k true\n")
        self.assertIn("ssh-add the key", self.fails(2, "build", "--ssh", "k=" + key, self.context).err)

    def test_attributes_of_a_mounted_directory_of_a_stage_are_inputs(self):
        text = "FROM BUSYBOX AS s\nRUN mkdir /out && echo x > /out/f && chmod %s /out\nFROM BUSYBOX\nRUN --mount=from=s,source=/out,target=/in stat -c %%a /in > /mode\n"
        for mode in ("755", "700"):
            self.dockerfile(text % mode)
            self.build("-t", "x")
            self.assertEqual(self.run_in("x", "cat", "/mode"), mode + "\n")

    def test_what_changes_a_run_or_copy_is_in_its_key(self):
        self.dockerfile("FROM BUSYBOX\nRUN df -k /dev/shm | tail -1 | awk '{print $2}' > /size\n")
        for size, blocks in (("32m", "32768\n"), ("16m", "16384\n")):
            self.build("-t", "x", "--shm-size", size)
            self.assertEqual(self.run_in("x", "cat", "/size"), blocks)
        self.dockerfile("FROM BUSYBOX\nCOPY --chown=ghost f /f\n")
        self.write("f")
        self.build("--compat", "unknown-owner")
        self.fails(1, "build", self.context)
        self.dockerfile("FROM BUSYBOX AS s\nFROM BUSYBOX\nCOPY --from=s /nothing* /etc/passwd /x/\n")
        self.build()
        self.fails(1, "build", "--strict", self.context)


class Devices(TestCase):
    def setUp(self):
        super().setUp()
        self.cdi = os.path.join(self.dir, "cdi")
        self.write("data/f", "mounted", where=self.dir)
        self.write("a.yaml", """
cdiVersion: "0.6.0"
kind: "vendor.test/thing"
containerEdits:
  env: ["COMMON=1"]
devices:
- name: one
  annotations: {"org.mobyproject.buildkit.device.class": "things"}
  containerEdits:
    env:
    - OWN=one
    deviceNodes:
    - path: /dev/lamina-zero
      hostPath: /dev/zero
    mounts:
    - {hostPath: %s/data, containerPath: /data, options: [ro, rbind]}
- name: two
  containerEdits: {env: ["OWN=two"]}
""" % self.dir, where=self.cdi)
        self.write("b.json", json.dumps({"cdiVersion": "0.6.0", "kind": "free.test/x", "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
                                         "devices": [{"name": "a", "containerEdits": {"env": ["FREE=1"]}}]}), where=self.cdi)
        self.write("c.json", json.dumps({"cdiVersion": "0.6.0", "kind": "hook.test/x", "devices": [{"name": "a", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}}]}), where=self.cdi)
        self.write("d.json", "{", where=self.cdi)

    def with_device(self, device, command="true"):
        self.dockerfile("FROM BUSYBOX\nRUN --device=%s %s\n" % (device, command))
        return ("build", "-t", "x", "--cdi-spec-dir", self.cdi, self.context)

    def test_what_a_device_brings(self):
        call = self.with_device("vendor.test/thing=one,required", "echo $COMMON $OWN $(cat /data/f) $(head -c 2 /dev/lamina-zero | od -An -tx1) > /n; touch /data/new 2>/dev/null && echo wrote >> /n; true")
        self.ok(*call, "--allow", "device=vendor.test/thing=one")
        self.assertEqual(self.run_in("x", "cat", "/n"), "1 one mounted 00 00\n")
        root = self.unpack("x", "--cdi-spec-dir", self.cdi, "--allow", "device")
        self.assertFalse(os.path.exists(root + "/data"))
        self.assertFalse(os.path.exists(root + "/dev/lamina-zero"))

    def test_names(self):
        for device, expected in (("vendor.test/thing", "one"), ("vendor.test/thing=two", "two"), ("things", "one"), ("vendor.test/thing=*", "two"), ("name=vendor.test/thing=two,required=true", "two")):
            self.ok(*self.with_device(device, "echo $OWN > /n"), "--allow", "device", "--no-cache")
            self.assertEqual(self.run_in("x", "cat", "/n"), expected + "\n")

    def test_permission(self):
        result = self.fails(1, *self.with_device("vendor.test/thing=one"))
        self.assertRegex(result.err, r"Dockerfile:2:\d+: error: the device vendor.test/thing=one is not allowed")
        self.ok(*self.with_device("free.test/x=a", "[ $FREE = 1 ]"))

    def test_absent(self):
        self.ok(*self.with_device("vendor.test/none=one"))
        result = self.fails(1, *self.with_device("vendor.test/none=one,required"))
        self.assertIn("the required device vendor.test/none=one is not registered", result.err)
        self.assertIn("d.json was not used", result.err)

    def test_refused(self):
        self.assertIn("a hook, that is a program", self.fails(2, *self.with_device("hook.test/x=a"), "--allow=device").err)
        self.assertIn("did you mean required?", self.fails(2, *self.with_device("a.b/c=d,requird=true")).err)
        self.assertIn("did you mean device?", self.fails(2, *self.with_device("a.b/c"), "--allow=devices").err)


if __name__ == "__main__":
    unittest.main()
