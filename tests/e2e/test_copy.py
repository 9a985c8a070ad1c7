"""COPY and ADD: which files arrive where, with which owner, mode and time."""

import tarfile

from harness import *


class Copy(TestCase):
    def tree_after(self, *instructions, base="FROM scratch"):
        self.write("Dockerfile", base.replace("BUSYBOX", busybox()) + "\n" + "\n".join(instructions) + "\n")
        self.ok("build", "-t", "x", self.context)
        return self.unpack("x")

    def files(self, root):
        return sorted(p for p in tree(root) if not os.path.isdir(os.path.join(root, p)) or os.path.islink(os.path.join(root, p)))

    def context_files(self):
        self.write("a.txt", "A", 0o640)
        self.write("run.sh", "#!", 0o755)
        self.write("d/one", "1")
        self.write("d/e/two", "2")
        os.symlink("one", os.path.join(self.context, "d/link"))
        os.link(os.path.join(self.context, "d/one"), os.path.join(self.context, "d/hard"))

    def test_files_and_directories(self):
        self.context_files()
        root = self.tree_after("COPY a.txt /x/b.txt", "COPY a.txt run.sh /y/", "COPY d /z", "COPY d/ /w/v/")
        self.assertEqual(self.files(root), ["w/v/e/two", "w/v/hard", "w/v/link", "w/v/one", "x/b.txt", "y/a.txt", "y/run.sh", "z/e/two", "z/hard", "z/link", "z/one"])
        self.assertEqual(os.stat(root + "/x/b.txt").st_mode & 0o7777, 0o640)
        self.assertEqual(os.stat(root + "/x").st_mode & 0o7777, 0o755)
        self.assertEqual(os.readlink(root + "/z/link"), "one")
        self.assertEqual(os.stat(root + "/z/one").st_ino, os.stat(root + "/z/hard").st_ino)

    def test_wildcards_and_workdir(self):
        self.context_files()
        root = self.tree_after("WORKDIR /app", "COPY *.txt ru?.sh ./", "COPY d/[ol]* sub/")
        self.assertEqual(self.files(root), ["app/a.txt", "app/run.sh", "app/sub/link" if os.path.islink(root + "/app/sub/link") else "app/sub/link", "app/sub/one"])

    def test_files_that_a_wildcard_matches(self):
        for name in ("m/a", "m/c", "m/d/in", "m/e", "n/a", "n/b"):
            self.write(name, name)
        os.symlink("../n/b", self.context + "/m/b")
        os.symlink("m", self.context + "/l")
        root = self.tree_after("COPY m/* /all/", "COPY [mn]/[ae] /later/", "COPY l/c* /one", "COPY --exclude=c m/[ac] /name", "COPY n/[ab] m/a l/[e] /more/")
        self.assertEqual(self.files(root), ["all/a", "all/b", "all/c", "all/e", "all/in", "later/a", "later/e", "more/a", "more/b", "more/e", "name", "one"])
        self.assertEqual([read(root, name) for name in ("all/b", "later/a", "later/e", "one", "name", "more/a")], ["n/b", "n/a", "m/e", "m/c", "m/a", "m/a"])
        self.dockerfile("FROM scratch\nCOPY m/[ac] /x\n")
        self.assertIn("end with /", self.fails(2, "build", self.context).err)

    def test_ignore_file(self):
        self.context_files()
        self.write(".dockerignore", "d\n!d/e\n*.sh\nDockerfile\n.dockerignore\n")
        root = self.tree_after("COPY . /")
        self.assertEqual(self.files(root), ["a.txt", "d/e/two"])

    def test_chown_and_chmod(self):
        self.context_files()
        if AS == "single":
            result = self.call("build", "-t", "x", self.context) if os.path.exists(self.context + "/Dockerfile") else None
            root = self.tree_after("COPY --chmod=u=rwX,go=rX a.txt d /x/")
        else:
            root = self.tree_after("COPY --chown=worker:2000 --chmod=u=rwX,go=rX a.txt d /x/", base="FROM BUSYBOX")
            if os.geteuid() == 0:
                st = os.stat(root + "/x/a.txt")
                self.assertEqual((st.st_uid, st.st_gid), (1000, 2000))
        self.assertEqual(os.stat(root + "/x/a.txt").st_mode & 0o7777, 0o644)
        self.assertEqual(os.stat(root + "/x/e").st_mode & 0o7777, 0o755)

    def test_hard_link_whose_other_name_was_overwritten(self):
        self.write("a/p", "linked")
        os.link(self.context + "/a/p", self.context + "/a/q")
        os.link(self.context + "/a/p", self.context + "/a/r")
        self.write("b/p", "another")
        self.dockerfile("FROM BUSYBOX\nCOPY a/ b/ /dst/\n")
        self.build("-t", "x")
        root = self.unpack("x") + "/dst/"
        self.assertEqual([read(root, n) for n in "pqr"], ["another", "linked", "linked"])
        self.assertTrue(os.path.samefile(root + "q", root + "r"))

    def test_unknown_owner_is_an_error(self):
        self.context_files()
        self.dockerfile("FROM BUSYBOX\nCOPY --chown=wroker a.txt /\n")
        self.assertIn("did you mean worker", self.fails(1, "build", self.context).err)

    def test_from_stage_and_image(self):
        self.context_files()
        root = self.tree_after("COPY --from=one /out/a /got/", "COPY --from=%s /etc/passwd /p" % busybox(), "COPY --from=0 /out/ /all/",
                               base="FROM BUSYBOX AS one\nRUN mkdir /out && echo 1 > /out/a && ln -s a /out/l && mkdir -m 700 /out/private\nFROM scratch")
        self.assertEqual(self.files(root), ["all/a", "all/l", "got/a", "p"])
        self.assertEqual(os.stat(root + "/all/private").st_mode & 0o777, 0o700)

    def test_existing_directory_keeps_mode_and_owner(self):
        self.context_files()
        root = self.tree_after("COPY a.txt /tmp/a", "COPY a.txt /root/", base="FROM BUSYBOX")
        self.assertEqual(os.stat(root + "/tmp").st_mode & 0o7777, 0o1777)
        self.assertEqual(os.stat(root + "/root").st_mode & 0o7777, 0o700)

    def test_destination_through_symlinks_stays_inside(self):
        self.context_files()
        root = self.tree_after("RUN ln -s ../../../../etc /evil && ln -s /usr/bin /b", "COPY a.txt /evil/x", "COPY a.txt /b/y", base="FROM BUSYBOX")
        self.assertTrue(os.path.exists(root + "/etc/x"))
        self.assertTrue(os.path.exists(root + "/usr/bin/y"))
        self.assertFalse(os.path.exists("/etc/x"))

    def test_source_outside_the_context(self):
        self.write("outside", "secret", where=self.dir)
        os.symlink("../outside", os.path.join(self.context, "link"))
        self.dockerfile("FROM scratch\nCOPY link /x\n")
        result = self.call("build", "-o", os.path.join(self.dir, "out"), self.context)
        if result.code == 0:  # the link itself may arrive; what it points at must not
            self.assertFalse(os.path.isfile(os.path.join(self.dir, "out/x")) and not os.path.islink(os.path.join(self.dir, "out/x")))
        self.dockerfile("FROM scratch\nCOPY ../outside /x\n")
        self.fails(1, "build", self.context)

    def test_several_sources_onto_a_file(self):
        self.context_files()
        self.dockerfile("FROM scratch\nCOPY a.txt run.sh /x\n")
        self.assertIn("end with /", self.fails(2, "build", self.context).err)

    def test_add_unpacks_archives(self):
        for name, mode in (("t.tar", "w"), ("t.tar.gz", "w:gz"), ("t.tar.xz", "w:xz"), ("t.tar.bz2", "w:bz2")):
            path = self.write(name)
            with tarfile.open(path, mode) as tar:
                info = tarfile.TarInfo("in/" + name)
                info.size = 2
                info.mode = 0o4755
                tar.addfile(info, io.BytesIO(b"hi"))
        root = self.tree_after("ADD t.tar t.tar.gz t.tar.xz t.tar.bz2 /x/", "COPY t.tar /y/")
        self.assertEqual(self.files(root), ["x/in/t.tar", "x/in/t.tar.bz2", "x/in/t.tar.gz", "x/in/t.tar.xz", "y/t.tar"])
        self.assertEqual(os.stat(root + "/x/in/t.tar").st_mode & 0o7777, 0o4755)

    def test_hostile_archive_is_contained(self):
        path = self.write("evil.tar")
        canary = os.path.join(self.dir, "canary")
        with tarfile.open(path, "w") as tar:
            for name in ("../../../../../../../../../.." + canary, canary, "ok"):
                info = tarfile.TarInfo(name)
                info.size = 4
                tar.addfile(info, io.BytesIO(b"evil"))
            link = tarfile.TarInfo("l")
            link.type, link.linkname = tarfile.SYMTYPE, self.dir
            tar.addfile(link)
            info = tarfile.TarInfo("l/canary")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"evil"))
        self.dockerfile("FROM BUSYBOX\nADD evil.tar /x/\nRUN ls /x\n")
        result = self.call("build", "-t", "x", self.context)
        self.assertIn(result.code, (0, 1), result.text)
        self.assertFalse(os.path.exists(canary))

    def test_heredoc_files(self):
        root = self.tree_after("ENV NAME=world", "COPY <<greeting <<\"raw\" /d/", "hello $NAME", "greeting", "hello $NAME", "raw")
        self.assertEqual(read(root, "d/greeting"), "hello world\n")
        self.assertEqual(read(root, "d/raw"), "hello $NAME\n")

    def test_change_of_mode_is_seen(self):
        self.write("f", "1", 0o644)
        self.dockerfile("FROM scratch\nCOPY f /\n")
        first = self.build("-q").out
        self.assertEqual(self.build("-q").out, first)
        os.chmod(os.path.join(self.context, "f"), 0o755)
        self.assertNotEqual(self.build("-q").out, first)

    def test_change_of_content_with_the_same_size_and_time_is_seen(self):
        path = self.write("f", "one")
        os.utime(path, (10 ** 9, 10 ** 9))
        self.dockerfile("FROM scratch\nCOPY f /\n")
        first = self.build("-q").out
        self.build("-q")
        self.write("f", "two")
        os.utime(path, (10 ** 9, 10 ** 9))
        self.assertNotEqual(self.build("-q").out, first)


if __name__ == "__main__":
    unittest.main()
