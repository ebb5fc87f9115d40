"""What `prefork-sd deploy` does with a service, by the state that systemd tells."""

import os
from pathlib import Path

import pytest

from prefork_sd import cli, deployment
from prefork_sd.deployment import PROPERTIES, SEEN, Step, step
from prefork_sd.errors import ExitCode, PreforkError

FRESH = dict.fromkeys(PROPERTIES, "") | {
    "LoadState": "loaded",
    "ActiveState": "inactive",
    "WantedBy": "multi-user.target",
    SEEN: "0",
}
STOPPED = {SEEN: "1234567"}


@pytest.mark.parametrize(
    ("service", "socket", "wanted"),
    [
        ({}, {}, Step.START),
        ({"ActiveState": "active"}, {}, Step.RELOAD),
        ({"ActiveState": "active", "WantedBy": ""}, {}, Step.RELOAD),
        ({"ActiveState": "reloading"}, {}, Step.RELOAD),
        ({"ActiveState": "activating"}, {}, Step.RESTART),
        ({"ActiveState": "activating"} | STOPPED, {"ActiveState": "active"}, Step.RESTART),
        ({"ActiveState": "deactivating"} | STOPPED, {}, Step.NOTHING),
        ({"LoadState": "masked"}, {}, Step.NOTHING),
        ({"WantedBy": ""}, {}, Step.NOTHING),
        ({}, {"ActiveState": "active"}, Step.NOTHING),
        (STOPPED, {}, Step.NOTHING),
        ({}, STOPPED, Step.NOTHING),
        ({"ActiveState": "failed"} | STOPPED, {}, Step.NOTHING),
    ],
)
def test_the_step_for_each_state(
    service: dict[str, str], socket: dict[str, str], wanted: Step
) -> None:
    todo, why = step(FRESH | service, [FRESH | socket])
    assert todo is wanted
    assert bool(why) == (wanted is Step.NOTHING)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Services `one` and `two` on a machine whose systemctl is a script; what it was told."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("app: app:app\n")
    answers = "".join(f"echo '{key}={value}'\n" for key, value in FRESH.items())
    program = tmp_path / "systemctl"
    told = tmp_path / "told"
    program.write_text(
        f'#!/bin/sh\necho "$1" >>{told}\n'
        f'case "$1 $2" in\n"show "*) {answers} echo "StatusText=no such luck" ;;\n'
        '"start one.service") exit 1 ;;\nesac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PREFORK_SD_CONFIG_PATH", str(tmp_path))
    monkeypatch.delenv("DPKG_MAINTSCRIPT_NAME", raising=False)
    monkeypatch.setattr("prefork_sd.systemctl.SYSTEMD", tmp_path)
    monkeypatch.setattr(deployment, "POLICY", str(tmp_path / "policy"))
    return told


def test_each_service_gets_its_turn(systemctl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["deploy", "one", "two"]) == ExitCode.FAILURE
    said = capsys.readouterr()
    assert said.out == "one: start\ntwo: start\n"
    assert said.err == "the start of one.service failed: no such luck\n"
    assert systemctl.read_text().split() == [
        "daemon-reload",
        *["show", "start", "show"],
        *["show", "start"],
    ]


@pytest.mark.usefixtures("systemctl")
def test_a_package_installs_although_the_start_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DPKG_MAINTSCRIPT_NAME", "postinst")
    assert cli.main(["deploy", "one"]) == ExitCode.CLEAN
    assert "failed: no such luck" in capsys.readouterr().err


@pytest.mark.usefixtures("systemctl")
def test_a_reload_that_was_cut_off_is_asked_once_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FRESH, "ActiveState", "active")
    monkeypatch.setattr(deployment, "_properties", lambda _unit: FRESH)
    tries: list[str] = []

    def cut(name: str) -> int:
        tries.append(name)
        if len(tries) != 2:
            raise PreforkError("cut")
        return ExitCode.CLEAN

    assert deployment.deploy(["one"], cut) == ExitCode.CLEAN
    tries[:] = ["", ""]
    assert deployment.deploy(["one"], cut) == ExitCode.FAILURE
    assert capsys.readouterr().err == "one: cut\n"


@pytest.mark.parametrize(
    ("verb", "said"), [("daemon-reload", "reload daemon"), ("start", "start one.service")]
)
@pytest.mark.parametrize("user", [0, 1000])
def test_who_may_not_hears_what_is_needed(
    systemctl: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    said: str,
    user: int,
) -> None:
    program = systemctl.with_name("systemctl")
    shebang, rest = program.read_text().split("\n", 1)
    refuse = f"case $1 in {verb}) echo 'Failed to {said}: Access denied' >&2; exit 4 ;; esac"
    program.write_text(f"{shebang}\n{refuse}\n{rest}")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert cli.main(["deploy", "one"]) == ExitCode.FAILURE
    told = capsys.readouterr().err
    assert f"systemctl {verb}" in told
    assert f"Failed to {said}: Access denied" in told
    assert ("deploy needs root" in told and "say it with sudo" in told) == (user != 0)


def test_without_systemd_nothing_is_done(
    systemctl: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("prefork_sd.systemctl.SYSTEMD", tmp_path / "absent")
    assert cli.main(["deploy", "one", "two"]) == ExitCode.CLEAN
    assert not systemctl.exists()


def test_an_unknown_service(systemctl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["deploy", "one", "three"]) == ExitCode.CONFIG
    assert "there is no three.yaml in" in capsys.readouterr().err
    assert not systemctl.exists()
