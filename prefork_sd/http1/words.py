"""The words of the grammar that heads, bodies and responses share: tokens, limits, the refusal."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

CRLF = b"\r\n"
# RFC 9110, 5.6.2; the inside of a character class.
TCHAR = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
# RFC 9110, 5.5: HTAB, SP, VCHAR, obs-text; whitespace around a value is stripped by the parser.
FIELD_VALUE = r"[\t\x20-\x7e\x80-\xff]*+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may cost us. All are bytes, except `fields`, which is a count.

    `line` and `field` count without their CRLF, `head` and `trailers` with everything.
    `chunk_extension` is for one chunk. `body` 0 means no limit.
    """

    line: int = 8190
    fields: int = 100
    field: int = 8190
    head: int = 65536
    body: int = 1 << 30
    chunk_extension: int = 1024
    trailers: int = 8192
    smallest: int = dataclasses.field(init=False)  # a head that is not longer keeps all of them

    def __post_init__(self) -> None:
        object.__setattr__(self, "smallest", min(self.line, self.field, self.head))


class BadRequest(Exception):  # noqa: N818  (the name of the status)
    """The bytes are not a request we serve: answer with `status`, then close the connection.

    The text says what is wrong and never quotes what the client sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Memo(dict[K, V], Generic[K, V]):
    """A pure function with a bounded memory: `memo[key]` is `function(key)`.

    Most of what clients send is what they sent before. Only keys that `small` accepts are kept;
    a full memory forgets everything, so that nobody can make it grow or keep others out of it.
    What raises is not kept.
    """

    def __init__(
        self, function: Callable[[K], V], size: int = 1024, small: Callable[[K], bool] = bool
    ) -> None:
        super().__init__()
        self._function = function
        self._size = size
        self._small = small

    def __missing__(self, key: K) -> V:
        value = self._function(key)
        if self._small(key):
            if len(self) >= self._size:
                self.clear()
            self[key] = value
        return value


def short(key: bytes | str) -> bool:
    """Whether a line is short enough to be remembered (512 bytes: most cookies are)."""
    return len(key) <= 512
