"""HTTP over TLS by real workers: what is agreed upon, what the app learns, bodies of any size."""

import hashlib
import os
import ssl
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.certificates import Pair, make
from tests.http.secure import (
    BLOCK,
    CLOSE,
    KEEP,
    MEGABYTE,
    Raw,
    hello,
    in_blocks,
    in_one_piece,
    saying,
    secured,
    served_by,
    tls_of,
)
from tests.http.serving import App, Environ, Gate, Served, StartResponse, Wire, readable

Serve = Callable[..., Served]


# ---- a connection


def test_a_handshake_and_what_the_app_learns_of_it(
    serve_tls: Serve, trusting: ssl.SSLContext
) -> None:
    served = serve_tls(saying)
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


def test_keep_alive_and_a_farewell(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    client = secured(serve_tls(hello), trusting)
    for _ in range(5):
        assert client.get().body == b"hello"
    client.send(CLOSE)
    assert client.reply()["Connection"] == "close"
    assert client.rest() == b""  # the farewell of TLS: anything less raises


def test_an_idle_client_is_bidden_farewell(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    client = secured(serve_tls(hello, keepalive=0.1), trusting)
    assert client.get().body == b"hello"
    assert client.rest() == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(
    serve_tls: Serve, trusting: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    served = serve_tls(hello)
    trusting.set_ciphers("DEFAULT@SECLEVEL=0")
    trusting.minimum_version = trusting.maximum_version = version
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        secured(served, trusting)


def test_tls_1_2_and_a_resumed_session(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    served = serve_tls(saying)
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    first = secured(served, trusting)
    assert "SSL_PROTOCOL=TLSv1.2" in first.get().text
    second = secured(served, trusting, session=tls_of(first).session)
    assert tls_of(second).session_reused
    assert "SSL_PROTOCOL=TLSv1.2" in second.get().text


def test_a_ticket_of_tls_1_3(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    served = serve_tls(hello)
    first = secured(served, trusting)
    assert first.get().body == b"hello"
    second = secured(served, trusting, session=tls_of(first).session)
    assert second.get().body == b"hello"
    assert tls_of(second).session_reused


def test_new_keys_in_the_middle(serve_tls: Serve, pair: Pair) -> None:
    served = serve_tls(hello)
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


def test_on_a_unix_socket(serve_tls: Serve, trusting: ssl.SSLContext, tmp_path: Path) -> None:
    client = secured(serve_tls(saying, bind=f"unix:{tmp_path}/s"), trusting)
    assert "SERVER_PORT=443" in client.get().text


def test_a_proxy_header_comes_before_tls(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    served = serve_tls(saying, proxy_protocol=True)
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


def test_a_large_upload(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    client = secured(serve_tls(digest), trusting)
    body = os.urandom(5 * MEGABYTE)
    client.request("POST", "/", body=body)
    assert client.reply().text == hashlib.sha256(body).hexdigest()
    assert client.get().text == hashlib.sha256(b"").hexdigest()


def test_an_expected_upload(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    client = secured(serve_tls(digest), trusting)
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert client.head().status == 100
    client.send(b"abc")
    assert client.reply().text == hashlib.sha256(b"abc").hexdigest()


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
    serve_tls: Serve, trusting: ssl.SSLContext, tmp_path: Path, way: str
) -> None:
    apps: dict[str, App] = {
        "in_one_piece": in_one_piece,
        "in_blocks": in_blocks,
        "written": written,
        "from_file": FromFile(tmp_path / "large"),
    }
    client = secured(serve_tls(apps[way]), trusting)
    for _ in range(2):
        assert client.get().body == BLOCK * 20


def test_many_requests_in_one_record_and_many_records_at_once(
    serve_tls: Serve, trusting: ssl.SSLContext
) -> None:
    client = secured(serve_tls(hello), trusting)
    client.send(KEEP * 100)
    for _ in range(100):
        assert client.reply().body == b"hello"
    raw, sent = Raw(served_by(client), trusting), 50
    raw.shake_hands()
    for _ in range(sent):
        raw.tls.write(KEEP)  # a record each
    raw.sock.sendall(raw.outgoing.read())
    assert raw.read_until(b"hello", sent).count(b"HTTP/1.1 200 OK") == sent


def test_a_broken_promise_is_no_whole_response(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    def short(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])
        yield b"12345"

    client = secured(serve_tls(short), trusting)
    client.send(KEEP)
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        client.rest()


def test_early_hints(serve_tls: Serve, trusting: ssl.SSLContext) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
        return hello(environ, start_response)

    client = secured(serve_tls(app), trusting)
    client.send(KEEP)
    assert client.head()["Link"] == "</style.css>; rel=preload"
    assert client.reply().body == b"hello"


# ---- client certificates


def test_a_client_certificate_is_needed(
    serve_tls: Serve, pair: Pair, authority: Pair, folder: Path, trusting: ssl.SSLContext
) -> None:
    served = serve_tls(saying, tls_client_ca=str(authority.certificate))
    ada = make(folder, "ada", by=authority, subject="/O=Engines/CN=Ada Łove")
    said = secured(served, pair.client(ada)).get().body.decode()
    assert "SSL_CLIENT_VERIFY=SUCCESS" in said
    assert "SSL_CLIENT_S_DN=CN=Ada Łove,O=Engines" in said
    assert f"SSL_CLIENT_CERT={ssl.DER_cert_to_PEM_cert(ada.der)}".rstrip() in said
    stranger = pair.client(make(folder, "stranger", subject="/CN=Ada"))
    for context, alert in ((trusting, "certificate required"), (stranger, "unknown ca")):
        client = secured(served, context)  # in TLS 1.3 a client is done before it is judged
        client.send(KEEP)
        with pytest.raises(ssl.SSLError, match=f"(?i)alert {alert}"):
            client.rest()


def test_a_client_certificate_that_python_cannot_read(
    serve_tls: Serve, pair: Pair, authority: Pair, folder: Path, trusting: ssl.SSLContext
) -> None:
    """A name that is no UTF-8, where only ASCII may be: RFC 5280, 4.2.1.6."""
    served = serve_tls(saying, tls_client_ca=str(authority.certificate), tls_client_auth="optional")
    odd = make(folder, "odd", by=authority, san="DER:3005820361ff62")
    assert secured(served, pair.client(odd)).get().status == 400
    assert secured(served, trusting).get().status == 200


def test_a_client_certificate_may_be_shown(
    serve_tls: Serve, pair: Pair, authority: Pair, folder: Path, trusting: ssl.SSLContext
) -> None:
    served = serve_tls(saying, tls_client_ca=str(authority.certificate), tls_client_auth="optional")
    assert "SSL_CLIENT_VERIFY=NONE" in secured(served, trusting).get().text
    eve = make(folder, "eve", by=authority)
    assert "SSL_CLIENT_S_DN=CN=eve" in secured(served, pair.client(eve)).get().text
    stranger = secured(served, pair.client(make(folder, "stranger")))
    stranger.send(KEEP)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert unknown ca"):
        stranger.rest()


# ---- the end


def test_a_drain_answers_what_is_under_way(
    serve_tls: Serve, trusting: ssl.SSLContext, gate: Gate, wire: Wire
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/wait":
            wire.say("inside")
            gate.wait()
        return hello(environ, start_response)

    served = serve_tls(app)
    silent = served.connect()
    idle, busy = secured(served, trusting), secured(served, trusting)
    assert idle.get().body == b"hello"
    busy.request("GET", "/wait")
    assert wire.hear() == "inside"
    served.signal(SIGTERM)
    gate.open()
    assert busy.reply().body == b"hello"
    for client in (busy, idle):
        assert client.rest() == b""
    assert silent.rest() == b""
    assert served.exit().status == 0
