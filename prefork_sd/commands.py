"""The commands that need no running service: begin one, serve one, check one, print what is made.

Each takes what was said and returns an exit status. They import what they need when they run: the
command line is quick to say a word of help.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prefork_sd.config import schema
from prefork_sd.errors import AppImportError, ExitCode, PreforkError
from prefork_sd.units import TLS_FILES
from prefork_sd.values import CREDENTIAL

if TYPE_CHECKING:
    from prefork_sd.config import Config
    from prefork_sd.loader import Application
    from prefork_sd.scaffold import Wish

WITHOUT_TLS = {**dict.fromkeys(TLS_FILES, ""), "tls_bind": (), "tls_client_auth": "required"}

# ---- beginning


def init(arguments: argparse.Namespace) -> int:
    from prefork_sd import scaffold

    scaffold.init(arguments.folder, _wish(arguments))
    return ExitCode.CLEAN


def import_(arguments: argparse.Namespace) -> int:
    from prefork_sd import scaffold

    told = (arguments.app, arguments.directory)
    scaffold.import_gunicorn(arguments.file, *told, _wish(arguments))
    return ExitCode.CLEAN


def _wish(arguments: argparse.Namespace) -> "Wish":
    from prefork_sd.scaffold import Wish

    return Wish(arguments.name, arguments.stdout, arguments.force)


# ---- serving


def run(arguments: argparse.Namespace) -> int:
    from prefork_sd.sources import find

    return _serve(lambda: (*find(arguments.service), {}), Path(arguments.service).stem)


def serve(arguments: argparse.Namespace) -> int:
    overrides: dict[str, object] = {"app": arguments.app}
    for name, value in vars(arguments).items():
        if name.startswith("set_") and value is not None:
            overrides[name.removeprefix("set_")] = value
    if env := overrides.get("env"):
        assert isinstance(env, list)
        if wrong := [pair for pair in env if "=" not in pair]:
            raise PreforkError(f"--env must be NAME=VALUE, not {wrong[0]}")
        overrides["env"] = dict(pair.partition("=")[::2] for pair in env)
    name = arguments.app.partition(":")[0].partition(".")[0]
    return _serve(lambda: (name, None, overrides), name)


def _serve(source: Callable[[], tuple[str, Path | None, dict[str, object]]], service: str) -> int:
    """Run the arbiter; what keeps it from starting goes to the journal and to `Status:`."""
    from prefork_sd import journal
    from prefork_sd.arbiter import Arbiter
    from prefork_sd.herald import Herald
    from prefork_sd.loader import Application
    from prefork_sd.reexec import PREFLIGHT

    os.umask(os.umask(0o022) | 0o022)
    log = journal.setup(os.environ, level="info", service=service)
    if os.environ.pop(PREFLIGHT, ""):
        print(examine(Application(*source())))
        return ExitCode.CLEAN
    try:
        name, path, overrides = source()
        arbiter = Arbiter(Application(name, path, overrides), log)
    except PreforkError as error:
        log.critical("%s", error, extra=journal.fields(journal.Event.STOP))
        Herald(os.environ, os.getpid()).failed(str(error))
        return error.exit_code
    return arbiter.run()


# ---- checking


def check(arguments: argparse.Namespace) -> int:
    """Everything that a start would trip over, found without starting.

    What `examine` raises has its own status; a finding that stops the service makes it 1, or 78
    where something is missing that `examine` would miss, too.
    """
    from prefork_sd.checks import findings
    from prefork_sd.loader import Application
    from prefork_sd.sources import find

    sys.dont_write_bytecode = True  # nothing of ours stays in the app's folder
    name, path = find(arguments.service)
    app = Application(name, path)
    found, missing = {"error": 0, "warning": 0}, False
    for finding in findings(name, path, app.cfg):  # before the import, which may fail for them
        print(finding, file=sys.stderr)
        found[finding.word] += 1
        missing |= finding.missing
    counted = [f"{count} {word}{'s' * (count > 1)}" for word, count in found.items() if count]
    above = f"{' and '.join(counted)} above." if counted else ""
    if missing:
        print(f"{path}: the service cannot run: {above}")
        return ExitCode.CONFIG
    if unknown := list(credentials(app.cfg)):
        for key, value in unknown:
            print(f"{path}: {key}: {value} is known to the running service only", file=sys.stderr)
        app = Application(name, path, WITHOUT_TLS)
    served = examine(app)
    if found["error"]:
        print(f"{path}: the service cannot run: {above} The app itself is fine: {served}")
        return ExitCode.FAILURE
    print(" ".join(filter(None, (f"{path}: fine.", served, above))))
    return ExitCode.CLEAN


def credentials(cfg: "Config") -> Iterator[tuple[str, str]]:
    """Yield (setting, value) of those that systemd gives to the service, and not to us."""
    for key in TLS_FILES:
        value = getattr(cfg, key)
        if value.startswith(CREDENTIAL) and "CREDENTIALS_DIRECTORY" not in os.environ:
            yield key, value


def examine(app: "Application") -> str:
    """Do what a start does up to the fork; return a sentence, or raise PreforkError."""
    import logging

    from prefork_sd import trial
    from prefork_sd.release import Release

    log = logging.getLogger("prefork_sd")
    try:
        release = Release.of(app, log)
        mold = trial.tried(release, log)
    except AppImportError as error:
        if error.details:
            print(error.details, file=sys.stderr)
        raise
    python = f", Python {mold.python} of {app.cfg.venv}" if app.cfg.venv else ""
    return f"{app.cfg.app} can be served by {release.workers} workers ({mold.kind}{python})."


def unit(arguments: argparse.Namespace) -> int:
    from prefork_sd import units
    from prefork_sd.loader import Application
    from prefork_sd.sources import executable, find, templates

    name, path = find(arguments.service)
    cfg = Application(name, path).cfg
    texts = units.render(
        name, cfg, source=str(path), executable=executable(), templates=templates()
    )
    for file, text in texts.items():
        print(f"# {file}\n{text}")
    for note in units.notes(cfg):
        print(f"prefork-sd: {path}: {note}", file=sys.stderr)
    return ExitCode.CLEAN


def print_schema(_arguments: argparse.Namespace) -> int:
    print(json.dumps(schema(), indent=2))
    return ExitCode.CLEAN
