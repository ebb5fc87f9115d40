"""The commands that write a service's first YAML file: `init` and `import`."""

import errno
import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prefork_sd.building import build
from prefork_sd.config import SETTINGS, Config
from prefork_sd.draft import Choice, draft, written
from prefork_sd.errors import ConfigError, PreforkError, Problem
from prefork_sd.gunicornconf import Imported, convert, settings_of
from prefork_sd.gunicornrun import run
from prefork_sd.loader import start_directory
from prefork_sd.project import Project, relative, survey
from prefork_sd.sources import NAME, folders, services
from prefork_sd.units import notes, sockets

UNITS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
         "/lib/systemd/system")  # fmt: skip
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
MODE = 0o644  # the service's user reads it


@dataclass(frozen=True, slots=True)
class Wish:
    """Where the result shall go: a name of one's own, the standard output, over what is there."""

    name: str = ""
    stdout: bool = False
    force: bool = False


def init(folder: str, wish: Wish) -> None:
    """Write the YAML file for a project's folder; say what was decided. Raises PreforkError."""
    home = Path(os.path.normpath(start_directory() / folder))
    project = survey(home)
    if "app" not in project.chosen:
        raise PreforkError(
            f"no app is found in {home}. A module with `app = Flask(...)`, `FastAPI(...)`, a "
            "function create_app() or app(environ, start_response), or Django's manage.py, would "
            "be seen. "
            'If it is something else, write the file yourself: "app: module:callable" and '
            f'"directory: {home}" are enough'
        )
    _explain(project)
    _deliver(wish, project, _said("init", str(home), name=wish.name), [])


def import_gunicorn(file: str, app: str, directory: str, wish: Wish) -> None:
    """Write the YAML file for a gunicorn.conf.py; say what has no counterpart.

    `app` is what gunicorn gets on its command line, and `directory` where it is started, if
    anything. Raises PreforkError.
    """
    path = Path(os.path.normpath(start_directory() / file))
    done = _converted(path, Path(os.path.normpath(path.parent / directory)))
    if app:
        done.choose("app", app if ":" in app else f"{app}:application", "command line")
    home = Path(str(done.chosen["directory"].value))
    project = survey(home)
    if "app" in done.chosen:
        project.notes = []  # they are about another one
    elif "app" in project.chosen:  # it may lie deeper
        done.chosen |= {key: project.chosen[key] for key in ("app", "directory")}
    if project.venv:
        root = Path(str(done.chosen["directory"].value))
        why = project.chosen["venv"].why
        done.chosen["venv"] = Choice(relative(project.venv, root), why)
    if "app" not in done.chosen:
        raise PreforkError(
            f"{path} does not name the app, and none is found in {home}: "
            f"prefork-sd import {file} --app module:callable"
        )
    project.chosen = done.chosen
    _explain(project)
    name = wish.name or project.name
    remarks = [str(remark).replace("NAME", name) for remark in done.remarks]
    for remark in remarks:
        tell(f"look at {remark}")
    if remarks:
        remarks.insert(0, f"Of {path.name}, to look at:")
    by = _said("import", str(path), app=app, directory=directory and str(home), name=wish.name)
    _deliver(wish, project, by, remarks)


def _converted(path: Path, home: Path) -> Imported:
    """Run the file, by the venv's Python if there is one, and convert what it sets."""
    if not path.is_file():
        raise PreforkError(f"there is no file {path}")
    venv = survey(home).venv
    own = venv / "bin" / "python" if venv else Path(sys.executable)
    python = own if os.access(own, os.X_OK) else Path(sys.executable)
    try:
        values, functions, failure = run(path, str(python), home)
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise PreforkError(f"{path} cannot be run by {python}: {error}") from None
    if failure:
        raise PreforkError(f"{path} failed:\n{failure}")
    settings = dict(settings_of(values))
    done = convert(settings, functions, file=str(path), directory=str(home))
    if "workers" in settings and "cpu_count" in path.read_text(encoding="utf-8", errors="replace"):
        del done.chosen["workers"]
        done.remark("workers", f"{settings['workers']} by the CPUs; `auto` counts them itself")
    return done


# ---- where it goes


def _said(command: str, subject: str, **options: str) -> str:
    """The command line that does the same again."""
    told = [word for name, value in options.items() if value for word in (f"--{name}", value)]
    return shlex.join(["prefork-sd", command, *told, subject])


def _deliver(wish: Wish, project: Project, by: str, remarks: Iterable[str]) -> None:
    """Write the file to the system's folder, or to the standard output where that cannot be."""
    name = wish.name or project.name
    if not NAME.fullmatch(name):
        raise PreforkError(f'"{name}" cannot be a name: use letters, digits, ".", "_" and "-"')
    text = draft(name, project.chosen, by=by, remarks=remarks)
    try:
        cfg = build({key: choice.value for key, choice in project.chosen.items()})
    except ConfigError as error:
        raise ConfigError(*error.problems, Problem("no file is written")) from None
    target = folders()[0] / f"{name}.yaml"
    if wish.stdout:
        print(text, end="")
        return
    if not wish.force:
        _refuse_to_replace(name, target)
    try:
        target.parent.mkdir(exist_ok=True)
        _write(target, text)
    except OSError as error:
        if error.errno in REFUSED:
            print(text, end="")
            tell(f"\nYou may not write {target}, so it is printed. As root, say: {by}")
            tell(f"To try it first: {by} --stdout > {name}.yaml; prefork-sd run ./{name}.yaml")
            return
        raise PreforkError(f"cannot write {target}: {error.strerror}") from None
    tell(f"\n{target} is written. Look it over, and then:")
    for step in (
        f"prefork-sd check {name}",
        "systemctl daemon-reload",
        f"systemctl start {name}",
        f"curl {_curl(name, cfg)}",
    ):
        tell(f"  {step}")
    _conflicts(name)
    for note in notes(cfg):
        tell(f"note: {note}")


def _curl(name: str, cfg: Config) -> str:
    """What makes curl(1) ask for the first page."""
    first = next(sockets(name, cfg))
    scheme, address = first.kind, first.addresses[0]
    if address.startswith("unix:"):
        return f"--unix-socket {address.removeprefix('unix:')} {scheme}://localhost/"
    host, _, port = address.rpartition(":")
    there = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{scheme}://{there}:{port}/"


def _refuse_to_replace(name: str, target: Path) -> None:
    known = services().get(name)
    if known == target:
        raise PreforkError(f"{target} exists; --force writes over it, --name NAME takes another")
    if known is not None:
        text = "would win over it; --force writes it, --name NAME takes another"
        raise PreforkError(f"there is {known}, and {target} {text}")


def _write(target: Path, text: str) -> None:
    """A new file renamed over the old one, so that nobody reads half of it."""
    new = target.with_name(f".{target.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(MODE)
    new.rename(target)


def _conflicts(name: str) -> None:
    """Say what else bears the name on this machine."""
    for folder in UNITS:
        unit = Path(folder, f"{name}.service")
        if unit.exists():
            tell(f"note: {unit} wins over the generated unit: remove it, or use --name")
            return


def _explain(project: Project) -> None:
    for key, choice in project.chosen.items():
        why = f"  ({choice.why})" if choice.why else ""
        value = choice.value
        if SETTINGS[key].kind.secret and isinstance(value, dict):
            value = sorted(value)
        shown = written(value)
        tell(f"{key}: {shown}{why}")
    for note in project.notes:
        tell(f"note: {note}")


def tell(text: str) -> None:
    print(text, file=sys.stderr)
