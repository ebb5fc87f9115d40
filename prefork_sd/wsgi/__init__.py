"""WSGI (PEP 3333): a request head becomes an environ, what the app answers becomes bytes."""

from prefork_sd.wsgi.environ import Environ, Template, base_environ, make_environ
from prefork_sd.wsgi.files import FileSlice, FileWrapper, Piece, unlinked
from prefork_sd.wsgi.framing import Bounds
from prefork_sd.wsgi.reply import Reply
from prefork_sd.wsgi.response import Client, ClientLeftError, Response, TaggedResponse
from prefork_sd.wsgi.shapes import CLOSE, Clock, Shape, shape_of

__all__ = [
    "CLOSE",
    "Bounds",
    "Client",
    "ClientLeftError",
    "Clock",
    "Environ",
    "FileSlice",
    "FileWrapper",
    "Piece",
    "Reply",
    "Response",
    "Shape",
    "TaggedResponse",
    "Template",
    "base_environ",
    "make_environ",
    "shape_of",
    "unlinked",
]
