"""build copy, tags and inspect --remote; referrers; media types and annotations; digest files."""

from harness import *
from servers import *

OCI_INDEX = "application/vnd.oci.image.index.v1+json"


class CopyCase(ServerCase):
    def pushed_index(self, host, name="multi:1"):
        """An index of two platforms, made by the program."""
        self.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /\nCOPY file-$TARGETARCH /\n")
        for arch in ("amd64", "arm64"):
            self.write("file-" + arch, os.urandom(50000))
        self.build("--platform", "linux/amd64,linux/arm64", "-t", host + "/" + name, "--push")
        return skopeo_inspect(host + "/" + name, "--raw")


class Copy(CopyCase):
    def raw(self, name):
        return self.ok("inspect", "--remote", "--raw", "manifest", name, binary=True).out

    def test_index_between_registries_layouts_and_archives(self):
        host = registry().host
        index = self.pushed_index(host)
        self.assertEqual(len(index["manifests"]), 2)
        original = self.raw(host + "/multi:1")
        digest = "sha256:" + hashlib.sha256(original).hexdigest()
        layout, archive = os.path.join(self.dir, "layout"), os.path.join(self.dir, "archive.tar")
        other = self.spec_registry()
        digest_file = os.path.join(self.dir, "digest")
        stations = ["docker://" + host + "/multi:1", "oci:%s:first" % layout, "oci-archive:%s:x" % archive, other.host + "/copy:1", "docker://%s/back:1" % host]
        for source, target in zip(stations, stations[1:]):
            result = self.ok("copy", "--digest-file", digest_file, source, target)
            self.assertEqual(result.out.strip(), digest)
            self.assertEqual(read(digest_file).strip(), digest)
            self.assertEqual(self.raw(target), original)
        # Others read them all.
        for source in ("oci:%s:first" % layout, "oci-archive:%s:x" % archive, "docker://%s/back:1" % host):
            subprocess.run(["skopeo", "copy", "-q", "--all", "--src-tls-verify=false", source, "dir:" + tempfile.mkdtemp(dir=self.dir)], check=True)
        # A layout is added to, and a copied image is not copied again.
        self.assertIn(" 0 B moved", self.ok("copy", host + "/multi:1", "oci:%s:second" % layout).err)
        # A size alone says nothing: what is damaged in the target is written again.
        blobs = os.path.join(layout, "blobs/sha256")
        for name in os.listdir(blobs):
            path = os.path.join(blobs, name)
            size = os.path.getsize(path)
            os.chmod(path, 0o644)
            with open(path, "wb") as f:
                f.write(b"x" * size)
        self.ok("copy", host + "/multi:1", "oci:%s:second" % layout)
        for name in os.listdir(blobs):
            with open(os.path.join(blobs, name), "rb") as f:
                self.assertEqual(hashlib.sha256(f.read()).hexdigest(), name)
        names = [m["annotations"]["org.opencontainers.image.ref.name"] for m in json.loads(read(layout, "index.json"))["manifests"]]
        self.assertEqual(names, ["first", "second"])

    def test_one_platform_into_a_docker_archive(self):
        host = registry().host
        self.pushed_index(host, "single:1")
        archive = os.path.join(self.dir, "docker.tar")
        result = self.fails(1, "copy", host + "/single:1", "docker-archive:%s:app:v1" % archive)
        self.assertIn("--platform", result.err)
        self.assertFalse(os.path.exists(archive))
        self.ok("copy", "--platform", "linux/arm64", host + "/single:1", "docker-archive:%s:app:v1" % archive)
        out = json.loads(subprocess.run(["skopeo", "inspect", "docker-archive:" + archive], check=True, capture_output=True, text=True).stdout)
        self.assertEqual(out["Architecture"], "arm64")

    def test_damage_does_not_travel(self):
        server = self.spec_registry()
        self.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        self.build("-t", server.host + "/a:1", "--push")
        blob = max((os.path.join(server.directory, n) for n in os.listdir(server.directory)), key=os.path.getsize)
        with open(blob, "r+b") as f:
            f.write(b"damage")
        layout = os.path.join(self.dir, "layout")
        self.fails(1, "copy", server.host + "/a:1", "oci:%s:x" % layout)
        self.assertFalse(os.path.exists(os.path.join(layout, "index.json")))
        self.fails(1, "copy", server.host + "/a:1", registry().host + "/damaged-copy:1")
        self.fails(1, "inspect", "--remote", registry().host + "/damaged-copy:1")

    def test_wrong_places(self):
        self.fails(2, "copy", "oci:", "oci:x")
        self.assertIn("such", self.fails(1, "copy", "oci-archive:/does/not/exist", "oci:x:y").err.lower())
        self.fails(2, "copy", "--referrers", "oci:x", "oci:y")

    def test_tags_over_pages(self):
        server = self.spec_registry(page=2)
        self.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        names = ["v%d" % i for i in range(5)]
        self.build(*[a for n in names for a in ("-t", server.host + "/app:" + n)], "--push")
        self.assertEqual(self.ok("tags", server.host + "/app").out.split(), names)
        self.assertEqual(json.loads(self.ok("tags", "--format", "json", server.host + "/app").out)["Tags"], names)
        self.fails(2, "tags", server.host + "/app:v1")
        self.assertIn("does not have", self.fails(1, "tags", registry().host + "/no/such/repository").err)


class Referrers(CopyCase):
    def artifact(self, server, subject):
        """A signature-like artifact in a layout, which refers to `subject`."""
        layout = tempfile.mkdtemp(prefix="artifact-", dir=self.dir)
        write_layout(layout, tar_of([("x", 0o644, b"x")]))
        path = os.path.join(layout, "index.json")
        index = json.loads(read(path))
        manifest_path = os.path.join(layout, "blobs/sha256", index["manifests"][0]["digest"][7:])
        manifest = json.loads(read(manifest_path))
        manifest.update(artifactType="application/x.signature", subject=subject, annotations={"by": "test"})
        data = json.dumps(manifest).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(layout, "blobs/sha256", digest), "wb") as f:
            f.write(data)
        index["manifests"] = [{"mediaType": manifest["mediaType"], "digest": "sha256:" + digest, "size": len(data)}]
        with open(path, "w") as f:
            json.dump(index, f)
        self.ok("copy", "oci:" + layout, "%s/app@sha256:%s" % (server.host, digest))
        return "sha256:" + digest

    def check(self, **options):
        server, target = self.spec_registry(**options), self.spec_registry()
        self.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        self.build("-t", server.host + "/app:1", "--push")
        top = json.loads(self.ok("inspect", "docker://" + server.host + "/app:1").out)[0]
        self.assertEqual(top["Referrers"], [])
        artifact = self.artifact(server, {"mediaType": top["MediaType"], "digest": top["Digest"], "size": top["Size"]})
        tag = top["Digest"].replace(":", "-")
        self.assertEqual(("app", tag) in server.manifests, not options.get("referrers"))
        found = json.loads(self.ok("inspect", "docker://" + server.host + "/app:1").out)[0]["Referrers"]
        self.assertEqual([(r["Digest"], r["ArtifactType"]) for r in found], [(artifact, "application/x.signature")])
        # They go along when asked to; the target has no such API.
        self.ok("copy", "--referrers", server.host + "/app:1", target.host + "/app:2")
        self.assertIn(("app", artifact), target.manifests)
        index = json.loads(target.manifests["app", tag][1])
        self.assertEqual([(m["digest"], m["artifactType"], m["annotations"]) for m in index["manifests"]], [(artifact, "application/x.signature", {"by": "test"})])
        self.assertEqual(target.manifests["app", tag][0], OCI_INDEX)

    def test_api(self):
        self.check(referrers=True)

    def test_tag_fallback(self):
        self.check()


class Images(CopyCase):
    def test_annotations_at_their_levels(self):
        server = self.spec_registry()
        self.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        self.build("--platform", "linux/amd64,linux/arm64", "-t", server.host + "/a:1", "--push", "--annotation", "plain=m", "--annotation", "index:i=1", "--annotation", "manifest-descriptor[linux/arm64]:d=arm",
                   "--annotation", "manifest[linux/amd64]:only=amd")
        index = json.loads(server.manifests["a", "1"][1])
        self.assertEqual(index["annotations"], {"i": "1"})
        by_arch = {m["platform"]["architecture"]: m for m in index["manifests"]}
        self.assertEqual(by_arch["arm64"].get("annotations"), {"d": "arm"})
        self.assertNotIn("annotations", by_arch["amd64"])
        manifests = {a: json.loads(server.manifests["a", m["digest"]][1]) for a, m in by_arch.items()}
        self.assertEqual(manifests["amd64"]["annotations"], {"plain": "m", "only": "amd"})
        self.assertEqual(manifests["arm64"]["annotations"], {"plain": "m"})
        layout = os.path.join(self.dir, "layout")
        self.build("-t", "x", "--annotation", "manifest-descriptor:d=1", "-o", "type=oci,tar=false,dest=" + layout)
        self.assertEqual(json.loads(read(layout, "index.json"))["manifests"][0]["annotations"]["d"], "1")
        self.assertIn("did you mean manifest?", self.fails(2, "build", "--annotation", "manifst:a=b", self.context).err)
        self.fails(2, "build", "--annotation", "novalue", self.context)

    def test_docker_media_types(self):
        server = self.spec_registry()
        self.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        self.build("-o", "type=image,push=true,oci-mediatypes=false,name=%s/a:1" % server.host)
        media_type, body = server.manifests["a", "1"]
        manifest = json.loads(body)
        self.assertEqual(media_type, "application/vnd.docker.distribution.manifest.v2+json")
        self.assertEqual(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json")
        self.assertEqual(manifest["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip")
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", "docker://%s/a:1" % server.host, "dir:" + os.path.join(self.dir, "copy")], check=True)

    def test_digest_files(self):
        server = self.spec_registry()
        self.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
        path = os.path.join(self.home, "digest")
        self.build("-t", server.host + "/a:1", "--push", "--digest-file", path)
        digest = "sha256:" + hashlib.sha256(server.manifests["a", "1"][1]).hexdigest()
        self.assertEqual(read(path), digest + "\n")
        for call in (("pull", server.host + "/a:1"), ("push", server.host + "/a:1", server.host + "/b:1")):
            os.unlink(path)
            self.ok(call[0], "--digest-file", path, *call[1:])
            self.assertEqual(read(path), digest + "\n")


if __name__ == "__main__":
    unittest.main()
