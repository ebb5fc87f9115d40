"""What a generation is made of, and what a reload has to leave behind."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from prefork_sd.config import Config
from prefork_sd.errors import ConfigError
from prefork_sd.loader import Application, auto_workers
from prefork_sd.release import Release, left_behind, worker_class
from prefork_sd.workers.base import Worker
from prefork_sd.workers.sync import SyncWorker
from prefork_sd.workers.threads import ThreadsWorker

LOG = logging.getLogger("test.release")


def app(folder: Path, **settings: object) -> Application:
    path = folder / "shop.yaml"
    path.write_text(json.dumps({"app": "shop:app", **settings}))
    return Application("shop", path)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, SyncWorker),
        ({"threads": 2}, ThreadsWorker),
        ({"worker_class": "sync"}, SyncWorker),
        ({"worker_class": "threads"}, ThreadsWorker),
        ({"worker_class": "prefork_sd.workers.sync.SyncWorker"}, SyncWorker),
    ],
)
def test_the_way_to_serve(settings: dict[str, object], found: type[Worker]) -> None:
    assert worker_class(dataclasses.replace(Config(app="a:b"), **settings)) is found  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["no.such.module", "os.path.join", "prefork_sd.errors.Problem"])
def test_a_way_to_serve_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="worker_class"):
        worker_class(Config(app="a:b", worker_class=name))


def test_the_number_of_workers_is_the_files_or_the_machines(tmp_path: Path) -> None:
    assert Release.of(app(tmp_path, workers=3), LOG).workers == 3
    assert Release.of(app(tmp_path), LOG).workers == auto_workers()


def test_hooks_are_read_and_contained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "hooks.py").write_text("def when_ready(server):\n    raise ValueError('oops')\n")
    release = Release.of(app(tmp_path, hooks="hooks.py"), LOG)
    release.hooks.when_ready(None)
    assert "hook when_ready failed: ValueError: oops" in caplog.text


def test_a_release_is_as_the_disk_was_when_it_was_made(tmp_path: Path) -> None:
    release = Release.of(app(tmp_path, workers=3), LOG)
    app(tmp_path, workers=4)
    assert release.workers == 3
    assert Release.of(release.app.fresh(), LOG).workers == 4


def test_hooks_of_the_wrong_arity_are_refused(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text("def when_ready():\n    pass\n")
    with pytest.raises(ConfigError, match="when_ready"):
        Release.of(app(tmp_path, hooks="hooks.py"), LOG)


def test_what_is_left_behind_is_said_with_the_command_that_changes_it() -> None:
    old = Config(app="a:b")
    assert list(left_behind(old, dataclasses.replace(old, workers=9, timeout=1), "shop")) == []
    new = dataclasses.replace(old, bind=("8001",), backlog=1, user="www-data")
    socket, service = left_behind(old, new, "shop")
    assert "bind, backlog" in socket
    assert socket.endswith("systemctl daemon-reload && systemctl restart shop.socket")
    assert "user" in service
    assert service.endswith("systemctl daemon-reload && systemctl restart shop")
