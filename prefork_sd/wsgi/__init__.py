"""WSGI (PEP 3333): a request head becomes an environ, what the app answers becomes bytes."""

from prefork_sd.wsgi.environ import Environ, base_environ, make_environ
from prefork_sd.wsgi.files import FileSlice, FileWrapper, Piece, unlinked
from prefork_sd.wsgi.response import Bounds, Client, ClientLeftError, Response, TaggedResponse
from prefork_sd.wsgi.shapes import shape_of

__all__ = [
    "Bounds",
    "Client",
    "ClientLeftError",
    "Environ",
    "FileSlice",
    "FileWrapper",
    "Piece",
    "Response",
    "TaggedResponse",
    "base_environ",
    "make_environ",
    "shape_of",
    "unlinked",
]
