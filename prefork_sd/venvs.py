"""Virtual environments on disk: the interpreter of one, and where its packages are."""

import os
import sys
from pathlib import Path

from prefork_sd.errors import ConfigError, Problem
from prefork_sd.units import HOMES

ABSENT = "does not exist"
NO_VENV = "is not a virtual environment, it has no bin/python"
DENIED = "cannot be reached (Permission denied)"
CLOSED = '"prefork-sd check" says what opens it'
OTHER = "name the folder of one"
PARTS = {"bin", "include", "lib", "lib64", "share"}  # what an environment that is broken may have
OURS = f"python{sys.version_info.major}.{sys.version_info.minor}"


def interpreter(venv: str) -> Path:
    """The interpreter of an environment, by its path in there: it tells Python where it belongs.

    Symbolic links that lead to the environment are resolved. Raises ConfigError.
    """
    root = Path(os.path.realpath(venv))
    python = root / "bin" / "python"
    target = Path(os.path.realpath(python))
    if reason := _unreachable(root) or _unreachable(python, NO_VENV, follow=False):
        leads = f" leads to {root}, which" if str(root) != os.path.normpath(venv) else ""
        remedy = CLOSED if reason == DENIED else OTHER if _is_other(root) else _way(venv)
        raise wrong(f"{venv}{leads} {reason}; {remedy}")
    if reason := _unreachable(target):
        hidden = any(target.is_relative_to(home) for home in HOMES)
        hint = " or is hidden by ProtectHome=yes" if hidden else ""
        raise wrong(
            f"the interpreter of {venv} is gone: bin/python leads to {target}, which "
            f"{reason}{hint}; {_way(venv)}"
        )
    if not (target.is_file() and os.access(target, os.X_OK)):
        raise wrong(f"the interpreter of {venv}, {target}, is not an executable; {_way(venv)}")
    return python


def _unreachable(path: Path, absent: str = ABSENT, *, follow: bool = True) -> str:
    """Why there is nothing at a path, as the end of a sentence; or empty."""
    try:
        path.stat(follow_symlinks=follow)
    except FileNotFoundError:
        return absent
    except PermissionError:
        return DENIED
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    return ""


def _is_other(root: Path) -> bool:
    """Whether a folder has been made for something else: no environment is to be put there."""
    try:
        names = {path.name for path in root.iterdir()}
    except OSError:
        return False
    return "pyvenv.cfg" not in names and not names <= PARTS


def wrong(text: str) -> ConfigError:
    """What is wrong with the environment."""
    return ConfigError(Problem(text, "venv"))


def _way(venv: str) -> str:
    return f"make it by: {recipe(venv)}"


def recipe(venv: str | os.PathLike[str]) -> str:
    """The command that makes an environment. `--clear` empties the folder: only for one."""
    clear = " --clear" if os.access(Path(venv, "pyvenv.cfg"), os.F_OK) else ""
    return f"python3 -m venv{clear} {venv}"


def packages(venv: str) -> Path | None:
    """The site-packages of an environment: those for our version of Python, or for any."""
    try:
        found = list(Path(os.path.realpath(venv)).glob("lib/python3*/site-packages"))
    except PermissionError:  # whoever starts the interpreter says so
        return None
    return max(found, key=lambda folder: folder.parent.name == OURS, default=None)


def activated(python: Path, environ: dict[str, str]) -> dict[str, str]:
    """The environment variables as `bin/activate` leaves them."""
    path = f"{python.parent}:{environ.get('PATH', os.defpath)}"
    return {**environ, "VIRTUAL_ENV": str(python.parents[1]), "PATH": path}
