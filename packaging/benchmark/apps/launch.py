"""Starts the servers that have no command line: launch.py SERVER APP PORT WORKERS THREADS."""

import importlib
import os
import sys
from typing import Any


def main(server: str, app: str, port: int, workers: int, threads: int) -> None:
    module, _, name = app.partition(":")
    application = getattr(importlib.import_module(module), name)
    # loaded by name, as each of them may be missing
    library: Any = importlib.import_module("cheroot.wsgi" if server == "cheroot" else server)
    if server == "bjoern":
        library.listen(application, "127.0.0.1", port)
        for _ in range(workers - 1):
            if os.fork() == 0:
                break
        library.run()
    elif server == "fastwsgi":
        library.run(application, host="127.0.0.1", port=port, workers=workers)
    elif server == "cheroot":
        one = library.Server(
            ("127.0.0.1", port),
            application,
            numthreads=threads,
            request_queue_size=1024,
            timeout=75,
        )
        one.keep_alive_conn_limit = 4096
        one.start()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
