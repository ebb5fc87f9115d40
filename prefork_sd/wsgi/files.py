"""Files that an app hands over: wsgi.file_wrapper, and what is left to send of one."""

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO


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
