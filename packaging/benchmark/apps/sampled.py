"""The hello app in a worker that samples itself: GET /samples says where it has been.

Each millisecond of CPU time (the kernel's tick permitting) the line being run is counted. The
handler runs when the interpreter next looks for signals: after a call, or at the start of one.
"""

import json
import signal
from collections import Counter
from collections.abc import Iterable
from types import FrameType
from typing import Any

import plain

_seen: Counter[tuple[str, str, int]] = Counter()


def _sample(signum: int, frame: FrameType | None) -> None:
    if frame is not None:
        code = frame.f_code
        _seen[code.co_filename, code.co_qualname, frame.f_lineno or 0] += 1


signal.signal(signal.SIGPROF, _sample)
signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)


def application(environ: dict[str, Any], start_response: plain.Start) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/samples":
        return plain.hello(environ, start_response)
    body = json.dumps([[*place, count] for place, count in _seen.items()]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
