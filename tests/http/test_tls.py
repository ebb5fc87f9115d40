"""HTTP over TLS by real workers: whole, strict, and deaf to nobody while somebody is slow."""

import hashlib
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from prefork_sd import tls
from prefork_sd.listeners import HTTPS
from prefork_sd.workers.loop import LoopWorker
from prefork_sd.workers.sync import SyncWorker
from prefork_sd.workers.threads import ThreadsWorker
from prefork_sd.workers.tlsconnection import TlsConnection
from tests.certificates import Pair, make
from tests.http.conftest import start
from tests.http.serving import (
    PATIENCE,
    App,
    Client,
    Environ,
    Gate,
    Served,
    StartResponse,
    Wire,
    readable,
)

MEGABYTE = 1 << 20
CLOSE = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
KEEP = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class Secure(LoopWorker):
    """A worker as the arbiter makes it for a service with `tls_bind`."""

    def load(self) -> None:
        self.tls = tls.context(self.cfg, self.log.warning)
        self.sockets[0].name = HTTPS
        super().load()


class SecureSync(Secure, SyncWorker):
    pass


class SecureThreads(Secure, ThreadsWorker):
    pass


KINDS = {"sync": SecureSync, "threads": SecureThreads}

Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return make(folder, "server")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Pair:
    return make(folder, "staff")


@pytest.fixture(params=list(KINDS))
def serve(stack: ExitStack, pair: Pair, request: pytest.FixtureRequest) -> Serve:
    """`serve(app, setting=value, ...)`: a worker of each kind in turn, behind TLS."""
    kind = KINDS[request.param]
    return partial(
        start, stack, request.param, worker=kind, tls_bind="127.0.0.1:1", **pair.settings()
    )


@pytest.fixture
def trusting(pair: Pair) -> ssl.SSLContext:
    return pair.client()


def secured(served: Served, context: ssl.SSLContext, **more: Any) -> Client:
    """A client whose handshake is done, and that takes no end for a good one but TLS's own."""
    client = served.connect(buffer=more.pop("buffer", 0))
    client.sock = context.wrap_socket(
        client.sock, server_hostname="localhost", suppress_ragged_eofs=False, **more
    )
    return client


def tls_of(client: Client) -> ssl.SSLSocket:
    assert isinstance(client.sock, ssl.SSLSocket)
    return client.sock


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def saying(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """What an app learns of the connection."""
    names = ("HTTPS", "wsgi.url_scheme", "SERVER_PORT", "REMOTE_ADDR")
    lines = [f"{name}={environ[name]}" for name in names]
    lines += [f"{name}={value}" for name, value in environ.items() if name.startswith("SSL_")]
    start_response("200 OK", [])
    return ["\n".join(lines).encode("latin-1")]


# ---- a connection


def test_a_handshake_and_what_the_app_learns_of_it(serve: Serve, trusting: ssl.SSLContext) -> None:
    served = serve(saying)
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    client = secured(served, trusting)
    said = dict(line.split("=", 1) for line in client.get().text.splitlines())
    assert said == {
        "HTTPS": "on",
        "wsgi.url_scheme": "https",
        "SERVER_PORT": served.listener.server_port,
        "REMOTE_ADDR": "127.0.0.1",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": (tls_of(client).cipher() or ("",))[0],
        "SSL_CLIENT_VERIFY": "NONE",
    }
    assert tls_of(client).selected_alpn_protocol() == "http/1.1"


def test_keep_alive_and_a_farewell(serve: Serve, trusting: ssl.SSLContext) -> None:
    client = secured(serve(hello), trusting)
    for _ in range(5):
        assert client.get().body == b"hello"
    client.send(CLOSE)
    assert client.reply()["Connection"] == "close"
    assert client.rest() == b""  # the farewell of TLS: anything less raises


def test_an_idle_client_is_bidden_farewell(serve: Serve, trusting: ssl.SSLContext) -> None:
    client = secured(serve(hello, keepalive=0.1), trusting)
    assert client.get().body == b"hello"
    assert client.rest() == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(
    serve: Serve, trusting: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    served = serve(hello)
    trusting.set_ciphers("DEFAULT@SECLEVEL=0")
    trusting.minimum_version = trusting.maximum_version = version
    with pytest.raises(ssl.SSLError, match="(?i)alert protocol version"):
        secured(served, trusting)


def test_tls_1_2_and_a_resumed_session(serve: Serve, trusting: ssl.SSLContext) -> None:
    served = serve(saying)
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    first = secured(served, trusting)
    assert "SSL_PROTOCOL=TLSv1.2" in first.get().text
    second = secured(served, trusting, session=tls_of(first).session)
    assert tls_of(second).session_reused
    assert "SSL_PROTOCOL=TLSv1.2" in second.get().text


def test_a_ticket_of_tls_1_3(serve: Serve, trusting: ssl.SSLContext) -> None:
    served = serve(hello)
    first = secured(served, trusting)
    assert first.get().body == b"hello"
    second = secured(served, trusting, session=tls_of(first).session)
    assert second.get().body == b"hello"
    assert tls_of(second).session_reused


def test_new_keys_in_the_middle(serve: Serve, pair: Pair) -> None:
    served = serve(hello)
    where = f"127.0.0.1:{served.listener.server_port}"
    command = ["openssl", "s_client", "-connect", where, "-CAfile", str(pair.certificate), "-crlf"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as client:
        assert client.stdin and client.stdout and client.stderr  # noqa: PT018
        client.stdin.write(b"K\n")  # KeyUpdate: RFC 8446, 4.6.3
        client.stdin.flush()
        heard(client.stderr.fileno(), b"KEYUPDATE")
        client.stdin.write(CLOSE.replace(b"\r\n", b"\n"))
        client.stdin.flush()
        assert b"HTTP/1.1 200 OK" in heard(client.stdout.fileno(), b"hello")


def heard(fd: int, end: bytes) -> bytes:
    """What comes until `end` has come."""
    said = b""
    while end not in said:
        assert readable(fd), said
        piece = os.read(fd, 65536)
        assert piece, said
        said += piece
    return said


def test_on_a_unix_socket(serve: Serve, trusting: ssl.SSLContext, tmp_path: Path) -> None:
    client = secured(serve(saying, bind=f"unix:{tmp_path}/s"), trusting)
    assert "SERVER_PORT=443" in client.get().text


def test_a_proxy_header_comes_before_tls(serve: Serve, trusting: ssl.SSLContext) -> None:
    served = serve(saying, proxy_protocol=True)
    for cut in (0, 9, 40):
        client = served.connect()
        header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n"
        client.send(header[:cut])
        client.send(header[cut:])
        client.sock = trusting.wrap_socket(client.sock, server_hostname="localhost")
        assert "REMOTE_ADDR=192.0.2.7" in client.get().text


# ---- bodies


def digest(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    found = hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()
    start_response("200 OK", [("Content-Length", str(len(found)))])
    return [found]


def test_a_large_upload(serve: Serve, trusting: ssl.SSLContext) -> None:
    client = secured(serve(digest), trusting)
    body = os.urandom(5 * MEGABYTE)
    client.request("POST", "/", body=body)
    assert client.reply().text == hashlib.sha256(body).hexdigest()
    assert client.get().text == hashlib.sha256(b"").hexdigest()


def test_an_expected_upload(serve: Serve, trusting: ssl.SSLContext) -> None:
    client = secured(serve(digest), trusting)
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert client.head().status == 100
    client.send(b"abc")
    assert client.reply().text == hashlib.sha256(b"abc").hexdigest()


BLOCK = bytes(range(256)) * 4096  # a megabyte


def in_one_piece(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [BLOCK * 20]


def in_blocks(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    for _ in range(20):
        yield from (BLOCK[:100], BLOCK[100:])


def written(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Length", str(20 * MEGABYTE))])
    for _ in range(20):
        write(BLOCK)
    return ()


class FromFile:
    """Sent from a file: what the kernel could do for a client without TLS."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(BLOCK * 20)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](self.path.open("rb"))
        return wrapped


@pytest.mark.parametrize("way", ["in_one_piece", "in_blocks", "written", "from_file"])
def test_a_large_download(
    serve: Serve, trusting: ssl.SSLContext, tmp_path: Path, way: str
) -> None:
    apps: dict[str, App] = {
        "in_one_piece": in_one_piece,
        "in_blocks": in_blocks,
        "written": written,
        "from_file": FromFile(tmp_path / "large"),
    }
    client = secured(serve(apps[way]), trusting)
    for _ in range(2):
        assert client.get().body == BLOCK * 20


def test_many_requests_in_one_record_and_many_records_at_once(
    serve: Serve, trusting: ssl.SSLContext
) -> None:
    client = secured(serve(hello), trusting)
    client.send(KEEP * 100)
    for _ in range(100):
        assert client.reply().body == b"hello"
    raw, sent = Raw(served_by(client), trusting), 50
    raw.shake_hands()
    for _ in range(sent):
        raw.tls.write(KEEP)  # a record each
    raw.sock.sendall(raw.outgoing.read())
    assert raw.read_until(b"hello", sent).count(b"HTTP/1.1 200 OK") == sent


def served_by(client: Client) -> tuple[str, int]:
    host, port = client.sock.getpeername()
    return host, port


def test_a_broken_promise_is_no_whole_response(serve: Serve, trusting: ssl.SSLContext) -> None:
    def short(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"12345"

    client = secured(serve(short), trusting)
    client.send(KEEP)
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        client.rest()


def test_early_hints(serve: Serve, trusting: ssl.SSLContext) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
        return hello(environ, start_response)

    client = secured(serve(app), trusting)
    client.send(KEEP)
    assert client.head()["Link"] == "</style.css>; rel=preload"
    assert client.reply().body == b"hello"


# ---- slow and strange clients


class Raw:
    """A client that sees every byte of TLS that it sends."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.sock = socket.create_connection(address, PATIENCE)

    def first_flight(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def shake_hands(self, step: int = 1 << 20) -> None:
        """With `step` bytes to a segment."""
        while True:
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            flight = self.outgoing.read()
            for place in range(0, len(flight), step):
                self.sock.sendall(flight[place : place + step])
            if done:
                return
            self.hear()

    def hear(self) -> None:
        data = self.sock.recv(65536)
        assert data
        self.incoming.write(data)

    def read_until(self, end: bytes, times: int) -> bytes:
        found = b""
        while found.count(end) < times:
            try:
                found += self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.hear()
        return found


def test_slow_handshakes_hold_up_nobody(serve: Serve, trusting: ssl.SSLContext) -> None:
    served = serve(hello)
    address = served_by(served.connect())
    silent = [served.connect() for _ in range(30)]
    begun = []
    for share in range(30):
        raw = Raw(address, trusting)
        flight = raw.first_flight()
        raw.sock.sendall(flight[: 1 + share * len(flight) // 31])
        begun.append(raw)
    for _ in range(20):
        client = secured(served, trusting)
        assert client.get().body == b"hello"
        client.close()
    assert all(not readable(client.sock.fileno(), 0) for client in silent)
    for raw in begun:
        raw.sock.close()


def test_a_handshake_byte_by_byte(serve: Serve, trusting: ssl.SSLContext) -> None:
    served = serve(hello)
    raw = Raw(served_by(served.connect()), trusting)
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.shake_hands(step=1)
    raw.tls.write(KEEP)
    for byte in raw.outgoing.read():
        raw.sock.sendall(bytes([byte]))
    assert raw.read_until(b"hello", 1).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("share", [0, 100])
def test_a_handshake_has_a_deadline(serve: Serve, trusting: ssl.SSLContext, share: int) -> None:
    served = serve(hello, head_timeout=0.2)
    raw = Raw(served_by(served.connect()), trusting)
    raw.sock.sendall(raw.first_flight()[:share])
    assert raw.sock.recv(1) == b""
    assert secured(served, trusting).get().body == b"hello"


def test_after_its_handshake_a_client_has_to_say_something(
    serve: Serve, trusting: ssl.SSLContext
) -> None:
    client = secured(serve(hello, head_timeout=0.2), trusting)
    assert client.rest() == b""
    begun = secured(serve(hello, head_timeout=0.2), trusting)
    begun.send(KEEP[:20])
    assert begun.reply().status == 408
    assert begun.rest() == b""


@pytest.mark.parametrize(
    "garbage",
    [b"\0", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 600,
     os.urandom(5000), b"\x16\x03\x01\xff\xff" + bytes(70000), b"\x80\x80" + bytes(200)],
)  # fmt: skip
def test_garbage_is_refused(serve: Serve, trusting: ssl.SSLContext, garbage: bytes) -> None:
    served = serve(hello, head_timeout=5)
    for _ in range(3):
        client = served.connect()
        client.send(garbage)
        client.end()
        client.rest()  # at most an alert, and then the end
        served.connect().close()
    assert secured(served, trusting).get().body == b"hello"
    assert served.stop().status == 0


def test_plain_http_is_told_so(serve: Serve) -> None:
    reply = serve(hello).get()
    assert (reply.status, reply.text) == (400, "400 Bad Request: this port is for https\n")


def test_a_cut_off_handshake_and_a_cut_off_request(serve: Serve, trusting: ssl.SSLContext) -> None:
    served = serve(hello)
    raw = Raw(served_by(served.connect()), trusting)
    raw.sock.sendall(raw.first_flight()[:100])
    raw.sock.close()
    client = secured(served, trusting)
    client.send(KEEP[:30])
    client.close()
    damaged = Raw(served_by(served.connect()), trusting)
    damaged.shake_hands()
    damaged.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    while damaged.sock.recv(65536):  # tickets, an alert, the end
        pass
    assert secured(served, trusting).get().body == b"hello"


def test_a_client_that_ends_with_its_request_is_answered(
    serve: Serve, trusting: ssl.SSLContext
) -> None:
    served = serve(hello)
    for polite in (True, False):
        raw = Raw(served_by(served.connect()), trusting)
        raw.shake_hands()
        raw.tls.write(CLOSE)
        if polite:
            with pytest.raises(ssl.SSLWantReadError):
                raw.tls.unwrap()
        raw.sock.sendall(raw.outgoing.read())
        raw.sock.shutdown(socket.SHUT_WR)
        said = b""
        while piece := raw.sock.recv(65536):
            said += piece
        assert len(said) > 150


def test_a_client_that_reads_nothing_waits_alone(
    serve: Serve, trusting: ssl.SSLContext, wire: Wire
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        wire.say("large")
        return in_blocks(environ, start_response)

    served = serve(app)
    slow = [secured(served, trusting, buffer=4096) for _ in range(3)]
    for client in slow:
        client.request("GET", "/large")
        assert wire.hear() == "large"
    for _ in range(5):
        assert secured(served, trusting).get().body == b"hello"
    for client in slow:
        assert client.reply().body == BLOCK * 20


def test_answers_to_a_client_that_does_not_read_have_a_bound(
    pair: Pair, trusting: ssl.SSLContext
) -> None:
    """KeyUpdate is answered by the layer itself; one who sends nothing else is thrown out."""
    from prefork_sd import http1
    from prefork_sd.config import build
    from prefork_sd.workers import tlsconnection

    cfg = build({"app": "a:b", "tls_bind": "127.0.0.1:1", **pair.settings()})
    context = tls.context(cfg, pytest.fail)
    assert context is not None
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = TlsConnection(
        context, ours.detach(), {}, ("", ""), http1.Limits(), body_buffer=0, send_timeout=1
    )
    with theirs:
        connection._outgoing.write(bytes(tlsconnection.MOST_UNASKED + 1))
        connection._shaken = True
        theirs.sendall(b"\x17")
        with pytest.raises(ConnectionAbortedError):
            connection.receive()
        connection.abort()


# ---- client certificates


def test_a_client_certificate_is_needed(
    serve: Serve, pair: Pair, authority: Pair, folder: Path, trusting: ssl.SSLContext
) -> None:
    served = serve(saying, tls_client_ca=str(authority.certificate))
    ada = make(folder, "ada", by=authority, subject="/O=Engines/CN=Ada Łove")
    said = secured(served, pair.client(ada)).get().body.decode()
    assert "SSL_CLIENT_VERIFY=SUCCESS" in said
    assert "SSL_CLIENT_S_DN=CN=Ada Łove,O=Engines" in said
    assert f"SSL_CLIENT_CERT={ssl.DER_cert_to_PEM_cert(ada.der)}".rstrip() in said
    stranger = make(folder, "stranger", subject="/CN=Ada")
    for context, alert in ((trusting, "certificate required"), (pair.client(stranger), "unknown ca")):
        client = secured(served, context)  # in TLS 1.3 a client is done before it is judged
        client.send(KEEP)
        with pytest.raises(ssl.SSLError, match=f"(?i)alert {alert}"):
            client.rest()


def test_a_client_certificate_may_be_shown(
    serve: Serve, pair: Pair, authority: Pair, folder: Path, trusting: ssl.SSLContext
) -> None:
    served = serve(saying, tls_client_ca=str(authority.certificate), tls_client_auth="optional")
    assert "SSL_CLIENT_VERIFY=NONE" in secured(served, trusting).get().text
    eve = make(folder, "eve", by=authority)
    assert "SSL_CLIENT_S_DN=CN=eve" in secured(served, pair.client(eve)).get().text
    stranger = secured(served, pair.client(make(folder, "stranger")))
    stranger.send(KEEP)
    with pytest.raises(ssl.SSLError, match="(?i)alert unknown ca"):
        stranger.rest()


# ---- the end


def test_a_drain_answers_what_is_under_way(
    serve: Serve, trusting: ssl.SSLContext, gate: Gate, wire: Wire
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/wait":
            wire.say("inside")
            gate.wait()
        return hello(environ, start_response)

    served = serve(app)
    idle, busy = secured(served, trusting), secured(served, trusting)
    assert idle.get().body == b"hello"
    silent = served.connect()
    busy.request("GET", "/wait")
    assert wire.hear() == "inside"
    served.signal(SIGTERM)
    gate.open()
    assert busy.reply().body == b"hello"
    for client in (busy, idle):
        assert client.rest() == b""
    assert silent.rest() == b""
    assert served.exit().status == 0
