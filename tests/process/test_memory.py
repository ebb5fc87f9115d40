"""What a worker's memory grows by: large bodies, large responses, many idle clients."""

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process import proc
from tests.process.crowd import GET, Crowd, begin
from tests.process.systemd import Systemd

MIB = 1 << 20
GROWTH = 40 * MIB  # of a worker, by an upload of 64 MiB or a download of 256 MiB
UPLOAD, DOWNLOAD = 64 * MIB, 256 * MIB
CROWD = 10_000  # idle clients
CROWDED = 60 * MIB  # what a worker with all of them has in use

LARGE = f"""
def upload(environ):
    body, size = environ["wsgi.input"], 0
    while data := body.read(65536):
        size += len(data)
    return [str(size).encode()]

def streamed(environ):
    return (b"x" * 65536 for _ in range({DOWNLOAD // 65536}))

def file(environ):
    return environ["wsgi.file_wrapper"](open(os.environ["LARGE"], "rb"))

def unknown(environ):
    environ["wsgi.file_wrapper"].regular = lambda self: None  # what the kernel cannot send
    return file(environ)

def whole(environ):
    return [b"x" * (2 * {GROWTH})]

plain = application
LARGE = {{f"/{{page.__name__}}": page for page in (upload, streamed, file, unknown, whole)}}

def application(environ, start_response):
    page = LARGE.get(environ["PATH_INFO"])
    if not page:
        return plain(environ, start_response)
    body = page(environ)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return body
"""


@pytest.fixture
def worker(systemd: Systemd, tmp_path: Path) -> int:
    """The pid of a single worker that has served something already."""
    with (tmp_path / "large").open("wb") as large:
        large.truncate(DOWNLOAD)
    systemd.environ["LARGE"] = large.name
    systemd.deploy(more=LARGE)
    systemd.up(workers=1)
    [pid] = systemd.workers()
    for _ in range(3):
        systemd.get()
    return pid


@pytest.fixture
def crowd(systemd: Systemd, worker: int) -> Iterator[Crowd]:
    with Crowd(systemd.listeners[0][1]) as crowd:
        yield crowd


@contextmanager
def growing_less_than(limit: int, pid: int) -> Iterator[None]:
    """Whatever happens meanwhile, the process is never larger than now by that much."""
    before = proc.resident(pid)
    proc.forget_peak(pid)
    yield
    assert proc.peak(pid) - before < limit


def test_what_an_app_keeps_in_memory_is_seen(crowd: Crowd, worker: int) -> None:
    """The measure of the tests that follow."""
    with pytest.raises(AssertionError), growing_less_than(GROWTH, worker):
        size = rest(ask(crowd, "/whole"), bytearray(MIB))
    assert size > 2 * GROWTH


# ---- large bodies


def of_known_length(sock: socket.socket) -> None:
    sock.sendall(begin(b"PUT", b"/upload", b"Content-Length: %d\r\n\r\n" % UPLOAD))
    for _ in range(UPLOAD // MIB):
        sock.sendall(bytes(MIB))


def in_chunks(sock: socket.socket) -> None:
    sock.sendall(begin(b"PUT", b"/upload", b"Transfer-Encoding: chunked\r\n\r\n"))
    for _ in range(UPLOAD // 65536):
        sock.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
    sock.sendall(b"0\r\n\r\n")


def in_one_chunk(sock: socket.socket) -> None:
    sock.sendall(begin(b"PUT", b"/upload", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % UPLOAD))
    for _ in range(UPLOAD // MIB):
        sock.sendall(bytes(MIB))
    sock.sendall(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("send", [of_known_length, in_chunks, in_one_chunk])
def test_an_upload_is_not_kept_in_memory(
    crowd: Crowd, worker: int, send: Callable[[socket.socket], None]
) -> None:
    with growing_less_than(GROWTH, worker):
        sock = crowd.join()
        send(sock)
        assert sock.recv(65536).endswith(b"\r\n\r\n%d" % UPLOAD)


# ---- large responses

PAGES = ["/streamed", "/file", "/unknown"]


def ask(crowd: Crowd, path: str, buffer: int = 0) -> socket.socket:
    """Ask for a page, with a connection that ends with it."""
    fields = b"Connection: close\r\n\r\n"
    return crowd.join(begin(b"GET", path.encode(), fields), buffer=buffer)


def rest(sock: socket.socket, room: bytearray) -> int:
    """How many bytes still come."""
    size = 0
    while more := sock.recv_into(room):
        size += more
    return size


@pytest.mark.parametrize("path", PAGES)
def test_a_download_is_not_kept_in_memory(crowd: Crowd, worker: int, path: str) -> None:
    with growing_less_than(GROWTH, worker):
        assert rest(ask(crowd, path), bytearray(MIB)) > DOWNLOAD


@pytest.mark.parametrize("path", PAGES)
def test_a_client_that_reads_slowly_costs_no_memory_and_no_slot(
    crowd: Crowd, worker: int, path: str
) -> None:
    """Before each of its first pieces another client is served; then it hurries."""
    other = crowd.idle()
    with growing_less_than(GROWTH, worker):
        slow = ask(crowd, path, buffer=4096)
        size = 0
        for _ in range(500):
            other.sendall(GET)
            assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
            size += len(slow.recv(16384))
        assert size < 16 * MIB
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        assert size + rest(slow, bytearray(MIB)) > DOWNLOAD


# ---- many clients

BROWSER = b"""\
GET /hello HTTP/1.1\r
Host: www.example.com\r
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r
Accept-Language: en-US,en;q=0.7,de;q=0.3\r
Accept-Encoding: gzip, deflate, br, zstd\r
Referer: https://www.example.com/articles/2024/overview?page=2&sort=date\r
Cookie: sessionid=%032d; csrftoken=Qm9Zb2x5d3JhYmJpdHNhbmRmb3hlcw; theme=dark; lang=en-GB\r
Sec-Fetch-Dest: document\r
Sec-Fetch-Mode: navigate\r
Sec-Fetch-Site: same-origin\r
Connection: keep-alive\r
\r
"""


@contextmanager
def allowed(files: int) -> Iterator[None]:
    """So many descriptors, here and in what is started, that may allow itself more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, max(before[1], 2 * CROWD)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("browsers", [False, True], ids=["bare", "browsers"])
def test_ten_thousand_idle_clients_fit_in(systemd: Systemd, browsers: bool) -> None:
    with allowed(1024):  # as systemd starts a service
        systemd.up(workers=1, keepalive=600)
    [pid] = systemd.workers()
    with allowed(CROWD + 1000), Crowd(systemd.listeners[0][1]) as crowd:
        crowded = [crowd.idle(BROWSER % number if browsers else GET) for number in range(CROWD)]
        assert proc.resident(pid) < CROWDED
        for sock in crowded[:: CROWD // 100]:
            sock.sendall(GET)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
