"""The `asgi` worker: an app's startup, its requests, its WebSockets, and their ends."""

import contextlib
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from prefork_sd.errors import ExitCode
from tests.process import proc
from tests.process.systemd import Systemd
from tests.process.test_load import Load
from tests.process.websocket import WebSocket

APP = Path(__file__).with_name("asgiapp.py")

SLOW_STARTUP = """
async def startup(state):
    await knock("startup")
"""
BAD_STARTUP = """
async def startup(state):
    raise LookupError("no database")
"""
SAID_STARTUP = """
async def lifespan(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
STUCK_STARTUP = """
async def startup(state):
    await asyncio.Event().wait()
"""
SHUTDOWN = """
async def shutdown(state):
    await knock("shutdown")
"""
NO_LIFESPAN = """
async def lifespan(scope, receive, send):
    raise ValueError("only HTTP here")
"""
DEAF = """
async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    try:
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0.05)
    except OSError:
        await knock("told")
"""
WITH_CHILD = """
async def blocking():
    while True:
        time.monotonic()

async def spawning(scope):
    task = asyncio.create_task(blocking())
    await asyncio.sleep(60)
    yield b""

PAGES["/spawn"] = spawning
"""
ENDLESS = """
async def endless(scope):
    yield b"first"
    await knock("endless")
    while True:
        yield b"tick"
        await asyncio.sleep(0.05)

PAGES["/endless"] = endless
"""
HOOKS = """
from prefork_sd.applog import REQUEST

def note(text):
    with open("seen", "a") as file:
        file.write(text + "\\n")

def before(worker, req):
    note(f"before {req.method} {req.path} {REQUEST.get() is req}")

def after(worker, req, environ, resp):
    same = environ["prefork_sd.request_id"] == req.id
    note(f"after {environ['type']} {resp.status} {resp.sent > 0} {same}")
"""


def deploy(systemd: Systemd, version: str = "1", more: str = "") -> None:
    """Put a release of the ASGI app in place; `more` is code at its end."""
    text = APP.read_text().replace('VERSION = "1"', f'VERSION = "{version}"')
    systemd.write("app.py", f"{text}\n{more}\n")


@pytest.fixture
def asgi(systemd: Systemd) -> Systemd:
    """The service with the ASGI app, not started."""
    deploy(systemd)
    return systemd


@contextlib.contextmanager
def websocket(systemd: Systemd) -> Iterator[WebSocket]:
    """A WebSocket to the service."""
    socket = WebSocket(systemd.listeners[0][1])
    try:
        assert socket.status == 101
        yield socket
    finally:
        socket.close()


# ---- start


@pytest.mark.parametrize("preload", [False, True])
def test_ready_is_said_after_the_startup(asgi: Systemd, preload: bool) -> None:
    deploy(asgi, more=SLOW_STARTUP)
    asgi.start(workers=1, preload_app=preload)
    inside = asgi.knock("startup")
    asgi.listen_for(0.3)
    assert not asgi.said("READY=1")
    inside.release()
    asgi.expect("READY=1")
    assert asgi.get().pid == inside.pid


def test_what_the_startup_made_is_there_for_requests(asgi: Systemd) -> None:
    asgi.up(workers=1)
    assert "'state': {'began': '1'}" in asgi.get("/told").text


@pytest.mark.parametrize("preload", [False, True])
def test_a_startup_that_fails(asgi: Systemd, preload: bool) -> None:
    deploy(asgi, more=BAD_STARTUP)
    asgi.start(workers=1, preload_app=preload)
    assert asgi.ended() == ExitCode.WORKER_BOOT_ERROR
    status = asgi.said("STATUS")[-1].fields["STATUS"]
    assert "the app's startup failed: LookupError: no database" in status
    message = asgi.record("worker-boot-failed")["message"]
    assert "in startup" in message
    assert "/prefork_sd/" not in message


def test_a_startup_that_says_it_failed(asgi: Systemd) -> None:
    deploy(asgi, more=SAID_STARTUP)
    asgi.start(workers=1)
    assert asgi.ended() == ExitCode.WORKER_BOOT_ERROR
    assert "startup failed: no database" in asgi.record("worker-boot-failed")["message"]


def test_a_startup_that_never_ends_says_where_it_waits(asgi: Systemd) -> None:
    deploy(asgi, more=STUCK_STARTUP)
    asgi.start(workers=1, boot_timeout=1)
    assert asgi.ended() == ExitCode.WORKER_BOOT_ERROR
    record = asgi.record("worker-boot-failed")
    assert "did not boot in time" in record["message"]
    assert "app.py" in record["message"]
    assert "in startup" in record["message"]


def test_a_reload_fails_with_the_startup(asgi: Systemd) -> None:
    asgi.up(workers=2)
    deploy(asgi, "2", BAD_STARTUP)
    done = asgi.reload()
    assert done.status == 1
    assert "LookupError: no database" in done.text
    assert {asgi.get().version for _ in range(4)} == {"1"}


def test_an_app_without_a_lifespan(asgi: Systemd) -> None:
    deploy(asgi, more=NO_LIFESPAN)
    asgi.up(workers=1)
    assert asgi.get().version == "1"
    assert asgi.stop() == 0
    assert not asgi.all_records(level="error")


# ---- which worker for which app


@pytest.mark.parametrize(
    ("settings", "asgi_app"),
    [({}, True), ({"threads": 2}, True), ({"worker_class": "asgi"}, True), ({}, False)],
)
@pytest.mark.parametrize("preload", [False, True])
def test_the_worker_suits_the_app(
    systemd: Systemd, settings: dict[str, Any], asgi_app: bool, preload: bool
) -> None:
    if asgi_app:
        deploy(systemd)
    systemd.up(workers=1, preload_app=preload, **settings)
    assert systemd.get().version == "1"


@pytest.mark.parametrize(
    ("settings", "asgi_app", "text"),
    [
        ({"worker_class": "sync"}, True, 'sync is for WSGI, and "app:application" is ASGI'),
        ({"worker_class": "threads"}, True, 'threads is for WSGI, and "app:application" is ASGI'),
        ({"worker_class": "asgi"}, False, 'asgi is for ASGI, and "app:application" is WSGI'),
    ],
)
def test_the_wrong_worker_for_an_app(
    systemd: Systemd, settings: dict[str, Any], asgi_app: bool, text: str
) -> None:
    if asgi_app:
        deploy(systemd)
    systemd.start(workers=1, **settings)
    assert systemd.ended() == ExitCode.CONFIG
    assert text in systemd.record("worker-boot-failed")["message"]


def test_without_uvicorn(asgi: Systemd) -> None:
    deploy(asgi, more='import sys\nsys.modules["uvicorn"] = None')
    asgi.start(workers=1)
    assert asgi.ended() == ExitCode.CONFIG
    message = asgi.record("worker-boot-failed")["message"]
    assert "install python3-uvicorn (apt), or prefork-sd[asgi] (pip)" in message


# ---- requests


def test_what_the_app_raises_is_on_record_once(asgi: Systemd) -> None:
    asgi.up(workers=1)
    assert asgi.get("/raise").status == 500
    record = asgi.record("request-failed", HTTP_PATH="/raise", HTTP_STATUS=500)
    assert "LookupError: no such page" in record["message"]
    assert len(asgi.all_records(level="error")) == 1
    assert asgi.status()["requests"] == 1


def test_a_wait_is_not_a_hang(asgi: Systemd) -> None:
    asgi.up(workers=1, timeout=1)
    client = asgi.client().send("/wait")
    inside = asgi.knock("request")
    asgi.listen_for(2.5)
    assert asgi.get().pid == inside.pid
    (worker,) = asgi.status()["workers"]
    assert [request["path"] for request in worker["in_hand"]] == ["/wait"]
    inside.release()
    assert client.answer().pid == inside.pid


@pytest.mark.parametrize("preload", [False, True])
def test_a_blocked_loop_leaves_its_stack(asgi: Systemd, preload: bool) -> None:
    asgi.up(workers=1, timeout=1, preload_app=preload)
    patient = asgi.client().send("/wait")
    asgi.knock("request")
    began = time.monotonic()
    client = asgi.client().send("/spin")
    record = asgi.record("worker-hung", HTTP_PATH="/spin", within=3)
    assert time.monotonic() - began < 2
    assert "in spin" in record["message"]
    assert "GET /spin in hand for" in record["message"]
    for lost in (client, patient):
        with pytest.raises((OSError, HTTPException)):
            lost.answer()
    assert asgi.get().pid != record["PREFORK_SD_WORKER_PID"]


def test_a_task_that_blocks_is_its_requests_fault(asgi: Systemd) -> None:
    deploy(asgi, more=WITH_CHILD)
    asgi.up(workers=1, timeout=1)
    asgi.client().send("/spawn")
    assert "in blocking" in asgi.record("worker-hung", HTTP_PATH="/spawn")["message"]


def test_max_requests_loses_no_request(asgi: Systemd) -> None:
    asgi.up(workers=2, max_requests=20, max_requests_jitter=5)
    load = Load(asgi)
    pids = set()
    for _ in range(5000):
        pids.add(load.ask().pid)
        if len(pids) >= 6:
            break
    assert len(pids) >= 6
    assert not asgi.all_records(level="error")


def test_an_idle_service_rarely_wakes(asgi: Systemd) -> None:
    asgi.up(workers=2)
    asgi.get()
    pids = [asgi.pid, *asgi.workers()]
    asgi.listen_for(4.0)  # the last beat of those that come often
    before = [proc.wakeups(pid) for pid in pids]
    asgi.listen_for(2.0)
    assert [proc.wakeups(pid) for pid in pids] == before


# ---- reload and stop


@pytest.mark.parametrize("preload", [False, True])
def test_reloads_lose_no_request(asgi: Systemd, preload: bool) -> None:
    asgi.up(workers=2, preload_app=preload)
    load = Load(asgi)
    for version in ("2", "3"):
        deploy(asgi, version)
        client = asgi.run("reload", str(asgi.yaml))
        for answer in load.until(client):
            assert int(version) - 1 <= int(answer.version) <= int(version)
        assert client.status == 0
        assert {asgi.get().version for _ in range(6)} == {version}
    assert not asgi.all_records(level="error")


def test_a_websocket_is_told_of_a_reload(asgi: Systemd) -> None:
    asgi.up(workers=1)
    with websocket(asgi) as socket:
        version, _, pid = socket.frame().text.partition(" ")
        assert version == "1"
        assert socket.say("hello") == "hello"
        deploy(asgi, "2")
        assert asgi.reload().status == 0
        assert socket.closed() == 1012
    visitor = asgi.knock("disconnect 1012")
    assert visitor.pid == int(pid)
    visitor.release()
    with websocket(asgi) as socket:
        assert socket.frame().text.startswith("2 ")
    asgi.gone(int(pid))


def test_a_websocket_that_only_sends_is_told(asgi: Systemd) -> None:
    deploy(asgi, more=DEAF)
    asgi.up(workers=1)
    with websocket(asgi) as socket:
        assert socket.frame().text == "tick"
        asgi.kill(SIGTERM)
        while (frame := socket.frame()).data == b"tick":
            pass
        assert frame.code == 1012
        asgi.knock("told").release()
    assert asgi.ended() == 0
    assert not asgi.all_records(level="error")


def test_a_response_under_way_is_sent_to_its_end(asgi: Systemd) -> None:
    asgi.up(workers=1)
    client = asgi.client().send("/stream")
    inside = asgi.knock("stream")
    asgi.kill(SIGTERM)
    asgi.expect("STOPPING=1")
    inside.release()
    body = client.answer().body
    assert (len(body), body[:6], body[-5:]) == (3_000_011, b"first\n", b"last\n")
    assert asgi.ended() == 0


def test_a_request_in_an_accepted_connection_is_answered(asgi: Systemd) -> None:
    asgi.up(workers=1)
    client = asgi.client()
    assert client.get().version == "1"
    asgi.kill(SIGTERM)
    asgi.expect("STOPPING=1")
    answers = [client.get()]
    while "Connection" not in answers[-1].headers:  # the worker has not heard yet
        answers.append(client.get())
    assert {answer.status for answer in answers} == {200}
    assert asgi.ended() == 0


def test_an_idle_client_does_not_hold_up_a_stop(asgi: Systemd) -> None:
    asgi.up(workers=1)
    asgi.client().get()
    began = time.monotonic()
    assert asgi.stop() == 0
    assert time.monotonic() - began < 4


def test_a_drain_has_a_limit(asgi: Systemd) -> None:
    asgi.up(workers=1, graceful_timeout=2)
    client = asgi.client().send("/wait")
    asgi.knock("request")
    began = time.monotonic()
    assert asgi.stop() == 0
    assert time.monotonic() - began < 2
    assert client.answer().status == 503
    assert "no time left for 1 requests: GET /wait" in asgi.record(level="warn")["message"]
    assert not asgi.all_records(level="error")


def test_a_stream_without_an_end_is_cut_in_time(asgi: Systemd) -> None:
    deploy(asgi, more=ENDLESS)
    asgi.up(workers=1, graceful_timeout=2)
    client = asgi.client().send("/endless")
    asgi.knock("endless").release()
    began = time.monotonic()
    assert asgi.stop() == 0
    assert 1 < time.monotonic() - began < 2.5
    with pytest.raises((OSError, HTTPException)):
        client.answer()
    assert "no time left for 1 requests: GET /endless" in asgi.record(level="warn")["message"]
    assert not asgi.all_records(level="error")


def test_the_shutdown_comes_after_the_last_request(asgi: Systemd) -> None:
    deploy(asgi, more=SHUTDOWN)
    asgi.up(workers=1)
    client = asgi.client().send("/wait", close=True)
    inside = asgi.knock("request")
    asgi.kill(SIGTERM)
    asgi.expect("STOPPING=1")
    asgi.listen_for(0.2)
    inside.release()
    assert client.answer().version == "1"
    last = asgi.knock("shutdown")
    assert last.pid == inside.pid
    last.release()
    assert asgi.ended() == 0


def test_the_request_id_comes_back_in_a_header(asgi: Systemd) -> None:
    asgi.up(workers=1, request_id_header="X-Request-ID", access_log="all")
    number = asgi.get().headers["X-Request-Id"]
    asgi.record("request", PREFORK_SD_REQUEST_ID=number)
    assert asgi.get().headers["X-Request-Id"] != number


def test_hooks_see_requests(asgi: Systemd) -> None:
    deploy(asgi, more=HOOKS)
    hooks = {"pre_request": "app:before", "post_request": "app:after"}
    asgi.up(workers=1, hooks=hooks)
    assert asgi.get("/told?secret").status == 200
    asgi.stop()
    assert (asgi.site / "seen").read_text() == "before GET /told True\nafter http 200 True True\n"
