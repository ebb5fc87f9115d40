"""`init` and `import`: where the file goes, what is said, what is refused."""

from pathlib import Path

import pytest

from prefork_sd import scaffold
from prefork_sd.cli import main
from prefork_sd.errors import ExitCode
from prefork_sd.loader import Application
from prefork_sd.sources import read

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that services are written to; a second one is a package's."""
    monkeypatch.setenv("PREFORK_SD_CONFIG_PATH", f"{tmp_path}/etc:{tmp_path}/usr")
    monkeypatch.setattr(scaffold, "UNITS", (str(tmp_path / "units"),))
    (tmp_path / "usr").mkdir()
    return tmp_path / "etc"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    home = tmp_path / "shop"
    home.mkdir()
    (home / "app.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    return home


def test_init_writes_the_file_and_says_what_next(etc: Path, shop: Path, capsys: Captured) -> None:
    assert main(["init", str(shop)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("app: app:app", "Flask", "systemctl daemon-reload", "systemctl start shop"):
        assert text in err
    assert (etc / "shop.yaml").stat().st_mode & 0o777 == 0o644
    cfg = Application("shop", etc / "shop.yaml").cfg
    assert (cfg.app, cfg.directory) == ("app:app", str(shop))
    assert [path.name for path in etc.iterdir()] == ["shop.yaml"]


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("/run/x.sock", "curl --unix-socket /run/x.sock http://localhost/"),
        ("0.0.0.0:81", "curl http://127.0.0.1:81/"),
        ("[::1]:81", "curl http://[::1]:81/"),
    ],
)
def test_how_to_ask_for_the_first_page(
    etc: Path, shop: Path, capsys: Captured, bind: str, words: str
) -> None:
    unix = "unix:" * bind.startswith("/")
    (shop / "gunicorn.conf.py").write_text(f"bind = '{unix}{bind}'\n")
    assert main(["import", str(shop / "gunicorn.conf.py")]) == 0
    assert f"  {words}\n" in capsys.readouterr().err


def test_init_in_this_folder(
    etc: Path, shop: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop)
    assert main(["init", "--stdout", "--name", "other"]) == 0
    assert f"directory: {shop}\n" in capsys.readouterr().out
    assert not etc.exists()


def test_it_refuses_to_write_over_a_file(etc: Path, shop: Path, capsys: Captured) -> None:
    etc.mkdir()
    (etc / "shop.yaml").write_text("mine")
    assert main(["init", str(shop)]) == ExitCode.FAILURE
    assert "exists; --force" in capsys.readouterr().err
    assert (etc / "shop.yaml").read_text() == "mine"
    assert main(["init", str(shop), "--force"]) == 0
    assert "app" in read(etc / "shop.yaml")[0]


def test_it_refuses_to_hide_a_package_s_service(etc: Path, shop: Path, capsys: Captured) -> None:
    (etc.parent / "usr" / "shop.yaml").write_text("app: a:b\n")
    assert main(["init", str(shop)]) == ExitCode.FAILURE
    assert "would win over it" in capsys.readouterr().err
    assert main(["init", str(shop), "--name", "shop2"]) == 0


def test_who_may_not_write_gets_it_printed(
    etc: Path, shop: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(scaffold, "_write", refuse)
    assert main(["init", "--name", "other", str(shop)]) == 0
    out, err = capsys.readouterr()
    assert "app: app:app\n" in out
    assert f"As root, say: prefork-sd init --name other {shop}" in err


def test_a_unit_of_that_name_is_told(etc: Path, shop: Path, capsys: Captured) -> None:
    units = etc.parent / "units"
    units.mkdir()
    (units / "shop.service").touch()
    assert main(["init", str(shop)]) == 0
    assert f"{units}/shop.service wins" in capsys.readouterr().err


def test_what_the_unit_would_hide_is_told(etc: Path, shop: Path, capsys: Captured) -> None:
    assert main(["init", str(shop)]) == 0
    assert f"note: directory: {shop} is hidden by PrivateTmp=yes" in capsys.readouterr().err


def test_a_folder_without_an_app(etc: Path, shop: Path, capsys: Captured) -> None:
    (shop / "app.py").unlink()
    assert main(["init", str(shop)]) == ExitCode.FAILURE
    err = capsys.readouterr().err
    assert "no app is found" in err
    assert "app(environ, start_response)" in err


@pytest.mark.parametrize("name", ["a/b", "-x", "ä"])
def test_a_name_that_cannot_be(etc: Path, shop: Path, capsys: Captured, name: str) -> None:
    assert main(["init", str(shop), f"--name={name}"]) == ExitCode.FAILURE
    assert "cannot be a name" in capsys.readouterr().err


GUNICORN = """
import multiprocessing
bind = "127.0.0.1:8000"
workers = multiprocessing.cpu_count() * 2 + 1
timeout = 90
statsd_host = "localhost:8125"
raw_env = ["SECRET_KEY=x7x7"]
def post_fork(server, worker): pass
"""


def test_import_takes_what_there_is(etc: Path, shop: Path, capsys: Captured) -> None:
    (shop / "gunicorn.conf.py").write_text(GUNICORN)
    assert main(["import", str(shop / "gunicorn.conf.py")]) == 0
    err = capsys.readouterr().err
    assert "statsd_host" in err
    assert "x7x7" not in err
    assert read(etc / "shop.yaml")[0] == {
        "app": "app:app",
        "directory": str(shop),
        "env": {"SECRET_KEY": "x7x7"},
        "hooks": f"{shop}/gunicorn.conf.py",
        "bind": "127.0.0.1:8000",
        "timeout": 90,
    }
    assert "# statsd_host: " in (etc / "shop.yaml").read_text()


def test_import_of_a_file_that_lies_elsewhere(etc: Path, shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.py"
    file.write_text("workers = 3\n")
    arguments = ["import", str(file), "--directory", str(shop), "--app", "web.wsgi"]
    assert main([*arguments, "--name", "web"]) == 0
    values = read(etc / "web.yaml")[0]
    assert values == {"app": "web.wsgi:application", "directory": str(shop), "workers": 3}


def test_import_tells_of_the_app_that_it_found(etc: Path, shop: Path, capsys: Captured) -> None:
    (shop / "app.py").write_text("import fastapi\napp = fastapi.FastAPI()\n")
    (shop / "venv").mkdir()
    (shop / "venv" / "pyvenv.cfg").touch()
    file = shop / "gunicorn.conf.py"
    file.write_text("worker_class = 'uvicorn.workers.UvicornWorker'\n")
    assert main(["import", str(file), "--stdout"]) == 0
    assert "An ASGI app needs uvicorn" in capsys.readouterr().err
    assert main(["import", str(file), "--stdout", "--app", "other:app"]) == 0
    out, err = capsys.readouterr()
    assert "venv: venv\n" in out
    assert "note: " not in err


def test_import_without_an_app(etc: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "gunicorn.conf.py"
    file.write_text("workers = 3\n")
    assert main(["import", str(file)]) == ExitCode.FAILURE
    assert "--app module:callable" in capsys.readouterr().err


def test_import_without_a_key_leaves_tls_out(etc: Path, shop: Path, capsys: Captured) -> None:
    (shop / "gunicorn.conf.py").write_text("bind = '127.0.0.1:8000'\ncertfile = 'c.pem'\n")
    assert main(["import", str(shop / "gunicorn.conf.py")]) == 0
    assert "look at certfile: it needs a keyfile" in capsys.readouterr().err
    assert not [key for key in read(etc / "shop.yaml")[0] if key.startswith("tls")]


@pytest.mark.parametrize(("code", "text"), [("1/0", "ZeroDivisionError"), (None, "no file")])
def test_import_of_what_fails(
    etc: Path, tmp_path: Path, capsys: Captured, code: str | None, text: str
) -> None:
    file = tmp_path / "gunicorn.conf.py"
    if code:
        file.write_text(code)
    assert main(["import", str(file)]) == ExitCode.FAILURE
    assert text in capsys.readouterr().err
