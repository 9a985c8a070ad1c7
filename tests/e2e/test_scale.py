"""Large and deep builds; the same image whatever the number of threads."""

from harness import *


class Deep(TestCase):
    def test_more_layers_than_a_mount_takes(self):
        # Overlay takes 500 lower directories. What a layer far below made can still be removed and replaced.
        lines = ["FROM %s" % busybox()] + ["COPY f /d/%d" % i for i in range(520)]
        lines += ["RUN ls /d | wc -l && rm /d/3 && mkdir /d/1.d && rm -r /d/5 && mkdir /d/5 && echo x > /d/5/in",
                  "RUN ls /d | wc -l && test ! -e /d/3 && cat /d/5/in /d/519"]
        self.write("f", "content of f\n")
        self.dockerfile("\n".join(lines) + "\n")
        result = self.build("-t", "deep", "--progress=plain")
        self.assertIn(" 520\n", result.err)
        self.assertIn("content of f", result.err)
        rootfs = self.unpack("deep")
        self.assertFalse(os.path.exists(rootfs + "/d/3"))
        self.assertEqual(read(rootfs, "d/5/in"), "x\n")
        self.assertEqual(len(os.listdir(rootfs + "/d")), 520)


    def test_a_base_that_has_a_layer_twice(self):
        name = registry().host + "/twice/layers:1"
        self.dockerfile("FROM %s\nRUN echo 1 > /f; echo x > /g\nRUN echo 2 > /f; rm /g\nRUN echo 1 > /f; echo x > /g\n" % busybox())
        self.build("-q", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-o", "type=registry,name=" + name)
        layers = skopeo_inspect(name)["Layers"]
        self.assertEqual(layers[1], layers[3])
        self.store += "-fresh"
        self.dockerfile("FROM %s\nRUN cat /f /g > /h && rm /g\nCOPY Dockerfile /f/../d\n" % name)
        self.build("-t", "above")
        self.assertEqual(self.run_in("above", "sh", "-c", "cat /f /h"), "1\n1\nx\n")

    def test_squash_opens_few_files(self):
        self.dockerfile("FROM %s\n" % busybox() + "".join("RUN mkdir -p /a/b/c/d/e/f/g/h && echo %d > /a/b/c/d/e/f/g/h/%d\n" % (i, i) for i in range(60)))
        self.build("-q")
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        try:
            self.build("--squash", "-t", "squashed")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        self.assertEqual(len(os.listdir(self.unpack("squashed", "--squash") + "/a/b/c/d/e/f/g/h")), 60)

    def test_squash_of_more_layers_than_are_kept_apart(self):
        self.dockerfile("\n".join(["FROM %s AS deep" % busybox()] + ["RUN echo %d > /d%d" % (i, i) for i in range(100)] + ["FROM deep"] +
                                  ["RUN echo %d > /e%d && rm /d%d" % (i, i, i) for i in range(40)]) + "\n")
        self.build("--squash", "-t", "squashed")
        self.assertEqual(len(self.inspect("squashed")["Manifest"]["layers"]), 2)
        rootfs = self.unpack("squashed", "--squash")
        names = os.listdir(rootfs)
        self.assertEqual(sorted(n for n in names if n[0] in "de" and n[1:].isdigit()),
                         sorted(["d%d" % i for i in range(40, 100)] + ["e%d" % i for i in range(40)]))
        self.assertEqual(read(rootfs, "e39"), "39\n")


class Records(TestCase):
    def test_layers_of_two_executions_are_not_mixed(self):
        # The record of a command is gone, that of the command on top of it is not.
        self.dockerfile("FROM BUSYBOX\nRUN cat /proc/sys/kernel/random/uuid > /a\nRUN cp /a /b\n")
        self.build("-t", "x")
        removed = 0
        for top, _, names in os.walk(os.path.join(self.store, "records")):
            for name in names:
                lines = read(top, name).split("\n")
                if not lines[0].startswith("lamina-record") or not lines[1]:
                    continue
                fs = os.path.join(self.store, "layers", lines[1], "fs")
                if os.path.exists(fs + "/a") and not os.path.exists(fs + "/b"):
                    os.remove(os.path.join(top, name))
                    removed += 1
        self.assertEqual(removed, 1)
        self.build("-t", "x")
        a, b = self.run_in("x", "cat", "/a", "/b").split()
        self.assertEqual(a, b)

    def test_copies_from_stages_one_after_the_other_are_all_cached(self):
        stages = "".join("FROM %s AS s%d\nRUN echo %d > /x\n" % (busybox(), i, i) for i in range(4))
        self.dockerfile(stages + "FROM %s\n" % busybox() + "".join("COPY --from=s%d /x /x%d\n" % (i, i) for i in range(4)) + "RUN cat /x*\n")
        first = self.build("-t", "chain", "--progress=plain")
        for _ in range(2):
            again = self.build("-t", "chain", "--progress=plain")
            self.assertIn("all 9 steps were cached", again.err)
            self.assertEqual(again.out, first.out)


class Threads(TestCase):
    def fill(self):
        r = __import__("random").Random(7)
        for i in range(300):
            self.write("tree/%d/%s%d" % (i % 13, "ab.-"[i % 4], i), r.randbytes(r.randrange(9000)))
        self.write("large", r.randbytes(9 << 20) + bytes(3 << 20))
        os.link(self.context + "/large", self.context + "/tree/hard")
        os.symlink("large", self.context + "/tree/soft")
        base = busybox()
        self.dockerfile("\n".join(
            ["FROM %s AS %s\nCOPY tree /in\nRUN cat /in/*/* | md5sum > /%s && dd if=/in/hard of=/part-%s bs=1M count=3 && rm -r /in/1" % (base, s, s, s) for s in "abc"]
            + ["FROM " + base, "COPY --from=a /a /part-a /from/", "COPY . /all", "RUN rm /all/tree/2/* && touch -d @5 /all",
               "COPY --from=b / /b", "COPY --from=c /c large /c/", "COPY --exclude=*1* tree /last"]).replace("COPY --from=c /c large /c/", "COPY --from=c /c /c/\nCOPY large /c/") + "\n")

    def test_any_number_of_jobs_gives_the_same_image(self):
        self.fill()
        seen = {}
        for compression in ("gzip", "zstd"):
            for jobs in ("1", "2", "8"):
                name = "%s/jobs/%s-%s:1" % (registry().host, compression, jobs)
                out = self.ok("build", "-q", "--jobs", jobs, "--build-arg", "SOURCE_DATE_EPOCH=1700000000",
                              "-o", "type=registry,name=%s,compression=%s" % (name, compression), self.context, store=self.store + jobs + compression).out
                image = skopeo_inspect(name)
                seen.setdefault(compression, set()).add((out.strip(), image["Digest"], tuple(image["Layers"])))
        for compression, images in seen.items():
            self.assertEqual(len(images), 1, compression)
        # And the same uncompressed identity under both.
        self.assertEqual(len({image[0] for images in seen.values() for image in images}), 1)

    def test_the_index_changes_nothing(self):
        self.fill()
        build = lambda *args: self.ok("build", "-q", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", *args, self.context).out
        first = build("--jobs", "2")
        self.assertEqual(build("--jobs", "1"), first)
        self.assertEqual(build("--no-cache"), first)
        # The same size and times, other bytes: only the ctime tells.
        path = os.path.join(self.context, "tree/4/a4")
        st = os.stat(path)
        with open(path, "r+b") as f:
            old = f.read(1)
            f.seek(0)
            f.write(bytes([old[0] ^ 1]))
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
        second = build()
        self.assertNotEqual(second, first)
        with open(path, "r+b") as f:
            f.write(old)
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
        self.assertEqual(build(), first)


if __name__ == "__main__":
    unittest.main()
