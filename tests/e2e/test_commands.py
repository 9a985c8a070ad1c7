"""The commands around the build."""

from harness import *


class Commands(TestCase):
    def setUp(self):
        super().setUp()
        self.dockerfile("FROM BUSYBOX\nLABEL a=b\nRUN echo 1 > /one\n")
        self.image = self.build("-q", "-t", "app:v1").out.strip()

    def test_images(self):
        lines = self.ok("images").out.splitlines()
        self.assertRegex(lines[0], r"^REPOSITORY +TAG +IMAGE ID +CREATED +SIZE")
        self.assertTrue(any(re.match(r"app +v1 +" + self.image[7:19], line) for line in lines), lines)

    def test_inspect_is_json_with_config_and_manifest(self):
        value = self.inspect("app:v1")
        self.assertEqual(value["Config"]["config"]["Labels"], {"a": "b"})
        self.assertEqual(len(value["Manifest"]["layers"]), 2)
        self.assertEqual(value["Manifest"]["config"]["digest"], self.image)

    def test_history(self):
        out = self.ok("history", "app:v1").out
        self.assertIn("RUN /bin/sh -c echo 1 > /one", out)
        self.assertIn("LABEL a=b", out)

    def test_tag_and_rmi(self):
        self.ok("tag", "app:v1", "other/name:v2")
        self.assertEqual(self.inspect("other/name:v2")["Manifest"], self.inspect("app:v1")["Manifest"])
        self.ok("rmi", "app:v1")
        self.fails(1, "inspect", "app:v1")
        self.assertEqual(self.run_in("other/name:v2", "cat", "/one"), "1\n")
        self.fails(1, "rmi", "app:v1")
        self.fails(1, "inspect", "other/nmae:v2")

    def test_rmi_and_prune_give_space_back(self):
        self.write("big", os.urandom(8 << 20))
        self.dockerfile("FROM BUSYBOX\nCOPY big /\n")
        self.build("-t", "big")
        before = self.size()
        self.ok("rmi", "big")
        self.ok("prune", "--all")
        self.assertLess(self.size(), before - (7 << 20))
        self.assertEqual(self.run_in("app:v1", "cat", "/one"), "1\n")

    def size(self):
        return sum(os.lstat(os.path.join(top, f)).st_blocks * 512 for top, _, files in os.walk(self.store) for f in files)

    def test_version_and_help(self):
        self.assertIn("Lamina", self.ok("version").out)
        self.assertIn("build run", self.ok("run", "--help").out)
        self.assertIn("--build-arg", self.ok("--help").out)

    def test_wrong_use(self):
        for args in (["run"], ["push"], ["tag", "a"], ["images", "x", "y"], ["inspect"], ["nonsense-command", "x"], []):
            result = self.call(*args)
            self.assertNotEqual(result.code, 0, args)
            self.assertNotEqual(result.err, "", args)

    def test_check_builds_nothing(self):
        self.dockerfile("FROM BUSYBOX\nRUN touch /x\n")
        self.ok("check", self.context)
        self.dockerfile("FROM BUSYBOX\nRUNN touch /x\n")
        self.assertIn("did you mean RUN", self.fails(2, "check", self.context).text)

    def test_dry_run_and_explain(self):
        self.write("f", "1")
        self.dockerfile("FROM BUSYBOX\nCOPY f /\n")
        plan = self.build("--dry-run").text
        self.assertIn("COPY f /", plan)
        self.build()
        self.write("f", "2")
        self.assertRegex(self.build("--explain").err, r"f changed|f differs|context:/f")

    def test_store_of_another_version_is_refused(self):
        with open(os.path.join(self.store, "format"), "w") as f:
            f.write("lamina-store 999\n")
        result = self.fails(1, "images")
        self.assertIn("999", result.err)
        with open(os.path.join(self.store, "format"), "w") as f:
            f.write("lamina-store 1\n")


if __name__ == "__main__":
    unittest.main()
