"""The command line: run a service, check one, and talk to one that runs."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prefork_sd import __version__
from prefork_sd.config import MOST_WORKERS, SETTINGS, schema
from prefork_sd.errors import AppImportError, ConfigError, ExitCode, PreforkError
from prefork_sd.units import TLS_FILES
from prefork_sd.values import CREDENTIAL

if TYPE_CHECKING:
    from prefork_sd.config import Config
    from prefork_sd.loader import Application
    from prefork_sd.scaffold import Wish

RELOAD_TIMEOUT = 3600.0  # seconds; systemd's own limit, TimeoutStartSec=, is usually reached first
ANSWER_TIMEOUT = 10.0
RUNNING = "/run/prefork-sd"  # the folders of the services that run
WATCH_EVERY = 2.0  # seconds
HOME_AND_CLEAR = "\x1b[H\x1b[J"
WITHOUT_TLS = {**dict.fromkeys(TLS_FILES, ""), "tls_bind": (), "tls_client_auth": "required"}
NOT_FOR_SERVE = {"app", "unit", "enabled", "hooks", "socket_user", "socket_group"}
OTHERS = {  # what systemd's own tools do
    **{verb: f"systemctl {verb}" for verb in ("start", "stop", "restart")},
    **dict.fromkeys(("log", "logs"), "journalctl -u"),
}
CHECKED = (
    "Check a service's configuration and import its app. Exits with 0 where there is nothing worse "
    "than warnings, 1 where an error is certain to keep the service from running, 4 where the app "
    "cannot be imported, and 78 where the configuration is wrong."
)
DETAIL_LINES = 12  # of a traceback, in the message of a failed reload


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and (tool := OTHERS.get(words[0])):
        print(f"prefork-sd: say: {' '.join([tool, *words[1:]])}", file=sys.stderr)
        return ExitCode.USAGE
    arguments = parser().parse_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except PreforkError as error:
        print(f"prefork-sd: {error}".replace("\n", "\nprefork-sd: "), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.CLEAN


def parser() -> argparse.ArgumentParser:
    """Everything that can be said on the command line."""
    top = argparse.ArgumentParser(
        prog="prefork-sd",
        description="A pre-fork application server that is a native citizen of systemd.",
        epilog="See prefork-sd(8), and prefork-sd.yaml(5) for the settings.",
    )
    top.add_argument("--version", action="version", version=f"prefork-sd {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Parser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=run)
        return one

    def about(one: Parser, *, optional: bool = False) -> None:
        text = "a service's name, or the path of its YAML file"
        nargs = "?" if optional else None
        one.add_argument("service", nargs=nargs, default="", metavar="SERVICE", help=text)

    def drafting(one: Parser) -> None:
        one.add_argument("--name", default="", help="the service's name; else the folder's")
        one.add_argument("--stdout", action="store_true", help="print the file, write nothing")
        one.add_argument("--force", action="store_true", help="write over a file that exists")

    one = add("init", init, "Write the YAML file of a service for a project's folder.")
    one.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="where the app is")
    drafting(one)
    one = add("import", import_, "Write the YAML file of a service from a gunicorn.conf.py.")
    one.add_argument("file", metavar="FILE", help="gunicorn's configuration; it is run")
    one.add_argument("--app", default="", metavar="MODULE:CALLABLE", help=SETTINGS["app"].help)
    text = "where gunicorn is started; else the file's folder"
    one.add_argument("--directory", default="", metavar="FOLDER", help=text)
    drafting(one)
    one = add("run", run, "Run a service in the foreground, as its unit does.")
    about(one)
    one = add("serve", serve, "Serve an app without a file, in the foreground.")
    one.usage = "prefork-sd serve [OPTIONS] MODULE:CALLABLE"
    one.add_argument("app", metavar="MODULE:CALLABLE", help=SETTINGS["app"].help)
    _add_settings(one)
    one = add("check", check, "Check a service's configuration and import its app.")
    one.description = CHECKED
    about(one)
    one = add("reload", reload, "Have a service serve what is on disk now; wait for the verdict.")
    about(one, optional=True)
    one.add_argument("--timeout", type=float, default=RELOAD_TIMEOUT, help="seconds to wait")
    one = add("deploy", deploy, "Reload services that run, start those that are new.")
    one.add_argument("services", nargs="+", metavar="SERVICE", help="a service's name")
    one = add("scale", scale, "Keep another number of workers, until the service stops.")
    about(one)
    one.add_argument("workers", type=int)
    one = add("status", status, "Show a service's workers, or all services of this machine.")
    about(one, optional=True)
    one.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    one.add_argument("--watch", action="store_true", help="show it again every two seconds")
    one = add("unit", unit, "Print the systemd units that are generated for a service.")
    about(one)
    add("schema", print_schema, "Print the JSON Schema of a service's YAML file.")
    return top


Parser = argparse.ArgumentParser


def _add_settings(one: Parser) -> None:
    """An option for each setting, from its declaration."""
    for each in SETTINGS.values():
        if each.name in NOT_FOR_SERVE:
            continue
        shown = ", ".join(each.default) if isinstance(each.default, tuple) else each.default
        text = f"{each.help} [{shown}]".replace("%", "%%").replace(" []", "").replace(" [{}]", "")
        many = each.name in ("bind", "tls_bind", "status_bind", "pythonpath", "env")
        one.add_argument(
            f"--{each.name.replace('_', '-')}",
            dest=f"set_{each.name}",
            action="append" if many else "store",
            metavar=(each.unit or each.name).upper().replace(" ", "_"),
            help=text,
        )


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

    What `examine` raises has its own status; a finding that stops the service makes it 1.
    """
    from prefork_sd.checks import findings
    from prefork_sd.loader import Application
    from prefork_sd.sources import find

    sys.dont_write_bytecode = True  # nothing of ours stays in the app's folder
    name, path = find(arguments.service)
    app = Application(name, path)
    found = {"error": 0, "warning": 0}
    for finding in findings(name, path, app.cfg):  # before the import, which may fail for them
        print(finding, file=sys.stderr)
        found[finding.word] += 1
    if unknown := list(credentials(app.cfg)):
        for key, value in unknown:
            print(f"{path}: {key}: {value} is known to the running service only", file=sys.stderr)
        app = Application(name, path, WITHOUT_TLS)
    served = examine(app)
    counted = [f"{count} {word}{'s' * (count > 1)}" for word, count in found.items() if count]
    above = f"{' and '.join(counted)} above." if counted else ""
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

    from prefork_sd import abroad
    from prefork_sd.release import Release

    log = logging.getLogger("prefork_sd")
    release = Release.of(app, log)
    try:
        if app.cfg.venv:
            mold = abroad.tried(release, log)
            kind, python = mold.kind, f", Python {mold.python} of {app.cfg.venv}"
        else:
            app.prepare()
            suited = release.worker_class.suited(app.wsgi(), app.cfg)
            suited.equip(app.cfg)
            kind, python = suited.__name__, ""
    except AppImportError as error:
        if error.details:
            print(error.details, file=sys.stderr)
        raise
    return f"{app.cfg.app} can be served by {release.workers} workers ({kind}{python})."


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


# ---- talking to a running service


def control_of(service: str) -> str:
    """Where a service listens to us; its file may be broken by now."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]  # inside its own unit
    if not service and not runtime:
        raise PreforkError("which service? Say its name")
    name = Path(service).stem if service.endswith((".yaml", ".yml")) else service
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


def reload(arguments: argparse.Namespace) -> int:
    """Exit 0 when every new connection is served by the new generation, 1 with the reason."""
    from prefork_sd.asking import ControlError, call
    from prefork_sd.journal import leads_to_journal

    path = control_of(arguments.service)
    recorded = leads_to_journal(os.environ, 2)  # by the service itself, in a record of its own
    try:
        answer = call(path, "io.prefork.sd.Reload", timeout=arguments.timeout)
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
    from prefork_sd.asking import call

    if not 1 <= arguments.workers <= MOST_WORKERS:
        raise PreforkError(f"the number of workers must be 1 to {MOST_WORKERS}")
    path = control_of(arguments.service)
    parameters = {"workers": arguments.workers}
    answer = call(path, "io.prefork.sd.Scale", parameters, timeout=ANSWER_TIMEOUT)
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
        answer = call(control_of(service), method, timeout=ANSWER_TIMEOUT)
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
