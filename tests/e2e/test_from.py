"""Steps that read stages and images which are made anew: what comes out the same is not done again, and nothing else is spared."""

import glob
import random

from harness import *


class From(TestCase):
    def state(self, number, text, copy="COPY --from=made /d /d", parent="one"):
        """The stage is another for each number; its files only depend on the text."""
        self.dockerfile("FROM %s AS made\nRUN mkdir -p /d/sub && echo %s > /d/sub/x && ln /d/sub/x /d/y && head -c 3000000 /dev/zero > /d/large && : %d\n"
                        "FROM %s\nRUN : %s\n%s\nRUN cat /d/sub/x /d/y\n" % (busybox(), text, number, busybox(), parent, copy))

    def explained(self, *args, where=None):
        """{first words of a step's title: what was said of it}; checks the image, too."""
        result = self.ok("build", "--explain", "-t", "x", *args, where or self.context)
        said = re.findall(r"explain: (hit|miss) +\[(\S+) \d/\d\] (\w+)[^\n]*?(?:: ([^:\n]*(?:stage [^\n]*)?))?$", result.err, re.M)
        return {stage + " " + word: (kind, why) for kind, stage, word, why in said}

    def text(self):
        rootfs = self.unpack("x")
        self.assertEqual(os.path.getsize(rootfs + "/d/large"), 3000000)
        self.assertEqual(read(rootfs, "d/sub/x"), read(rootfs, "d/y"))
        return read(rootfs, "d/sub/x").strip()

    def test_the_same_files_are_not_copied_again(self):
        self.state(1, "a")
        self.assertEqual(self.explained()["stage-1 COPY"][0], "miss")
        self.assertEqual(self.explained()["stage-1 COPY"][0], "hit")
        self.state(2, "a")
        said = self.explained()
        self.assertEqual(said["made RUN"][0], "miss")
        self.assertEqual(said["stage-1 COPY"][0], "hit")
        self.assertEqual(said["stage-1 RUN"][0], "hit")
        self.state(3, "b")
        said = self.explained()
        self.assertEqual(said["stage-1 COPY"], ("miss", "stage made:/d/sub/x changed; stage made:/d/y changed"))
        self.assertEqual(said["stage-1 RUN"][0], "miss")
        self.assertEqual(self.text(), "b")
        self.state(4, "a")
        self.assertEqual(self.explained()["stage-1 COPY"][0], "hit")
        self.assertEqual(self.text(), "a")

    def test_files_are_digested_when_a_rebuild_asks(self):
        spans = lambda: [e["name"] for e in json.load(open(self.dir + "/trace"))["traceEvents"] if e.get("ph") == "X" and "digest" in e["name"] and e.get("cat") == "copy"]
        self.state(1, "a")
        self.explained("--trace", self.dir + "/trace")
        self.assertEqual(spans(), [])
        self.state(2, "b")
        self.explained("--trace", self.dir + "/trace")
        self.assertIn("digest what was read before", spans())
        self.state(3, "c")
        self.explained("--trace", self.dir + "/trace")
        self.assertEqual(set(spans()), {"digest"})

    def test_another_checkout_and_a_step_below(self):
        self.state(1, "a")
        self.explained()
        other = self.dir + "/other"
        self.state(2, "a")
        shutil.copytree(self.context, other)
        self.assertEqual(self.explained(where=other)["stage-1 COPY"][0], "hit")
        self.state(3, "a", parent="two")
        self.assertEqual(self.explained()["stage-1 COPY"][0], "miss")
        self.state(4, "a", parent="two")
        self.assertEqual(self.explained()["stage-1 COPY"][0], "hit")

    def test_options_are_part_of_it(self):
        self.state(1, "a")
        self.explained()
        for number, copy in enumerate(("COPY --from=made --chmod=700 /d /d", "COPY --from=made --chown=0:0 /d /d", "COPY --from=made --exclude=none /d /d",
                                       "COPY --link --from=made /d /d", "COPY --from=made /d /d/")):
            self.state(2 + number, "a", copy)
            self.assertEqual(self.explained()["stage-1 COPY"][0], "miss", copy)
        self.state(9, "a", "COPY --from=made --chmod=700 /d /d")
        self.assertEqual(self.explained()["stage-1 COPY"][0], "hit")
        self.assertEqual(os.stat(self.unpack("x") + "/d/sub/x").st_mode & 0o7777, 0o700)

    def copied(self, number, *texts):
        """Each text overwrites the one before, in a layer of its own; nothing is on top of the COPY."""
        runs = "".join("RUN mkdir -p /d && echo %s > /d/x && : %d\n" % (text, number) for text in texts)
        self.dockerfile("FROM %s AS made\n%sFROM %s\nCOPY --from=made /d /d\n" % (busybox(), runs, busybox()))
        said = self.explained()["stage-1 COPY"]
        self.assertEqual(read(self.unpack("x"), "d/x").strip(), texts[-1])
        return said

    def test_what_it_copied_from_is_gone(self):
        self.copied(1, "a")
        [gone] = glob.glob(self.store + "/layers/*/fs/d/x")
        shutil.rmtree(gone[:-len("/fs/d/x")])
        self.assertEqual(self.copied(2, "a"), ("miss", "what it copies from changed"))
        self.assertEqual(self.copied(3, "a")[0], "hit")

    def test_damaged_notes(self):
        for number in range(1, 8):
            self.store = self.dir + "/store%d" % number
            self.copied(1, "a", "b")
            [note] = subprocess.run(["grep", "-rl", "^lamina-undigested", self.store + "/records"], capture_output=True, text=True).stdout.split()
            with open(note, "rb") as f:
                whole = f.read()
            without_b = whole[:whole.rindex(b" ")]  # what it says then is that the layer holds "a"
            damaged = (b"", whole[:30], without_b, whole[:-5], b"\0" * len(whole), whole.replace(b"\n1\n", b"\n2\n"), whole[:-1] + b"0\n")[number - 1]
            with open(note, "wb") as f:
                f.write(damaged)
            self.assertEqual(self.copied(2, "a")[0], "miss")
            self.assertEqual(self.copied(3, "a", "b")[0], "miss")

    def test_what_is_said_of_several_edits(self):
        def said(lines):
            self.dockerfile("FROM %s AS s\nRUN mkdir /o; echo %s > /o/f\nFROM %s\n%s\n" % (busybox(), lines[0], busybox(), lines[1]))
            return self.build("--explain").err
        copies = ("COPY --chmod=%d --from=s /o/f /g" % mode for mode in (644, 700, 644))
        for text, copy in zip("abc", copies):
            last = said((text, copy))
        self.assertIn('/g: chmod changed: "700" -> "644"; stage s:/o/f changed\n', last)
        for number, text in enumerate("abc"):
            last = said((text, "ENV a.from=%d\nRUN --mount=from=s,source=/o,target=/m cat /m/f > /g" % (number % 2)))
        self.assertIn('/g: variable a.from changed: "1" -> "0"; stage s:/o/f changed\n', last)

    def test_what_is_said_of_a_stage_that_is_mounted_whole(self):
        for whole, part in ((1, "a"), (2, "b"), (1, "b")):
            self.dockerfile("FROM %s AS w\nRUN echo %d > /w\nFROM %s AS s\nRUN mkdir /o; echo %s > /o/f\nFROM %s\n"
                            "RUN --mount=from=s,source=/o,target=/m --mount=from=w,target=/w cat /m/f /w/w > /g\n" % (busybox(), whole, busybox(), part, busybox()))
            last = self.build("--explain").err
        self.assertIn("/g: mount[1].from changed\n", last)

    def mounting(self, number, *texts, source="/d"):
        lines = ["FROM %s AS made%d\nRUN mkdir -p /d && echo %s > /d/x && : %d" % (busybox(), i, text, number) for i, text in enumerate(texts)]
        mounts = " ".join("--mount=from=made%d,source=%s,target=/m%d" % (i, source, i) for i in range(len(texts)))
        self.dockerfile("\n".join(lines) + "\nFROM %s\nRUN %s mkdir /d && cat /m*/x > /d/all\nRUN cat /d/all\n" % (busybox(), mounts))

    def test_mounted_files(self):
        seen = []
        for number, texts in enumerate(("ab", "ab", "ac", "ab", "cb", "ac")):
            self.mounting(number, *texts)
            said = self.explained("--trace", self.dir + "/trace")
            seen.append(said["stage-2 RUN"][0])  # of both, the last
            self.assertEqual(read(self.unpack("x"), "d/all").split(), list(texts))
            if number == 0:
                self.assertFalse([e for e in json.load(open(self.dir + "/trace"))["traceEvents"] if e.get("cat") == "copy"])
        self.assertEqual(seen, ["miss", "hit", "miss", "hit", "miss", "hit"])
        self.mounting(9, "a", "b", source="/none")
        self.assertIn("/none was not found in the stage made0", self.fails(1, "build", self.context).err)

    def test_images(self):
        name = registry().host + "/from:%d" % os.getpid()
        seen = []
        for number, text in enumerate(("a", "a", "b")):
            self.write("f", text)
            self.dockerfile("FROM scratch\nCOPY f /f\nLABEL number=%d\nWORKDIR /%d\n" % (number, number))
            self.build("--push", "-t", name)
            self.dockerfile("FROM scratch\nCOPY --from=%s /f /g\n" % name)
            result = self.ok("build", "--pull", "--explain", "-t", "x", self.context)
            seen.append(re.search("explain: (hit|miss) .*COPY", result.err).group(1))
            self.assertEqual(read(self.unpack("x"), "g"), text)
        self.assertEqual(seen, ["miss", "hit", "miss"])

    def test_any_order(self):
        seed = int(os.environ.get("LAMINA_TEST_SEED", time.time_ns()))
        r = random.Random(seed)
        copies = ["COPY --from=made /d /d", "COPY --from=made /d/sub/ /d/large /d/\nCOPY --from=made /d /d", "COPY --link --from=made /d /d"]
        other = self.dir + "/other"
        for turn in range(15):
            text = r.choice("ab")
            self.state(r.randrange(4), text, r.choice(copies), r.choice("pq"))
            shutil.rmtree(other, ignore_errors=True)
            shutil.copytree(self.context, other)
            args = r.choice([[], [], [], ["--no-cache"], ["--strict"], ["--no-cache-filter", "made"]])
            self.ok("build", "-q", "-t", "x", *args, r.choice([self.context, other]))
            self.assertEqual(self.text(), text, "seed %d, turn %d" % (seed, turn))
