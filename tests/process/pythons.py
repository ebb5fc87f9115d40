"""The interpreters of this machine, and virtual environments of them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PLACES = ("/usr/bin", "/usr/local/bin", "/opt/*/bin", "~/.pyenv/versions/*/bin")
VERSION = 'import sys; print(sys.version_info[:3], sys.implementation.name == "cpython")'
LEAST = (3, 11)


@dataclass(frozen=True, slots=True)
class Python:
    """One interpreter."""

    path: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.version))

    def make(self, venv: Path, *packages: str) -> Path:
        """A virtual environment with packages of the one that runs the tests."""
        command = [self.path, "-m", "venv", "--without-pip", str(venv)]
        subprocess.run(command, check=True, timeout=60, env={"PATH": os.defpath})
        (site,) = venv.glob("lib/python3*/site-packages")
        for name in packages:
            spec = find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            found = Path(spec.origin)
            found = found.parent if found.name == "__init__.py" else found
            (site / found.name).symlink_to(found)
        return venv


@cache
def pythons() -> list[Python]:
    """One for each version X.Y of CPython that is here, ours last."""
    found = {}
    own = Python(sys.executable, tuple(sys.version_info[:3]))
    for place in PLACES:
        home, _, pattern = str(Path(place).expanduser()).partition("/*")
        folders = sorted(Path(home).glob(f"*{pattern}")) if pattern else [Path(home)]
        for program in [one for folder in folders for one in folder.glob("python3.[0-9]*")]:
            if program.suffix[1:].isdigit():
                done = subprocess.run(
                    [program, "-I", "-c", VERSION], capture_output=True, text=True, timeout=30
                )
                version, _, good = done.stdout.strip().rpartition(" ")
                if good == "True":
                    numbers = tuple(map(int, version.strip("()").split(",")))
                    found[numbers[:2]] = Python(str(program), numbers)
    found.pop(own.version[:2], None)
    return [*found.values(), own]


def supported() -> list[Python]:
    """Those that an app may have, ours last."""
    return [one for one in pythons() if one.version >= LEAST]


def too_old() -> list[Python]:
    return [one for one in pythons() if one.version < LEAST]
