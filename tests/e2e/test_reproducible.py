"""The same image digest for another user, in another directory, with another umask."""

from harness import *

make_users()


SMALL = """\
FROM %s
COPY a.txt /directory/b.txt
RUN echo made > /made && mkdir -p /x/y && ln /made /x/hard && chown 1000:2000 /made && rm /bin/awk
WORKDIR /home/app
COPY . .
RUN find d | sort > listing
ENV LANG ko_KR.UTF-8
EXPOSE 8080
CMD ["cat", "listing"]
"""
# apt and dpkg write the time into logs and caches of their own, which no builder can help: they are removed.
DEBIAN = """\
FROM %s
COPY a.txt /directory/b.txt
RUN apt-get update && apt-get install -y --no-install-recommends python3 && \\
    rm -rf /var/log/apt /var/log/*.log /var/lib/apt/lists /var/cache/apt /var/cache/ldconfig/aux-cache
WORKDIR /home/app/pipeline
COPY . .
RUN python3 -m compileall .
ENV LANG ko_KR.UTF-8
EXPOSE 8080
CMD ["python3", "main.py", "alarm"]
"""


class Reproducible(TestCase):
    def digest(self, dockerfile, who, umask):
        """Of the image that `who` pushes, built from a context and a store of their own."""
        place = os.path.join(self.dir, "%s-%o" % (who, umask))
        context = os.path.join(place, "some", "context")
        for path, content, mode in (("Dockerfile", dockerfile, 0o644), ("main.txt", "main", 0o644), ("main.py", "print()\n", 0o644), ("d/run.sh", "#!/bin/sh\n", 0o755), ("a.txt", "A", 0o644)):
            path = os.path.join(context, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as f:
                f.write(content)
            os.chmod(path, mode)
            os.utime(path, (1700000000 + umask, 1700000000 + umask))
        for top, _, _ in os.walk(place):
            os.chmod(top, 0o755)
        if who != "root":
            subprocess.run(["chown", "-R", who, place], check=True)
        name = "%s/repro-%s-%o:1" % (registry().host, who.split("-")[-1], umask)
        result = self.call("build", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", name, "--push", "-q", context,
                           user=None if who == "root" else who, store=place + "/store", umask=umask, env={"HOME": place})
        self.assertEqual(result.code, 0, result.text)
        return skopeo_inspect(name)["Digest"]

    def test_same_digest_for_everybody(self):
        digests = {(who, umask): self.digest(SMALL % busybox(), who, umask) for who, umask in (("root", 0o022), ("lamina-e2e-range", 0o077), ("root", 0o027))}
        self.assertEqual(len(set(digests.values())), 1, digests)

    def test_same_digest_of_a_debian_image(self):
        name = registry().host + "/debian:bookworm"
        push_layout(debian_layout(), name)
        digests = {(who, umask): self.digest(DEBIAN % name, who, umask) for who, umask in (("root", 0o022), ("lamina-e2e-range", 0o077))}
        self.assertEqual(len(set(digests.values())), 1, digests)


if __name__ == "__main__":
    unittest.main()
