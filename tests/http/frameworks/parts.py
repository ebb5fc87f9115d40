"""What the shops of all the frameworks have in common."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

Say = Callable[[str], None]
Json = dict[str, Any]

PIECES = 100


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def digest(body: Readable) -> Json:
    """What is told of a body, read in pieces."""
    size, found = 0, hashlib.sha256()
    while data := body.read(65536):
        size += len(data)
        found.update(data)
    return {"size": size, "sha256": found.hexdigest()}


def fail() -> None:
    raise LookupError("on purpose")


class Stream:
    """Pieces of a response, that say when they are closed."""

    def __init__(self, say: Say, *, endless: bool = False) -> None:
        self._say, self._endless = say, endless
        self._pieces = self._produce()

    def _produce(self) -> Iterator[bytes]:
        number = 0
        while self._endless or number < PIECES:
            yield b"piece %d\n" % number
            number += 1

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        self._say("endless closed" if self._endless else "stream closed")
