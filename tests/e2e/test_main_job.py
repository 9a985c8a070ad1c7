"""Build, cache, push, and what other people's tools make of it."""

import shutil
import subprocess

from harness import *

DOCKERFILE = """\
FROM BUSYBOX
COPY a.txt /directory/b.txt
RUN cat /directory/b.txt > /made && mkdir /empty
WORKDIR /home/app/pipeline
COPY . .
RUN ls > listing
ENV LANG ko_KR.UTF-8
EXPOSE 8080
CMD ["sh", "-c", "cat main.txt; echo $LANG"]
"""


class MainJob(TestCase):
    def setUp(self):
        super().setUp()
        self.dockerfile(DOCKERFILE)
        self.write("a.txt", "A\n")
        self.write("main.txt", "main\n")

    def test_image_has_what_the_file_says(self):
        self.ok("-t", "my-image:v0.0.1", self.context)  # the word "build" is not needed
        config = self.config("my-image:v0.0.1")
        self.assertEqual(config["WorkingDir"], "/home/app/pipeline")
        self.assertEqual(config["ExposedPorts"], {"8080/tcp": {}})
        self.assertEqual(config["Cmd"], ["sh", "-c", "cat main.txt; echo $LANG"])
        self.assertIn("LANG=ko_KR.UTF-8", config["Env"])
        self.assertEqual(self.run_in("my-image:v0.0.1"), "main\nko_KR.UTF-8\n")
        root = self.unpack("my-image:v0.0.1")
        self.assertEqual(read(root, "made"), "A\n")
        self.assertEqual(read(root, "home/app/pipeline/listing"), "Dockerfile\na.txt\nlisting\nmain.txt\n")
        self.assertTrue(os.path.isdir(root + "/empty"))
        # Nothing of the sandbox stays.
        for name in ("etc/hosts", "etc/resolv.conf", "dev/null", "proc/self", "sys/kernel"):
            self.assertFalse(os.path.lexists(os.path.join(root, name)), name)

    def test_second_build_is_all_cache_hits(self):
        first = self.build("-t", "x")
        second = self.build("-t", "x")
        self.assertEqual(first.out, second.out)
        self.assertIn("all 5 steps were cached", second.err)
        self.assertEqual(second.err.count("CACHED"), 5)

    def test_change_reruns_from_there_on(self):
        self.build("-t", "x")
        self.write("main.txt", "changed\n")
        result = self.build("-t", "x")
        self.assertIn("3 of 5 steps were cached", result.err)
        self.assertEqual(self.run_in("x"), "changed\nko_KR.UTF-8\n")
        # Back again: the old records still serve.
        self.write("main.txt", "main\n")
        self.assertIn("all 5 steps were cached", self.build("-t", "x").err)

    def test_touch_and_new_directory_change_nothing(self):
        self.build("-t", "x")
        os.utime(os.path.join(self.context, "main.txt"), (1, 1))
        moved = self.context + "-moved"
        shutil.copytree(self.context, moved)
        if USER:
            subprocess.run(["chown", "-R", USER, moved], check=True)
        self.assertIn("all 5 steps were cached", self.ok("build", "-t", "x", moved).err)

    def test_no_cache(self):
        self.build("-t", "x")
        self.assertIn("0 of 5 steps were cached", self.build("-t", "x", "--no-cache").err)

    def test_push_under_several_tags(self):
        host = registry().host
        self.build("-t", host + "/team/app:v1", "-t", host + "/team/app:latest", "--push")
        v1, latest = skopeo_inspect(host + "/team/app:v1"), skopeo_inspect(host + "/team/app:latest")
        self.assertEqual(v1["Digest"], latest["Digest"])
        self.assertEqual(sorted(v1["RepoTags"]), ["latest", "v1"])
        raw = skopeo_inspect(host + "/team/app:v1", "--raw")
        self.assertEqual(raw["mediaType"], "application/vnd.oci.image.manifest.v1+json")
        for layer in raw["layers"]:
            self.assertEqual(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip")
            self.assertNotIn("annotations", layer)

    def test_push_command_and_second_push(self):
        host = registry().host
        self.build("-t", "my-image:v0.0.1")
        name = "%s/push-%s/my-image:v0.0.1" % (host, AS)
        first = self.ok("push", "my-image:v0.0.1", name)
        self.assertIn("1 mounted", first.err)  # the base layer comes from its repository
        second = self.ok("push", "my-image:v0.0.1", name)
        self.assertIn("0 uploaded", second.err)
        self.assertEqual(first.out, second.out)
        self.assertEqual(skopeo_inspect(name)["Digest"], first.out.strip())

    def test_pushed_image_can_be_pulled_and_built_upon(self):
        host = registry().host
        name = "%s/again-%s:1" % (host, AS)
        self.build("-t", name, "--push")
        other = os.path.join(self.dir, "other-store")
        self.write("Dockerfile", "FROM %s\nRUN cat main.txt > /copy\n" % name)
        self.ok("build", "-t", "x", self.context, store=other)
        self.assertEqual(self.ok("run", "x", "cat", "/copy", store=other).out, "main\n")

    def test_target_build_args_labels_iidfile(self):
        self.dockerfile("ARG TAG=latest\nFROM BUSYBOX:${TAG} AS one\nARG WORD=default\nRUN echo $WORD > /word\nFROM one AS two\nRUN false\n")
        iid = os.path.join(self.dir, "iid")
        result = self.build("--target", "one", "--build-arg", "WORD=given", "--label", "a=b", "--iidfile", iid, "-t", "x", "-q")
        self.assertEqual(self.run_in("x", "cat", "/word"), "given\n")
        self.assertEqual(self.config("x")["Labels"], {"a": "b"})
        self.assertEqual(read(iid).strip(), result.out.strip())
        self.assertEqual(result.err, "")

    def test_stages_run_at_the_same_time(self):
        # Each waits for the other's file in a shared cache mount; one after the other would end in time-outs.
        wait = "for i in $(seq 100); do [ -e /c/%s ] && exit 0; sleep 0.1; done; exit 1"
        self.dockerfile(
            "FROM BUSYBOX AS a\nRUN --mount=type=cache,target=/c touch /c/a; " + wait % "b" +
            "\nFROM BUSYBOX AS b\nRUN --mount=type=cache,target=/c touch /c/b; " + wait % "a" +
            "\nFROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n")
        self.build("-j", "2")

    def test_two_builds_on_one_store(self):
        builds = [self.start("build", "-t", "x%d" % i, self.context) for i in range(4)]
        for b in builds:
            out, err = b.communicate(timeout=300)
            self.assertEqual(b.returncode, 0, err)
        for i in range(4):
            self.assertEqual(self.run_in("x%d" % i), "main\nko_KR.UTF-8\n")


if __name__ == "__main__":
    unittest.main()
