"""The shop in Pyramid."""

from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound, HTTPNoContent, HTTPSeeOther
from pyramid.response import FileResponse, Response
from pyramid.session import SignedCookieSessionFactory

from tests.http.frameworks.parts import Json, Say, Stream, digest, fail
from tests.http.serving import App


def login(request: Any) -> Any:
    request.session["name"] = request.POST["name"]
    return HTTPSeeOther("/me", headers=request.response.headers)


def form(request: Any) -> Json:
    values = list(request.POST.values())
    return {"count": len(values), "last": values[-1]}


def upload(request: Any) -> Json:
    file = request.POST["file"]
    return {"name": file.filename, "note": request.POST["note"], **digest(file.file)}


def make(say: Say, folder: Path) -> App:
    config = Configurator(session_factory=SignedCookieSessionFactory("only for this test"))

    def add(path: str, view: Any, method: str = "GET", renderer: str = "string") -> None:
        config.add_route(path, path)
        config.add_view(view, route_name=path, request_method=method, renderer=renderer)

    def stream(endless: bool) -> Any:
        return Response(app_iter=Stream(say, endless=endless), content_type="text/plain")

    def file(request: Any) -> Any:
        path = folder / request.matchdict["name"]
        answer = FileResponse(path, request, content_type="application/octet-stream")
        answer.conditional_response = True
        return answer

    add("/", lambda request: "hello")
    add(
        "/items/{number}",
        lambda request: {"id": int(request.matchdict["number"]), "q": request.GET["q"]},
        renderer="json",
    )
    add("/old", lambda request: HTTPFound("/items/7?q=old"))
    add("/login", login, "POST")
    add("/me", lambda request: request.session["name"])
    add("/form", form, "POST", "json")
    add("/upload", upload, "POST", "json")
    add("/body", lambda request: digest(request.body_file), "PUT", "json")
    add("/stream", lambda request: stream(False))
    add("/endless", lambda request: stream(True))
    add("/files/{name}", file)
    add("/empty", lambda request: HTTPNoContent())
    add("/fail", lambda request: fail())
    wsgi: App = config.make_wsgi_app()
    return wsgi
