"""The one record of a worker's end: judged by facts, with the evidence, without secrets."""

import logging
from math import inf
from signal import SIGKILL, SIGSEGV, SIGTERM

import pytest

import prefork_sd.workers.base
from prefork_sd.journal import Event
from prefork_sd.obituary import evidence, holding, obituary
from prefork_sd.pool import Child, State
from prefork_sd.process import Exit
from prefork_sd.scoreboard import InHand

NOW = 1000.0


def child(state: State = State.READY, *, ready: bool = True, unwanted: bool = False) -> Child:
    ready_at = 900.0 if ready else inf
    return Child(42, 3, 2, born=890.0, state=state, ready_at=ready_at, unwanted=unwanted)


def test_one_that_left_when_it_was_told_to_is_no_news() -> None:
    for end, was in (
        (Exit(42), child(unwanted=True)),
        (Exit(42, signal=SIGTERM), child(ready=False, unwanted=True)),
    ):
        notice = obituary(was, end, "replaced", "", [], NOW)
        assert (notice.level, notice.event) == (logging.INFO, Event.WORKER_EXITED)
        assert notice.message == "worker 42 has left"


def test_one_that_left_on_its_own_is_a_warning() -> None:
    notice = obituary(child(), Exit(42, status=1), "", "", [], NOW)
    assert (notice.level, notice.event) == (logging.WARNING, Event.WORKER_EXITED)
    assert notice.message == "worker 42 exited with status 1"
    assert notice.fields["PREFORK_SD_EXIT_STATUS"] == 1


def test_one_that_was_killed_is_named_by_its_signal_and_its_request() -> None:
    requests = [InHand("GET /report?token=secret HTTP/1.1", 969.0)]
    words = 'Fatal Python error: Segmentation fault\n\n  File "shop.py", line 3 in report'
    notice = obituary(child(), Exit(42, signal=SIGSEGV, core=True), "", words, requests, NOW)
    assert (notice.level, notice.event) == (logging.ERROR, Event.WORKER_KILLED)
    assert notice.text == (
        "worker 42 was killed by SIGSEGV (core dumped) with GET /report in hand for 31.0 s"
    )
    assert "in report" in notice.details
    assert notice.fields["PREFORK_SD_SIGNAL"] == "SIGSEGV"
    assert (notice.fields["HTTP_METHOD"], notice.fields["HTTP_PATH"]) == ("GET", "/report")
    assert "secret" not in repr(notice)


def test_one_that_the_kernel_killed_for_memory_is_named_so() -> None:
    notice = obituary(child(), Exit(42, signal=SIGKILL), "", "", [], NOW, oom=True)
    assert notice.event is Event.WORKER_OOM
    assert "want of memory" in notice.text


def test_one_that_hung_is_named_by_our_reason() -> None:
    was = child(State.ABORTED)
    notice = obituary(was, Exit(42, signal=SIGKILL), "was silent for too long", "w", [], NOW)
    assert notice.event is Event.WORKER_HUNG
    assert notice.text == "worker 42 was silent for too long and was killed"


def test_one_that_hung_in_boot_could_not_boot() -> None:
    was = child(State.ABORTED, ready=False)
    notice = obituary(was, Exit(42, status=134), "did not boot in time", "w", [], NOW)
    assert notice.event is Event.WORKER_BOOT_FAILED


def test_one_that_could_not_boot_says_why_in_a_line_and_then_in_full() -> None:
    words = "cannot import \"shop:app\": KeyError: 'X'\nTraceback (most recent call last):\n  ..."
    notice = obituary(child(ready=False), Exit(42, status=4), "", words, [], NOW)
    assert notice.event is Event.WORKER_BOOT_FAILED
    assert notice.verdict == "cannot import \"shop:app\": KeyError: 'X'"
    assert notice.details.startswith("Traceback")
    assert notice.message.startswith("worker 42 could not boot: cannot import")


@pytest.mark.parametrize("header", ["", "Traceback (most recent call last):\n"])
def test_a_traceback_without_frames_is_not_said_again(header: str) -> None:
    line = "PermissionError: [Errno 13] Permission denied: '/srv/app.py'"
    words = f'cannot import "app:app": {line}\n{header}{line}\n'
    notice = obituary(child(ready=False), Exit(42, status=4), "", words, [], NOW)
    assert notice.message == f'worker 42 could not boot: cannot import "app:app": {line}'


def test_one_that_was_killed_in_boot() -> None:
    notice = obituary(child(ready=False), Exit(42, signal=SIGKILL), "", "", [], NOW)
    assert notice.text == "worker 42 was killed by SIGKILL while it was booting"


def test_the_stacks_are_those_of_the_app() -> None:
    ours = prefork_sd.workers.base.__file__
    words = (
        "Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n"
        f'  File "/srv/shop.py", line 3 in report\n  File "{ours}", line 9 in run\n'
        "\nExtension modules: yaml._yaml (total: 1)\n"
    )
    assert evidence(words) == (
        'Current thread 0x1 (most recent call first):\n  File "/srv/shop.py", line 3 in report'
    )


def test_a_thread_without_a_frame_of_the_app_is_no_evidence() -> None:
    ours = prefork_sd.workers.base.__file__
    idle = f'Current thread 0x1 (most recent call first):\n  File "{ours}", line 9 in run\n'
    assert evidence(f"Fatal Python error: Aborted\n\n{idle}") == ""
    busy = 'Thread 0x2 (most recent call first):\n  File "/srv/shop.py", line 3 in report'
    assert evidence(f"Fatal Python error: Aborted\n\n{idle}\n{busy}\n") == busy
    assert evidence(f"Fatal Python error: Aborted\n\n{busy}\n\n{idle}") == busy


def test_of_many_requests_the_oldest_is_named() -> None:
    requests = [InHand("GET /a HTTP/1.1", 990.0), InHand("GET /b HTTP/1.1", 995.0)]
    assert holding(requests, NOW) == " with GET /a in hand for 10.0 s and 1 more"
    assert holding([], NOW) == ""
