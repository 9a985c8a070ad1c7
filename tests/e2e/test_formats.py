"""estargz and zstd:chunked, read by their tables of contents: here, without the program under test, and by podman."""

import ctypes
import datetime
import struct
import subprocess
import unicodedata
import zlib

from harness import *

STARGZ = "containerd.io/snapshot/stargz/toc.digest"
CHUNKED = "io.github.containers.zstd-chunked."
OWN_FILES = [".no.prefetch.landmark", "stargz.index.json"]
TYPES = {tarfile.REGTYPE: "reg", tarfile.LNKTYPE: "hardlink", tarfile.SYMTYPE: "symlink", tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block", tarfile.DIRTYPE: "dir", tarfile.FIFOTYPE: "fifo"}

# Reads what the COPY of many kinds of files below gives, and adds what only a RUN can.
MANY_KINDS = """FROM BUSYBOX
COPY . /data/
COPY --chown=1000:2000 --chmod=4755 small /data/owned
RUN rm -r /home /etc/group && mkdir /home && touch /home/new && mknod /data/null c 1 3 && mkfifo /data/fifo && touch -d @5 /data/empty
"""


if not ROOT:  # nobody else may make devices
    MANY_KINDS = MANY_KINDS.replace("mknod /data/null c 1 3 && ", "")
OWNER = (0, 0) if AS == "single" else (1000, 2000)
MANY_KINDS = MANY_KINDS.replace("1000:2000", "%d:%d" % OWNER)


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def unzstd(data, size):
    """The one frame at the beginning of `data`, by libzstd."""
    lib = ctypes.CDLL("libzstd.so.1")
    for name in ("ZSTD_findFrameCompressedSize", "ZSTD_decompress"):
        getattr(lib, name).restype = ctypes.c_size_t
    frame = lib.ZSTD_findFrameCompressedSize(ctypes.c_char_p(data), ctypes.c_size_t(len(data)))
    out = ctypes.create_string_buffer(size + 1)
    got = lib.ZSTD_decompress(out, ctypes.c_size_t(size + 1), ctypes.c_char_p(data), ctypes.c_size_t(frame))
    assert got == size, "the frame gives %d instead of %d bytes" % (got, size)
    return out.raw[:size]


def ungzip(data):
    """The one member at the beginning of `data`."""
    return zlib.decompressobj(31).decompress(data)


CRC_TABLE = []
for _i in range(256):
    for _ in range(8):
        _i = _i >> 1 ^ (0xD800000000000000 if _i & 1 else 0)
    CRC_TABLE.append(_i)


def crc64(data):
    """crc64.ISO of Go."""
    value = (1 << 64) - 1
    for byte in data:
        value = CRC_TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return struct.pack(">Q", value ^ (1 << 64) - 1)


class Image:
    """An exported layout."""

    def __init__(self, directory):
        self.directory = directory
        index = json.loads(read(directory, "index.json"))
        self.digest = index["manifests"][0]["digest"]
        self.manifest = json.loads(self.blob(self.digest))
        self.config = json.loads(self.blob(self.manifest["config"]["digest"]))
        self.layers = self.manifest["layers"]
        self.diff_ids = self.config["rootfs"]["diff_ids"]

    def blob(self, digest):
        with open(os.path.join(self.directory, "blobs/sha256", digest.split(":")[1]), "rb") as f:
            data = f.read()
        assert sha(data) == digest
        return data


class FormatCase(TestCase):
    kinds = ("estargz", "zstd:chunked")

    def export(self, kind, *args, options="", store=None, name=None):
        name = name or kind
        dest = os.path.join(self.dir, "layout-" + re.sub("[^a-z0-9]", "-", name))
        out = self.ok("build", "-q", *args, "-t", "app:v1", "-o", "type=oci,dest=%s/,compression=%s%s" % (dest, kind, options), self.context, store=store).out
        image = Image(dest)
        image.stored = out.strip()
        return image

    def many_kinds(self):
        self.write("small", b"small\n")
        self.write("empty", b"")
        self.write("large", __import__("random").Random(3).randbytes(9 << 20) + b"end")
        self.write("exact", b"x" * (8 << 20))
        self.write("zeros", bytes(5 << 20))
        self.write("dir/a" + "long" * 60 + "/" + "name" * 30, b"of a long path\n")
        self.write("dir/" + unicodedata.normalize("NFC", "gru\u0308n \"quoted\" \\ \n"), b"strange name\n")
        os.symlink("../outside/" + "t" * 120, self.context + "/dir/link")
        os.link(self.context + "/large", self.context + "/zz-hard")
        try:
            os.setxattr(self.context + "/small", "user.what", b"\x00\xffbinary")
            self.has_xattr = True
        except OSError:
            self.has_xattr = False
        self.dockerfile(MANY_KINDS)

    # --- readers ---

    def tar_of_blob(self, layer):
        """The whole tar, as readers that do not know the format see it."""
        tool = "gzip" if layer["mediaType"].endswith("gzip") else "zstd"
        return subprocess.run([tool, "-dc"], input=self.image.blob(layer["digest"]), capture_output=True, check=True).stdout

    def estargz_index(self, layer):
        blob = self.image.blob(layer["digest"])
        footer = blob[-51:]
        self.assertEqual(footer[:16], b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0")
        self.assertEqual(footer[32:], b"STARGZ\x01\0\0\xff\xff" + bytes(8))
        self.assertEqual(ungzip(footer), b"")
        at = int(footer[16:32], 16)
        with tarfile.open(fileobj=io.BytesIO(ungzip(blob[at:-51]))) as tar:
            (member,) = tar.getmembers()
            self.assertEqual(member.name, "stargz.index.json")
            text = tar.extractfile(member).read()
        self.assertEqual(sha(text), layer["annotations"][STARGZ])
        toc = json.loads(text)
        self.assertEqual(toc["version"], 1)
        return toc["entries"]

    def chunked_index(self, layer):
        blob = self.image.blob(layer["digest"])
        notes = layer["annotations"]
        at, size, plain, kind = map(int, notes[CHUNKED + "manifest-position"].split(":"))
        self.assertEqual(kind, 1)
        self.assertEqual(sha(blob[at : at + size]), notes[CHUNKED + "manifest-checksum"])
        split_at, split_size, split_plain = map(int, notes[CHUNKED + "tarsplit-position"].split(":"))
        self.assertEqual(blob[-64:], struct.pack("<7Q", at, size, plain, 1, split_at, split_size, split_plain) + b"GNUlInUx")
        for begin, length in ((at, size), (split_at, split_size), (len(blob) - 64, 64)):
            self.assertEqual(blob[begin - 8 : begin], struct.pack("<2I", 0x184D2A50, length))
        toc = json.loads(self.unframe(blob[at : at + size], plain))
        self.assertEqual(sha(blob[split_at : split_at + split_size]), toc["tarSplitDigest"])
        self.split = [json.loads(line) for line in self.unframe(blob[split_at : split_at + split_size], split_plain).splitlines()]
        return toc["entries"]

    def unframe(self, frame, size):
        data = subprocess.run(["zstd", "-dc"], input=frame, capture_output=True, check=True).stdout
        self.assertEqual(len(data), size)
        return data

    def files_of(self, kind, layer, entries):
        """name → content, each piece fetched by its offset alone."""
        blob = self.image.blob(layer["digest"])
        contents = {}
        for i, entry in enumerate(entries):
            if entry["type"] == "reg":
                contents[entry["name"]] = b""
            if entry["type"] not in ("reg", "chunk") or (entry["type"] == "reg" and not entry.get("size")):
                continue
            if entry["type"] == "reg":
                size = entry["size"]
            begin = entry.get("chunkOffset", 0)
            self.assertEqual(begin, len(contents[entry["name"]]))
            length = entry.get("chunkSize") or size - begin
            # No chunk is longer than 4 MiB, and only the last of a file is shorter.
            self.assertLessEqual(length, 4 << 20)
            if kind == "estargz":
                data = ungzip(blob[entry["offset"] :])[:length]
                self.assertEqual(sha(data), entry["chunkDigest"])
            else:
                data = unzstd(blob[entry["offset"] :], length)
                self.assertEqual(sha(data), entry.get("chunkDigest", entry.get("digest")))
            contents[entry["name"]] += data
        for entry in entries:
            if entry["type"] == "reg" and entry.get("size"):
                self.assertEqual(sha(contents[entry["name"]]), entry["digest"])
        return contents

    def check_layer(self, kind, number):
        """Everything an index says of a layer is what its tar says."""
        layer = self.image.layers[number]
        data = self.tar_of_blob(layer)
        self.assertEqual(sha(data), self.image.diff_ids[number])
        entries = self.estargz_index(layer) if kind == "estargz" else self.chunked_index(layer)
        contents = self.files_of(kind, layer, entries)
        whole = [e for e in entries if e["type"] != "chunk"]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = tar.getmembers()
            if kind == "estargz":
                self.assertEqual([members[0].name, members[-1].name], OWN_FILES)
                self.assertEqual(tar.extractfile(members[0]).read(), b"\x0f")
                self.assertEqual(layer["annotations"]["io.containers.estargz.uncompressed-size"], str(len(data)))
                members.pop()
            self.assertEqual(len(members), len(whole))
            for member, entry in zip(members, whole):
                self.assertEqual(entry["name"], member.name + ("/" if member.isdir() else ""))
                what = {k: entry.get(k, 0) for k in ("mode", "uid", "gid", "size", "devMajor", "devMinor")}
                self.assertEqual(what, {"mode": member.mode, "uid": member.uid, "gid": member.gid, "size": member.size, "devMajor": member.devmajor, "devMinor": member.devminor}, member.name)
                self.assertEqual(entry["type"], TYPES[member.type])
                self.assertEqual(entry.get("linkName", ""), member.linkname)
                time = datetime.datetime.fromisoformat(entry["modtime"].replace("Z", "+00:00")).timestamp() if "modtime" in entry else 0
                self.assertEqual(time, member.mtime)
                xattrs = {k[len("SCHILY.xattr.") :]: base64.b64encode(v.encode("utf-8", "surrogateescape")).decode() for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")}
                self.assertEqual(entry.get("xattrs", {}), xattrs)
                if member.isreg():
                    self.assertEqual(contents[entry["name"]], tar.extractfile(member).read())
        if kind != "estargz":
            self.check_split(contents, data)
        return {e["name"]: e for e in whole}, contents

    def check_split(self, contents, data):
        """The tar, written again from the files and what tar-split kept."""
        again = b""
        for position, entry in enumerate(self.split):
            self.assertEqual(entry["position"], position)
            if entry["type"] == 2:
                again += base64.b64decode(entry["payload"])
                continue
            content = contents.get(entry["name"], b"")
            self.assertEqual(entry.get("size", 0), len(content))
            if content and len(content) < 100000:
                self.assertEqual(base64.b64decode(entry["payload"]), crc64(content))
            again += content
        self.assertEqual(again, data)


class Contents(FormatCase):
    def test_every_kind_of_file_by_its_offset(self):
        self.many_kinds()
        plain = self.export("gzip")
        for kind in self.kinds:
            with self.subTest(kind):
                self.image = self.export(kind)
                self.assertEqual(self.image.stored, plain.stored)  # the store's own image stays what it is
                self.assertEqual(self.image.layers[0], plain.layers[0])  # the base's layer stays as it came
                copied, contents = self.check_layer(kind, 1)
                owned = self.check_layer(kind, 2)[0]["data/owned"]
                changed, _ = self.check_layer(kind, 3)
                self.assertEqual(len(contents["data/large"]), (9 << 20) + 3)
                self.assertEqual(copied["data/zz-hard"]["linkName"], "data/large")
                self.assertEqual(changed["data/fifo"]["type"], "fifo")
                if ROOT:
                    self.assertEqual((changed["data/null"]["type"], changed["data/null"]["devMajor"], changed["data/null"]["devMinor"]), ("char", 1, 3))
                self.assertIn("etc/.wh.group", changed)
                self.assertIn("home/.wh..wh..opq", changed)
                self.assertEqual((owned["mode"], owned["uid"], owned["gid"]), (0o4755, *OWNER))
                if self.has_xattr:
                    self.assertEqual(copied["data/small"]["xattrs"], {"user.what": base64.b64encode(b"\x00\xffbinary").decode()})
                same = self.image.diff_ids == plain.diff_ids
                self.assertEqual(same, kind == "zstd:chunked")
                self.assertEqual(self.image.manifest["config"] == plain.manifest["config"], same)
                self.assertEqual({k: v for k, v in self.image.config.items() if k != "rootfs"}, {k: v for k, v in plain.config.items() if k != "rootfs"})
        # And back again: nothing of the other forms is left.
        again = self.export("gzip", name="gzip-again")
        self.assertEqual(again.digest, plain.digest)
        self.assertNotIn("annotations", json.dumps(again.manifest))

    def test_the_same_bytes_with_any_number_of_jobs(self):
        self.many_kinds()
        for i in range(300):
            self.write("many/%d" % i, b"%d" % i * (i * 37))
        for kind in self.kinds:
            seen = set()
            for jobs in ("1", "2", "8"):
                image = self.export(kind, "--jobs", jobs, "--build-arg", "SOURCE_DATE_EPOCH=1700000000", store=self.store + jobs, name=kind + jobs)
                seen.add((image.digest, json.dumps(image.manifest)))
            self.assertEqual(len(seen), 1, kind)

    def test_levels_and_force(self):
        self.write("text", "".join("line %d\n" % i for i in range(50000)))
        self.dockerfile("FROM BUSYBOX\nCOPY text /\n")
        for kind, best in (("estargz", 9), ("zstd:chunked", 19)):
            sizes = {}
            for level in (1, best):
                self.image = self.export(kind, options=",compression-level=%d,force-compression=true" % level, name="%s-%d" % (kind, level))
                self.check_layer(kind, 0)  # the base's too
                self.check_layer(kind, 1)
                sizes[level] = sum(layer["size"] for layer in self.image.layers)
            self.assertLess(sizes[best], sizes[1])

    def test_ten_thousand_files(self):
        for i in range(10000):
            self.write("d%d/file-%d" % (i % 100, i), b"content of %d\n" % i)
        self.dockerfile("FROM scratch\nCOPY . /\n")
        for kind in self.kinds:
            self.image = self.export(kind)
            entries, contents = self.check_layer(kind, 0)
            self.assertEqual(contents["d7/file-4207"], b"content of 4207\n")

    def test_names_that_json_cannot_hold(self):
        self.write(os.fsdecode(b"\xff\xfe"), b"content")
        self.dockerfile("FROM scratch\nCOPY . /\n")
        plain = {kind: self.export(kind) for kind in ("gzip", "zstd")}
        for kind, other in zip(self.kinds, ("gzip", "zstd")):
            self.image = self.export(kind)
            (layer,) = self.image.layers
            self.assertNotIn("annotations", layer)
            self.assertEqual(sha(self.tar_of_blob(layer)), self.image.diff_ids[0])
            self.assertEqual(self.image.diff_ids, plain[other].diff_ids)
            self.assertEqual(layer["mediaType"], plain[other].layers[0]["mediaType"])
            self.assertEqual(self.export(kind, name=kind + "-again").digest, self.image.digest)

    def test_files_with_the_names_of_the_format_stay(self):
        self.write("stargz.index.json", "mine")
        self.dockerfile("FROM scratch\nCOPY stargz.index.json /\n")
        self.image = self.export("estargz")
        self.assertNotIn("annotations", self.image.layers[0])
        with tarfile.open(fileobj=io.BytesIO(self.tar_of_blob(self.image.layers[0]))) as tar:
            self.assertEqual({m.name: tar.extractfile(m).read() for m in tar}, {"stargz.index.json": b"mine"})

    def test_command_line(self):
        self.dockerfile("FROM scratch\nCOPY Dockerfile /\n")
        self.build("-t", "app:v1")
        for wrong, said in (
            ("type=oci,dest=x,compression=estarg", "did you mean estargz?"),
            ("type=oci,dest=x,compression=zstd-chunked", "did you mean zstd:chunked?"),
            ("type=oci,dest=x,compression=lzma", "known: gzip, zstd, estargz, zstd:chunked, uncompressed"),
            ("type=oci,dest=x,compression=estargz,compression-level=10", "the estargz compression level 10 is not between 0 and 9"),
            ("type=oci,dest=x,compression=zstd:chunked,oci-mediatypes=false", "Docker's manifests have no annotations"),
            ("type=docker,dest=x,compression=zstd:chunked", "a docker archive cannot hold zstd layers"),
        ):
            self.assertIn(said, self.fails(2, "build", "-o", wrong, self.context).err)
        self.assertIn("did you mean estargz?", self.fails(2, "push", "--compression", "estragz", "app:v1", registry().host + "/x:1").err)
        archive = os.path.join(self.dir, "docker.tar")
        self.build("-t", "app:v1", "-o", "type=docker,compression=estargz,dest=" + archive)
        with tarfile.open(archive) as tar:
            manifest = json.load(tar.extractfile("manifest.json"))[0]
            config = json.load(tar.extractfile(manifest["Config"]))
            layer = gzip.decompress(tar.extractfile(manifest["Layers"][0]).read())
        self.assertEqual(config["rootfs"]["diff_ids"], [sha(layer)])


class Registries(FormatCase):
    def image_at(self, name):
        dest = os.path.join(self.dir, "pulled-" + re.sub("[^a-z0-9]", "-", name))
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + name, "oci:%s:latest" % dest], check=True)
        return Image(dest)

    def test_push_twice_and_build_from_it(self):
        self.many_kinds()
        self.build("-t", "app:v1")
        listing = "cd / && find . -xdev ! -path './proc*' ! -path './sys*' ! -path './dev*' ! -path './run*' ! -name .no.prefetch.landmark ! -name stargz.index.json ! -path './etc/hosts' ! -path './etc/resolv.conf' ! -path './etc/mtab' -type f -exec sha256sum {} + | sort"
        wanted = self.run_in("app:v1", "sh", "-c", listing)
        self.assertIn("/data/large", wanted)
        for kind in self.kinds:
            with self.subTest(kind):
                name = "%s/formats/%s:1" % (registry().host, kind.replace(":", "-"))
                first = self.ok("push", "--compression", kind, "app:v1", name)
                self.image = self.image_at(name)
                self.check_layer(kind, 1)
                self.check_layer(kind, 3)
                blobs = self.store + "/blobs/sha256"
                before = {b: os.stat(os.path.join(blobs, b)).st_mtime_ns for b in os.listdir(blobs)}
                second = self.ok("push", "--compression", kind, "app:v1", name)
                self.assertEqual(second.out, first.out)
                self.assertIn("0 uploaded (0 B)", second.err)
                self.assertEqual({b: os.stat(os.path.join(blobs, b)).st_mtime_ns for b in os.listdir(blobs)}, before)  # nothing was compressed again
                # The other form is another blob.
                self.assertNotIn("annotations", json.dumps(self.plain_of(kind, name)))
                self.check_base(kind, name, listing, wanted)

    def plain_of(self, kind, name):
        other = name.replace("formats/", "formats/plain-")
        self.ok("push", "--compression", "gzip" if kind == "estargz" else "zstd", "app:v1", other)
        return self.image_at(other).manifest

    def check_base(self, kind, name, listing, wanted):
        other = self.store + kind.replace(":", "-")
        self.write("Dockerfile", "FROM %s\nRUN echo more > /more\n" % name)
        self.ok("build", "-t", "derived", self.context, store=other)
        got = self.ok("run", "derived", "sh", "-c", listing, store=other).out
        self.assertEqual([line for line in got.splitlines() if not line.endswith("/more")], wanted.splitlines())
        own = self.ok("run", "derived", "sh", "-c", "ls -A /", store=other).out.split()
        self.assertEqual([f for f in OWN_FILES if f in own], OWN_FILES if kind == "estargz" else [])
        # What came with an index goes on with it; where it is compressed again there is one index, not two.
        kept = self.derived(kind, other, "")
        self.assertEqual(kept.layers[:4], self.image.layers)
        before, self.image = self.image, self.derived(kind, other, ",force-compression=true")
        for number in range(5):
            self.check_layer(kind, number)
        self.assertEqual(self.image.layers[1]["annotations"], before.layers[1]["annotations"])
        plain = self.derived("gzip", other, ",force-compression=true")
        self.assertNotIn("annotations", json.dumps(plain.manifest))
        self.assertEqual(self.ok("fsck", "--check-only", store=other).code, 0)

    def derived(self, kind, store, options):
        dest = os.path.join(self.dir, "derived-" + str(len(os.listdir(self.dir))))
        self.ok("build", "-q", "-t", "derived", "-o", "type=oci,dest=%s/,compression=%s%s" % (dest, kind, options), self.context, store=store)
        return Image(dest)

    def test_build_pushes_it_and_the_store_survives_without_the_files(self):
        self.write("file", "content")
        self.dockerfile("FROM BUSYBOX\nCOPY file /\n")
        name = registry().host + "/formats/direct:1"
        out = self.build("-q", "-o", "type=registry,compression=estargz,name=" + name).out
        self.image = self.image_at(name)
        self.check_layer("estargz", 1)
        self.assertNotEqual(self.image.manifest["config"]["digest"], out.strip())
        # An estargz gives the layer's own tar to nobody: what it came from stays, and everything is found sound.
        self.build("-t", "kept:1")
        self.ok("prune", "-f")
        self.ok("fsck", "--check-only")
        self.assertEqual(self.run_in("kept:1", "cat", "/file"), "content")

    def test_damaged_blobs_are_refused(self):
        self.write("file", "content" * 1000)
        self.dockerfile("FROM scratch\nCOPY file /\n")
        for kind in self.kinds:
            name = "%s/formats/damaged-%s:1" % (registry().host, kind.replace(":", "-"))
            self.build("-o", "type=registry,compression=%s,name=%s" % (kind, name))
            digest = self.image_at(name).layers[0]["digest"]
            path = registry().blob_path(digest)
            with open(path, "r+b") as f:
                f.seek(-100, os.SEEK_END)
                byte = f.read(1)
                f.seek(-100, os.SEEK_END)
                f.write(bytes([byte[0] ^ 1]))
            result = self.fails(1, "pull", name, store=self.store + "-other")
            self.assertIn(digest, result.err)
            self.write("Dockerfile", "FROM %s\nCOPY file /again\n" % name)
            self.fails(1, "build", "-o", os.path.join(self.dir, "files"), self.context, store=self.store + "-other")
            self.dockerfile("FROM scratch\nCOPY file /\n")

    def test_other_readers(self):
        self.many_kinds()
        bundles = {}
        for kind in ("gzip", *self.kinds):
            layout = self.export(kind).directory
            copied = layout + "-copied"
            subprocess.run(["skopeo", "copy", "-q", "oci:%s:v1" % layout, "oci:%s:v1" % copied], check=True)
            self.assertEqual(Image(copied).manifest["layers"], Image(layout).manifest["layers"])
            if kind == "zstd:chunked":  # umoci knows no zstd
                subprocess.run(["skopeo", "copy", "-q", "--dest-compress-format", "gzip", "oci:%s:v1" % layout, "dir:" + copied + "-dir"], check=True)
                continue
            rootless = [] if os.geteuid() == 0 else ["--rootless"]
            subprocess.run(["umoci", "unpack", *rootless, "--image", layout + ":v1", layout + "-bundle"], check=True, capture_output=True)
            bundles[kind] = tree(layout + "-bundle/rootfs")
        own = {name: bundles["estargz"].pop(name) for name in OWN_FILES}
        self.assertEqual(own[OWN_FILES[0]][-1], hashlib.sha256(b"\x0f").hexdigest())
        self.assertEqual(bundles["estargz"], bundles["gzip"])


@unittest.skipUnless(ROOT and "overlay" not in subprocess.run(["stat", "-f", "-c", "%T", WORK], capture_output=True, text=True).stdout, "podman's overlay storage takes root, and a file system below it")
class Podman(FormatCase):
    """containers/storage, as a reader that fetches by the table of contents. That of Debian 12 (1.43) does so for estargz,
    and for zstd:chunked under the names that its annotations had then. It reads no owners there ("UID" is what it looks
    for), no names with a quotation mark or a backslash, and makes no devices and pipes."""

    def podman(self, *args):
        done = subprocess.run(["podman", *args], capture_output=True, text=True, env=self.environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def setUp(self):
        super().setUp()
        self.conf = os.path.join(self.dir, "storage.conf")
        with open(self.conf, "w") as f:
            f.write('[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n[storage.options]\npull_options = {enable_partial_images = "true"}\n' % (self.dir, self.dir))
        with open(self.conf + ".containers", "w") as f:
            f.write(CONTAINERS_CONF)
        self.environment = dict(os.environ, CONTAINERS_STORAGE_CONF=self.conf, CONTAINERS_CONF=self.conf + ".containers")

    def tearDown(self):
        subprocess.run(["podman", "rmi", "--all", "--force"], capture_output=True, env=self.environment)
        subprocess.run(["umount", "-q", self.dir + "/graph/overlay"], capture_output=True)
        super().tearDown()

    def simple_kinds(self):
        self.many_kinds()
        for name in os.listdir(self.context + "/dir"):
            if '"' in name:
                os.unlink(self.context + "/dir/" + name)
        self.dockerfile(MANY_KINDS.replace("--chown=1000:2000 ", "").replace("mknod /data/null c 1 3 && mkfifo /data/fifo && ", ""))

    def files(self, name):
        place = self.podman("image", "mount", name).stdout.strip()
        files = tree(place)
        self.podman("image", "umount", name)
        return files

    def test_it_fetches_by_the_table_of_contents(self):
        self.simple_kinds()
        self.build("-t", "app:v1")
        host = registry().host
        self.ok("push", "app:v1", host + "/podman/plain:1")
        plain = self.podman("--log-level", "debug", "pull", "--tls-verify=false", host + "/podman/plain:1")
        self.assertNotIn("Retrieved partial blob", plain.stderr)
        wanted = self.files(host + "/podman/plain:1")
        for kind in self.kinds:
            with self.subTest(kind):
                self.podman("rmi", "--all", "--force")
                name = "%s/podman/%s:1" % (host, kind.replace(":", "-"))
                self.ok("push", "--compression", kind, "--force-compression", "app:v1", name)
                if kind == "zstd:chunked":
                    self.with_older_names(name)
                pulled = self.podman("--log-level", "debug", "pull", "--tls-verify=false", name)
                self.assertEqual(pulled.stderr.count("Retrieved partial blob"), 4, pulled.stderr)
                self.assertEqual(self.files(name), wanted)
                self.assertEqual(self.podman("run", "--rm", "--network=host", name, "sha256sum", "/data/large").stdout.split()[0], wanted["data/large"][-1])

    def test_it_reads_the_whole_too(self):
        self.simple_kinds()
        self.build("-t", "app:v1")
        name = registry().host + "/podman/whole:1"
        self.ok("push", "--compression", "zstd:chunked", "app:v1", name)
        pulled = self.podman("--log-level", "debug", "pull", "--tls-verify=false", name)
        self.assertNotIn("Retrieved partial blob", pulled.stderr)  # it does not know today's names
        self.assertEqual(self.files(name)["data/large"], tree(self.context)["large"])

    def with_older_names(self, name):
        layout = os.path.join(self.dir, "older")
        subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + name, "dir:" + layout], check=True)
        path = os.path.join(layout, "manifest.json")
        text = read(path)
        with open(path, "w") as f:
            f.write(text.replace("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."))
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", "dir:" + layout, "docker://" + name], check=True)


if __name__ == "__main__":
    unittest.main()
