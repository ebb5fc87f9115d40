"""The shop in Flask."""

from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, redirect, request, send_from_directory, session

from tests.http.frameworks.parts import Say, Stream, digest, fail
from tests.http.serving import App


def item(number: int) -> Any:
    return jsonify(id=number, q=request.args.get("q"))


def login() -> Any:
    session["name"] = request.form["name"]
    return redirect("/me", code=303)


def form() -> Any:
    fields = request.form.items(multi=True)
    values = [value for _, value in fields]
    return jsonify(count=len(values), last=values[-1])


def upload() -> Any:
    file = request.files["file"]
    return jsonify(name=file.filename, note=request.form["note"], **digest(file.stream))


def make(say: Say, folder: Path) -> App:
    app = Flask(__name__)
    app.secret_key = "only for this test"

    def add(path: str, view: Any, *methods: str) -> None:
        app.add_url_rule(path, path, view, methods=methods or ("GET",))

    add("/", lambda: "hello")
    add("/items/<int:number>", item)
    add("/old", lambda: redirect("/items/7?q=old"))
    add("/login", login, "POST")
    add("/me", lambda: session["name"])
    add("/form", form, "POST")
    add("/upload", upload, "POST")
    add("/body", lambda: jsonify(digest(request.stream)), "PUT")
    add("/stream", lambda: Response(Stream(say), mimetype="text/plain"))
    add("/endless", lambda: Response(Stream(say, endless=True), mimetype="text/plain"))
    add("/files/<name>", lambda name: send_from_directory(folder, name))
    add("/empty", lambda: ("", 204))
    add("/fail", fail)
    wsgi: App = app.wsgi_app
    return wsgi
