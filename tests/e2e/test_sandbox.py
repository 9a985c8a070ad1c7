"""What a RUN sees of the machine, and what it may do."""

import subprocess

from harness import *


class Sandbox(TestCase):
    def output(self, command, *args, before=""):
        self.dockerfile("FROM BUSYBOX\n%sRUN %s\n" % (before, command))
        result = self.build("--no-cache", "--progress=plain", *args)
        return "".join(m.group(1) + "\n" for m in re.finditer(r"(?m)^#\d+ [0-9]+\.[0-9]+ (.*)$", result.err))

    def test_capabilities_and_seccomp(self):
        out = self.output("grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status")
        self.assertIn("CapEff:\t00000000a80425fb", out)
        self.assertIn("CapBnd:\t00000000a80425fb", out)
        self.assertIn("CapInh:\t0000000000000000", out)
        self.assertIn("Seccomp:\t2", out)

    def test_user_has_no_capabilities(self):
        out = self.output("id; grep CapEff /proc/self/status" if AS != "single" else "id -u; grep CapEff /proc/self/status", before="USER worker\n" if AS != "single" else "")
        if AS == "single":
            return self.assertIn("0\n", out)  # there is only one id to be
        self.assertIn("uid=1000(worker) gid=1000(worker) groups=1000(worker),2000(extra)", out)
        self.assertIn("CapEff:\t0000000000000000", out)

    def test_forbidden_calls(self):
        # mount(2), unshare(2), keyctl through mount; reading kernel memory; loading modules.
        out = self.output(
            "mount -t tmpfs none /tmp && echo mounted; unshare -U true && echo unshared; "
            "cat /proc/kcore | head -c 1 | wc -c; echo 1 > /proc/sys/kernel/sysrq && echo wrote; "
            "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk && echo read; true")
        for word in ("mounted", "unshared", "wrote", "read"):
            self.assertNotRegex(out, "(?m)^%s$" % word)

    def sandboxes(self):
        """Processes of the program under test that were started for commands of its builds."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink("/proc/%s/exe" % pid) == BUILD and read("/proc", pid, "cmdline").startswith("lamina-sandbox"):
                    found.append(pid)
            except OSError:
                pass  # it has ended
        return found

    def test_prepared_sandboxes_serve_their_kind_and_end(self):
        """The next command's sandbox is prepared while one runs: every command gets what it asked for, and none is left."""
        steps = ["", "--network=none ", "", "--mount=type=tmpfs,target=/dev/shm ", "--network=none ", ""]
        runs = ["RUN %secho net$(grep -c : /proc/net/dev) shm$(grep -c ' /dev/shm ' /proc/mounts) $(hostname) > /%d\n" % (flag, i) for i, flag in enumerate(steps)]
        self.dockerfile("FROM BUSYBOX\n" + "".join(runs))
        self.build("-t", "kinds")
        root = self.unpack("kinds")
        for i, flag in enumerate(steps):
            net, shm, host = read(root, str(i)).split()
            self.assertEqual((net == "net1", shm, host), ("none" in flag, "shm1", "buildkitsandbox"), steps[i])
        # A failure while others wait, and a plan longer than a socket's buffer.
        self.dockerfile("FROM BUSYBOX\nRUN <<EOF\n" + ("# " + "x" * 98 + "\n") * 900 + "echo long\nEOF\nRUN false\nRUN echo never\n")
        self.fails(1, "build", "-q", self.context)
        for _ in range(50):
            if not self.sandboxes():
                break
            time.sleep(0.1)
        self.assertEqual(self.sandboxes(), [])

    def test_machine_is_not_visible(self):
        secret = self.write("secret-of-the-machine", "x", where=self.dir)
        out = self.output("ls /proc | grep -c '^[0-9]'; hostname; echo pid $$; ls %s" % os.path.dirname(secret) + " || true; ls /sys/fs/cgroup | wc -l; cat /proc/1/cmdline | tr '\\0' ' '")
        self.assertLessEqual(int(out.splitlines()[0]), 5, out)
        self.assertIn("buildkitsandbox", out)
        self.assertNotIn("secret-of", out.replace(secret, ""))

    def test_no_descriptors_leak(self):
        out = self.output("ls -1 /proc/self/fd | tr '\\n' ' '")
        self.assertEqual(out.split(), ["0", "1", "2", "3"])  # 3 is ls's own

    def test_environment_is_that_of_the_image(self):
        self.dockerfile("FROM BUSYBOX\nENV A=1\nRUN env | sort\n")
        result = self.build("--progress=plain", env={"LEAK_THIS": "x", "LD_PRELOAD": ""})
        self.assertNotIn("LEAK_THIS", result.err)
        for line in ("A=1", "HOME=/root", "PATH=/usr/local/sbin"):
            self.assertRegex(result.err, r"#\d+ [0-9.]+ " + line)

    def test_stdin_is_empty_and_streams_are_kept_apart(self):
        out = self.output("cat; echo done")
        self.assertEqual(out, "done\n")

    def test_network_none(self):
        out = self.output("ls /sys/class/net 2>/dev/null; cat /proc/net/dev | grep -c :; wget -q -O- http://%s/v2/ >/dev/null && echo reached; true" % registry().host, "--network=none")
        self.assertNotIn("reached", out)
        out = self.output("wget -q -O- http://%s/v2/ >/dev/null && echo reached" % registry().host)
        self.assertIn("reached", out)

    def test_add_host(self):
        out = self.output("cat /etc/hosts", "--add-host", "db.test:10.1.2.3")
        self.assertIn("10.1.2.3\tdb.test", out)

    def test_mounts_leave_nothing_in_the_image(self):
        self.write("Dockerfile", "FROM scratch\nCOPY busybox /busybox\nRUN --mount=type=tmpfs,target=/scratch --mount=type=cache,target=/a/b/c [\"/busybox\", \"touch\", \"/scratch/x\", \"/made\"]\n")
        with open("/bin/busybox", "rb") as f:
            self.write("busybox", f.read(), 0o755)
        self.build("-t", "x")
        self.assertEqual(sorted(os.listdir(self.unpack("x"))), ["busybox", "made"])

    def test_secret_is_not_in_the_image_or_output(self):
        secret = self.write("token", "hunter2-token", where=self.dir)
        self.dockerfile("FROM BUSYBOX\nRUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size\n")
        result = self.build("--secret", "id=token,src=" + secret, "-t", "x")
        self.assertEqual(self.run_in("x", "cat", "/size"), "13\n")
        root = self.unpack("x")
        self.assertFalse(os.path.exists(root + "/run/secrets"))
        found = subprocess.run(["grep", "-rl", "hunter2-token", self.store], capture_output=True, text=True).stdout
        self.assertEqual(found, "")
        self.assertNotIn("hunter2", result.text)

    @unittest.skipIf(AS == "single", "with a single id every file has one owner")
    def test_setuid_and_ownership_are_kept(self):
        self.dockerfile("FROM BUSYBOX\nRUN touch /a /b && chown 1000:2000 /a && chmod 4755 /b && mkdir -m 1777 /c && mkfifo /p && ln /a /h && ln -s a /l\n")
        self.build("-t", "x")
        out = self.run_in("x", "stat", "-c", "%n %u:%g %a %F %h", "/a", "/b", "/c", "/p", "/l")
        self.assertEqual(out.splitlines(), ["/a 1000:2000 644 regular empty file 2", "/b 0:0 4755 regular empty file 1", "/c 0:0 1777 directory 2", "/p 0:0 644 fifo 1", "/l 0:0 777 symbolic link 1"])

    def test_umask_of_the_caller_does_not_matter(self):
        self.dockerfile("FROM BUSYBOX\nRUN --mount=type=tmpfs,target=/made/for/mount stat -c '%n %a' /etc/hosts /etc/resolv.conf /made /made/for; umask; touch /f; mkdir /d; stat -c '%n %a' /f /d\n")
        result = self.ok("build", "--progress=plain", self.context, umask=0o077)
        said = re.findall(r"(?m)^#\d+ [0-9.]+ (.*)$", result.err)
        self.assertEqual(said, ["/etc/hosts 644", "/etc/resolv.conf 644", "/made 755", "/made/for 755", "0022", "/f 644", "/d 755"])

    def test_deletions(self):
        self.dockerfile("FROM BUSYBOX\nRUN mkdir -p /d/e && echo 1 > /d/f && echo 2 > /d/e/g\nRUN rm -r /d/e && rm /bin/awk && mkdir /d/e && echo 3 > /d/e/h\n")
        self.build("-t", "x")
        root = self.unpack("x")
        self.assertEqual(sorted(os.listdir(root + "/d")), ["e", "f"])
        self.assertEqual(os.listdir(root + "/d/e"), ["h"])
        self.assertFalse(os.path.lexists(root + "/bin/awk"))
        self.assertTrue(os.path.lexists(root + "/bin/cat"))

    def test_shell_and_script(self):
        self.dockerfile('FROM BUSYBOX\nSHELL ["/bin/sh", "-exc"]\nRUN echo $-\nRUN <<EOF\necho one > /one\necho two > /two\nEOF\nRUN ["/bin/sh", "-c", "echo exec > /three"]\n')
        self.build("-t", "x")
        self.assertEqual(self.run_in("x", "cat", "/one", "/two", "/three"), "one\ntwo\nexec\n")


class RunCommand(TestCase):
    def setUp(self):
        super().setUp()
        self.dockerfile('FROM BUSYBOX\nENV A=image\nWORKDIR /job\nENTRYPOINT ["sh", "-c"]\nCMD ["echo $A $(pwd)"]\n')
        self.build("-t", "x")

    def test_command_and_environment(self):
        self.assertEqual(self.run_in("x"), "image /job\n")
        self.assertEqual(self.ok("run", "--rm", "-e", "A=given", "-w", "/tmp", "x", "echo $A $(pwd)").out, "given /tmp\n")

    def test_exit_code_is_passed_through(self):
        self.fails(42, "run", "x", "exit 42")
        self.fails(137, "run", "x", "kill -9 $$")
        self.fails(127, "run", "--entrypoint", "no-such-program", "x")

    def test_volume_and_streams(self):
        data = os.path.join(self.dir, "data")
        os.mkdir(data)
        if USER:
            shutil.chown(data, USER)
        result = self.ok("run", "-i", "-v", data + ":/data", "x", "cat > /data/in; echo to-stderr >&2; echo to-stdout", stdin=b"from stdin\n")
        self.assertEqual((result.out, result.err), ("to-stdout\n", "to-stderr\n"))
        self.assertEqual(read(data, "in"), "from stdin\n")
        self.fails(1, "run", "-v", data + ":/data:ro", "x", "touch /data/new 2>/dev/null")

    def test_what_it_writes_is_thrown_away(self):
        self.ok("run", "x", "touch /job/new")
        self.assertEqual(self.run_in("x", "ls /job"), "")

    def test_user(self):
        if AS == "single":
            result = self.call("run", "-u", "worker", "x", "id -u")
            self.assertNotEqual(result.code, 0)
            self.assertRegex(result.err, "subuid|subordinate")
            return
        self.assertEqual(self.ok("run", "-u", "worker", "x", "id -u").out, "1000\n")
        self.assertEqual(self.ok("run", "-u", "7:8", "x", "id -u; id -g").out, "7\n8\n")

    def test_unknown_image(self):
        result = self.fails(125, "run", "nope")
        self.assertIn("no image nope", result.err)


if __name__ == "__main__":
    unittest.main()
