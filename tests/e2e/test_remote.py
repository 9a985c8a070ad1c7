"""ADD of URLs and of git repositories."""

from sources import *

# A user without a range of ids has only one to give.
OWNER = (0, 0) if AS == "single" else (7, 8)


class AddUrl(SourcesCase):
    def test_file_has_the_servers_time_and_private_mode(self):
        url = self.site.page("/d/a%20b.txt", "text", modified=DATE)
        self.dockerfile("FROM scratch\nADD %s /x/\nADD %s /y/z\n" % (url + "?q=1", self.site.page("/", "root")))
        files = self.members()
        self.assertEqual(files["x/a b.txt"].text, "text")
        self.assertEqual((files["x/a b.txt"].mode, files["x/a b.txt"].uid, files["x/a b.txt"].mtime), (0o600, 0, DATE_SECONDS))
        self.assertEqual((files["y/z"].text, files["y/z"].mtime), ("root", 0))
        self.dockerfile("FROM scratch\nADD %s /x/\n" % self.site.url("/"))
        self.assertEqual(self.texts(), {"x/__unnamed__": "root"})

    def test_options_and_several_sources_in_order(self):
        a, b = self.site.page("/a", "remote a"), self.site.page("/b", "remote b")
        self.write("local", "local")
        self.write("c/b", "local b")
        self.dockerfile("FROM scratch\nADD --chown=%d:%d --chmod=640 --exclude=a %s local %s c /d/\nADD --link --chmod=u=rwx,go= %s /l/\n" % (*OWNER, a, b, a))
        files = self.members()
        self.assertEqual({n: f.text for n, f in files.items() if f.isfile()}, {"d/local": "local", "d/b": "local b", "l/a": "remote a"})
        self.assertEqual((files["d/b"].mode, files["d/b"].uid, files["d/b"].gid, files["l/a"].mode), (0o640, *OWNER, 0o700))

    def test_unchanged_file_is_not_downloaded_again(self):
        for kind in ({"etag": '"v1"'}, {"modified": DATE}, {"etag": '"v1"', "obeys_etag": False}):
            with self.subTest(kind):
                self.store = os.path.join(self.dir, "store-" + str(len(self.site.requests)))
                url = self.site.page("/f", "x" * 100000, **kind)
                self.dockerfile("FROM scratch\nADD %s /\n" % url)
                self.build("-t", "x")
                again = self.build("-t", "x")
                self.assertIn("all 1 steps were cached", again.err)
                headers = self.site.requests[-1][2]
                self.assertTrue("If-None-Match" in headers or "If-Modified-Since" in headers, headers)
                self.site.page("/f", "changed", **dict(kind, **({"etag": '"v2"'} if "etag" in kind else {"modified": "Mon, 07 Nov 1994 08:49:37 GMT"})))
                self.assertEqual(self.texts(), {"f": "changed"})

    def test_time_alone_is_no_change(self):
        url = self.site.page("/f", "same", modified=DATE)
        self.dockerfile("FROM scratch\nADD %s /\n" % url)
        self.build("-t", "x")
        self.site.page("/f", "same", modified="Mon, 07 Nov 1994 08:49:37 GMT")
        self.assertIn("all 1 steps were cached", self.build("-t", "x").err)

    def test_a_fresh_time_proves_nothing(self):
        from email.utils import formatdate
        now = formatdate(usegmt=True)
        url = self.site.page("/f", "one", modified=now)
        self.dockerfile("FROM scratch\nADD %s /\n" % url)
        self.assertEqual(self.texts(), {"f": "one"})
        self.site.page("/f", "two", modified=now)
        self.assertEqual(self.texts(), {"f": "two"})

    def test_after_prune(self):
        url = self.site.page("/f", "text", etag='"v1"')
        self.dockerfile("FROM scratch\nADD %s /\n" % url)
        self.build("-t", "x")
        self.ok("prune")
        # The answer that nothing has changed is enough for a recorded step; another one downloads the file again.
        self.assertIn("all 1 steps were cached", self.build("-t", "x").err)
        self.assertEqual(self.site.requests[-1][2].get("If-None-Match"), '"v1"')
        self.dockerfile("FROM scratch\nADD %s /other\n" % url)
        self.assertEqual(self.texts(), {"other": "text"})
        self.ok("prune", "--all")
        self.assertEqual(self.texts(), {"other": "text"})

    def test_checksum(self):
        body = "content"
        digest = hashlib.sha256(body.encode()).hexdigest()
        url = self.site.page("/f", body, modified=DATE)
        self.dockerfile("FROM scratch\nARG SUM=%s\nADD --checksum=sha256:$SUM %s /\n" % (digest, url))
        self.assertEqual(self.texts(), {"f": body})
        self.assertEqual(len(self.site.requests), 1)
        # Known by its checksum, another step needs no server either.
        self.dockerfile("FROM scratch\nADD --checksum=sha256:%s --chmod=644 %s /other\n" % (digest, url))
        files = self.members()
        self.assertEqual((files["other"].text, files["other"].mtime), (body, DATE_SECONDS))
        self.assertEqual(len(self.site.requests), 1)
        wrong = "0" * 64
        self.dockerfile("FROM scratch\nADD --checksum=sha256:%s %s /\n" % (wrong, url))
        result = self.fails(1, "build", "-t", "bad", self.context)
        for text in (wrong, digest, "Dockerfile:2", "digest mismatch"):
            self.assertIn(text, result.err)
        self.assertNotIn("bad", self.ok("images").out)

    def test_wrong_uses_of_checksum(self):
        url = self.site.page("/f", "x")
        for add, words in (("--checksum=sha256:12 %s" % url, "is no checksum"), ("--checksum=sha256:%s f" % ("0" * 64), "only for URLs"), ("--checksum=sha256:%s %s %s" % ("0" * 64, url, url), "exactly one source"),
                           ("http:///x", "has no host")):
            self.dockerfile("FROM scratch\nADD %s /\n" % add)
            result = self.fails(2, "build", self.context)
            self.assertIn(words, result.err)
            self.assertIn("Dockerfile:2:", result.err)
        self.dockerfile("FROM scratch\nCOPY %s /\n" % url)
        self.assertIn("ADD does", self.fails(2, "build", self.context).err)
        self.assertEqual(self.site.requests, [])

    def test_unpack_only_when_asked(self):
        archive = tar_of([("d", 0o755, None), ("d/f", 0o640, b"inside")])
        url = self.site.page("/a", gzip.compress(archive))
        self.dockerfile("FROM scratch\nADD %s /plain/\nADD --unpack %s /un/\nADD --unpack %s /text/\n" % (url, url, self.site.page("/t", "text")))
        files = self.members()
        self.assertEqual(files["un/d/f"].text, "inside")
        self.assertEqual(files["un/d/f"].mode, 0o640)
        self.assertIn("plain/a", files)
        self.assertEqual(files["text/t"].text, "text")

    def test_redirects_carry_no_credentials_elsewhere(self):
        other = Site()
        self.addCleanup(other.stop)
        other.page("/f", "moved")
        url = self.site.page("/first/name", status=302, location="/second")
        self.site.page("/second", status=307, location=other.url("/f"))
        self.dockerfile("FROM scratch\nADD %s /x/\n" % url)
        self.write("token", "s3cret\n")
        self.assertEqual(self.texts("--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,src=" + os.path.join(self.context, "token")), {"x/name": "moved"})
        self.assertEqual([r[2].get("Authorization") for r in self.site.requests], ["Bearer s3cret"] * 2)
        self.assertEqual([r[2].get("Authorization") for r in other.requests], [None])

    def test_endless_redirects(self):
        url = self.site.page("/loop", status=302, location="/loop")
        self.dockerfile("FROM scratch\nADD %s /\n" % url)
        self.assertIn("redirects", self.fails(1, "build", self.context).err)

    def test_redirect_to_a_file_of_this_machine(self):
        for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"):
            self.dockerfile("FROM scratch\nADD %s /\n" % self.site.page("/f", status=302, location=target))
            self.assertIn("redirects to %s, which is no http or https URL" % target, self.fails(1, "build", self.context).err)
        self.site.page("/c.tar", status=302, location="file:///etc/passwd")
        self.assertIn("redirects to file:///etc/passwd, which is no http", self.fails(1, "build", self.site.url("/c.tar")).err)

    def test_authorization(self):
        token = self.site.page("/token", "t", auth="Bearer abc")
        self.dockerfile("FROM scratch\nADD %s /\n" % token)
        result = self.fails(1, "build", self.context)
        self.assertIn("401", result.err)
        self.assertIn("HTTP_AUTH_TOKEN_127.0.0.1", result.err)
        self.assertEqual(self.texts("--secret", "id=HTTP_AUTH_TOKEN_%s,env=T" % self.site.host, env={"T": "abc"}), {"token": "t"})
        header = self.site.page("/header", "h", auth="Digest xyz")
        self.dockerfile("FROM scratch\nADD %s /\n" % header)
        self.assertEqual(self.texts("--secret", "id=HTTP_AUTH_HEADER_127.0.0.1,env=T", env={"T": "Digest xyz"}), {"header": "h"})

    def test_errors_of_the_server(self):
        self.dockerfile("FROM scratch\nADD %s /\n" % self.site.url("/missing"))
        result = self.fails(1, "build", self.context)
        self.assertIn("404 Not Found", result.err)
        self.assertIn("Dockerfile:2:5", result.err)
        self.dockerfile("FROM scratch\nADD %s /\n" % self.site.page("/odd", "x", status=418))
        self.assertIn("418", self.fails(1, "build", self.context).err)
        self.dockerfile("FROM scratch\nADD http://127.0.0.1:%d/x /\n" % free_port())
        self.assertIn("connection refused", self.fails(1, "build", self.context).err)

    def test_passing_trouble_is_waited_for(self):
        self.dockerfile("FROM scratch\nADD %s /\n" % self.site.page("/f", "late", fail_first=2))
        self.assertEqual(self.texts(), {"f": "late"})

    def test_truncated_body_is_never_used(self):
        self.dockerfile("FROM scratch\nADD %s /\n" % self.site.page("/f", "x" * 5000, cut=100))
        self.fails(1, "build", "-t", "x", self.context)
        self.assertNotIn("x ", self.ok("images").out)
        self.site.page("/f", "x" * 5000)
        self.assertEqual(self.texts(), {"f": "x" * 5000})

    def test_password_in_the_url_is_not_in_the_image(self):
        url = self.site.page("/f", "x", auth="Basic " + base64.b64encode(b"me:pa55").decode())
        self.dockerfile("FROM scratch\nADD %s /\n" % url.replace("://", "://me:pa55@"))
        self.build("-t", "x")
        self.assertNotIn("pa55", json.dumps(self.inspect("x")))
        for words in ("%s /", '["%s", "/"]'):
            self.dockerfile("FROM scratch\nADD " + words % url.replace("://", "://me:pa55@") + "\n")
            for progress in ("plain", "rawjson"):
                err = self.build("--progress=" + progress, "-t", "x").err
                self.assertNotIn("pa55", err)
                self.assertIn("xxxxx@127.0.0.1", err)

    def test_certificates(self):
        pem = os.path.join(self.dir, "server.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", pem, "-out", pem + ".crt", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        with open(pem, "a") as f:
            f.write(read(pem + ".crt"))
        site = Site(certificate=pem)
        self.addCleanup(site.stop)
        self.dockerfile("FROM scratch\nADD %s /\n" % site.page("/f", "private"))
        result = self.fails(1, "build", self.context)
        self.assertIn("certificate", result.err)
        os.chmod(pem + ".crt", 0o644)
        self.assertEqual(self.texts(env={"SSL_CERT_FILE": pem + ".crt"}), {"f": "private"})
        self.dockerfile("FROM scratch\nADD %s /\n" % site.page("/down", status=301, location=self.site.page("/f", "plain")))
        self.assertIn("not encrypted", self.ok("build", self.context, env={"SSL_CERT_FILE": pem + ".crt"}).err)

    def test_interrupt_while_downloading(self):
        hold = threading.Event()
        self.addCleanup(hold.set)

        class Slow(Site.Page):
            @property
            def status(page):
                hold.wait(30)
                return 200

            @status.setter
            def status(page, value):
                pass

        self.site.pages["/slow"] = Slow("x")
        self.dockerfile("FROM scratch\nADD %s /\n" % self.site.url("/slow"))
        child = self.start("build", "--progress=plain", self.context, start_new_session=True)
        for _ in range(200):
            if self.site.requests:
                break
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=20)
        self.assertEqual(child.returncode, 130, err)


class AddGit(SourcesCase):
    def setUp(self):
        super().setUp()
        self.repository = Repository(self.repositories)
        self.first = self.repository.commit({"a": "one", "dir/b": "b", "dir/link": ("../a",), "-odd": "odd"})
        os.chmod(os.path.join(self.repository.tree, "dir/b"), 0o777)
        self.repository.git("tag", "-a", "-m", "tag", "v1")
        self.second = self.repository.commit({"a": "two"}, date="1700000100 +0000")
        self.repository.git("branch", "side/way", self.first)
        self.repository.push()
        self.daemon = GitDaemon(self.repositories)
        self.addCleanup(self.daemon.stop)
        self.url = self.daemon.url("project.git")

    def add(self, source, flags="", *args, **kw):
        self.dockerfile("FROM scratch\nADD %s %s /g/\n" % (flags, source))
        return self.members(*args, **kw)

    def test_default_branch(self):
        files = self.add(self.url, env={"X": "1"})
        self.assertEqual({n: m.text for n, m in files.items() if m.isfile()}, {"g/a": "two", "g/dir/b": "b", "g/-odd": "odd"})
        self.assertEqual([files[n].mode for n in ("g/a", "g/dir/b", "g/dir")], [0o644, 0o755, 0o755])
        self.assertEqual(files["g/dir/link"].linkname, "../a")

    def test_umask_does_not_matter(self):
        self.dockerfile("FROM scratch\nADD %s /g/\n" % self.url)
        result = self.ok("build", "-q", "-o", "type=tar,dest=-", self.context, binary=True, umask=0o077)
        with tarfile.open(fileobj=io.BytesIO(result.out)) as tar:
            self.assertEqual({m.name.rstrip("/"): m.mode for m in tar if not m.issym()}, {"g": 0o755, "g/a": 0o644, "g/dir": 0o755, "g/dir/b": 0o755, "g/-odd": 0o644})

    def test_references(self):
        for source, text in (("#v1", "one"), ("#refs/tags/v1", "one"), ("#side/way", "one"), ("#heads/main", "two"), ("#" + self.first, "one"), ("?tag=v1", "one"), ("?branch=side/way", "one"), ("?ref=main&commit=" + self.second[:9], "two"),
                             ("?commit=" + self.first, "one"), ("?subdir=dir&tag=v1", None), ("#main:dir", None)):
            with self.subTest(source):
                files = self.add(self.url + source)
                if text:
                    self.assertEqual(files["g/a"].text, text)
                else:
                    self.assertEqual(files["g/b"].text, "b")
                    self.assertNotIn("g/a", files)

    def test_cached_by_commit(self):
        self.dockerfile("FROM scratch\nADD %s#main /g/\n" % self.url)
        self.build("-t", "x")
        self.assertIn("all 1 steps were cached", self.build("-t", "x").err)
        # Another branch at the same commit is the same.
        self.repository.git("branch", "same", self.second)
        self.repository.push()
        self.dockerfile("FROM scratch\nADD %s#same /g/\n" % self.url)
        self.assertIn("all 1 steps were cached", self.build("-t", "x").err)
        self.repository.commit({"a": "three"})
        self.dockerfile("FROM scratch\nADD %s#main /g/\n" % self.url)
        self.assertEqual(self.texts()["g/a"], "three")
        # A commit that is here is not asked for.
        self.daemon.stop()
        self.dockerfile("FROM scratch\nADD %s#%s /elsewhere/\n" % (self.url, self.second))
        self.assertEqual(self.texts()["elsewhere/a"], "two")

    def test_checksum(self):
        self.assertEqual(self.add(self.url + "#v1", "--checksum=" + self.first[:12])["g/a"].text, "one")
        self.dockerfile("FROM scratch\nADD --checksum=%s %s#main /g/\n" % (self.first, self.url))
        result = self.fails(1, "build", self.context)
        self.assertIn(self.first, result.err)
        self.assertIn(self.second, result.err)
        self.assertIn("Dockerfile:2:", result.err)
        self.dockerfile("FROM scratch\nADD --checksum=sha256:%s %s /g/\n" % ("0" * 64, self.url))
        self.assertIn("is no commit", self.fails(2, "build", self.context).err)

    def test_git_directory(self):
        self.assertNotIn("g/.git", self.add(self.url))
        for flags, suffix in (("--keep-git-dir=true", "#v1"), ("", "?keep-git-dir=1&tag=v1")):
            self.add(self.url + suffix, flags)
            out = os.path.join(self.dir, "out%d" % len(suffix))
            with tarfile.open(fileobj=io.BytesIO(self.ok("build", "-q", "-o", "type=tar,dest=-", self.context, binary=True).out)) as tar:
                tar.extractall(out)
            run = lambda *a: subprocess.run(["git", "-c", "safe.directory=*", *a], cwd=os.path.join(out, "g"), capture_output=True, text=True, check=True).stdout.strip()
            self.assertEqual(run("rev-parse", "HEAD"), self.first)
            self.assertEqual(run("status", "--porcelain"), "")
            self.assertEqual(run("describe", "--tags"), "v1")
            self.assertEqual(run("remote", "get-url", "origin"), self.url)
        self.dockerfile("FROM scratch\nADD --keep-git-dir=false %s?keep-git-dir=1 /g/\n" % self.url)
        self.fails(2, "build", self.context)

    def test_git_directory_is_reproducible(self):
        """From two stores, of which one had fetched other commits before."""
        inner = Repository(self.repositories, "inner")
        inner.commit({"f%d" % i: "inner file %d\n" % i * 100 for i in range(150)})
        self.repository.git("submodule", "add", "-q", "../inner.git", "sub/inner")
        self.repository.commit({"many%d" % i: "file %d\n" % i * 100 for i in range(150)})
        self.dockerfile("FROM scratch\nADD --keep-git-dir %s#main /g/\n" % self.url)
        build = lambda: self.members("--build-arg", "SOURCE_DATE_EPOCH=1800000000")
        image = lambda: self.build("-q", "--build-arg", "SOURCE_DATE_EPOCH=1800000000", "-t", "x").out
        first, digest = build(), image()
        self.store += "-2"
        self.add(self.url + "#v1")
        time.sleep(1.1)
        self.dockerfile("FROM scratch\nADD --keep-git-dir %s#main /g/\n" % self.url)
        second = build()
        self.assertEqual({n: (m.mode, m.mtime, m.text) for n, m in first.items()}, {n: (m.mode, m.mtime, m.text) for n, m in second.items()})
        self.assertEqual(digest, image())
        self.assertIn("g/.git/modules/sub/inner/index", first)

    def test_times(self):
        before = int(time.time())
        self.assertGreaterEqual(self.add(self.url)["g/a"].mtime, before - 1)
        files = self.add(self.url + "?mtime=commit")
        self.assertEqual({m.mtime for n, m in files.items() if n != "g"}, {1700000100})
        self.assertEqual(self.add(self.url + "?subdir=dir", "", "--build-arg", "SOURCE_DATE_EPOCH=1800000000")["g/b"].mtime, 1700000100)

    def test_mixed_with_files(self):
        self.write("local", "local")
        self.dockerfile("FROM scratch\nADD --chown=%d:%d --exclude=dir %s local %s /d/\n" % (*OWNER, self.url, self.site.page("/f", "web")))
        files = self.members()
        self.assertEqual(sorted(n for n, m in files.items() if m.isfile()), ["d/-odd", "d/a", "d/f", "d/local"])
        self.assertEqual({(m.uid, m.gid) for m in files.values() if m.isfile()}, {OWNER})

    def test_submodules(self):
        inner = Repository(self.repositories, "inner")
        inner.commit({"inside": "inner file"})
        self.repository.git("submodule", "add", "-q", "../inner.git", "sub/inner")
        self.repository.commit()
        files = self.add(self.url)
        self.assertEqual(files["g/sub/inner/inside"].text, "inner file")
        self.assertNotIn("g/sub/inner/.git", files)
        self.assertNotIn("g/sub/inner/inside", self.add(self.url + "?submodules=false"))

    def test_hostile_submodules(self):
        secret = Repository(self.dir, "secret")
        secret.commit({"inside": "of this machine"})
        commit = secret.git("rev-parse", "HEAD")
        for url in ("file://" + secret.bare, secret.bare, "ext::sh -c 'touch %s/owned'" % self.dir, "-u./x"):
            with self.subTest(url):
                with open(os.path.join(self.repository.tree, ".gitmodules"), "w") as f:
                    f.write('[submodule "s"]\n\tpath = s\n\turl = %s\n\tupdate = !touch %s/owned\n' % (url, self.dir))
                self.repository.git("update-index", "--add", "--cacheinfo", "160000,%s,s" % commit)
                self.repository.git("add", ".gitmodules")
                self.repository.git("commit", "-q", "-m", "hostile")
                self.repository.push()
                self.dockerfile("FROM scratch\nADD %s /g/\n" % self.url)
                self.fails(1, "build", self.context)
                self.assertFalse(os.path.exists(os.path.join(self.dir, "owned")))

    def test_nothing_of_the_repository_or_the_user_is_run(self):
        owned = os.path.join(self.dir, "owned")
        self.repository.commit({".gitattributes": "* filter=evil diff=evil\n", "hooks/post-checkout": "#!/bin/sh\ntouch %s\n" % owned})
        script = os.path.join(self.home, "evil.sh")
        with open(script, "w") as f:
            f.write("#!/bin/sh\ntouch %s\ncat\n" % owned)
        os.chmod(script, 0o755)
        with open(os.path.join(self.home, ".gitconfig"), "w") as f:
            f.write('[core]\n\thooksPath = %s\n\tfsmonitor = %s\n\tsshCommand = %s\n[filter "evil"]\n\tsmudge = %s\n\trequired = true\n[init]\n\ttemplateDir = %s\n' % (self.home, script, script, script, self.home))
        files = self.add(self.url, "", env={"GIT_EXEC_PATH": self.home, "GIT_TEMPLATE_DIR": self.home, "GIT_DIR": self.home, "GIT_EXTERNAL_DIFF": script, "GIT_PROXY_COMMAND": script})
        self.assertIn("g/hooks/post-checkout", files)
        self.assertFalse(os.path.exists(owned))

    def test_errors(self):
        for source, words in ((self.url + "#nowhere", "no branch or tag nowhere"), (self.daemon.url("absent.git"), "git could not read"), (self.url + "#main:absent", "no directory absent"), (self.url + "#main:dir/link", "no directory dir/link"), (self.url + "#" + "0" * 40, "0" * 40)):
            with self.subTest(source):
                self.dockerfile("FROM scratch\nADD %s /g/\n" % source)
                result = self.fails(1, "build", self.context)
                self.assertIn(words, result.err)
                self.assertIn("Dockerfile:2:5", result.err)
        for source in (self.url + "#--upload-pack=x", "file://%s" % self.repository.bare, self.url + "?what=1"):
            with self.subTest(source):
                self.dockerfile("FROM scratch\nADD %s /g/\n" % source)
                self.assertIn("Dockerfile:2:5", self.fails(2, "build", self.context).err)

    def test_interrupt_ends_git(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            self.dockerfile("FROM scratch\nADD git://127.0.0.1:%d/silent.git /g/\n" % silent.getsockname()[1])
            child = self.start("build", "--progress=plain", self.context, start_new_session=True)
            connection, _ = silent.accept()
            os.kill(child.pid, signal.SIGINT)
            _, err = child.communicate(timeout=20)
            self.assertEqual(child.returncode, 130, err)
            connection.settimeout(10)
            while connection.recv(1000):  # ends when git has ended
                pass
            connection.close()

    def test_without_git(self):
        self.dockerfile("FROM scratch\nADD %s /g/\n" % self.url)
        path = os.path.join(self.dir, "bin")
        os.mkdir(path)
        for helper in ("newuidmap", "newgidmap"):
            os.symlink(shutil.which(helper), os.path.join(path, helper))
        call, environment = self.command("build", self.context, env={"PATH": path})
        done = subprocess.run(call, env=os.environ if USER else environment, cwd=self.dir, capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("git is not installed", done.stderr)
        self.assertIn("apt-get install git", done.stderr)


class GitOverHttp(SourcesCase):
    def setUp(self):
        super().setUp()
        self.repository = Repository(self.repositories)
        self.commit = self.repository.commit({"a": "one"})

    def serve(self, **kw):
        site = GitSite(self.repositories, **kw)
        self.addCleanup(site.stop)
        return site

    def test_http(self):
        site = self.serve()
        self.dockerfile("FROM scratch\nADD %s /g/\n" % site.url("project.git"))
        self.assertEqual(self.texts(), {"g/a": "one"})
        # A forge whose addresses do not end in .git.
        os.symlink("project.git", os.path.join(self.repositories, "short"))
        self.dockerfile("FROM scratch\nADD git+%s /s/\n" % site.url("short"))
        self.assertEqual(self.texts(), {"s/a": "one"})

    def test_dumb_http(self):
        """A plain file server, which knows no shallow fetch."""
        import functools
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                pass

        server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=self.repositories))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.dockerfile("FROM scratch\nADD http://127.0.0.1:%d/project.git /g/\n" % server.server_address[1])
        self.assertEqual(self.texts(), {"g/a": "one"})

    def test_token(self):
        site = self.serve(token="t0ken")
        self.dockerfile("FROM scratch\nADD %s /g/\n" % site.url("project.git"))
        result = self.fails(1, "build", self.context)
        self.assertIn("GIT_AUTH_TOKEN", result.err)
        for secret in ("GIT_AUTH_TOKEN", "GIT_AUTH_TOKEN." + site.host):
            self.store = os.path.join(self.dir, "store-" + secret)
            self.assertEqual(self.texts("--secret", "id=%s,env=T" % secret, env={"T": "t0ken"}), {"g/a": "one"})
        self.store += "-header"
        header = "basic " + base64.b64encode(b"x-access-token:t0ken").decode()
        self.assertEqual(self.texts("--secret", "id=GIT_AUTH_HEADER,env=T", env={"T": header}), {"g/a": "one"})

    def test_token_stays_with_its_server(self):
        site = self.serve()
        door = self.serve(redirect="http://" + site.host)
        self.dockerfile("FROM scratch\nADD %s /g/\n" % door.url("project.git"))
        self.assertEqual(self.texts(), {"g/a": "one"})  # without a token redirects are followed
        count = len(site.requests)
        self.store += "-2"
        result = self.fails(1, "build", "--secret", "id=GIT_AUTH_TOKEN,env=T", self.context, env={"T": "t0ken"})
        self.assertIn("redirects", result.err)
        self.assertEqual(len(site.requests), count)


    def test_token_without_a_host_is_not_sent_in_clear(self):
        """The site stands in for a proxy, so that the repository's host is another machine."""
        site = self.serve(token="t0ken")
        self.dockerfile("FROM scratch\nADD http://git.example/project.git /g/\n")
        env = {"T": "basic xyz", "http_proxy": "http://" + site.host}
        sent = lambda: [h["Authorization"] for _, h in site.requests if "Authorization" in h]
        for name in ("GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"):
            result = self.fails(1, "build", "--secret", "id=%s,env=T" % name, self.context, env=env)
            self.assertIn("%s is not sent over plain http" % name, result.err)
            self.assertIn("id=%s.git.example" % name, result.err)
            self.assertTrue(site.requests)
            self.assertEqual(sent(), [])
        self.fails(1, "build", "--secret", "id=GIT_AUTH_HEADER.git.example,env=T", self.context, env=env)
        self.assertEqual(set(sent()), {"basic xyz"})

    def test_password_of_the_url_is_nowhere(self):
        """Neither in the git directory of the image, with those of submodules, nor in the store."""
        inner = Repository(self.repositories, "inner")
        inner.commit({"inside": "inner file"})
        self.repository.git("submodule", "add", "-q", "../inner.git", "sub/inner")
        self.repository.commit()
        site = self.serve(token="pa55/word", user="m e")
        url = site.url("project.git")
        self.dockerfile("FROM scratch\nADD --keep-git-dir %s /g/\n" % url.replace("://", "://m%20e:pa55%2Fword@"))
        files = self.members()
        self.assertEqual(files["g/sub/inner/inside"].text, "inner file")
        self.assertIn("url = %s\n" % url, files["g/.git/config"].text)
        self.assertIn(site.url("inner.git"), files["g/.git/modules/sub/inner/config"].text)
        words = ["pa55", base64.b64encode(b"m e:pa55/word").decode()]
        for name, member in files.items():
            for word in words:
                self.assertNotIn(word, name + (member.text or ""))
        for word in words:
            self.assertEqual(subprocess.run(["grep", "-rlFa", word, self.store], capture_output=True, text=True).stdout, "")
        self.store += "-2"
        self.dockerfile("FROM scratch\nADD --keep-git-dir %s /g/\n" % url.replace("://", "://m%20e:wrong@"))
        self.assertIn("Authentication failed", self.fails(1, "build", self.context).err)


class GitOverSsh(SourcesCase):
    def setUp(self):
        super().setUp()
        self.repository = Repository(self.repositories)
        self.repository.commit({"a": "one"})
        keys = os.path.join(self.dir, "keys")
        os.mkdir(keys, 0o755)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(keys, name)], check=True)
        os.makedirs("/run/sshd", exist_ok=True)
        self.port = free_port()
        config = os.path.join(keys, "sshd_config")
        with open(config, "w") as f:
            f.write("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n" % (self.port, keys, keys))
        self.sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
        self.addCleanup(lambda: (self.sshd.terminate(), self.sshd.wait()))
        # The agent belongs to the user who builds.
        self.agent_socket = os.path.join(self.home, "agent")
        with open(os.path.join(keys, "user")) as f:
            key = f.read()
        agent, _ = self.command()
        prefix = agent[:-1]
        self.agent = subprocess.Popen([*prefix, "ssh-agent", "-D", "-a", self.agent_socket], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(lambda: (self.agent.terminate(), self.agent.wait()))
        for _ in range(200):
            with socket.socket() as s:
                if os.path.exists(self.agent_socket) and s.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.05)
        subprocess.run([*prefix, "env", "SSH_AUTH_SOCK=" + self.agent_socket, "ssh-add", "-q", "-"], input=key, text=True, check=True, capture_output=True)
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.url = "ssh://%s@127.0.0.1:%d%s" % (user, self.port, self.repository.bare)

    def test_agent(self):
        self.dockerfile("FROM scratch\nADD %s /g/\n" % self.url)
        # An agent in the environment is not a Dockerfile's to use.
        result = self.fails(1, "build", self.context, env={"SSH_AUTH_SOCK": self.agent_socket})
        self.assertIn("--ssh default", result.err)
        self.assertEqual(self.texts("--ssh", "default", env={"SSH_AUTH_SOCK": self.agent_socket}), {"g/a": "one"})
        self.store += "-2"
        self.assertEqual(self.texts("--ssh", "default=" + self.agent_socket), {"g/a": "one"})

    def test_context_and_a_changed_host_key(self):
        self.repository.commit({"Dockerfile": "FROM scratch\nCOPY a /\n"})
        self.assertEqual(self.texts(context=self.url, env={"SSH_AUTH_SOCK": self.agent_socket}), {"a": "one"})
        known = os.path.join(self.store, "ssh_known_hosts")
        self.assertIn("[127.0.0.1]:%d" % self.port, read(known))
        other = subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(self.dir, "other")], check=True)
        self.assertEqual(other.returncode, 0)
        key = " ".join(read(self.dir, "other.pub").split()[:2])
        with open(known, "w") as f:
            f.write("[127.0.0.1]:%d %s\n" % (self.port, key))
        self.repository.commit({"a": "two"})
        result = self.fails(1, "build", self.url, env={"SSH_AUTH_SOCK": self.agent_socket})
        self.assertIn("Host key verification failed", result.err)


if __name__ == "__main__":
    unittest.main()
