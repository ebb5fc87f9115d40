"""The shop in Bottle."""

from pathlib import Path
from typing import Any

import bottle
from bottle import Bottle, HTTPResponse, redirect, request, response, static_file

from tests.http.frameworks.parts import Json, Say, Stream, digest, fail
from tests.http.serving import App

SECRET = "only for this test"


def login() -> None:
    response.set_cookie("name", request.forms.name, secret=SECRET)
    redirect("/me")


def form() -> Json:
    values = list(request.forms.decode().allitems())
    return {"count": len(values), "last": values[-1][1]}


def upload() -> Json:
    file = request.files.file
    return {"name": file.raw_filename, "note": request.forms.note, **digest(file.file)}


def make(say: Say, folder: Path) -> App:
    bottle.BaseRequest.MEMFILE_MAX = 1 << 19
    app = Bottle()

    def add(path: str, view: Any, method: str = "GET") -> None:
        app.route(path, method, view)

    def stream(endless: bool) -> Any:
        response.content_type = "text/plain"
        return Stream(say, endless=endless)

    add("/", lambda: "hello")
    add("/items/<number:int>", lambda number: {"id": number, "q": request.query.q})
    add("/old", lambda: redirect("/items/7?q=old", 302))
    add("/login", login, "POST")
    add("/me", lambda: request.get_cookie("name", secret=SECRET))
    add("/form", form, "POST")
    add("/upload", upload, "POST")
    add("/body", lambda: digest(request.body), "PUT")
    add("/stream", lambda: stream(False))
    add("/endless", lambda: stream(True))
    add("/files/<name>", lambda name: static_file(name, str(folder)))
    add("/empty", lambda: HTTPResponse(status=204))
    add("/fail", fail)
    wsgi: App = app
    return wsgi
