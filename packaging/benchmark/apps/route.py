"""A Flask route that answers with a small piece of JSON."""

from flask import Flask, Response, jsonify

app = Flask(__name__)


def greet(name: str) -> Response:
    return jsonify(hello=name, items=[1, 2, 3])


app.add_url_rule("/<path:name>", view_func=greet)
