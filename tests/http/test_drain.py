"""How a worker ends: what was accepted is answered, or it leaves at once."""

import sys
from signal import SIGABRT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1

import pytest

from prefork_sd.hooks import Hooks
from tests.http.apps import MIB, at, big, hello
from tests.http.conftest import Serve
from tests.http.serving import Client, Gate, Served, Wire


def nobody_took(client: Client, served: Served) -> bool:
    """Whether the connection still waits at the listener: for another worker."""
    sock, address = served.listener.sock.accept()
    sock.close()
    return bool(address == client.sock.getsockname())


def test_term_finishes_what_is_in_hand_and_accepts_nothing(
    serve: Serve, gate: Gate, wire: Wire
) -> None:
    served = serve(at(gate, wire))
    busy, idle, silent = served.connect(), served.connect(), served.connect()
    idle.get("/free")
    busy.request("GET", "/busy")
    assert wire.hear() == "/busy"
    served.signal(SIGTERM)
    served.wait_for(lambda: served.slot.draining or served.kind.inline)
    late = served.connect()
    late.request("GET", "/late")
    gate.open()
    assert busy.reply().text == "/busy"
    for client in (busy, idle, silent):
        assert client.rest() == b""
    assert served.exit().status == 0
    assert nobody_took(late, served)


def test_an_idle_client_that_still_sends_is_answered_during_a_drain(serve: Serve) -> None:
    served = serve(hello)
    client = served.connect()
    client.get()
    served.signal(SIGTERM)
    served.wait_for(lambda: served.slot.draining)
    assert client.get("/still")["Connection"] == "close"
    assert client.rest() == b""
    client.close()
    assert served.exit().status == 0


def test_a_body_that_is_under_way_is_waited_for_during_a_drain(serve: Serve) -> None:
    served = serve(hello)
    client = served.connect()
    client.request("PUT", "/upload", "Expect: 100-continue", "Content-Length: 2")
    assert client.reply().status == 100
    served.signal(SIGTERM)
    served.wait_for(lambda: served.slot.draining)
    client.send(b"ab")
    assert client.reply().text == "/upload"
    assert client.rest() == b""
    client.close()
    assert served.exit().status == 0


def test_a_slow_reader_gets_everything_during_a_drain(serve: Serve) -> None:
    served = serve(big)
    client = served.connect(buffer=4096)
    client.request("GET", "/big")
    client.head()
    served.signal(SIGTERM)
    served.wait_for(lambda: served.slot.draining)
    assert len(client.take(10 * MIB)) == 10 * MIB
    assert client.rest() == b""
    assert served.exit().status == 0


def test_term_twice_is_term_once(serve: Serve, gate: Gate, wire: Wire) -> None:
    served = serve(at(gate, wire))
    client = served.connect()
    client.request("GET", "/busy")
    wire.hear()
    served.signal(SIGTERM)
    served.signal(SIGTERM)
    gate.open()
    assert client.reply().text == "/busy"
    client.close()
    assert served.exit().status == 0


@pytest.mark.parametrize("signum", [SIGINT, SIGQUIT])
def test_quit_leaves_at_once(serve: Serve, gate: Gate, wire: Wire, signum: int) -> None:
    hooks = Hooks(
        worker_int=lambda worker: wire.say("int"),
        worker_exit=lambda server, worker: wire.say("exit"),
    )
    served = serve(at(gate, wire), hooks=hooks)
    client = served.connect()
    client.request("GET", "/busy")
    wire.hear()
    assert served.stop(signum).status == 0
    assert wire.rest() == ["int", "exit"]
    assert client.rest() == b""


def test_quit_leaves_even_if_a_hook_fails(serve_sync: Serve) -> None:
    hooks = Hooks(worker_int=lambda worker: sys.exit(5), worker_exit=lambda server, worker: 1 / 0)
    assert serve_sync(hello, hooks=hooks).stop(SIGQUIT).status == 0


def test_abort_leaves_its_stacks_behind(serve: Serve, gate: Gate, wire: Wire) -> None:
    hooks = Hooks(worker_abort=lambda worker: wire.say("abort"))
    served = serve(at(gate, wire), hooks=hooks)
    served.connect().request("GET", "/busy")
    assert wire.hear() == "/busy"
    assert served.stop(SIGABRT).status == 128 + SIGABRT
    assert wire.rest() == ["abort"]
    words = served.words.read()
    assert "Fatal Python error: Aborted" in words
    assert " in app\n" in words


@pytest.mark.parametrize("signum", [SIGHUP, SIGUSR1])
def test_signals_for_the_arbiter_do_nothing_to_a_worker(serve_sync: Serve, signum: int) -> None:
    served = serve_sync(hello)
    served.signal(signum)
    assert served.get().status == 200
