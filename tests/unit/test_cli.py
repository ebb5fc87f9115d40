"""The command line: what it prints, where, and with which status it exits."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefork_sd import __version__, asking, checks, commands, remote, systemctl
from prefork_sd.asking import ControlError
from prefork_sd.checks import Finding
from prefork_sd.cli import main, parser
from prefork_sd.errors import AppImportError, ExitCode

ROOT = Path(__file__).parents[2]
Asked = list[tuple[str, str, dict[str, object] | None]]


def configure(site: Path, yaml: str) -> None:
    """Write the file of the service, with the place of its code at the end."""
    (site / "shop.yaml").write_text(f"{yaml}directory: {site}/code\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    configure(tmp_path, "app: shop:app\nworkers: 2\n")
    (tmp_path / "code" / "shop.py").write_text("def app(environ, start_response): ...\n")
    monkeypatch.setenv("PREFORK_SD_CONFIG_PATH", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(remote, "RUNNING", str(tmp_path / "run"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "systemctl").write_text("#!/bin/sh\n")  # it knows no unit
    (tmp_path / "bin" / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Asked]:
    """Have whatever service is asked answer with that, or raise it; return what was asked."""

    def service(answer: Any) -> Asked:
        asked: Asked = []

        def call(
            path: object, method: str, parameters: Any = None, *, timeout: float
        ) -> dict[str, Any]:
            assert timeout > 0
            asked.append((str(path), method, parameters))
            if isinstance(answer, Exception):
                raise answer
            found: dict[str, Any] = answer
            return found

        monkeypatch.setattr(asking, "call", call)
        return asked

    return service


Service = Callable[[Any], Asked]
Captured = pytest.CaptureFixture[str]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, for what changes the process."""
    return subprocess.run(
        [sys.executable, "-m", "prefork_sd", *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_check_finds_that_all_is_fine(site: Path) -> None:
    done = run("check", "shop")
    assert done.returncode == 0
    assert "is hidden by PrivateTmp=yes" in done.stderr  # as a service it could not be here
    assert [path.name for path in (site / "code").iterdir()] == ["shop.py"]
    fine = f"{site}/shop.yaml: fine. shop:app can be served by 2 workers (SyncWorker)."
    count = done.stderr.count("warning: ")
    assert done.stdout == f"{fine} {count} warning{'s' * (count > 1)} above.\n"


def test_check_by_path(site: Path) -> None:
    assert run("check", str(site / "shop.yaml")).returncode == 0


LATER = Finding("the socket is older than the file", "it will do", "restart it")
GONE = Finding("directory: there is no /x", "why", "correct it", stops=True, missing=True)
NEVER = Finding("user: there is no keeper", "the service cannot start", "adduser", stops=True)
APP = "shop:app can be served by 2 workers (SyncWorker)."


@pytest.mark.parametrize(
    ("found", "status", "says"),
    [
        ([], 0, f"fine. {APP}"),
        ([LATER, LATER], 0, f"fine. {APP} 2 warnings above."),
        ([NEVER], 1, f"the service cannot run: 1 error above. The app itself is fine: {APP}"),
        ([LATER, GONE], 78, "the service cannot run: 1 error and 1 warning above.\n"),
        ([LATER, NEVER], 1, "the service cannot run: 1 error and 1 warning above."),
    ],
)
def test_what_check_ends_with(
    site: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    found: list[Finding],
    status: int,
    says: str,
) -> None:
    monkeypatch.setattr(checks, "findings", lambda *_: found)
    monkeypatch.setattr(commands, "examine", lambda _: APP)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # as `check` leaves it
    assert main(["check", "shop"]) == status
    out, err = capsys.readouterr()
    assert out.startswith(f"{site}/shop.yaml: {says}")
    assert err == "".join(f"{one}\n" for one in found)


def test_an_app_that_cannot_be_imported_says_more_than_a_finding(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def examine(_app: object) -> str:
        raise AppImportError("no")

    monkeypatch.setattr(checks, "findings", lambda *_: [NEVER])
    monkeypatch.setattr(commands, "examine", examine)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert main(["check", "shop"]) == ExitCode.APP_LOAD_ERROR


@pytest.mark.parametrize(
    ("yaml", "code", "status", "texts"),
    [
        ("app: shop:app\nwrokers: 2\n", "", 78, ['shop.yaml:2: unknown setting "wrokers"']),
        ("app: shop:app\ntimeout: x\nthreads: -1\n", "", 78, ["shop.yaml:2", "shop.yaml:3"]),
        ("app: shop:app\n", "1/0\n", 4, ["ZeroDivisionError", 'shop.py", line 1']),
        ("app: shop:nothing\n", "app = len\n", 4, ["nothing"]),
        ("app: [\n", "", 78, ["shop.yaml:"]),
    ],
)
def test_check_finds_what_is_wrong(
    site: Path, yaml: str, code: str, status: int, texts: list[str]
) -> None:
    configure(site, yaml)
    (site / "code" / "shop.py").write_text(code)
    done = run("check", "shop")
    assert (done.returncode, done.stdout) == (status, "")
    assert all(text in done.stderr for text in texts), done.stderr
    assert "prefork_sd/" not in done.stderr  # none of our own frames


@pytest.mark.parametrize("key", ["directory", "venv", "env_file", "hooks"])
def test_what_is_missing_is_told_once(site: Path, key: str) -> None:
    code = "" if key == "directory" else f"directory: {site}/code\n"
    (site / "shop.yaml").write_text(f"app: shop:app\n{key}: {site}/nope\n{code}")
    done = run("check", "shop")
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr.count(f"error: {key}: ") == 1
    assert "prefork-sd: " not in done.stderr
    assert "the service cannot run: 1 error" in done.stdout


HANGING = "import threading\n\n\ndef stuck():\n    threading.Event().wait()\n\n\n"


def test_check_does_not_wait_longer_than_a_start_does(site: Path) -> None:
    configure(site, "app: shop:app\nboot_timeout: 1\n")
    (site / "code" / "shop.py").write_text(f"{HANGING}stuck()\n")
    done = run("check", "shop")
    assert (done.returncode, done.stdout) == (ExitCode.APP_LOAD_ERROR, "")
    assert "prefork-sd: the app did not boot in time (boot_timeout: 1 s)\n" in done.stderr
    assert 'shop.py", line 5 in stuck' in done.stderr
    assert "prefork_sd/" not in done.stderr


def test_check_leaves_the_threads_of_the_app_behind(site: Path) -> None:
    code = f"{HANGING}threading.Thread(target=stuck).start()\napp = len\n"
    (site / "code" / "shop.py").write_text(code)
    done = run("check", "shop")
    assert done.returncode == 0
    assert "fine." in done.stdout


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("os._exit(0)", "the app's import ended the process"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the app's import was killed by SIGKILL"),
    ],
)
def test_an_app_that_ends_its_process_is_not_fine(site: Path, end: str, says: str) -> None:
    (site / "code" / "shop.py").write_text(f"import os, signal\n{end}\n")
    done = run("check", "shop")
    assert done.returncode == ExitCode.APP_LOAD_ERROR
    assert says in done.stderr


def test_a_check_that_is_interrupted(site: Path) -> None:
    code = f"{HANGING}print('here', flush=True)\nstuck()\n"
    (site / "code" / "shop.py").write_text(code)
    command = [sys.executable, "-m", "prefork_sd", "check", "shop"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as check:
        assert check.stdout
        assert check.stdout.readline() == "here\n"
        check.send_signal(signal.SIGINT)
        rest, errors = check.communicate(timeout=60)  # nobody has it open any more
    assert check.returncode == ExitCode.INTERRUPTED
    assert rest == ""
    assert "Traceback" not in errors


def test_a_service_that_nobody_knows(site: Path, capsys: Captured) -> None:
    assert main(["check", "blog"]) == ExitCode.CONFIG
    assert capsys.readouterr().err.startswith("prefork-sd: ")


def test_every_line_of_an_error_says_whose_it_is(site: Path, capsys: Captured) -> None:
    configure(site, "app: shop:app\na: 1\nb: 2\n")
    assert main(["check", "shop"]) == ExitCode.CONFIG
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("prefork-sd: ") for line in lines)


def test_a_start_that_is_refused_exits_with_the_reason(site: Path) -> None:
    configure(site, "wrokers: 3\n")
    done = run("run", "shop", NOTIFY_SOCKET="", JOURNAL_STREAM="")
    assert done.returncode == ExitCode.CONFIG
    assert "wrokers" in done.stderr
    assert "Traceback" not in done.stderr


def test_unit_prints_both_units(site: Path, capsys: Captured) -> None:
    assert main(["unit", "shop"]) == 0
    text = capsys.readouterr().out
    assert "# shop.service\n" in text
    assert "# shop.socket\n" in text
    assert f"SourcePath={site}/shop.yaml" in text


def test_schema_is_json(capsys: Captured) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["app"]


def test_version_and_help(capsys: Captured) -> None:
    for arguments in (["--version"], ["--help"], ["serve", "--help"], ["reload", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    text = capsys.readouterr().out
    assert __version__ in text
    assert "--graceful-timeout SECONDS" in text


def test_a_command_that_nobody_knows_is_a_usage_error(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("word", "said"), [("start", "systemctl start shop"), ("logs", "journalctl -u shop")]
)
def test_what_systemd_s_tools_do_is_theirs(capsys: Captured, word: str, said: str) -> None:
    assert main([word, "shop"]) == ExitCode.USAGE
    assert capsys.readouterr().err == f"prefork-sd: say: {said}\n"


def test_serve_takes_settings_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def serve(source: Callable[[], object], service: str) -> int:
        seen.append((source(), service))
        return 0

    monkeypatch.setattr(commands, "_serve", serve)
    arguments = ["serve", "shop.wsgi:app", "--workers", "3", "--bind", "8001", "--bind", "8002"]
    assert main([*arguments, "--env", "A=1=2", "--env", "B="]) == 0
    overrides = {
        "app": "shop.wsgi:app",
        "workers": "3",
        "bind": ["8001", "8002"],
        "env": {"A": "1=2", "B": ""},
    }
    assert seen == [(("shop", None, overrides), "shop")]


# ---- talking to a service


def test_reload_waits_for_the_verdict(site: Path, service: Service, capsys: Captured) -> None:
    asked = service({"generation": 2, "message": "generation 2 serves after 1.0 s"})
    assert main(["reload", "shop"]) == 0
    assert capsys.readouterr().out == "generation 2 serves after 1.0 s\n"
    assert asked == [(f"{site}/run/shop/control", "io.prefork.sd.Reload", None)]


def test_a_reload_that_fails_says_why_on_stderr(
    site: Path, service: Service, capsys: Captured
) -> None:
    details = "\n".join(f"line {number}" for number in range(50))
    parameters = {"reason": "cannot import", "details": details}
    service(ControlError("io.prefork.sd.ReloadFailed", parameters))
    assert main(["reload", "shop"]) == ExitCode.FAILURE
    out, err = capsys.readouterr()
    assert out == ""
    first, *rest = err.splitlines()
    assert first == "reload failed: cannot import"
    assert rest == [f"line {number}" for number in range(50 - remote.DETAIL_LINES, 50)]


def test_the_journal_has_the_verdict_from_the_service(
    site: Path, service: Service, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the unit, whose standard error is the journal, `reload` does not say it all again."""
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    parameters = {"reason": "cannot import", "details": "Traceback"}
    service(ControlError("io.prefork.sd.ReloadFailed", parameters))
    assert main(["reload", "shop"]) == ExitCode.FAILURE
    assert capsys.readouterr() == ("", "reload failed: cannot import\n")
    service({"generation": 2, "message": "generation 2 serves after 1.0 s"})
    assert main(["reload", "shop"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_help_of_serve_is_short_and_tells_the_defaults(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith("usage: prefork-sd serve [OPTIONS] MODULE:CALLABLE Serve an app")
    assert "[127.0.0.1, ::1, unix]" in words


def test_a_broken_file_does_not_keep_a_reload_from_asking(site: Path, service: Service) -> None:
    configure(site, "wrokers: 3\n")
    asked = service({})
    assert main(["reload", "shop"]) == 0
    assert asked[0][0] == f"{site}/run/shop/control"


def test_where_a_service_listens(
    site: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = service({})
    main(["reload", str(site / "shop.yaml")])
    configure(site, "app: shop:app\ncontrol: /tmp/control\n")
    main(["reload", "shop"])
    configure(site, "app: shop:app\n")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/x:/run/y")
    main(["reload"])
    paths = [path for path, *_ in asked]
    assert paths == [f"{site}/run/shop/control", "/tmp/control", "/run/x/control"]


def test_a_service_that_asks_for_another_one(
    site: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(site / "run" / "blog"))
    asked = service({"message": "done"})
    for name in ("shop", "blog", ""):
        assert main(["reload", *filter(None, [name])]) == 0
    folders = [Path(path).parent.name for path, _, _ in asked]
    assert folders == ["shop", "blog", "blog"]


def test_reload_of_nobody(site: Path, capsys: Captured) -> None:
    assert main(["reload"]) == ExitCode.FAILURE
    assert "which service" in capsys.readouterr().err


def test_scale_says_the_number(site: Path, service: Service, capsys: Captured) -> None:
    asked = service({"workers": 7})
    assert main(["scale", "shop", "7"]) == 0
    assert capsys.readouterr().out == "7 workers from now on\n"
    assert asked[0][1:] == ("io.prefork.sd.Scale", {"workers": 7})


STATUS = {
    "service": "shop", "pid": 1, "state": "serving", "status": "fine", "listeners": ["x"],
    "ready": 1, "wanted": 1, "requests": 5, "errors": 0, "workers": [],
}  # fmt: skip


def test_status_for_people_and_for_programs(site: Path, service: Service, capsys: Captured) -> None:
    service(STATUS)
    assert main(["status", "shop"]) == 0
    assert capsys.readouterr().out.startswith("shop (1): fine\n")
    assert main(["status", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_status_of_all_services(site: Path, service: Service, capsys: Captured) -> None:
    for name in ("shop", "blog"):
        (site / "run" / name).mkdir(parents=True)
        (site / "run" / name / "control").touch()
    asked = service(STATUS)
    assert main(["status"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "SERVICE",
        "blog",
        "shop",
    ]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("user", "says"),
    [(0, "no service runs\n"), (1000, "no service that you may ask runs; root may")],
)
def test_status_of_none(
    site: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, user: int, says: str
) -> None:
    """The control sockets lie in folders that only root and the services themselves may see."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith(says)
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_a_service_that_does_not_run(site: Path, capsys: Captured) -> None:
    assert main(["status", "shop"]) != 0
    assert capsys.readouterr().err.startswith("prefork-sd: ")


@pytest.mark.parametrize("command", [["status"], ["reload"], ["scale", "3"]])
@pytest.mark.parametrize(
    ("active", "sub", "hint"),
    [
        ("activating", "auto-restart", "it has failed, and systemd starts it again; see journalctl "
         "-u shop"),
        ("activating", "start", "it is about to start"),
        ("failed", "failed", "it has failed; see journalctl -u shop"),
        ("inactive", "dead", ""),
    ],
)  # fmt: skip
def test_why_a_service_does_not_run(
    site: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    active: str,
    sub: str,
    hint: str,
) -> None:
    said = f"#!/bin/sh\necho ActiveState={active}\necho SubState={sub}\n"
    (site / "bin" / "systemctl").write_text(said)
    monkeypatch.setattr(systemctl, "SYSTEMD", site)
    assert main([command[0], "shop", *command[1:]]) == ExitCode.FAILURE
    [line] = capsys.readouterr().err.splitlines()
    where = f"prefork-sd: the service is not running (nobody at {site}/run/shop/control)"
    assert line == (f"{where}; {hint}" if hint else where)


@pytest.mark.parametrize("command", [["status"], ["reload"], ["scale", "3"]])
def test_to_ask_a_service_that_nobody_knows(
    site: Path, capsys: Captured, command: list[str]
) -> None:
    assert main([command[0], "shopp", *command[1:]]) == ExitCode.CONFIG
    assert "there is no shopp.yaml in" in capsys.readouterr().err


def test_a_service_that_still_runs_without_its_file(site: Path, service: Service) -> None:
    (site / "run" / "gone").mkdir(parents=True)
    asked = service(STATUS)
    assert main(["status", "gone"]) == 0
    assert asked[0][0] == f"{site}/run/gone/control"


def test_each_argument_of_each_command_has_a_word_of_help() -> None:
    [commands] = [one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)]
    for command in commands.choices.values():
        assert [one.dest for one in command._actions if not one.help] == []


@pytest.mark.parametrize("command", [["schema"], ["unit", "shop"]])
def test_a_reader_that_has_seen_enough_is_no_error(site: Path, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as output:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "prefork_sd", *command],
            cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
