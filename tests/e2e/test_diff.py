"""build diff: each kind of difference is named, with its place."""

from harness import *


class Diff(TestCase):
    def image(self, name, dockerfile, epoch="1700000000", **files):
        for path, content in files.items():
            self.write(path, content)
        self.write("Dockerfile", dockerfile)
        self.build("-t", name, env={"SOURCE_DATE_EPOCH": epoch})

    def differences(self, *args):
        result = self.fails(1, "diff", "--format", "json", *args)
        found = json.loads(result.out)
        return found, ["%s: %s" % (d["Where"], d["What"]) for d in found["Differences"]]

    def test_same(self):
        self.image("a", "FROM scratch\nCOPY data /\n", data="x")
        self.ok("tag", "a", "b")
        self.assertEqual(self.ok("diff", "a", "b").out, "The images are the same.\n")

    def test_config_and_files(self):
        text = bytes(range(256)) * 64
        self.image("a", "FROM scratch\nCOPY data only-a moved /\nENV X=1\n", data=text, **{"only-a": "a", "moved": "m"})
        changed = bytearray(text)
        changed[9000:9003] = b"\xff\xfe\xfd"
        self.write("moved", "m", mode=0o600)
        self.image("b", "FROM scratch\nCOPY data only-b moved /\nENV X=2\n", data=bytes(changed), **{"only-b": "b"})
        found, lines = self.differences("a", "b")
        self.assertFalse(found["OnlyTimes"])
        self.assertIn('config: config.Env[1]: "X=1" and "X=2"', lines)
        self.assertIn("layer 1: only-a: file only in the first", lines)
        self.assertIn("layer 1: only-b: file only in the second", lines)
        self.assertIn("layer 1: moved: mode 0644 and 0600", lines)
        self.assertIn("layer 1: data: bytes 9000 to 9002 differ: \"()*\" and ff fe fd", lines)
        # Nothing is said of what is the same.
        self.assertEqual([line for line in lines if "diff_ids" in line], [])

    def test_only_times(self):
        self.image("a", "FROM scratch\nCOPY data /\n", data="x")
        self.image("b", "FROM scratch\nCOPY data /\n", data="x", epoch="1600000000")
        result = self.fails(1, "diff", "a", "b")
        self.assertIn("config: created: ", result.out)
        self.assertTrue(result.out.endswith("Only times differ.\n"), result.out)

    def test_layers(self):
        self.image("a", "FROM scratch\nCOPY data /\n", data="x")
        self.image("b", "FROM scratch\nCOPY data /\nCOPY data /second\n", data="x")
        _, lines = self.differences("a", "b")
        self.assertTrue(any(line.startswith("layer 2: only in the second: sha256:") for line in lines), lines)

    def test_longer_file_and_text(self):
        self.image("a", "FROM scratch\nCOPY data /\n", data="one line\nand more\n")
        self.image("b", "FROM scratch\nCOPY data /\n", data="one line\n")
        _, lines = self.differences("a", "b")
        self.assertIn("layer 1: data: size 18 and 9", lines)
        self.assertIn("layer 1: data: the same up to byte 9, where one ends", lines)

    def test_unknown_image(self):
        self.image("a", "FROM scratch\nCOPY data /\n", data="x")
        self.assertIn("there is no image nowhere", self.fails(1, "diff", "a", "nowhere").err)


if __name__ == "__main__":
    unittest.main()
