"""A page that tells the version of the package that brought it."""

from flask import Flask

VERSION = "1.0"
app = Flask(__name__)


@app.get("/")
def index() -> str:
    return f"Hello, version {VERSION}\n"
