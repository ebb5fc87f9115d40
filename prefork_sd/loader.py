"""From disk to a running configuration: the app and its Config, read afresh whenever asked."""

import dataclasses
import errno
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from prefork_sd import frameworks, venvs
from prefork_sd import hooks as server_hooks
from prefork_sd.building import build, merge
from prefork_sd.config import Config
from prefork_sd.envfile import parse
from prefork_sd.errors import AppImportError, ConfigError, Problem
from prefork_sd.hooks import Hooks
from prefork_sd.imports import apart, app_callable, import_object, said, search_first
from prefork_sd.settings import BadValueError
from prefork_sd.values import CREDENTIAL

PATHS = ("directory", "env_file", "hooks", "pidfile", "control")  # relative to where they stand


class Application:
    """A service: its name, its YAML file if it has one, and the configuration of both.

    `overrides` are settings of the command line; they win over the file's, and their relative
    paths start at the current directory, those of the file at the file's folder. Without a
    `directory` it is that folder too, unless the file is in one of the system's folders, which
    hold no code. `cfg`, if it is known already, is taken as it is. Raises ConfigError. Neither the
    app nor a hook is imported by making one.
    """

    def __init__(
        self,
        name: str,
        source: Path | None = None,
        overrides: Mapping[str, object] | None = None,
        *,
        need_app: bool = True,
        started_in: Path | None = None,
        cfg: Config | None = None,
    ) -> None:
        self.name = name
        self.source = source.absolute() if source else None
        self.overrides = dict(overrides or {})
        self.need_app = need_app
        self.started_in = started_in or start_directory()
        self.cfg = cfg or self._load()

    def _load(self) -> Config:
        from prefork_sd.sources import folders, read  # YAML: a virtual environment may not have it

        values: Mapping[str, object] = {}
        lines: Mapping[str, int] = {}
        file = ""
        if self.source is not None:
            file = str(self.source)
            values, lines = read(self.source)
            values = _anchored(values, self.source.parent)
        overrides = _anchored(self.overrides, self.started_in)
        try:
            values = merge(values, overrides)
            cfg = build(values, file=file, lines=lines, need_app=self.need_app)
        except ConfigError as error:
            raise ConfigError(
                *(_placed(problem, overrides) for problem in error.problems)
            ) from None
        home = Path(cfg.directory or (self.source.parent if self.source else self.started_in))
        no_code = home in folders()
        return dataclasses.replace(
            cfg,
            directory="" if no_code else str(home),
            venv=str(home / cfg.venv) if cfg.venv else "",
            pythonpath=tuple(str(home / folder) for folder in cfg.pythonpath),
        )

    def fresh(self) -> "Application":
        """The same service, everything read anew. Raises ConfigError."""
        return Application(
            self.name,
            self.source,
            self.overrides,
            need_app=self.need_app,
            started_in=self.started_in,
        )

    def prepare(self) -> None:
        """Make this process the app's: working directory, import path, environment.

        Symlinks in the directory are resolved now, once, so that a process stays with the release
        that it started with. Raises ConfigError.
        """
        cfg = self.cfg
        environment = environment_of(cfg)
        if cfg.directory:
            try:
                os.chdir(os.path.realpath(cfg.directory))
            except OSError as error:
                text = f"cannot work in {cfg.directory}: {error.strerror}"
                raise ConfigError(Problem(text, "directory", str(self.source or ""))) from None
            os.environ["PWD"] = str(Path.cwd())
        search_first(_folders(cfg))
        os.environ.update(environment)
        time.tzset()

    def wsgi(self) -> Callable[..., Any]:
        """Import the app, WSGI or ASGI, after `prepare()`. Raises AppImportError."""
        try:
            app = app_callable(self.cfg.app)
            frameworks.complete()
        except AppImportError as error:
            if not self.cfg.venv:
                raise
            place = f"venv: {self.cfg.venv}, Python {platform.python_version()}"
            raise AppImportError(f"{error} ({place})", error.details) from error
        return app


def _placed(problem: Problem, overrides: Mapping[str, object]) -> Problem:
    """A problem of the command line is none of the file's."""
    own = problem.key.partition(".")[0] in overrides
    return dataclasses.replace(problem, file="", line=0) if own else problem


def start_directory() -> Path:
    """Where the server was started, symlinks kept as $PWD has them while it is right."""
    here = Path.cwd()
    logical = Path(os.environ.get("PWD", ""))
    return logical if logical.is_absolute() and _same(logical, here) else here


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _anchored(values: Mapping[str, object], base: Path) -> dict[str, object]:
    def anchor(key: str, value: object) -> object:
        if key not in PATHS or not isinstance(value, str) or not value or value[0] in "/~":
            return value
        return os.path.normpath(base / value)

    return {key: anchor(key, value) for key, value in values.items()}


def _folders(cfg: Config) -> list[Path]:
    """Where to import the app from. "/" is no place for code, only where systemd starts us."""
    folders = [Path(folder).resolve() for folder in (cfg.directory, *cfg.pythonpath) if folder]
    return list(dict.fromkeys(folder for folder in folders if folder != Path("/")))


def environment_of(cfg: Config) -> dict[str, str]:
    """The variables of `env_file` and `env`; `env` wins, and may name credentials.

    Raises ConfigError without any value.
    """
    own = {
        name: credential(value.removeprefix(CREDENTIAL), f"env.{name}")
        if value.startswith(CREDENTIAL)
        else value
        for name, value in cfg.env.items()
    }
    if not cfg.env_file:
        return own
    try:
        text = Path(cfg.env_file).read_text(encoding="utf-8")
        return {**parse(text), **own}
    except BadValueError as error:
        problems = [
            Problem(text, "", cfg.env_file, int(place.removeprefix("line ")))
            for place, text in error.found
        ]
        raise ConfigError(*problems) from None
    except UnicodeDecodeError:
        raise ConfigError(Problem("is not UTF-8", "env_file", cfg.env_file)) from None
    except OSError as error:
        text = f"cannot read {cfg.env_file}: {error.strerror}"
        raise ConfigError(Problem(text, "env_file")) from None


def credential(name: str, key: str) -> str:
    """The text of a credential, as it is now (systemd.exec(5), LoadCredential=).

    A newline at its end is left out. Raises ConfigError for the setting `key`.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        text = f"there are no credentials; give the service one with unit: LoadCredential={name}:…"
        raise ConfigError(Problem(text, key))
    try:
        if "/" in name or name in ("", ".", ".."):
            raise FileNotFoundError(errno.ENOENT, "no such credential")
        return Path(folder, name).read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        text = (
            f"the service was given no credential {name} at its start; "
            f"give it one with unit: LoadCredential={name}:… and restart it"
        )
        raise ConfigError(Problem(text, key)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(Problem(f"credential {name}: {reason}", key)) from None


def auto_workers() -> int:
    """How many workers `workers: auto` means here: two for each CPU we may use, and one."""
    return 2 * len(os.sched_getaffinity(0)) + 1


def load_hooks(cfg: Config) -> Hooks:
    """Import the hooks afresh, leaving no module of the app behind. Raises ConfigError."""
    functions: dict[str, object] = {}
    problems: list[Problem] = []
    packages = venvs.packages(cfg.venv) if cfg.venv else None
    with apart(_folders(cfg), packages):
        if isinstance(cfg.hooks, str):
            functions = _from_file(cfg.hooks)
        else:
            for name, path in cfg.hooks.items():
                try:
                    functions[name] = import_object(path)
                except AppImportError as error:
                    problems.append(Problem(str(error), f"hooks.{name}"))
    for name, function in functions.items():
        if wrong := server_hooks.check(name, function):
            problems.append(Problem(wrong, f"hooks.{name}"))
    if problems:
        raise ConfigError(*problems)
    return Hooks(**functions)  # type: ignore[arg-type]  # checked above, one by one


def _from_file(path: str) -> dict[str, object]:
    """What a Python file defines under the names of hooks; read from source, never from a cache."""
    module = ModuleType("prefork_sd_hooks")
    module.__file__ = path
    try:
        exec(compile(Path(path).read_bytes(), path, "exec"), vars(module))
    except OSError as error:
        raise ConfigError(Problem(f"cannot read {path}: {error.strerror}", "hooks")) from None
    except (Exception, SystemExit) as error:
        raise ConfigError(Problem(f"{path} failed: {said(error)}", "hooks")) from error
    return {name: value for name, value in vars(module).items() if name in server_hooks.ARITY}
