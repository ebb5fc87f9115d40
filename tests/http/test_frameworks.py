"""One small shop in each framework, behind a real worker, before a client like a browser."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from wsgiref.validate import validator

import pytest

from tests.http.browser import Browser, browsing, multipart
from tests.http.conftest import Serve
from tests.http.frameworks.parts import PIECES
from tests.http.reference import Reference
from tests.http.serving import App, Environ, StartResponse, Wire

FRAMEWORKS = ["flask", "django", "bottle", "falcon", "pyramid"]
CONTENT = bytes(range(256)) * 4096  # 1 MiB
STREAM = b"".join(b"piece %d\n" % number for number in range(PIECES))


class Shop:
    """A shop that is built where it is first asked: in the worker."""

    def __init__(self, framework: str, wire: Wire, folder: Path) -> None:
        self.framework, self._wire, self._folder = framework, wire, folder
        self._lock = threading.Lock()
        # imported once for all workers; what it configures is theirs
        self._make: Callable[..., App] = import_module(
            f"tests.http.frameworks.{framework}_shop"
        ).make

    @cached_property
    def app(self) -> App:
        return self._make(self._wire.say, self._folder)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            app = self.app
        return app(environ, start_response)


@pytest.fixture(params=FRAMEWORKS)
def shop(request: pytest.FixtureRequest, wire: Wire, tmp_path: Path) -> Shop:
    (tmp_path / "data").write_bytes(CONTENT)
    return Shop(request.param, wire, tmp_path)


@pytest.fixture
def browser(serve: Serve, shop: Shop) -> Iterator[Browser]:
    with browsing(serve(shop)) as browser:
        yield browser


def test_pages_come_by_one_connection(browser: Browser) -> None:
    for _ in range(2):
        assert browser.get("/").text == "hello"
        assert browser.get("/items/7?q=a%20%C3%A9+b").json == {"id": 7, "q": "a é b"}
        assert browser.get("/nowhere").status == 404
        assert browser.follow(browser.get("/old")).json == {"id": 7, "q": "old"}
        empty = browser.get("/empty")
        assert (empty.status, empty.body, empty["Transfer-Encoding"]) == (204, b"", None)
    assert browser.connections == 1


def test_a_failure_is_a_500_and_the_next_page_comes(browser: Browser) -> None:
    assert browser.get("/fail").status == 500
    assert browser.get("/").text == "hello"


def test_a_head_has_no_body(browser: Browser) -> None:
    for path in ("/", "/items/7?q=x", "/files/data", "/empty"):
        page = browser.load("HEAD", path)
        assert (page.status, page.body) == (204 if path == "/empty" else 200, b"")
        length = browser.get(path)["Content-Length"]
        assert page["Content-Length"] in (length, None)
    assert browser.load("HEAD", "/stream").body == b""
    assert browser.get("/").text == "hello"
    assert browser.connections == 1


def test_a_cookie_is_remembered(browser: Browser, shop: Shop) -> None:
    token = {}
    if shop.framework == "django":
        assert browser.post("/login", [("name", "ann")]).status == 403
        token = {"X_CSRFToken": browser.get("/login").text}
    done = browser.post("/login", [("name", "ann")], **token)
    assert browser.follow(done).text == "ann"
    assert browser.connections == 1


@pytest.mark.parametrize("count", [1, 5000])
def test_a_form(browser: Browser, count: int) -> None:
    fields = [(f"field-{number}", "é" * 10 + str(number)) for number in range(count)]
    page = browser.post("/form", fields)
    assert page.json == {"count": count, "last": fields[-1][1]}
    assert browser.get("/").text == "hello"


def digest(data: bytes) -> dict[str, object]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


# Django's threshold is 2.5 MB, ours 256 KiB
@pytest.mark.parametrize(
    ("times", "where"),
    [(0, "InMemoryUploadedFile"), (1, "InMemoryUploadedFile"), (4, "TemporaryUploadedFile")],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload(browser: Browser, shop: Shop, times: int, where: str, chunked: bool) -> None:
    kind, body = multipart("bill.pdf", CONTENT * times, note="late é")
    pieces = (body[at : at + 10_000] for at in range(0, len(body), 10_000))
    page = browser.load("POST", "/upload", pieces if chunked else body, Content_Type=kind)
    expected = {"name": "bill.pdf", "note": "late é", **digest(CONTENT * times)}
    if shop.framework == "django":
        expected["where"] = where
    assert page.json == expected
    assert browser.get("/").text == "hello"
    assert browser.connections == 1


@pytest.mark.parametrize("times", [0, 1])
def test_a_body_in_chunks(browser: Browser, times: int) -> None:
    for body in (CONTENT * times, iter([b"first", CONTENT * times, b"last"])):
        page = browser.load("PUT", "/body", body, Content_Type="application/octet-stream")
        whole = body if isinstance(body, bytes) else b"first" + CONTENT * times + b"last"
        assert page.json == digest(whole)
    assert browser.connections == 1


def test_a_stream_comes_whole_and_is_closed(browser: Browser, wire: Wire) -> None:
    for _ in range(2):
        page = browser.get("/stream")
        assert (page.body, page["Transfer-Encoding"]) == (STREAM, "chunked")
        assert wire.hear() == "stream closed"


def test_a_stream_is_closed_when_its_client_leaves(serve: Serve, shop: Shop, wire: Wire) -> None:
    served = serve(shop)
    with browsing(served) as one, browsing(served) as other:
        for leave in (one.close, one.leave):
            response = one.ask("GET", "/endless")
            assert response.read(8) == b"piece 0\n"
            assert other.get("/").text == "hello"
            leave()
            response.close()
            assert wire.hear() == "endless closed"
        assert other.get("/").text == "hello"
        assert other.connections == 1


# ---- files

RANGES = {"bytes=0-99": CONTENT[:100], "bytes=1000000-": CONTENT[1_000_000:]}
WITHOUT_RANGES = ["django"]  # its FileResponse always sends the whole file


def test_a_file(browser: Browser) -> None:
    page = browser.get("/files/data")
    assert (page.body, page["Content-Length"]) == (CONTENT, str(len(CONTENT)))


def test_parts_of_a_file(browser: Browser, shop: Shop) -> None:
    for given, part in RANGES.items():
        page = browser.get("/files/data", Range=given)
        if shop.framework in WITHOUT_RANGES:
            assert (page.status, page.body) == (200, CONTENT)
        else:
            assert (page.status, page.body) == (206, part)
            assert (page["Content-Range"] or "").endswith(f"/{len(CONTENT)}")
    assert browser.connections == 1


def test_a_file_that_has_not_changed_is_not_sent_again(browser: Browser) -> None:
    first = browser.get("/files/data")
    known = {"ETag": "If_None_Match", "Last-Modified": "If_Modified_Since"}
    [(name, field), *_] = [(name, field) for name, field in known.items() if first[name]]
    for _ in range(2):
        page = browser.get("/files/data", **{field: first[name] or ""})
        assert (page.status, page.body) == (304, b"")
        assert page["Transfer-Encoding"] is None
    assert browser.get("/").text == "hello"
    assert browser.connections == 1


# ---- by the reference


KIND, UPLOAD = multipart("bill.pdf", CONTENT, note="late")
FORM = "application/x-www-form-urlencoded"
REQUESTS: list[tuple[str, str, bytes | None, dict[str, str]]] = [
    ("GET", "/", None, {}),
    ("GET", "/items/7?q=a%20%C3%A9+b", None, {}),
    ("GET", "/nowhere", None, {}),
    ("GET", "/old", None, {}),
    ("GET", "/empty", None, {}),
    ("GET", "/stream", None, {}),
    ("GET", "/files/data", None, {}),
    ("GET", "/files/data", None, {"Range": "bytes=0-99"}),
    ("HEAD", "/", None, {}),
    ("HEAD", "/files/data", None, {}),
    ("POST", "/form", b"a=1&b=%C3%A9", {"Content_Type": FORM}),
    ("POST", "/upload", UPLOAD, {"Content_Type": KIND}),
    ("PUT", "/body", CONTENT, {"Content_Type": "application/octet-stream"}),
    ("GET", "/fail", None, {}),
]


CONTENT_TYPE_OF_NOTHING = ["flask", "django"]  # what the validator says of their 204


def without_extensions(app: App) -> App:
    """Werkzeug takes wsgi.input_terminated as leave to call read() without a size."""

    def plain(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ.pop("wsgi.input_terminated", None)
        return app(environ, start_response)

    return plain


def answers(serve: Serve, app: App, **settings: object) -> list[tuple[str, int, bytes]]:
    """What an app answers to all the requests when wsgiref.validate stands before it.

    An error page is its status: some have the server's port in them.
    """
    found = []
    with browsing(serve(validator(without_extensions(app)), **settings)) as browser:
        for method, path, body, fields in REQUESTS:
            page = browser.load(method, path, body, **fields)
            found.append((f"{method} {path}", page.status, page.body if page.status < 400 else b""))
    return found


def test_validated_it_answers_as_behind_the_reference_server(
    serve: Serve, serve_sync: Serve, shop: Shop
) -> None:
    expected = answers(serve_sync, shop, worker=Reference)
    failures = ["GET /fail"]
    if shop.framework in CONTENT_TYPE_OF_NOTHING:
        failures.insert(0, "GET /empty")
    assert [request for request, status, _ in expected if status == 500] == failures
    assert answers(serve, shop) == expected
