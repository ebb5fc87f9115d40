"""The commands that talk to services which run: reload, scale, status, and deploy."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from prefork_sd.config import MOST_WORKERS
from prefork_sd.errors import ConfigError, ExitCode, PreforkError

RELOAD_TIMEOUT = 3600.0  # seconds; systemd's own limit, TimeoutStartSec=, is usually reached first
ANSWER_TIMEOUT = 10.0
RUNNING = "/run/prefork-sd"  # the folders of the services that run
WATCH_EVERY = 2.0  # seconds
HOME_AND_CLEAR = "\x1b[H\x1b[J"
YAML = (".yaml", ".yml")
DETAIL_LINES = 12  # of a traceback, in the message of a failed reload


def control_of(service: str) -> str:
    """Where a service listens to us; its file may be broken by now."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]  # inside its own unit
    if not service and not runtime:
        raise PreforkError("which service? Say its name")
    name = Path(service).stem if service.endswith(YAML) else service
    if service and Path(runtime).parent == Path(RUNNING) and Path(runtime).name != name:
        runtime = ""  # asked from inside another service
    if service:
        from prefork_sd.loader import Application
        from prefork_sd.sources import find

        try:
            if told := Application(*find(service)).cfg.control:
                return told
        except ConfigError:
            if not (runtime or _may_run(name)):
                raise
    return f"{runtime or f'{RUNNING}/{name}'}/control"


def _may_run(name: str) -> bool:
    """Whether a service has a file, however broken, or still runs without one."""
    from prefork_sd.sources import services

    return name in services() or Path(RUNNING, name).is_dir()


def _ask(
    service: str, method: str, parameters: Mapping[str, object] | None = None, *, timeout: float
) -> dict[str, object]:
    """Call a method of a service; where it does not run, say what systemd knows of it."""
    from prefork_sd.asking import NotRunningError, call

    try:
        return call(control_of(service), method, parameters, timeout=timeout)
    except NotRunningError as error:
        if hint := _state_of(Path(service).stem if service.endswith(YAML) else service):
            raise NotRunningError(f"{error}; {hint}") from error
        raise


def _state_of(name: str) -> str:
    """Why systemd does not run a service that it should; or empty."""
    from subprocess import TimeoutExpired

    from prefork_sd import systemctl

    if not (name and systemctl.booted()):
        return ""
    words = ["systemctl", "show", "-p", "ActiveState,SubState", f"{name}.service"]
    try:
        found = systemctl.properties(systemctl.run(words, ANSWER_TIMEOUT).stdout)
    except (OSError, TimeoutExpired):
        return ""
    if "auto-restart" in found.get("SubState", ""):
        return f"it has failed, and systemd starts it again; see journalctl -u {name}"
    if found.get("ActiveState") == "failed":
        return f"it has failed; see journalctl -u {name}"
    return "it is about to start" if found.get("ActiveState") == "activating" else ""


def reload(arguments: argparse.Namespace) -> int:
    """Exit 0 when every new connection is served by the new generation, 1 with the reason."""
    from prefork_sd.asking import ControlError
    from prefork_sd.journal import leads_to_journal

    recorded = leads_to_journal(os.environ, 2)  # by the service itself, in a record of its own
    try:
        answer = _ask(arguments.service, "io.prefork.sd.Reload", timeout=arguments.timeout)
    except ControlError as error:
        details = str(error.parameters.get("details", "")).splitlines()[-DETAIL_LINES:]
        if recorded:
            details = []
        print("\n".join([f"reload failed: {error}", *details]), file=sys.stderr)
        return ExitCode.FAILURE
    if not recorded:
        print(answer.get("message", "reloaded"))
    return ExitCode.CLEAN


def deploy(arguments: argparse.Namespace) -> int:
    """What a package does when it brings a new version of an app."""
    from prefork_sd import deployment

    def reload_it(name: str) -> int:
        return reload(argparse.Namespace(service=name, timeout=RELOAD_TIMEOUT))

    return deployment.deploy(arguments.services, reload_it)


def scale(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.workers <= MOST_WORKERS:
        raise PreforkError(f"the number of workers must be 1 to {MOST_WORKERS}")
    parameters = {"workers": arguments.workers}
    answer = _ask(arguments.service, "io.prefork.sd.Scale", parameters, timeout=ANSWER_TIMEOUT)
    print(f"{answer['workers']} workers from now on")
    return ExitCode.CLEAN


def status(arguments: argparse.Namespace) -> int:
    """One service with its workers, or all of the machine; again and again if asked."""
    if not (arguments.watch and sys.stdout.isatty()):
        print(_status_of(arguments.service, as_json=arguments.json))
        return ExitCode.CLEAN
    with suppress(KeyboardInterrupt):
        while True:
            text = _status_of(arguments.service, as_json=arguments.json)
            print(f"{HOME_AND_CLEAR}{text}", flush=True)
            time.sleep(WATCH_EVERY)
    return ExitCode.CLEAN


def _status_of(service: str, *, as_json: bool) -> str:
    from prefork_sd import report
    from prefork_sd.asking import call

    method = "io.prefork.sd.Status"
    if service or "RUNTIME_DIRECTORY" in os.environ:
        answer = _ask(service, method, timeout=ANSWER_TIMEOUT)
        return json.dumps(answer, indent=2) if as_json else report.table(answer)
    known: dict[str, dict[str, object] | str] = {}
    for path in sorted(Path(RUNNING).glob("*/control")):
        try:
            known[path.parent.name] = call(path, method, timeout=ANSWER_TIMEOUT)
        except PreforkError as error:
            known[path.parent.name] = str(error)
    if not (known or as_json):
        return (
            "no service runs" if os.geteuid() == 0 else "no service that you may ask runs; root may"
        )
    return json.dumps(known, indent=2) if as_json else report.services(known)
