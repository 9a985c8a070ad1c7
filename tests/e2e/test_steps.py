"""Steps of one stage, one after the other: what is made of them, and what they need not wait for."""

from harness import *


def step_traces(path):
    with open(path) as f:
        return json.load(f)["traceEvents"]


class Sequences(TestCase):
    def snapshots(self):
        layers = os.path.join(self.store, "layers")
        return sorted(name for name in os.listdir(layers) if os.path.exists(os.path.join(layers, name, "fs")))

    def fill(self):
        for name in ("a/one", "a/sub/two", "b/one", "b/sub/three", "c/deep/er/four"):
            self.write(name, "content of %s\n" % name)
        os.chmod(self.context + "/b/sub", 0o2750)
        self.write("file", "a file\n")
        self.write("passwd", "root:x:0:0::/:\nalice:x:1234:77::/:\n")
        self.write("group", "staff:x:50:\n")
        os.symlink("sub", self.context + "/a/link")

    def layers_of(self, lines, *args):
        self.dockerfile("\n".join(lines) + "\n")
        return self.build("-q", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", *args).out

    SEQUENCE = ["COPY a /x", "COPY b /x", "WORKDIR /x/sub/w", "COPY c /x/link/", "WORKDIR link2", "COPY file /x/sub/deep/er/", "COPY --chmod=700 file /y/z/", "ADD b/one /y/z/", "COPY file /x/one"]

    def test_no_snapshot_for_what_is_only_placed_upon(self):
        self.fill()
        self.layers_of(["FROM scratch"] + self.SEQUENCE, "-t", "seq")
        self.assertEqual(self.snapshots(), [])
        rootfs = self.unpack("seq")
        self.assertEqual(read(rootfs, "x/one"), "a file\n")
        self.assertEqual(read(rootfs, "x/sub/deep/er/four"), "content of c/deep/er/four\n")
        self.assertEqual(os.readlink(rootfs + "/x/link"), "sub")
        self.assertTrue(os.path.isdir(rootfs + "/x/sub/w/link2"))
        # A passage keeps what an earlier step made of the directory.
        self.assertEqual(os.stat(rootfs + "/x/sub").st_mode & 0o7777, 0o2750)

    def test_the_layers_are_the_same_with_and_without_snapshots(self):
        self.fill()
        seen = set()
        steps = ["FROM %s AS s" % busybox()] + self.SEQUENCE
        for jobs in ("1", "2", "8"):
            for tail in ([], ["RUN true > /made"]):
                self.store = os.path.join(self.dir, "store-%s-%d" % (jobs, len(tail)))
                self.layers_of(steps + tail, "-t", "seq", "--jobs", jobs)
                layers = [layer["digest"] for layer in self.inspect("seq")["Manifest"]["layers"]]
                seen.add(tuple(layers[:len(layers) - len(tail)]))
                self.assertEqual(bool(tail), len(self.snapshots()) > 1)  # one: the base, which the first COPY looks at
        self.assertEqual(len(seen), 1)

    def test_a_cached_step_below_is_listed_from_its_tar(self):
        self.fill()
        lines = ["FROM scratch", "COPY a /x", "COPY b /x", "WORKDIR /x/link/w", "COPY file /x/sub/w/"]
        self.layers_of(lines, "-t", "one")
        self.write("file", "another\n")
        changed = self.layers_of(lines, "-t", "one")
        self.assertEqual(self.snapshots(), [])
        self.store += "-fresh"
        self.assertEqual(self.layers_of(lines, "-t", "one"), changed)

    def test_files_and_directories_in_the_way(self):
        self.fill()
        for lines, words in ((["COPY file /x", "COPY a /x/"], "/x is in the way"),
                             (["COPY a /x", "COPY file /y", "COPY b /x/one/in"], "/x/one is in the way"),
                             (["COPY a /x", "COPY a/sub /x/one/"], "/x/one is in the way"),
                             (["COPY file /x", "WORKDIR /x/y"], "/x is in the way"),
                             (["COPY a /t/file", "COPY file /t/"], "cannot replace the directory /t/file")):
            with self.subTest(lines=lines):
                self.dockerfile("\n".join(["FROM scratch"] + lines) + "\n")
                result = self.fails(2, "build", self.context)
                self.assertIn(words, result.err)
                self.assertIn("Dockerfile:%d:1" % (1 + len(lines)), result.err)

    @unittest.skipIf(USER, "the files are looked at by their numbers")
    def test_owners_by_a_name_that_a_copy_brought(self):
        self.fill()
        for name, brought in (("copied", ["COPY passwd group /etc/"]), ("written", ["COPY <<EOF /etc/passwd", "alice:x:1234:77::/:", "EOF", "COPY group /etc/"])):
            self.layers_of(["FROM scratch"] + brought + ["COPY --chown=alice:staff file /f", "USER alice", "WORKDIR /home"], "-t", name)
            rootfs = self.unpack(name)
            self.assertEqual((os.stat(rootfs + "/f").st_uid, os.stat(rootfs + "/f").st_gid), (1234, 50))
            self.assertEqual(os.stat(rootfs + "/home").st_uid, 1234)
        self.dockerfile("FROM scratch\nCOPY passwd /etc/\nCOPY --chown=bob file /f\n")
        self.assertIn("bob", self.fails(1, "build", self.context).err)

    def test_more_files_than_a_listing_holds(self):
        for i in range(10050):
            self.write("many/%d" % i)
        self.write("file", "x")
        self.layers_of(["FROM scratch", "COPY many /x", "COPY file /x/1", "COPY file /x/new"], "-t", "many")
        self.assertEqual(len(self.snapshots()), 1)  # of the first
        rootfs = self.unpack("many")
        self.assertEqual(len(os.listdir(rootfs + "/x")), 10051)
        self.assertEqual(read(rootfs, "x/1"), "x")


class Overlapping(TestCase):
    """COPY steps that are written while the one below them is."""

    def trace_of(self, *args):
        self.build("--trace=" + self.dir + "/trace", *args)
        return {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in step_traces(self.dir + "/trace") if e["ph"] == "X" and e["cat"] == "step"}

    def sparse(self, name, size):
        self.write(name)
        os.truncate(os.path.join(self.context, name), size)

    def test_the_second_begins_before_the_first_ends(self):
        self.sparse("large", 700 << 20)
        self.write("small", "x\n")
        for first, second in (("COPY large /d/large", "COPY small /d/small"), ("COPY large /d/large", "COPY --from=s /f /f")):
            with self.subTest(second=second):
                self.dockerfile("FROM %s AS s\nRUN echo f > /f\nFROM scratch\n%s\n%s\n" % (busybox(), first, second))
                spans = self.trace_of("--no-cache", "--jobs", "4", "-t", "two")
                span = {name: next(s for n, s in spans.items() if n.endswith(name)) for name in (first, second)}
                self.assertLess(span[second][0], span[first][1])
                self.assertGreaterEqual(span[second][1], span[first][1])  # its key needs the first one's
        self.assertEqual(self.ok("build", "-t", "again", self.context).out, self.build("-t", "once", "--jobs", "1").out)

    def test_a_copy_from_the_step_below_waits_for_it(self):
        self.write("old", "old\n")
        self.write("new/f", "new\n")
        self.sparse("new/large", 300 << 20)
        for name, above in (("above", "FROM s"), ("between", "FROM s AS t\nCOPY old /x\nFROM t")):
            self.dockerfile("FROM scratch AS s\nCOPY old /d/f\nCOPY new /d/\n%s\nCOPY --from=s /d/f /g\n" % above)
            self.build("--no-cache", "--jobs", "4", "-t", name)
            self.assertEqual(read(self.unpack(name), "g"), "new\n")

    def test_whose_failure_is_told(self):
        self.sparse("large", 700 << 20)
        self.dockerfile("FROM scratch\nCOPY large /d/large\nCOPY missing /d/\nCOPY large /e/\n")
        self.assertIn("missing was not found", self.fails(1, "build", "--jobs", "4", self.context).err)
        # What was made below is kept.
        self.write("missing")
        self.assertIn("1 of 3 steps were cached", self.build("--jobs", "4", "--progress=plain").err)

    @unittest.skipUnless(USER, "root reads everything")
    def test_a_failure_below_ends_those_above(self):
        self.sparse("large", 200 << 20)
        self.write("secret", "x" * 100000)
        os.chown(self.context + "/secret", 0, 0)
        os.chmod(self.context + "/secret", 0o600)
        self.dockerfile("FROM scratch\nCOPY large secret /d/\nCOPY large /e/\nCOPY large /f/\n")
        result = self.fails(1, "build", self.context)
        self.assertIn("secret", result.err)

    def test_a_layer_that_was_recorded_before(self):
        # The first COPY's files have other times by then: what the second one is put on is the layer of the record.
        self.write("a/one", "1\n")
        self.write("b/two", "2\n")
        ids = set()
        for jobs in ("1", "4"):
            self.store = self.dir + "/store" + jobs
            os.utime(self.context + "/a", (1000, 1000))
            self.dockerfile("FROM scratch\nCOPY a /x\n")
            self.build("--jobs", jobs, "-t", "below")
            os.utime(self.context + "/a", (2000, 2000))
            # In a Dockerfile of another name no record is expected.
            self.write("Other", "FROM scratch\nCOPY a /x\nCOPY b /x\nCOPY a/one /x/three\n")
            self.build("--jobs", jobs, "-t", "above", "-f", self.context + "/Other")
            ids.add(tuple(layer["digest"] for layer in self.inspect("above")["Manifest"]["layers"]))
            self.assertEqual(self.inspect("above")["Manifest"]["layers"][0], self.inspect("below")["Manifest"]["layers"][0])
        self.assertEqual(len(ids), 1)

    def test_random_sequences(self):
        seed = int(os.environ.get("LAMINA_TEST_SEED", time.time_ns()))
        r = __import__("random").Random(seed)
        for name in ("a/one", "a/sub/two", "b/one", "b/sub/three", "c/deep/er/four"):
            self.write(name, "content of %s\n" % name)
        os.symlink("sub", self.context + "/a/link")
        self.write("file", "a file\n")
        self.write("passwd", "root:x:0:0::/:\nalice:x:0:0::/:\n")
        self.sparse("big", 64 << 20)
        sources = ["a", "b", "c", "file", "passwd", "a/sub", "a/link", "b/one", "c/deep", "a b", "*", "--from=s /etc", "--from=s /made", "--from=t /f", "--from=t /g/one", "--from=t /g/", "big", "a big", "--link a", "--chown=alice file", "--chmod=711 b"]
        targets = ["/x", "/x/", "/x/sub/", "/x/link/", "/x/one", "/x/one/", "/etc/passwd", "/etc/", "/d/e/f/", "rel/"]
        for _ in range(12):
            lines = ["FROM %s AS s" % busybox(), "RUN echo m > /made", "FROM scratch AS t", "COPY file /f", "COPY file /g/one", "COPY b big /g/"]
            lines += [r.choice(["FROM scratch", "FROM s", "FROM t"])]
            lines += ["COPY %s %s" % (r.choice(sources), r.choice(targets)) for _ in range(r.randrange(2, 7))]
            lines += r.choice([[], ["RUN true"], ["WORKDIR /x/y"]]) if "FROM s" in lines else []
            self.dockerfile("\n".join(lines) + "\n")
            results = []
            for jobs in ("1", "4"):
                self.store = self.dir + "/store" + jobs
                result = self.call("build", "-q", "--jobs", jobs, "--build-arg", "SOURCE_DATE_EPOCH=1700000000", self.context)
                results.append((result.code, result.out, result.err))
            if all(code != 0 for code, _, _ in results) and any("--link" in line for line in lines):
                continue  # a linked step and another may both be wrong: either is told
            self.assertEqual(results[0], results[1], "seed %d\n%s" % (seed, "\n".join(lines)))


class Sources(TestCase):
    def test_a_copy_sees_the_context_as_it_is_when_its_turn_comes(self):
        self.write("f", "old\n")
        self.write("empty", "")
        self.dockerfile("FROM %s\nRUN sleep 2\nCOPY . /d\n" % busybox())
        process = self.start("build", "-t", "late", self.context)
        time.sleep(1)
        self.write("f", "new\n")
        os.chmod(self.context + "/f", 0o755)
        self.write("empty", "filled\n")
        self.write("added", "x\n")
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)
        self.assertEqual(self.run_in("late", "sh", "-c", "cat /d/f /d/empty /d/added && stat -c %a /d/f"), "new\nfilled\nx\n755\n")

    def test_a_linked_step_at_the_end_of_a_stage_is_not_all_of_it(self):
        self.write("fast", "x\n")
        self.dockerfile("FROM %s AS s\nRUN sleep 2; mkdir -p /d; echo slow > /d/slow\nCOPY --link fast /d/fast\nFROM %s\nRUN sleep 1; echo hi > /x\nCOPY --from=s /d /d\n" % (busybox(), busybox()))
        self.build("-t", "linked")
        self.assertEqual(self.run_in("linked", "ls", "/d"), "fast\nslow\n")



class Trace(TestCase):
    def test_what_ran_where_and_what_it_waited_for(self):
        self.write("f", os.urandom(6 << 20))
        self.dockerfile("FROM BUSYBOX AS a\nRUN sleep 0.2; echo a > /a\nFROM BUSYBOX\nRUN echo b > /b\nCOPY f /f\nCOPY --from=a /a /a\n")
        self.build("-o", "type=registry,name=%s/traced:1" % registry().host, "--trace=" + self.dir + "/trace")
        events = step_traces(self.dir + "/trace")
        spans = {(e["cat"], e["name"]) for e in events if e["ph"] == "X"}
        names = {name for _, name in spans}
        for word in ("open ", "resolve ", "unpack ", "compress", "hash", "upload a chunk", "prepare", "command", "seal", "select [", "add ["):
            self.assertTrue(any(name.startswith(word) for name in names), "%s: %s" % (word, sorted(names)))
        for e in events:
            self.assertIn(e["ph"], "XMsfbe")
        self.assertIn("main", {e["args"]["name"] for e in events if e["ph"] == "M"})
        waits = {e["name"] for e in events if e.get("cat") == "wait"}
        # The last COPY could begin when the sleeping stage and the COPY before it were done.
        self.assertTrue(any(w.startswith("[stage-1 4/4] COPY --from=a") and " waits for " in w for w in waits), waits)
        self.assertTrue(any(w.endswith("waits for a free slot") for w in waits), waits)
        for word in ("for layer ", "for the registry %s to answer a GET" % busybox().split("/")[0], "for the registry %s to answer a PATCH" % registry().host):
            self.assertTrue(any(w.startswith(word) for w in waits), "%s: %s" % (word, sorted(waits)))
        arrows = [e for e in events if e["ph"] in "sf"]
        self.assertEqual(sorted(e["id"] for e in arrows if e["ph"] == "s"), sorted(e["id"] for e in arrows if e["ph"] == "f"))
        self.assertGreaterEqual(len(arrows), 6)
        # Each end lies in the span of its step.
        for e in arrows:
            self.assertTrue(any(s["ph"] == "X" and s["cat"] == "step" and s["tid"] == e["tid"] and s["ts"] <= e["ts"] <= s["ts"] + s["dur"] for s in events), e)


if __name__ == "__main__":
    unittest.main()
