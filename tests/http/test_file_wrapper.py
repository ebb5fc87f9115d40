"""wsgi.file_wrapper: files go out by the kernel where it can, and as they read in any case."""

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, Any

import pytest

from tests.http.apps import TEXT
from tests.http.conftest import Serve
from tests.http.serving import App, Environ, StartResponse, Wire

CONTENT = bytes(range(256)) * 4096  # 1 MiB


def sends(make: Callable[[], IO[bytes]], *headers: tuple[str, str]) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, *headers])
        body: Iterable[bytes] = environ["wsgi.file_wrapper"](make(), 1000)
        return body

    return app


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_sent_with_its_length(serve: Serve, path: Path) -> None:
    client = serve(sends(lambda: path.open("rb"))).connect()
    for _ in range(2):
        reply = client.get()
        assert reply["Content-Length"] == str(len(CONTENT))
        assert reply.body == CONTENT


def test_a_file_is_sent_from_where_it_stands(serve: Serve, path: Path) -> None:
    def at(offset: int) -> IO[bytes]:
        file = path.open("rb")
        file.read(offset)
        return file

    assert serve(sends(lambda: at(1000))).get().body == CONTENT[1000:]
    assert serve(sends(lambda: at(len(CONTENT)))).get().body == b""


def test_a_file_is_cut_at_its_length(serve: Serve, path: Path) -> None:
    reply = serve(sends(lambda: path.open("rb"), ("Content-Length", "1000"))).get()
    assert reply.body == CONTENT[:1000]


def test_a_file_that_is_too_short_cannot_be_taken_for_whole(serve: Serve, path: Path) -> None:
    length = ("Content-Length", str(len(CONTENT) + 1))
    client = serve(sends(lambda: path.open("rb"), length)).connect()
    client.request("GET", "/")
    client.head()
    with pytest.raises(ConnectionResetError):
        client.rest()


def test_head_does_not_send_a_file(serve: Serve, path: Path) -> None:
    client = serve(sends(lambda: path.open("rb"))).connect()
    for _ in range(2):
        client.request("HEAD", "/")
        assert client.reply("HEAD")["Content-Length"] == str(len(CONTENT))


def temporary(make: Callable[[], Any]) -> IO[bytes]:
    file: IO[bytes] = make()
    file.write(CONTENT)
    file.seek(0)
    return file


def compressed(path: Path) -> IO[bytes]:
    """It has a descriptor and a position, but not of what it reads."""
    import gzip

    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(CONTENT))
    return gzip.open(packed)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: io.BytesIO(CONTENT),
        lambda path: temporary(TemporaryFile),
        lambda path: temporary(NamedTemporaryFile),
        lambda path: path.open("rb", buffering=0),
        compressed,
    ],
    ids=["memory", "unnamed", "named", "unbuffered", "compressed"],
)
def test_whatever_reads_like_a_file_is_sent_as_it_reads(
    serve_sync: Serve, path: Path, make: Callable[[Path], IO[bytes]]
) -> None:
    assert serve_sync(sends(lambda: make(path))).get().body == CONTENT


def test_a_pipe_is_read(serve_sync: Serve) -> None:
    def pipe() -> IO[bytes]:
        reader, writer = os.pipe()
        os.write(writer, b"through a pipe")
        os.close(writer)
        return os.fdopen(reader, "rb")

    assert serve_sync(sends(pipe)).get().text == "through a pipe"


def test_a_file_of_the_kernel_without_a_size_is_read(serve_sync: Serve) -> None:
    path = Path("/proc/version")
    assert serve_sync(sends(lambda: path.open("rb"))).get().body == path.read_bytes()


def test_a_file_is_closed_once_when_it_is_sent_and_when_the_client_left(
    serve: Serve, path: Path, wire: Wire
) -> None:
    class Noted(io.FileIO):
        def close(self) -> None:
            if not self.closed:
                wire.say("closed")
            super().close()

    path.write_bytes(bytes(64 << 20))
    served = serve(sends(lambda: Noted(path)))
    client = served.connect(buffer=4096)
    client.request("GET", "/")
    client.head()
    client.close()
    assert wire.hear() == "closed"
    assert served.get().status == 200
    assert wire.hear() == "closed"
    served.stop()
    assert wire.rest() == []


def test_a_wrapper_that_is_not_returned_itself_is_only_an_iterable(
    serve: Serve, path: Path
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return (block.upper() for block in environ["wsgi.file_wrapper"](path.open("rb")))

    path.write_bytes(b"small")
    assert serve(app).get().text == "SMALL"
