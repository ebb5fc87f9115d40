"""A service brought up to date with what is on disk: reloaded where it runs, started where new."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path

from prefork_sd import systemctl
from prefork_sd.errors import ExitCode, PreforkError
from prefork_sd.sources import find, masked, services

POLICY = "/usr/sbin/policy-rc.d"
MOST = 3600.0  # seconds for systemctl(1) and policy-rc.d; a unit's own limits are reached first
FORBIDDEN = 101  # the exit status of policy-rc.d that says so
REFUSED = "Failed to "  # how systemctl(1) begins when nothing was even tried
NEEDS_ROOT = (
    "deploy needs root, because it has systemd read the YAML files anew and starts or reloads the "
    "services: say it with sudo"
)
SEEN = "InactiveEnterTimestampMonotonic"
PROPERTIES = ("LoadState", "ActiveState", "WantedBy", "TriggeredBy", "StatusText", SEEN)


class Step(Enum):
    """What to do with a service so that it serves what is on disk."""

    RELOAD = "reload"
    START = "start"
    RESTART = "restart"
    NOTHING = "nothing"


def step(service: Mapping[str, str], sockets: Iterable[Mapping[str, str]] = ()) -> tuple[Step, str]:
    """What to do, and the reason where that is nothing; from properties of systemctl(1) show.

    A service that somebody stopped stays so. One that was neither started nor stopped since the
    boot, although it belongs to the boot, is new.
    """
    state = service["ActiveState"]
    if service["LoadState"] == "masked":
        return Step.NOTHING, "it is masked"
    if state in ("active", "reloading", "refreshing"):
        return Step.RELOAD, ""
    if state == "activating":  # with the old code, or between two attempts; clients wait anyway
        return Step.RESTART, ""
    if not service["WantedBy"]:
        return Step.NOTHING, "it is not enabled"
    if any(socket["ActiveState"] == "active" for socket in sockets):
        return Step.NOTHING, "the next connection starts it"
    if any(each[SEEN] not in ("", "0") for each in (service, *sockets)):
        return Step.NOTHING, "it has been stopped"
    return Step.START, ""


def deploy(names: Iterable[str], reload: Callable[[str], int]) -> int:
    """Have systemd read the YAML files anew, then do for each service what `step` says.

    `reload` waits for the verdict, says it, and returns an exit status. What is done is said on
    stdout, what goes wrong on stderr; the exit status is the first that is not 0. In a script of
    dpkg a start that fails is only said: an app may have to be configured first, and systemd tries
    again. There policy-rc.d decides, too. Raises PreforkError where there is no such service.
    """
    sources = {name: _source(name) for name in names}
    if not systemctl.booted():
        print(f"systemd does not run here; at the next boot: {', '.join(sources)}")
        return ExitCode.CLEAN
    _systemctl("daemon-reload", check=True)
    statuses = [_deploy(name, reload) for name, source in sources.items() if not _hidden(source)]
    return next(filter(None, statuses), ExitCode.CLEAN)


def _source(name: str) -> Path:
    known = services().get(name)
    return known if known is not None else find(name)[1]


def _hidden(source: Path) -> bool:
    if masked(source):
        print(f"{source.stem}: nothing is done: {source} masks it")
        return True
    return False


def _deploy(name: str, reload: Callable[[str], int]) -> int:
    unit = f"{name}.service"
    service = _properties(unit)
    todo, why = step(service, [_properties(one) for one in service["TriggeredBy"].split()])
    if todo is not Step.NOTHING and _forbidden(unit, todo.value):
        todo, why = Step.NOTHING, f"{POLICY} forbids to {todo.value} it"
    if todo is Step.NOTHING:
        print(f"{name}: nothing is done: {why}")
        return ExitCode.CLEAN
    print(f"{name}: {todo.value}", flush=True)
    try:
        return _reload(name, reload) if todo is Step.RELOAD else _start(unit, todo)
    except PreforkError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code


def _reload(name: str, reload: Callable[[str], int]) -> int:
    try:
        return reload(name)
    except PreforkError:  # a re-exec cuts whom it has just let in; the next one waits for its end
        return reload(name)


def _start(unit: str, how: Step) -> int:
    done = _systemctl(how.value, unit)
    if not done.returncode:
        return ExitCode.CLEAN
    if done.stderr.startswith(REFUSED):
        reason = str(_failure(done))
    else:
        reason = _properties(unit)["StatusText"] or f'see "journalctl -xeu {unit}"'
    print(f"the start of {unit} failed: {reason}", file=sys.stderr)
    return ExitCode.CLEAN if _in_package_script() else ExitCode.FAILURE


def _in_package_script() -> bool:
    return "DPKG_MAINTSCRIPT_NAME" in os.environ


def _forbidden(unit: str, action: str) -> bool:
    """Whether the administrator's policy for packages says no; see invoke-rc.d(8)."""
    if not _in_package_script() or not os.access(POLICY, os.X_OK):
        return False
    return _run(POLICY, unit, action).returncode == FORBIDDEN


def _properties(unit: str) -> dict[str, str]:
    done = _systemctl("show", f"--property={','.join(PROPERTIES)}", unit, check=True)
    return dict.fromkeys(PROPERTIES, "") | systemctl.properties(done.stdout)


def _systemctl(*words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    done = _run("systemctl", *words)
    if check and done.returncode:
        raise _failure(done)
    return done


def _failure(done: subprocess.CompletedProcess[str]) -> PreforkError:
    """What systemctl(1) did not do, and for whom it would."""
    said = f"{' '.join(done.args)}: {done.stderr.strip()}"
    return PreforkError(said if os.geteuid() == 0 else f"{NEEDS_ROOT} ({said})")


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return systemctl.run(words, MOST)
    except subprocess.TimeoutExpired:
        raise PreforkError(f"{' '.join(words)} did not end within {MOST:.0f} seconds") from None
