"""The same image digest for another user, in another directory, with another umask."""

from harness import *

make_users()


class Reproducible(TestCase):
    def test_same_digest_for_everybody(self):
        base = busybox()
        digests = {}
        for who, umask in (("root", 0o022), ("lamina-e2e-range", 0o077), ("root", 0o027)):
            place = os.path.join(self.dir, "%s-%o" % (who, umask))
            context = os.path.join(place, "some", "context")
            for path, content, mode in (("Dockerfile", None, 0o644), ("main.txt", "main", 0o644), ("d/run.sh", "#!/bin/sh\n", 0o755), ("a.txt", "A", 0o644)):
                os.makedirs(os.path.dirname(os.path.join(context, path)), mode=0o755, exist_ok=True)
                with open(os.path.join(context, path), "w") as f:
                    f.write(content if content is not None else
                            "FROM %s\nCOPY a.txt /directory/b.txt\nRUN echo made > /made && mkdir -p /x/y && ln /made /x/hard && chown 1000:2000 /made && rm /bin/awk\n"
                            "WORKDIR /home/app\nCOPY . .\nRUN find d | sort > listing\nENV LANG ko_KR.UTF-8\nEXPOSE 8080\nCMD [\"cat\", \"listing\"]\n" % base)
                os.chmod(os.path.join(context, path), mode)
            for top, dirs, _ in os.walk(place):
                os.chmod(top, 0o755)
            subprocess_user = None if who == "root" else who
            if subprocess_user:
                subprocess.run(["chown", "-R", who, place], check=True)
            name = "%s/repro-%s-%o:1" % (registry().host, who.split("-")[-1], umask)
            result = self.call("build", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", name, "--push", "-q", context, user=subprocess_user, store=place + "/store", umask=umask, env={"HOME": place})
            self.assertEqual(result.code, 0, result.text)
            digests[who, umask] = skopeo_inspect(name)["Digest"]
        self.assertEqual(len(set(digests.values())), 1, digests)


if __name__ == "__main__":
    unittest.main()
