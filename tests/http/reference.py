"""The reference server of PEP 3333, wsgiref, as a worker of ours: what an app does behind it."""

from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prefork_sd.workers.base import Worker


class Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Reference(Worker):
    """One request a connection, one connection at a time."""

    def run(self) -> None:
        [listener] = self.sockets
        listener.sock.setblocking(True)
        server = WSGIServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = listener.sock
        server.server_name, server.server_port = listener.server_name, int(listener.server_port)
        server.setup_environ()
        app: Callable[..., Any] = self.wsgi
        server.set_app(app)
        server.serve_forever()
