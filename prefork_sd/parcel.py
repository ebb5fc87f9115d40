"""This package as one file in memory, for an interpreter that has not installed it.

It is a zip archive that Python can run: the code that the arbiter was started from, whatever an
upgrade puts on disk meanwhile, and nothing else of the folder that it is in. An interpreter of
another version compiles it anew each time and leaves no bytecode behind.
"""

import importlib.util
import os
from pathlib import Path
from zipfile import ZipFile

HOUSE = Path(__file__).parent
PLACE = "/proc/self/fd/"  # where an interpreter finds its own
OLDEST = (3, 11)

# Also an old Python shall understand this, to the end of its second statement.
MAIN = f"""\
import os
import sys
import traceback

words, venv = int(sys.argv[2]), sys.argv[3]
version = "%d.%d.%d" % sys.version_info[:3]
oldest = {OLDEST}


def refuse(text):
    os.ftruncate(words, 0)
    os.lseek(words, 0, 0)
    os.write(words, ("venv: %s %s" % (venv, text)).encode("utf-8", "replace"))
    os._exit(78)


if sys.version_info < oldest:
    refuse("is of Python %s, which is too old: it must be CPython %d.%d or newer"
           % ((version,) + oldest))
if sys.implementation.name != "cpython":
    refuse("is of %s %s: it must be CPython %d.%d or newer"
           % ((sys.implementation.name, version) + oldest))
try:
    from prefork_sd import abroad
except BaseException as error:
    refuse("is of a Python %s that cannot run prefork-sd: %s: %s\\n%s"
           % (version, type(error).__name__, error, traceback.format_exc()))
sys.path.remove(sys.argv[0])
abroad.arrive(int(sys.argv[1]))
"""


def pack() -> int:
    """Return the descriptor of the archive, close-on-exec.

    Bytecode is packed beside its source; an interpreter to which it means nothing passes over it.
    """
    fd = os.memfd_create("prefork-sd-package", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb", closefd=False) as file, ZipFile(file, "w") as archive:
        archive.writestr("__main__.py", MAIN)
        for path in sorted(HOUSE.rglob("*.py")):
            inside = path.relative_to(HOUSE.parent)
            archive.write(path, inside)
            cached = Path(importlib.util.cache_from_source(path))
            if cached.exists():
                archive.write(cached, inside.with_suffix(".pyc"))
    return fd
