"""A request's body as it comes in: in memory up to a bound, then in an unlinked file."""

from io import BytesIO
from typing import IO

from prefork_sd.wsgi import unlinked

# As they came from the kernel, so that they are copied once, into the whole. Those that follow are
# small ones, each with a weight of its own beside its bytes: they are gathered.
PIECES = 64


class Body:
    """Takes pieces and gives a file, in which nobody has read yet."""

    __slots__ = ("_bound", "_file", "_pieces", "size")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._file: IO[bytes] | None = None
        self.size = 0  # bytes so far

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take more of it, which nobody may change. Raises OSError when the disk is full."""
        self.size += len(data)
        pieces = self._pieces
        if self._file is not None:
            self._file.write(data)
        elif self.size > self._bound:
            self._file = unlinked()
            self._file.writelines([*pieces, data])
            pieces.clear()
        elif len(pieces) < PIECES:
            pieces.append(data)
        elif type(last := pieces[-1]) is bytearray:
            last += data
        else:
            pieces[-1] = bytearray(last) + data

    def whole(self) -> IO[bytes]:
        """The file, when all of it has come. Raises OSError."""
        if self._file is None:
            return BytesIO(b"".join(self._pieces))
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
