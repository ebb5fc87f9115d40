"""What pip users get: the source archive, the wheel built of it, and a virtual environment."""

import os
import socket
import subprocess
import sys
import tarfile
import threading
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork_sd import __version__
from tests.checkout import TOP, copy_checkout

TIMEOUT = 120.0
NOT_ARCHIVED = (".gitignore", ".ci/", "dist/", "build/")
APPS = {
    "WSGI": """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"WSGI"]
""",
    "ASGI": """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ASGI"})
""",
}


def run(*words: str | Path, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words,
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    assert not check or done.returncode == 0, done.stdout
    return done


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that a build may litter."""
    return copy_checkout(tmp_path_factory.mktemp("checkout") / "prefork-sd")


@pytest.fixture(scope="module")
def archives(checkout: Path) -> tuple[Path, Path]:
    """The source archive, and the wheel that was built of it and of nothing else."""
    run(sys.executable, "-m", "build", checkout)
    (source,) = (checkout / "dist").glob("*.tar.gz")
    (wheel,) = (checkout / "dist").glob("*.whl")
    return source, wheel


def fresh(folder: Path) -> Path:
    """A new virtual environment; its programs."""
    venv.create(folder, with_pip=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def programs(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and what it depends on."""
    programs = fresh(tmp_path_factory.mktemp("venv") / "venv")
    run(programs / "pip", "install", f"{archives[1]}[asgi]")
    return programs


def test_the_source_archive_has_all_that_the_checkout_has(
    archives: tuple[Path, Path], checkout: Path
) -> None:
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    wanted = {name for name in files if not name.startswith(NOT_ARCHIVED)}
    assert {"tests/process/test_pip.py", "docs/man/prefork-sd.8", "systemd/service.in"} <= wanted
    assert wanted - names == set()
    assert not any("__pycache__" in name for name in names)


def test_the_wheel_has_modules_templates_and_nothing_else(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(TOP)) for path in (TOP / "prefork_sd").rglob("*.py")}
    templates = {f"prefork_sd/templates/{path.name}" for path in (TOP / "systemd").iterdir()}
    assert names == modules | templates | {"prefork_sd/py.typed"}


def test_both_ways_to_call_it(programs: Path) -> None:
    told = f"prefork-sd {__version__}\n"
    assert run(programs / "prefork-sd", "--version").stdout == told
    assert run(programs / "python", "-m", "prefork_sd", "--version").stdout == told


def test_its_units_call_the_environment_s_program(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("app: app:app\n")
    (tmp_path / "late").mkdir()
    folders = str(tmp_path)
    printed = run(programs / "prefork-sd", "unit", "shop", PREFORK_SD_CONFIG_PATH=folders).stdout
    run(programs / "prefork-sd-generator", tmp_path / "late", PREFORK_SD_CONFIG_PATH=folders)
    generated = (tmp_path / "late" / "shop.service").read_text()
    for text in (printed, generated):
        assert f"ExecStart={programs}/prefork-sd run" in text
        assert f"ExecReload={programs}/prefork-sd reload" in text


@contextmanager
def serving(programs: Path, folder: Path) -> Iterator[Path]:
    """`prefork-sd serve app:app` in that folder, ready; its socket."""
    path = folder / "app.sock"
    process = subprocess.Popen(
        [programs / "prefork-sd", "serve", "app:app", "--bind", f"unix:{path}", "--workers", "1"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    bound = threading.Timer(TIMEOUT, process.kill)
    bound.start()
    try:
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if "ready: 1 worker" in line:
                break
        else:
            raise AssertionError("".join(said))
        yield path
        process.terminate()
        assert process.wait() == 0
    finally:
        bound.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", APPS)
def test_it_serves_a_page(programs: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "app.py").write_text(APPS[kind])
    with (
        serving(programs, tmp_path) as path,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.settimeout(TIMEOUT)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: pip\r\nConnection: close\r\n\r\n")
        with client.makefile("rb") as answer:
            page = answer.read()
    assert page.startswith(b"HTTP/1.1 200 ")
    assert kind.encode() in page


def test_pip_says_that_the_headers_of_libsystemd_are_missing(
    checkout: Path, tmp_path: Path
) -> None:
    """As the README has it; pip shows the words of systemd-python, whose build it is."""
    pip = fresh(tmp_path / "venv") / "pip"
    install = (pip, "install", "--no-cache-dir", checkout)
    done = run(*install, check=False, PKG_CONFIG_LIBDIR="/nonexistent", PKG_CONFIG_PATH="")
    assert done.returncode != 0
    assert "Cannot find libsystemd" in done.stdout
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    assert "Cannot find libsystemd" in readme
    assert "libsystemd-dev" in readme
