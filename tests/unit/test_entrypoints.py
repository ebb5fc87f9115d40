"""What a source can serve: frameworks, factories, plain functions; and what it cannot."""

import textwrap

import pytest

from prefork_sd.entrypoints import entry_points, imports_of, text_of


def found(source: str) -> list[tuple[str, str, str]]:
    points = entry_points(textwrap.dedent(source))
    return [(point.call, point.kind, point.framework) for point in points]


@pytest.mark.parametrize(
    ("source", "call", "kind", "framework"),
    [
        ("from flask import Flask\napp = Flask(__name__)", "app", "WSGI", "Flask"),
        ("import flask as f\nsite: f.Flask = f.Flask('x')", "site", "WSGI", "Flask"),
        ("from fastapi import FastAPI as F\napi = F()", "api", "ASGI", "FastAPI"),
        (
            "import starlette.applications\napp = starlette.applications.Starlette()",
            "app",
            "ASGI",
            "Starlette",
        ),
        (
            "from django.core.wsgi import get_wsgi_application\n"
            "application = get_wsgi_application()",
            "application",
            "WSGI",
            "Django",
        ),
        ("from dash import Dash\napp = Dash()", "app.server", "WSGI", "Dash"),
        ("app = Configurator().make_wsgi_app()", "app", "WSGI", "Pyramid"),
        ("def simple(environ, start_response): ...", "simple", "WSGI", ""),
        ("async def app(scope, receive, send): ...", "app", "ASGI", ""),
        ("from shop import create_app\napp = create_app()", "app", "", ""),
        ("from shop import app as application", "application", "", ""),
        (
            "try:\n import flask\nfinally:\n pass\nif True:\n app = flask.Flask('x')",
            "app",
            "WSGI",
            "Flask",
        ),
    ],
)
def test_an_app(source: str, call: str, kind: str, framework: str) -> None:
    assert found(source) == [(call, kind, framework)]


def test_a_factory_and_what_it_makes() -> None:
    source = """
        def create_app(config=None, *, debug=False):
            from flask import Flask
            made = Flask(__name__)
            return ProxyFix(made)

        def build():
            return quart.Quart(__name__)

        import quart
        app = create_app()
    """
    assert found(source) == [
        ("create_app()", "WSGI", "Flask"),
        ("build()", "ASGI", "Quart"),
        ("app", "WSGI", "Flask"),
    ]


def test_middleware_around_an_app_is_the_app() -> None:
    source = """
        from flask import Flask
        flask_app = Flask(__name__)
        application = Outer(Inner(flask_app, x=1), 2)
    """
    assert found(source)[-1] == ("application", "WSGI", "Flask")


@pytest.mark.parametrize(
    "source",
    [
        "db = SQLAlchemy(Flask('x'))",
        "import flask\napi = Api(flask.Flask('x'))",
        "if __name__ == '__main__':\n import flask\n app = flask.Flask('x')",
        "def create_app(config):\n import flask\n return flask.Flask('x')",
        "def _create():\n import flask\n return flask.Flask('x')",
        "async def create_app():\n import flask\n return flask.Flask('x')",
        "def view():\n return 'x'",
        "x.app = 1",
    ],
)
def test_no_app(source: str) -> None:
    assert found(source) == []


def test_the_last_binding_of_a_name_counts() -> None:
    source = "import flask, fastapi\napp = flask.Flask('x')\napp = fastapi.FastAPI()"
    assert found(source) == [("app", "ASGI", "FastAPI")]


def test_texts_that_a_module_sets() -> None:
    assert text_of("A = 1\nWSGI_APPLICATION = 'a.b.c'", "WSGI_APPLICATION") == "a.b.c"
    assert text_of("import os\nos.environ.setdefault('D', 'x.y')", "D") == "x.y"
    assert text_of("import os\nos.environ['D'] = 'x.y'", "D") == "x.y"
    assert text_of("D = name()", "D") == ""


def test_imports_by_their_first_part() -> None:
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\ndef x():\n import h"
    assert imports_of(source) == {"a", "c", "d", "h"}
