"""What is shown while a build goes on."""

import pty
import subprocess

from harness import *


class Progress(TestCase):
    def on_terminal(self, *args):
        """Exit status and everything that the program wrote to a terminal of 80 columns."""
        call, environment = self.command(*args, env={"TERM": "xterm", "COLUMNS": "80"})
        master, slave = pty.openpty()
        child = subprocess.Popen(call, env=environment, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave)
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            shown += data
        os.close(master)
        return child.wait(timeout=60), shown.decode(errors="replace")

    def test_terminal_loses_no_line_of_a_failing_step(self):
        self.dockerfile("FROM BUSYBOX\nRUN seq 1 50\nRUN seq 1000 1700; printf 'no newline'; exit 9\n")
        code, shown = self.on_terminal("build", self.context)
        self.assertEqual(code, 1, shown)
        seen = set(re.findall(r"\b1[0-7]\d\d\b", shown))
        self.assertEqual(sorted(seen), [str(i) for i in range(1000, 1701)])
        self.assertIn("no newline", shown)
        self.assertIn("exit code: 9", shown)
        self.assertIn("\x1b[", shown, "this was no terminal view")

    def test_terminal_view_ends_with_the_steps(self):
        self.dockerfile("FROM BUSYBOX\nRUN echo one\nRUN echo two\n")
        code, shown = self.on_terminal("build", "-t", "x", self.context)
        self.assertEqual(code, 0, shown)
        self.assertIn("RUN echo one", shown)
        self.assertIn("RUN echo two", shown)
        self.assertIn("tagged x", shown)

    def test_plain(self):
        self.dockerfile("FROM BUSYBOX AS base\nRUN echo one; echo two >&2\nCOPY Dockerfile /\nFROM base\n")
        first = self.build("--progress=plain").err
        number = re.search(r"(?m)^#(\d+) \[base 2/3\] RUN echo one; echo two >&2$", first)
        self.assertIsNotNone(number, first)
        for line in (r"[0-9.]+ one", r"[0-9.]+ two", r"DONE [0-9.]+s"):
            self.assertRegex(first, r"(?m)^#%s %s$" % (number[1], line))
        self.assertEqual(len(re.findall(r"(?m)^#\d+ CACHED$", self.build("--progress=plain").err)), 2)

    def test_rawjson_is_a_json_value_a_line(self):
        self.dockerfile("FROM BUSYBOX\nRUN echo one\n")
        lines = self.build("--progress=rawjson").err.splitlines()
        self.assertGreater(len(lines), 3)
        for line in lines:
            json.loads(line)


if __name__ == "__main__":
    unittest.main()
