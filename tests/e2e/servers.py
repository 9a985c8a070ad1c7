"""Servers for the tests of registries: a registry to the letter of the specification, a token service, a TCP proxy that
breaks things, and certificates. Each listens on loopback and dies with the test process."""

import base64
import hashlib
import http.server
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.parse
import uuid

from harness import Registry, Server, TestCase, tempfile

BLOCK = 64 * 1024
MIB = 1 << 20


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def send_response(self, code, message=None):
        super().send_response(code, message)
        # Who was asked to close says so; a client that does not know sends its next request into a closed connection.
        if self.close_connection:
            self.send_header("Connection", "close")

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code, **headers):
        self.answer(status, json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode(), **headers)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


def serve(handler, **attributes):
    handler = type("Handler", (handler,), attributes)
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class SpecRegistry:
    """distribution-spec v1.1 with offsets of broken uploads, which Debian's docker-registry does not keep.

    keep_partial: bytes of a PATCH that broke off count. minimum: OCI-Chunk-Min-Length. referrers: whether it has that
    API. redirect: where blobs are fetched from ("http://host"). page: entries of a page of tags. link_host: where Link
    points. warning: sent with every answer. basic: "user:password" that is asked for."""

    def __init__(self, directory, **options):
        self.directory = directory
        self.options = options
        self.manifests = {}  # (repository, reference) -> (type, bytes)
        self.uploads = {}
        self.requests = []
        self.times = []  # of the requests
        self.lock = threading.Lock()
        self.server = serve(_SpecHandler, registry=self)
        self.host = "127.0.0.1:%d" % self.server.server_port

    def blob(self, digest):
        return os.path.join(self.directory, digest.replace(":", "-"))

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class _SpecHandler(_Handler):
    registry = None

    def handle_one(self):
        r = self.registry
        with r.lock:
            r.requests.append((self.command, self.path, self.headers.get("Authorization")))
            r.times.append(time.time())
        basic = r.options.get("basic")
        if basic and self.headers.get("Authorization") != "Basic " + base64.b64encode(basic.encode()).decode():
            self.body()
            return self.error(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="test"')
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/v2/":
            return self.answer(200, b"{}")
        for pattern, method in (
            (r"/v2/(.+)/blobs/uploads/([^/]*)", self.upload),
            (r"/v2/(.+)/blobs/(sha256:[0-9a-f]+)", self.blob),
            (r"/v2/(.+)/manifests/(.+)", self.manifest),
            (r"/v2/(.+)/(tags)/list", self.tags),
            (r"/v2/(.+)/referrers/(.+)", self.referrers),
        ):
            match = re.fullmatch(pattern, url.path)
            if match:
                return method(match[1], match[2], query)
        return self.error(404, "NAME_UNKNOWN")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_one

    def answer(self, status, body=b"", **headers):
        if self.registry.options.get("warning"):
            headers["Warning"] = '299 - "%s"' % self.registry.options["warning"]
        super().answer(status, body, **headers)

    def upload(self, repository, session, query):
        r = self.registry
        if self.command == "POST":
            self.body()
            if "mount" in query and os.path.exists(r.blob(query["mount"])):
                return self.answer(201, Location="/v2/%s/blobs/%s" % (repository, query["mount"]))
            session = uuid.uuid4().hex
            r.uploads[session] = open(os.path.join(r.directory, "upload-" + session), "wb", buffering=0)
            extra = {"OCI_Chunk_Min_Length": r.options["minimum"]} if r.options.get("minimum") else {}
            return self.answer(202, Location="/v2/%s/blobs/uploads/%s?state=%s" % (repository, session, "s" * 40), Range="0-0", **extra)
        file = r.uploads.get(session)
        if file is None:
            self.body()
            return self.error(404, "BLOB_UPLOAD_UNKNOWN")
        at = file.tell()
        location = "/v2/%s/blobs/uploads/%s?state=%d" % (repository, session, at)
        if self.command == "GET":
            return self.answer(204, Location=location, Range="0-%d" % max(0, at - 1))
        size = int(self.headers.get("Content-Length", 0))
        claimed = self.headers.get("Content-Range")
        if claimed and claimed != "%d-%d" % (at, at + size - 1):
            self.close_connection = True
            return self.error(416, "RANGE_INVALID", Location=location, Range="0-%d" % max(0, at - 1))
        if self.command == "PATCH" and r.options.get("minimum", 0) > size > 0:
            r.short_chunks = getattr(r, "short_chunks", 0) + 1
        left = size
        while left > 0:
            try:
                block = self.rfile.read(min(left, BLOCK))
            except OSError:
                block = b""
            if not block:
                break
            file.write(block)
            left -= len(block)
        if left > 0:
            if not r.options.get("keep_partial", True):
                file.truncate(at)
                file.seek(at)
            self.close_connection = True
            return None
        if self.command == "PATCH":
            return self.answer(202, Location="/v2/%s/blobs/uploads/%s?state=%d" % (repository, session, file.tell()), Range="0-%d" % (file.tell() - 1))
        path = file.name
        file.close()
        digest = hashlib.sha256()
        with open(path, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
        del r.uploads[session]
        if "sha256:" + digest.hexdigest() != query.get("digest"):
            return self.error(400, "DIGEST_INVALID")
        os.rename(path, r.blob(query["digest"]))
        return self.answer(201, Location="/v2/%s/blobs/%s" % (repository, query["digest"]), Docker_Content_Digest=query["digest"])

    def blob(self, repository, digest, query):
        r = self.registry
        if not os.path.exists(r.blob(digest)):
            return self.error(404, "BLOB_UNKNOWN")
        if self.command == "GET" and r.options.get("redirect"):
            return self.answer(307, Location="%s%s?signature=not-to-be-shown" % (r.options["redirect"], self.path))
        size = os.path.getsize(r.blob(digest))
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            if start >= size:
                return self.error(416, "RANGE_INVALID")
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size - start))
        if start:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (start, size - 1, size))
        self.end_headers()
        if self.command == "HEAD":
            return None
        with open(r.blob(digest), "rb") as f:
            f.seek(start)
            while block := f.read(BLOCK):
                self.wfile.write(block)
        return None

    def manifest(self, repository, reference, query):
        r = self.registry
        if self.command == "PUT":
            body = self.body()
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            value = (self.headers["Content-Type"], body)
            r.manifests[repository, reference] = r.manifests[repository, digest] = value
            extra = {}
            subject = json.loads(body).get("subject")
            if subject and r.options.get("referrers"):
                extra["OCI_Subject"] = subject["digest"]
            return self.answer(201, Docker_Content_Digest=digest, Location="/v2/%s/manifests/%s" % (repository, digest), **extra)
        if (repository, reference) not in r.manifests:
            return self.error(404, "MANIFEST_UNKNOWN")
        media_type, body = r.manifests[repository, reference]
        self.answer(200, body, Content_Type=media_type, Docker_Content_Digest="sha256:" + hashlib.sha256(body).hexdigest())

    def tags(self, repository, _, query):
        r = self.registry
        names = sorted(ref for name, ref in r.manifests if name == repository and ":" not in ref)
        page = min(int(query.get("n", 1000)), r.options.get("page", 1000))
        rest = [n for n in names if n > query.get("last", "")]
        extra = {}
        if len(rest) > page:
            extra["Link"] = '<%s/v2/%s/tags/list?n=%d&last=%s>; rel="next"' % (r.options.get("link_host", ""), repository, page, rest[page - 1])
        self.answer(200, json.dumps({"name": repository, "tags": rest[:page]}).encode(), Content_Type="application/json", **extra)

    def referrers(self, repository, digest, query):
        r = self.registry
        if not r.options.get("referrers"):
            return self.error(404, "NOT_FOUND")
        found = []
        for (name, reference), (media_type, body) in sorted(r.manifests.items()):
            manifest = json.loads(body)
            if name == repository and reference.startswith("sha256:") and manifest.get("subject", {}).get("digest") == digest:
                found.append({"mediaType": media_type, "digest": reference, "size": len(body), "artifactType": manifest.get("artifactType", "")})
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": found}
        self.answer(200, json.dumps(index).encode(), Content_Type=index["mediaType"])


class Recorder:
    """Answers every GET with 404 and keeps what was asked, with its Authorization header."""

    def __init__(self):
        self.requests = []
        self.server = serve(_RecorderHandler, owner=self)
        self.host = "127.0.0.1:%d" % self.server.server_port


class _RecorderHandler(_Handler):
    owner = None

    def do_GET(self):
        self.owner.requests.append((self.path, self.headers.get("Authorization")))
        self.answer(404)


class Certificates:
    """A CA of its own, a server certificate for 127.0.0.1 and localhost, a client certificate."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = os.path.join(directory, "ca.crt")
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test authority",
                      "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", "ca.key", "-out", "ca.crt")
        self.server = self._signed("server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.client = self._signed("client", "extendedKeyUsage=clientAuth")

    def _signed(self, name, extension):
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=" + name, "-keyout", name + ".key", "-out", name + ".csr")
        with open(os.path.join(self.directory, name + ".ext"), "w") as f:
            f.write(extension + "\n")
        self._openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", name + ".ext", "-out", name + ".pem")
        return os.path.join(self.directory, name + ".pem"), os.path.join(self.directory, name + ".key")

    def _openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.directory, check=True, capture_output=True)


class TokenService:
    """Docker's token protocol, for a docker-registry that trusts its certificate.

    life: seconds that a token is good for (docker-registry allows a minute more than that, which is taken off). get:
    whether GET is answered, or OAuth2's POST only. refresh: identity tokens that are accepted. offline: the methods that
    give one to who asks for it ("GET" with offline_token, "POST" with access_type); broken: it is then not accepted."""

    ISSUER = "test issuer"
    SERVICE = "test registry"

    def __init__(self, directory, user="joe", password="secret-word", life=300, get=True, refresh=(), offline=(), broken=False):
        self.user, self.password, self.life, self.get, self.refresh = user, password, life, get, list(refresh)
        self.offline, self.broken = offline, broken
        self.key = os.path.join(directory, "token.key")
        self.certificate = os.path.join(directory, "token.crt")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens", "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)
        der = subprocess.run(["openssl", "x509", "-in", self.certificate, "-outform", "DER"], check=True, capture_output=True).stdout
        self.x5c = base64.b64encode(der).decode()
        self.granted = []  # (method, scopes)
        self.server = serve(_TokenHandler, service=self)
        self.realm = "http://127.0.0.1:%d/token" % self.server.server_port

    def auth(self):
        return {"token": {"realm": self.realm, "service": self.SERVICE, "issuer": self.ISSUER, "rootcertbundle": self.certificate}}

    def token(self, scopes):
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": self.ISSUER, "sub": self.user, "aud": self.SERVICE, "exp": now + self.life - 60, "nbf": now - 120, "iat": now - 120, "jti": uuid.uuid4().hex, "access": access}
        encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        text = ".".join(encode(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "RS256", "x5c": [self.x5c]}, claims))
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=text.encode(), capture_output=True, check=True).stdout
        return text + "." + encode(signature)


class _TokenHandler(_Handler):
    service = None

    def grant(self, method, scopes, offline):
        s = self.service
        s.granted.append((method, scopes))
        answer = {"access_token" if method == "POST" else "token": s.token(scopes), "expires_in": s.life}
        if offline and method in s.offline:
            answer["refresh_token"] = "identity-" + uuid.uuid4().hex
            if not s.broken:
                s.refresh.append(answer["refresh_token"])
        self.answer(200, json.dumps(answer).encode())

    def do_GET(self):
        s = self.service
        if not s.get:
            return self.error(405, "UNSUPPORTED")
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(("%s:%s" % (s.user, s.password)).encode()).decode():
            return self.error(401, "UNAUTHORIZED")
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        return self.grant("GET", query.get("scope", []), query.get("offline_token") == ["true"])

    def do_POST(self):
        s = self.service
        form = {k: v[0] for k, v in urllib.parse.parse_qs(self.body().decode()).items()}
        good = form.get("grant_type") == "password" and (form.get("username"), form.get("password")) == (s.user, s.password)
        good = good or form.get("grant_type") == "refresh_token" and form.get("refresh_token") in s.refresh
        if not good or form.get("service") != s.SERVICE:
            return self.error(401, "UNAUTHORIZED")
        return self.grant("POST", form.get("scope", "").split(), form.get("access_type") == "offline")


def reset(connection):
    """Closes with RST instead of FIN. A thread that is in recv() holds the socket, so it is woken first."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass
    connection.close()


class FaultProxy:
    """Forwards TCP to `target` and breaks it. All counters are over all connections together.

    up, down: bytes forwarded to and from the server. reset_up, reset_down: sorted byte counts at which the connection
    in use is reset. stall_down: after so many bytes that connection stays open and silent (once). truncate_down: closed
    without an error (once). refuse: new connections are closed at once; refuse_after: so they
    are once so many resets have happened. rate: bytes a second in each direction.
    answers: [(pattern of the request line, times, answer)]: such requests never reach the server. rude: they are answered
    before their bodies have come, and the connection is closed at once, which resets it. connections: how many there were."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.up = self.down = 0
        self.reset_up, self.reset_down = [], []
        self.stall_down = self.truncate_down = None
        self.refuse = False
        self.refuse_after = None
        self.rate = None
        self.answers = []
        self.rude = False
        self.faults = self.connections = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.host = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(connection,), daemon=True).start()

    def _connection(self, client):
        with self.lock:
            self.connections += 1
        if self.refuse:
            return reset(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * BLOCK)
        head = b""
        if self.answers:
            while b"\r\n\r\n" not in head:
                block = client.recv(BLOCK)
                if not block:
                    return client.close()
                head += block
            line = head.split(b"\r\n")[0].decode()
            for rule in self.answers:
                if rule[1] > 0 and re.search(rule[0], line):
                    rule[1] -= 1
                    self.faults += 1
                    client.settimeout(30)  # a close before all is read would reset the connection
                    try:
                        client.sendall(rule[2])
                        if self.rude:
                            return client.close()
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(BLOCK):
                            pass
                    except OSError:
                        pass
                    return client.close()
            # One request a connection: each passes the rules.
            head = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        try:
            server = socket.create_connection(self.target)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BLOCK)
            server.sendall(head)
        except OSError:
            return reset(client)
        upward = threading.Thread(target=self._pump, args=(client, server, "up"), daemon=True)
        upward.start()
        self._pump(server, client, "down")
        upward.join()
        client.close()
        return server.close()

    def _pump(self, source, sink, way):
        try:
            while block := source.recv(BLOCK):
                if self.rate:
                    time.sleep(len(block) / self.rate)
                with self.lock:
                    total = getattr(self, way) + len(block)
                    setattr(self, way, total)
                    marks = self.reset_up if way == "up" else self.reset_down
                    broken = bool(marks) and total >= marks[0]
                    if broken:
                        marks.pop(0)
                        self.faults += 1
                        self.refuse = self.refuse or self.faults == self.refuse_after
                    fault = None
                    if way == "down":
                        for name in ("stall_down", "truncate_down"):
                            if getattr(self, name) is not None and total >= getattr(self, name):
                                fault = name
                                setattr(self, name, None)
                                self.faults += 1
                if broken:
                    # Half of the block still arrives: a break is nowhere in particular.
                    sink.sendall(block[: len(block) // 2])
                    reset(source)
                    return reset(sink)
                if fault == "stall_down":
                    while source.recv(BLOCK):
                        pass
                    return None
                if fault == "truncate_down":
                    sink.shutdown(socket.SHUT_RDWR)
                    return source.close()
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            reset(source)
            reset(sink)
        return None


def canned(status, *headers, body=b""):
    return ("HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n" % (status, len(body), "".join(h + "\r\n" for h in headers))).encode() + body


class ServerCase(TestCase):
    """Tests with servers of their own."""

    def spec_registry(self, **options):
        server = SpecRegistry(tempfile.mkdtemp(prefix="spec-", dir=self.dir), **options)
        self.addCleanup(server.stop)
        return server

    def docker_registry(self, **extra):
        server = Registry(**extra)
        self.addCleanup(server.stop)
        return server
