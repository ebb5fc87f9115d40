"""The control socket, a client's side of it: one call, its answer, and the reason where none is."""

import errno
import os
import socket
import time
from collections.abc import Mapping

from prefork_sd import varlink
from prefork_sd.errors import PreforkError

MOST_REPLY_BYTES = 16 * 1024 * 1024


class ControlError(PreforkError):
    """The service answered with an error, whose qualified name is `name`."""

    def __init__(self, name: str, parameters: Mapping[str, object]) -> None:
        reason = parameters.get("reason")
        told = ", ".join(f"{key}={value}" for key, value in parameters.items())
        super().__init__(str(reason) if reason else f"{name}: {told}" if told else name)
        self.name = name
        self.parameters = parameters


class UnreachableError(PreforkError, ConnectionError):
    """No answer could be had; the text says why."""


class NotRunningError(UnreachableError):
    """There is nobody who could answer."""


def call(
    path: str | os.PathLike[str],
    method: str,
    parameters: Mapping[str, object] | None = None,
    *,
    timeout: float,
) -> dict[str, object]:
    """Call `method` of the service at the control socket `path` and return the reply's parameters.

    `timeout`: seconds for all of it. Raises ControlError if the service answers with an error,
    NotRunningError if nobody is there, UnreachableError if it is not ours to ask, silent, or gone
    in the middle.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.settimeout(timeout)
            sock.connect(os.fspath(path))
            sock.sendall(varlink.encode({"method": method, "parameters": dict(parameters or {})}))
            answer = _receive(sock, deadline)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunningError(f"the service is not running (nobody at {path})") from error
        except PermissionError as error:
            raise UnreachableError(
                f"permission denied: {path} is for root and for the service's own user"
            ) from error
        except (TimeoutError, BlockingIOError) as error:
            raise UnreachableError(
                f"timed out: the service did not answer within {timeout:g} s"
            ) from error
        except OSError as error:
            raise UnreachableError(
                f"the service went away before it answered ({error.strerror or error})"
            ) from error
        except varlink.MalformedError as error:
            raise UnreachableError(f"{path} does not speak Varlink: {error}") from error
    if answer.error:
        raise ControlError(answer.error, answer.parameters)
    return dict(answer.parameters)


def _receive(sock: socket.socket, deadline: float) -> varlink.Reply:
    inbox = bytearray()
    while (message := varlink.take(inbox, MOST_REPLY_BYTES)) is None:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        sock.settimeout(left)
        data = sock.recv(varlink.MOST_BYTES)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        inbox += data
    return varlink.reply(message)
