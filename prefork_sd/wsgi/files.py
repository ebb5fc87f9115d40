"""Files: those that an app hands over (wsgi.file_wrapper), and those that keep what has to wait."""

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

ON_DISK = "/var/tmp"  # where /tmp may be memory: file-hierarchy(7)


class FileWrapper:
    """wsgi.file_wrapper: a file in blocks; a regular one goes out by sendfile(2)."""

    def __init__(self, filelike: IO[bytes], block_size: int = 65536) -> None:
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        while data := self.filelike.read(self.block_size):
            yield data

    def close(self) -> None:
        if close := getattr(self.filelike, "close", None):
            close()

    def regular(self) -> tuple[int, int, int] | None:
        """(fd, offset, bytes left) if the kernel can send it, or None.

        Only what is read as it stands on the disk: a GzipFile has a descriptor, too. Files of the
        kernel (/proc) do not say their size.
        """
        try:
            if not isinstance(getattr(self.filelike, "raw", self.filelike), io.FileIO):
                return None
            fd, offset = self.filelike.fileno(), self.filelike.tell()
            status = os.fstat(fd)
        except (AttributeError, OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None
        return fd, offset, max(0, status.st_size - offset)


@dataclass(slots=True)
class FileSlice:
    """A part of an open file on its way to the client."""

    fd: int
    offset: int
    left: int


Piece = bytes | memoryview | FileSlice


def unlinked() -> IO[bytes]:
    """A file without a name, which is gone when it is closed. Raises OSError.

    Not in /tmp, unless $TMPDIR says so: what does not fit into memory has no place there.
    """
    usable = "TMPDIR" not in os.environ and os.access(ON_DISK, os.W_OK)
    return tempfile.TemporaryFile(dir=ON_DISK if usable else None)


class Spool:
    """What a client has not taken yet of a response, in an unlinked file."""

    def __init__(self) -> None:
        self._file = unlinked()
        self._end = 0
        self._slices: list[FileSlice] = []  # what of it is still to be sent

    @property
    def size(self) -> int:
        """Bytes of the file, with those before them that the client has taken; 0: it took all."""
        return self._end if any(part.left for part in self._slices) else 0

    def add(self, data: bytes, out: list[Piece]) -> None:
        """Keep it, as the last of what is on its way. Raises OSError; then nothing is kept."""
        fd = self._file.fileno()
        self._slices = [part for part in self._slices if part.left]
        if not self._slices:
            self._end = 0
            os.ftruncate(fd, 0)
        end, rest = self._end, memoryview(data)
        while rest:
            written = os.pwrite(fd, rest, end)
            end, rest = end + written, rest[written:]
        if not self._slices or out[-1] is not self._slices[-1]:
            self._slices.append(FileSlice(fd, self._end, 0))
            out.append(self._slices[-1])
        self._slices[-1].left += end - self._end
        self._end = end

    def close(self) -> None:
        self._file.close()
