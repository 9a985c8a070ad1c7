"""A web site and git repositories on loopback, for tests of what is fetched."""

import base64
import http.server
import ssl
import threading

from harness import *

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
DATE_SECONDS = 784111777


class Site:
    """Serves self.pages: path → Page. Remembers every request as (method, path, headers)."""

    class Page:
        def __init__(self, body=b"", status=200, etag=None, modified=None, location=None, auth=None, cut=None, obeys_etag=True, fail_first=0):
            self.body = body if isinstance(body, bytes) else body.encode()
            self.status, self.etag, self.modified, self.location = status, etag, modified, location
            self.auth, self.cut, self.obeys_etag, self.fail_first = auth, cut, obeys_etag, fail_first

    def __init__(self, certificate=None):
        self.pages, self.requests = {}, []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                site.requests.append((self.command, self.path, dict(self.headers)))
                page = site.pages.get(self.path.split("?")[0])
                if page is None:
                    return self.answer(404, b"no such page")
                if page.fail_first > 0:
                    page.fail_first -= 1
                    return self.answer(503, b"not now")
                if page.auth and self.headers.get("Authorization") != page.auth:
                    return self.answer(401, b"who are you?", [("WWW-Authenticate", "Bearer")])
                headers = [("ETag", page.etag)] if page.etag else []
                headers += [("Last-Modified", page.modified)] if page.modified else []
                headers += [("Location", page.location)] if page.location else []
                same = page.etag and page.etag == self.headers.get("If-None-Match")
                same = same or (page.modified and page.modified == self.headers.get("If-Modified-Since"))
                if same and page.obeys_etag:
                    return self.answer(304, b"", headers)
                self.answer(page.status, page.body, headers, page.cut)

            def answer(self, status, body, headers=(), cut=None):
                self.send_response(status)
                for header in headers:
                    self.send_header(*header)
                if status != 304:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:cut])
                if cut is not None:
                    self.close_connection = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        self.port = self.server.server_address[1]
        self.host = "127.0.0.1:%d" % self.port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def url(self, path, host=None):
        return "%s://%s%s" % (self.scheme, host or self.host, path)

    def page(self, path, *args, **kw):
        self.pages[path] = Site.Page(*args, **kw)
        return self.url(path)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Repository:
    """A bare git repository, made from a work tree beside it; both are world-readable."""

    def __init__(self, top, name="project", **config):
        self.top, self.name = top, name
        self.tree = os.path.join(top, name)
        self.bare = self.tree + ".git"
        os.makedirs(self.tree)
        self.git("init", "-q", "-b", "main")
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", self.bare], check=True, env=self.environment())
        self.git("remote", "add", "origin", self.bare)

    def environment(self, date="1700000000 +0000"):
        return dict(os.environ, GIT_AUTHOR_NAME="n", GIT_AUTHOR_EMAIL="e", GIT_COMMITTER_NAME="n", GIT_COMMITTER_EMAIL="e", GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date,
                    GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="protocol.file.allow", GIT_CONFIG_VALUE_0="always")

    def git(self, *args, date="1700000000 +0000"):
        return subprocess.run(["git", *args], cwd=self.tree, env=self.environment(date), check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, files=(), message="change", date="1700000000 +0000"):
        for name, content in dict(files).items():
            path = os.path.join(self.tree, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if isinstance(content, tuple):
                os.symlink(content[0], path)
                continue
            with open(path, "w") as f:
                f.write(content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message, date=date)
        self.push()
        return self.git("rev-parse", "HEAD")

    def push(self):
        self.git("push", "-q", "--force", "--all", "origin")
        self.git("push", "-q", "--force", "--tags", "origin")
        subprocess.run(["git", "update-server-info"], cwd=self.bare, check=True)
        subprocess.run(["chmod", "-R", "a+rX", self.top], check=True)


class GitDaemon:
    def __init__(self, top):
        self.port = free_port()
        self.process = subprocess.Popen(["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", "--port=%d" % self.port, "--base-path=" + top, "--export-all", "--verbose", top],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ, GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*"))
        self.lines = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self.reader.start()
        for _ in range(200):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("git daemon does not answer")

    def url(self, name):
        return "git://127.0.0.1:%d/%s" % (self.port, name)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()


class GitSite:
    """git http-backend behind a small server; with a password when one is given. user: who has it."""

    def __init__(self, top, token=None, redirect=None, user="x-access-token"):
        self.requests = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                site.requests.append((self.path, dict(self.headers)))
                if redirect:
                    self.send_response(301)
                    self.send_header("Location", redirect + self.path)
                    self.end_headers()
                    return
                wanted = "basic " + base64.b64encode(("%s:%s" % (user, token)).encode()).decode()
                if token and self.headers.get("Authorization", "").replace("Basic", "basic") != wanted:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", "Basic realm=x")
                    self.end_headers()
                    return
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env={
                    "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": top, "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""), "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"})
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                lines = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
                status = next((int(v.split()[0]) for k, v in lines if k == "Status"), 200)
                self.send_response(status)
                for k, v in lines:
                    if k != "Status":
                        self.send_header(k, v)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def url(self, name):
        return "http://%s/%s" % (self.host, name)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Member(tarfile.TarInfo):
    text = None  # content of a regular file


class SourcesCase(TestCase):
    """A site of its own, and archives read back with Python's tarfile."""

    def setUp(self):
        super().setUp()
        self.site = Site()
        self.addCleanup(self.site.stop)
        self.repositories = os.path.join(self.dir, "repositories")
        os.mkdir(self.repositories)

    def members(self, *args, context=None, stdin=None, env=None):
        """Builds and gives the image's files: name → Member."""
        result = self.ok("build", "-q", "-o", "type=tar,dest=-", *args, context or self.context, binary=True, stdin=stdin, env=env)
        out = {}
        with tarfile.open(fileobj=io.BytesIO(result.out), tarinfo=Member) as tar:
            for member in tar:
                member.text = tar.extractfile(member).read().decode(errors="replace") if member.isfile() else None
                out[member.name.rstrip("/")] = member
        return out

    def texts(self, *args, **kw):
        return {name: m.text for name, m in self.members(*args, **kw).items() if m.isfile()}


__all__ = [name for name in dir() if not name.startswith("_")]
