"""The package as an archive in memory, run by an interpreter that has not installed it."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from prefork_sd import parcel


@pytest.fixture
def package() -> Iterator[int]:
    fd = parcel.pack()
    yield fd
    os.close(fd)


def run(code: str, package: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code with nothing on its path but the archive."""
    place = f"{parcel.PLACE}{package}"
    path = f"import sys\nsys.path[:0] = [{place!r}]\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", path + code, *arguments],
        pass_fds=[package],
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_every_module_can_be_imported_from_it(package: int) -> None:
    names = [
        ".".join(path.relative_to(parcel.HOUSE.parent).with_suffix("").parts)
        for path in parcel.HOUSE.rglob("*.py")
    ]
    code = """
from importlib.util import find_spec
names = sys.argv[1:]
places = {find_spec(name).origin.startswith(sys.path[0]) for name in names}
print(len(names), places)
"""
    done = run(code, package, *names)
    assert done.stdout == f"{len(names)} {{True}}\n", done.stderr


def test_an_import_from_it_leaves_no_bytecode(package: int) -> None:
    before = sorted(parcel.HOUSE.rglob("*.pyc"))
    done = run("import prefork_sd.mold\nprint(prefork_sd.mold.__file__)", package)
    assert done.stdout.startswith(f"{parcel.PLACE}{package}/prefork_sd/mold.py"), done.stderr
    assert sorted(parcel.HOUSE.rglob("*.pyc")) == before


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (
            (str(parcel.OLDEST), "(98, 76)"),
            "which is too old: it must be CPython 98.76 or newer",
        ),
        (
            ('!= "cpython"', '== "cpython"'),
            "is of cpython 3.",
        ),
        (
            ("from prefork_sd import", "from no_such_package import"),
            "that cannot run prefork-sd: ModuleNotFoundError: No module named 'no_such_package'\n"
            "Traceback",
        ),
    ],
)
def test_an_interpreter_that_will_not_do_says_why(spoilt: tuple[str, str], says: str) -> None:
    words = os.memfd_create("words")
    os.write(words, b"venv: /srv/venv/bin/python does not start: ")
    code = parcel.MAIN.replace(*spoilt)
    assert code != parcel.MAIN
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, "0", str(words), "/srv/venv"],
        pass_fds=[words],
        timeout=30,
    )
    said = os.pread(words, 65536, 0).decode()
    os.close(words)
    assert done.returncode == 78
    assert said.startswith("venv: /srv/venv is of ")
    assert says in said


def test_an_old_python_can_read_it() -> None:
    assert ast.parse(parcel.MAIN, feature_version=(3, 7))
    assert 'f"' not in parcel.MAIN
