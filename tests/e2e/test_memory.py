"""The bound of docs/performance.md, "Memory"."""

from harness import *


class Peak(TestCase):
    BOUND_MIB = 64 + 4 * 2

    def peak(self, *args):
        """MiB that a build held at most; its sandboxes do not count."""
        with self.start("build", "-q", "--jobs", "2", "-t", "x", *args, self.context) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(process.returncode, 0, process.stderr.read())
        return usage.ru_maxrss / 1024

    def check(self, instruction):
        self.dockerfile("FROM scratch\n%s\n" % instruction)
        for _ in range(2):  # and once more, when it is all recorded
            self.assertLess(self.peak(), self.BOUND_MIB, instruction)

    def test_many_files(self):
        for i in range(40000):
            self.write("files/d%d/f%d.txt" % (i // 20000, i), "%d\n" % i)
        os.symlink("d0", self.context + "/files/link")
        for instruction in ("COPY files/link/*.txt /x/", "COPY files /x", "COPY files/d0/*.txt files/d1/* /x/", "COPY --exclude=*7.txt files /x\nCOPY files/d1 /x\nWORKDIR /x/y"):
            self.check(instruction)

    def test_large_files(self):
        with open(self.context + "/large", "wb") as f:
            for _ in range(160):
                f.write(os.urandom(1 << 20))
        self.check("COPY large /x")
        self.dockerfile("FROM scratch\nCOPY large /x\n")
        self.assertLess(self.peak("--no-cache", "-o", "type=oci,dest=%s/x.tar,compression=zstd" % self.dir), self.BOUND_MIB)
        self.assertLess(self.peak("--no-cache", "-o", "type=oci,dest=%s/x.tar" % self.dir), self.BOUND_MIB)
