"""A page that tells who served it."""

import os

from flask import Flask

app = Flask(__name__)


@app.route("/")
def index() -> str:
    return f"Hello from prefork-sd, worker {os.getpid()} of user {os.getuid()}.\n"
