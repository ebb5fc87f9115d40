"""What the control socket can be asked, of an arbiter on a stage."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from signal import SIGHUP, SIGTERM
from typing import Any

import pytest

from prefork_sd import frontdesk, journal, process
from prefork_sd.control import Call
from prefork_sd.pool import State
from tests.unit.stage import Stage


class Asked(Call):
    """A call whose answers stay here."""

    def __init__(self, method: str, **parameters: object) -> None:
        super().__init__(None, method, parameters)  # type: ignore[arg-type]
        self.answers: list[Mapping[str, Any]] = []
        self.errors: list[tuple[str, Mapping[str, Any]]] = []

    def reply(
        self, parameters: Mapping[str, object] | None = None, continues: bool = False
    ) -> None:
        self.answers.append(parameters or {})

    def error(self, name: str, parameters: Mapping[str, object] | None = None) -> None:
        self.errors.append((name, parameters or {}))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("RUNTIME_DIRECTORY", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    monkeypatch.setattr(process, "set_title", lambda title: None)
    stage = Stage(tmp_path)
    stage.start()
    yield stage
    stage.close()


@pytest.fixture
def ask(stage: Stage) -> Callable[..., Asked]:
    def ask(method: str, **parameters: object) -> Asked:
        call = Asked(method, **parameters)
        frontdesk.answer(stage.arbiter, call)
        return call

    return ask


Ask = Callable[..., Asked]


def test_status(stage: Stage, ask: Ask) -> None:
    [busy, *_] = stage.workers()
    busy.tmp.begin(0, b"GET /report?secret HTTP/1.1\r\n", 0.0001)
    for code in [200] * 6 + [500]:
        busy.tmp.observe(code, 0.1, 99)
    busy.tmp.publish()
    [status] = ask("io.prefork.sd.Status").answers
    assert (status["service"], status["state"]) == ("shop", "serving")
    assert (status["ready"], status["wanted"], status["generation"]) == (3, 3, 1)
    assert (status["requests"], status["errors"]) == (7, 1)
    assert [worker["pid"] for worker in status["workers"]] == [one.pid for one in stage.workers()]
    [request] = status["workers"][0]["in_hand"]
    assert (request["method"], request["path"]) == ("GET", "/report")
    assert "secret" not in repr(status)


def test_scale(stage: Stage, ask: Ask) -> None:
    assert ask("io.prefork.sd.Scale", workers=5).answers == [{"workers": 5}]
    stage.turn()
    assert len(stage.workers()) == 5
    assert ask("io.prefork.sd.Scale", workers=1).answers == [{"workers": 1}]


@pytest.mark.parametrize("workers", [0, -1, 513, "3", None, 1.5])
def test_scale_to_what_is_no_number_of_workers(stage: Stage, ask: Ask, workers: object) -> None:
    call = ask("io.prefork.sd.Scale", workers=workers)
    assert call.answers == []
    assert call.errors == [("org.varlink.service.InvalidParameter", {"parameter": "workers"})]
    assert stage.arbiter.num_workers == 3


def test_a_reload_is_answered_when_there_is_a_verdict(stage: Stage, ask: Ask) -> None:
    call = ask("io.prefork.sd.Reload")
    stage.turn()
    assert (call.answers, call.errors) == ([], [])
    stage.roll()
    [answer] = call.answers
    assert answer["generation"] == 2
    assert call.errors == []


def test_a_reload_that_fails_says_why_and_in_full(stage: Stage, ask: Ask) -> None:
    call = ask("io.prefork.sd.Reload")
    stage.turn()
    [canary] = stage.workers(State.BOOTING)
    stage.die(canary, 4, words="cannot import\nTraceback")
    stage.turn()
    assert call.errors == [
        ("io.prefork.sd.ReloadFailed", {"reason": "cannot import", "details": "Traceback"})
    ]


def test_reloads_at_once_are_all_answered(stage: Stage, ask: Ask) -> None:
    first = ask("io.prefork.sd.Reload")
    stage.turn()
    second = ask("io.prefork.sd.Reload")
    stage.signal(SIGHUP)
    stage.roll()
    assert [call.answers[0]["generation"] for call in (first, second)] == [4, 4]


def test_a_reload_that_the_stop_ends_is_answered_and_one_during_it_refused(
    stage: Stage, ask: Ask
) -> None:
    first = ask("io.prefork.sd.Reload")
    stage.signal(SIGTERM)
    assert first.errors[0][0] == "io.prefork.sd.ReloadFailed"
    assert "stop" in ask("io.prefork.sd.Reload").errors[0][1]["reason"]


def test_the_log_level(stage: Stage, ask: Ask) -> None:
    assert ask("io.systemd.service.SetLogLevel", level=7).answers == [{}]
    stage.arbiter.log.debug("now on record")
    assert stage.journal.records[-1].getMessage() == "now on record"
    journal.set_level("info")
    for level in (-1, 8, "debug"):
        assert ask("io.systemd.service.SetLogLevel", level=level).errors


def test_what_nobody_knows(ask: Ask) -> None:
    assert ask("io.prefork.sd.Fly").errors[0][0] == "org.varlink.service.MethodNotImplemented"
