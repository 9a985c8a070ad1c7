"""Bad input: what is said, the exit status, and that nothing is left half-done."""

import subprocess

from harness import *


class DockerfileErrors(TestCase):
    def test_all_errors_at_once_and_nothing_built(self):
        self.dockerfile("FROM BUSYBOX\nCOYP a b\nRUN touch /x\nCOPY --form=x a b\nEXPOSE 99999999\n")
        result = self.fails(2, "build", "-t", "x", self.context)
        self.assertIn("Dockerfile:2:1: error: unknown instruction: COYP", result.err)
        self.assertIn("did you mean COPY", result.err)
        self.assertIn("Dockerfile:4:6: error: unknown flag", result.err)
        self.assertIn("--from", result.err)
        self.assertNotIn("RUN touch", result.err.replace("    3 |", ""))
        self.assertNotIn("x ", self.ok("images").out)

    def test_comment_behind_from(self):
        self.dockerfile("FROM BUSYBOX   # base image\n")
        result = self.fails(2, "build", self.context)
        lines = result.err.splitlines()
        at = next(i for i, line in enumerate(lines) if "1 | FROM" in line)
        self.assertEqual(lines[at + 1].index("^"), lines[at].index("#"), result.err)
        self.assertIn("comment", result.err)

    def test_comment_behind_env_warns(self):
        self.dockerfile("FROM BUSYBOX\nENV LANG ko_KR. ## or LANG=C\n")
        result = self.build("-t", "x")
        self.assertIn("warning", result.err)
        self.assertIn("#", result.err)
        self.assertIn("LANG=ko_KR. ## or LANG=C", self.config("x")["Env"])

    def test_unknown_target_and_stage(self):
        self.dockerfile("FROM BUSYBOX AS compile\n")
        result = self.fails(2, "build", "--target", "compil", self.context)
        self.assertIn("did you mean compile", result.err)

    def test_no_dockerfile_no_context(self):
        result = self.fails(2, "build", self.context)
        self.assertIn("there is no Dockerfile", result.err)
        result = self.fails(2, "build", os.path.join(self.dir, "nowhere"))
        self.assertIn("does not exist", result.err)

    def test_unknown_option(self):
        self.dockerfile("FROM BUSYBOX\n")
        self.fails(2, "build", "--taget", "x", self.context)
        self.fails(2, "build", "-t", "Upper/Case", self.context)


class StepErrors(TestCase):
    def test_missing_copy_source(self):
        self.dockerfile("FROM BUSYBOX\nCOPY main.txt missing.txt /x/\n")
        self.write("main.txt")
        result = self.fails(1, "build", self.context)
        self.assertIn("missing.txt", result.err)
        self.assertIn("Dockerfile:2:15", result.err)

    def test_ignored_copy_source_names_the_rule(self):
        self.dockerfile("FROM BUSYBOX\nCOPY secret.txt /x/\n")
        self.write("secret.txt")
        self.write(".dockerignore", "# rules\n*.md\nsecret.*\n")
        result = self.fails(1, "build", self.context)
        self.assertIn("secret.*", result.err)
        self.assertIn(".dockerignore:3", result.err)

    def test_failing_run(self):
        self.dockerfile("FROM BUSYBOX\nRUN echo out; echo err >&2; exit 7\nRUN true\n")
        result = self.fails(1, "build", "-t", "x", self.context)
        self.assertIn("exit code: 7", result.err)
        self.assertIn("Dockerfile:2:1", result.err)
        for line in ("out", "err"):
            self.assertRegex(result.err, r"(?m)^#\d+ [0-9.]+ %s$" % line)
        self.assertNotIn("RUN true", result.err)
        # What failed is not in the cache.
        self.fails(1, "build", self.context)

    def test_run_killed_by_signal(self):
        self.dockerfile("FROM BUSYBOX\nRUN kill -9 $$\n")
        result = self.fails(1, "build", self.context)
        self.assertRegex(result.err, "137|signal 9|SIGKILL")

    def test_quiet_failure_still_shows_output(self):
        self.dockerfile("FROM BUSYBOX\nRUN echo the-reason; exit 1\n")
        result = self.fails(1, "build", "-q", self.context)
        self.assertIn("the-reason", result.err)

    def test_output_of_200000_lines_is_whole(self):
        self.dockerfile("FROM BUSYBOX\nRUN seq 200000; exit 3\n")
        result = self.fails(1, "build", "--progress=plain", self.context)
        seen = [line.split(" ")[2] for line in result.err.splitlines() if re.match(r"^#\d+ [0-9.]+ \d+$", line)]
        self.assertEqual(seen, [str(i) for i in range(1, 200001)])

    def test_unknown_user(self):
        self.dockerfile("FROM BUSYBOX\nUSER wroker\nRUN true\n")
        result = self.fails(1, "build", self.context)
        self.assertIn("did you mean worker", result.err)

    def test_missing_program(self):
        self.dockerfile('FROM BUSYBOX\nRUN ["no-such-program"]\n')
        result = self.fails(1, "build", self.context)
        self.assertIn("no-such-program", result.err)
        self.assertIn("127", result.err)

    @unittest.skipUnless(ROOT, "a file system of a fixed size takes root to mount")
    def test_full_disk(self):
        disk = os.path.join(self.dir, "disk")
        os.mkdir(disk)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
        try:
            self.dockerfile("FROM BUSYBOX\nRUN dd if=/dev/zero of=/big bs=1M count=32\n")
            store = os.path.join(disk, "store")
            result = self.call("build", "-t", "x", self.context, store=store)
            self.assertEqual(result.code, 1, result.text)
            self.assertIn("No space left", result.err)
            # The store still works.
            self.dockerfile("FROM BUSYBOX\nRUN echo small > /small\n")
            self.ok("build", "-t", "x", self.context, store=store)
            self.assertEqual(self.ok("run", "x", "cat", "/small", store=store).out, "small\n")
        finally:
            subprocess.run(["umount", disk], check=True)


class Interrupt(TestCase):
    def setUp(self):
        super().setUp()
        # A duration of our own finds our processes among those of other runs of these tests.
        self.sleep = "sleep 9%d" % os.getpid()

    def start_sleeping(self, command):
        self.dockerfile("FROM BUSYBOX\nRUN %s\n" % command.replace("SLEEP", self.sleep))
        child = self.start("build", "--progress=plain", self.context, start_new_session=True)
        for line in child.stderr:
            if line.rstrip().endswith(" started"):
                return child
        self.fail("the build ended before it began to sleep")

    def assert_none_sleeps(self):
        left = subprocess.run(["pgrep", "-f", "^" + self.sleep], capture_output=True, text=True).stdout
        self.assertEqual(left, "", "processes were left")

    def interrupt(self, number, kill=os.killpg):
        child = self.start_sleeping("touch /started; echo started; SLEEP & SLEEP")
        kill(child.pid, number)
        began = time.monotonic()
        _, err = child.communicate(timeout=30)
        self.assertLess(time.monotonic() - began, 10)
        self.assert_none_sleeps()
        return child.returncode, err

    def test_ctrl_c(self):
        code, err = self.interrupt(signal.SIGINT)
        self.assertEqual(code, 130, err)
        self.assertIn("interrupted", err)

    def test_terminate(self):
        code, err = self.interrupt(signal.SIGTERM)
        self.assertEqual(code, 143, err)

    def test_signal_to_the_process_alone(self):
        for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            code, err = self.interrupt(number, kill=os.kill)
            self.assertEqual(code, expected, err)

    def test_killed_build_leaves_a_usable_store(self):
        child = self.start_sleeping("echo started; SLEEP")
        subprocess.run(["pkill", "-9", "-f", re.escape(self.context)], check=False)
        child.communicate(timeout=30)
        time.sleep(0.5)
        self.assert_none_sleeps()
        self.dockerfile("FROM BUSYBOX\nRUN echo fine > /x\n")
        self.build("-t", "x")
        self.assertEqual(self.run_in("x", "cat", "/x"), "fine\n")
        self.ok("prune")


if __name__ == "__main__":
    unittest.main()
