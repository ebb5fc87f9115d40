"""Project folders as people have them, and what is decided about each."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork_sd.errors import PreforkError
from prefork_sd.project import Project, name_of, survey

FLASK = "from flask import Flask\napp = Flask(__name__)\n"
Lay = Callable[[dict[str, str]], Path]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Put files into a project's folder."""

    def lay(files: dict[str, str]) -> Path:
        home = tmp_path / "shop"
        for name, text in files.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return home

    return lay


def decided(project: Project, home: Path) -> tuple[object, str]:
    """(app, directory below the project's)."""
    directory = Path(str(project.chosen["directory"].value))
    return project.chosen["app"].value, str(directory.relative_to(home))


@pytest.mark.parametrize(
    ("files", "app", "directory"),
    [
        ({"app.py": FLASK}, "app:app", "."),
        ({"app.py": FLASK, "tests/app.py": FLASK, "docs/wsgi.py": FLASK}, "app:app", "."),
        ({"shop/__init__.py": FLASK}, "shop:app", "."),
        ({"src/shop/__init__.py": "", "src/shop/web.py": FLASK}, "shop.web:app", "src"),
        ({"app/main.py": f"from app.x import y\n{FLASK}", "app/x.py": ""}, "app.main:app", "."),
        ({"backend/main.py": f"import models\n{FLASK}", "backend/models.py": ""}, "main:app",
         "backend"),
        ({"wsgi.py": "from shop import create_app\napplication = create_app()",
          "shop/__init__.py": "import flask\ndef create_app():\n return flask.Flask('x')"},
         "wsgi:application", "."),
        ({"run.py": "from shop import create_app\napp = create_app()",
          "shop/__init__.py": "import flask\ndef create_app():\n return flask.Flask('x')"},
         "shop:create_app()", "."),
        ({"venv/pyvenv.cfg": "", "venv/app.py": FLASK, "web.py": FLASK}, "web:app", "."),
        ({"broken.py": "def (", "null.py": "\0", "z.py": FLASK}, "z:app", "."),
    ],
)  # fmt: skip
def test_the_app_and_its_folder(lay: Lay, files: dict[str, str], app: str, directory: str) -> None:
    home = lay(files)
    assert decided(survey(home), home) == (app, directory)


MANAGE = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'proj.settings')\n"
WSGI = "from django.core.wsgi import get_wsgi_application as g\napplication = g()\n"
ASGI = "from django.core.asgi import get_asgi_application as g\napplication = g()\n"


@pytest.mark.parametrize(
    ("files", "app", "directory"),
    [
        ({"manage.py": MANAGE, "proj/settings.py": "", "proj/wsgi.py": WSGI, "proj/asgi.py": ASGI},
         "proj.wsgi:application", "."),
        ({"manage.py": MANAGE, "proj/settings/base.py": "WSGI_APPLICATION='proj.web.application'",
          "proj/settings/__init__.py": "from .base import *", "proj/web.py": WSGI},
         "proj.web:application", "."),
        ({"manage.py": MANAGE, "proj/wsgi.py": WSGI, "proj/asgi.py": ASGI,
          "proj/settings.py": "INSTALLED_APPS = ['channels']"}, "proj.asgi:application", "."),
        ({"site/manage.py": MANAGE, "site/proj/settings.py": "", "site/proj/wsgi.py": WSGI,
          "app.py": FLASK}, "proj.wsgi:application", "site"),
    ],
)  # fmt: skip
def test_django(lay: Lay, files: dict[str, str], app: str, directory: str) -> None:
    home = lay(files)
    assert decided(survey(home), home) == (app, directory)


def test_what_else_may_be_meant_is_told(lay: Lay) -> None:
    home = lay({"app.py": FLASK, "admin.py": FLASK})
    (note,) = survey(home).notes
    assert "admin:app" in note


@pytest.mark.parametrize(("version", "told"), [("3.9", True), ("3.11", False), ("3.99", False)])
def test_a_venv_and_its_version(lay: Lay, version: str, told: bool) -> None:
    home = lay({
        "app.py": FLASK,
        ".venv/pyvenv.cfg": "",
        f".venv/lib/python{version}/site-packages/x.py": "",
    })  # fmt: skip
    project = survey(home)
    assert project.chosen["venv"].value == ".venv"
    assert version in project.chosen["venv"].why
    assert any("oldest" in note for note in project.notes) == told


def test_a_venv_beside_the_project(lay: Lay) -> None:
    home = lay({"code/app.py": FLASK, "venv/pyvenv.cfg": ""})
    assert survey(home / "code").chosen["venv"].value == str(home / "venv")


def test_an_asgi_app_needs_uvicorn(lay: Lay) -> None:
    home = lay({"app.py": "import fastapi\napp = fastapi.FastAPI()", "venv/pyvenv.cfg": ""})
    assert any(f"{home}/venv/bin/pip install uvicorn" in note for note in survey(home).notes)
    package = home / "venv/lib/python3.11/site-packages/uvicorn"
    package.mkdir(parents=True)
    assert not any("uvicorn" in note for note in survey(home).notes)


def test_an_environment_file_that_can_be_read_is_taken(lay: Lay) -> None:
    home = lay({"app.py": FLASK, ".env": "A=1\n"})
    assert survey(home).chosen["env_file"].value == str(home / ".env")
    (home / ".env").write_text("A=1\nnothing\n")
    project = survey(home)
    assert "env_file" not in project.chosen
    assert any("line 2" in note for note in project.notes)


def test_a_database_in_the_project_s_folder_is_told(lay: Lay) -> None:
    home = lay({"app.py": FLASK + "URL = 'sqlite:///x.db'\n"})
    assert any("/var/lib/prefork-sd/shop" in note for note in survey(home).notes)


def test_nothing_is_run(lay: Lay) -> None:
    home = lay({"app.py": f"{FLASK}raise SystemExit('run')\nopen(__file__ + '.run', 'w')\n"})
    survey(home)
    assert [path.name for path in home.iterdir()] == ["app.py"]


def test_a_folder_without_an_app(lay: Lay) -> None:
    assert "app" not in survey(lay({"x.py": "import os\n"})).chosen


def test_no_folder() -> None:
    with pytest.raises(PreforkError, match="is not a folder"):
        survey(Path("/nowhere"))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/srv/shop", "shop"),
        ("/srv/shop/current", "shop"),
        ("/srv/My Shop/releases/20240101T120000", "my-shop"),
        ("/", "app"),
    ],
)
def test_names(folder: str, name: str) -> None:
    assert name_of(Path(folder)) == name
