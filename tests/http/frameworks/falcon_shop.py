"""The shop in Falcon."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import falcon

from tests.http.frameworks.parts import Json, Say, Stream, digest, fail
from tests.http.serving import App

View = Callable[..., None]


class On:
    """A resource: what answers each method."""

    def __init__(self, **methods: View) -> None:
        for name, view in methods.items():
            setattr(self, f"on_{name}", view)


def index(req: Any, resp: Any) -> None:
    resp.content_type = "text/plain"
    resp.text = "hello"


def item(req: Any, resp: Any, number: int) -> None:
    resp.media = {"id": number, "q": req.get_param("q")}


def old(req: Any, resp: Any) -> None:
    raise falcon.HTTPFound("/items/7?q=old")


def login(req: Any, resp: Any) -> None:
    resp.set_cookie("name", req.get_media()["name"], secure=False)
    raise falcon.HTTPSeeOther("/me")


def me(req: Any, resp: Any) -> None:
    resp.content_type = "text/plain"
    resp.text = req.cookies["name"]


def form(req: Any, resp: Any) -> None:
    values = list(req.get_media().values())
    resp.media = {"count": len(values), "last": values[-1]}


def upload(req: Any, resp: Any) -> None:
    found: Json = {}
    for part in req.get_media():
        if part.name == "file":
            found |= {"name": part.filename, **digest(part.stream)}
        else:
            found[part.name] = part.text
    resp.media = found


def body(req: Any, resp: Any) -> None:
    resp.media = digest(req.bounded_stream)


def empty(req: Any, resp: Any) -> None:
    resp.status = falcon.HTTP_204


def make(say: Say, folder: Path) -> App:
    def stream(endless: bool) -> View:
        def view(req: Any, resp: Any) -> None:
            resp.content_type = "text/plain"
            resp.stream = Stream(say, endless=endless)

        return view

    app = falcon.App()
    app.add_route("/", On(get=index, head=index))
    app.add_route("/items/{number:int}", On(get=item, head=item))
    app.add_route("/old", On(get=old))
    app.add_route("/login", On(post=login))
    app.add_route("/me", On(get=me))
    app.add_route("/form", On(post=form))
    app.add_route("/upload", On(post=upload))
    app.add_route("/body", On(put=body))
    app.add_route("/stream", On(get=stream(False), head=stream(False)))
    app.add_route("/endless", On(get=stream(True)))
    app.add_static_route("/files", folder)
    app.add_route("/empty", On(get=empty, head=empty))
    app.add_route("/fail", On(get=lambda req, resp: fail()))
    wsgi: App = app
    return wsgi
