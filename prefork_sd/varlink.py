"""The words of Varlink (varlink.org): our interfaces, calls and replies. It knows no socket."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from prefork_sd import __version__

MOST_BYTES = 64 * 1024

PREFORK_SD = """\
# What a service of prefork-sd can be asked for.
interface io.prefork.sd

# A request in hand. The path is without its query; usec is since when.
type InHand (
  method: string,
  path: string,
  usec: int
)

# "age" counts the workers of this service; "errors" are responses with 5xx. Memory is in bytes:
# "rss" is all that is resident, in "pss" what processes share counts in parts; null: not known.
type Worker (
  pid: int,
  age: int,
  generation: int,
  state: string,
  requests: int,
  errors: int,
  bytes: int,
  rss: int,
  pss: ?int,
  uptime_usec: int,
  in_hand: []InHand
)

# How the service is.
method Status() -> (
  service: string,
  version: string,
  pid: int,
  state: string,
  status: string,
  generation: int,
  wanted: int,
  ready: int,
  requests: int,
  errors: int,
  listeners: []string,
  workers: []Worker
)

# Serve from a new generation of workers. The reply comes when every new connection is served
# by it, or the error when nothing has changed.
method Reload() -> (generation: int, message: string)

# Keep this number of workers; a reload does not change it back.
method Scale(workers: int) -> (workers: int)

# The old generation serves on. The reason is one line; the details are a traceback, or empty.
error ReloadFailed (reason: string, details: string)
"""

SYSTEMD_SERVICE = """\
# What systemd knows how to ask of any service.
interface io.systemd.service

method Ping() -> ()

# The level is that of syslog(3): 3 error, 4 warning, 6 info, 7 debug.
method SetLogLevel(level: int) -> ()
"""

VARLINK_SERVICE = """\
# What every varlink service answers.
interface org.varlink.service

method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
"""

INTERFACES = {
    "io.prefork.sd": PREFORK_SD,
    "io.systemd.service": SYSTEMD_SERVICE,
    "org.varlink.service": VARLINK_SERVICE,
}

# Each method with its parameters, all of which are required.
METHODS: Mapping[str, Mapping[str, type]] = {
    "io.prefork.sd.Status": {},
    "io.prefork.sd.Reload": {},
    "io.prefork.sd.Scale": {"workers": int},
    "io.systemd.service.Ping": {},
    "io.systemd.service.SetLogLevel": {"level": int},
    "org.varlink.service.GetInfo": {},
    "org.varlink.service.GetInterfaceDescription": {"interface": str},
}

_SERVICE = "org.varlink.service"


class MalformedError(ValueError):
    """What came is not a Varlink message."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it came. `more`: several replies are welcome; `oneway`: none is."""

    method: str
    parameters: dict[str, object]
    more: bool = False
    oneway: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `error` is the qualified name of an error, or empty; `continues`: more follow."""

    parameters: Mapping[str, object]
    error: str = ""
    continues: bool = False

    def encode(self) -> bytes:
        message: dict[str, object] = {"error": self.error} if self.error else {}
        message["parameters"] = dict(self.parameters)
        if self.continues:
            message["continues"] = True
        return encode(message)


def encode(message: Mapping[str, object]) -> bytes:
    """One message on the wire: JSON and a NUL. What UTF-8 cannot carry becomes "?"."""
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\0"


def take(buffer: bytearray, most: int = MOST_BYTES) -> dict[str, object] | None:
    """Take one message off the buffer; None means: give me more bytes.

    Raises MalformedError if it is not a JSON object of at most `most` bytes.
    """
    end = buffer.find(b"\0", 0, most + 1)
    if end < 0:
        if len(buffer) > most:
            raise MalformedError(f"longer than {most} bytes")
        return None
    try:
        message = json.loads(buffer[:end].decode())
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise MalformedError("not a JSON object")
    del buffer[: end + 1]
    return message


def request(message: Mapping[str, object]) -> Request:
    """Read a call. Raises MalformedError."""
    method, parameters = message.get("method"), message.get("parameters")
    more, oneway = message.get("more"), message.get("oneway")
    if not isinstance(method, str):
        raise MalformedError("no method")
    if not isinstance(parameters, dict | None):
        raise MalformedError("parameters are an object")
    if not isinstance(more, bool | None) or not isinstance(oneway, bool | None):
        raise MalformedError("flags are true or false")
    return Request(method, parameters or {}, bool(more), bool(oneway))


def reply(message: Mapping[str, object]) -> Reply:
    """Read an answer. Raises MalformedError."""
    parameters, error = message.get("parameters"), message.get("error")
    if not isinstance(parameters, dict | None) or not isinstance(error, str | None):
        raise MalformedError("not a reply")
    return Reply(parameters or {}, error or "", message.get("continues") is True)


def answer(asked: Request) -> Reply | None:
    """Answer what needs no service: what is wrong with the call, introspection, Ping.

    None means that the service has to answer it; its parameters are checked then.
    """
    interface, _, _ = asked.method.rpartition(".")
    if interface not in INTERFACES:
        return Reply({"interface": interface}, f"{_SERVICE}.InterfaceNotFound")
    if asked.method not in METHODS:
        return Reply({"method": asked.method}, f"{_SERVICE}.MethodNotFound")
    if wrong := _wrong_parameter(asked):
        return Reply({"parameter": wrong}, f"{_SERVICE}.InvalidParameter")
    match asked.method:
        case "org.varlink.service.GetInfo":
            return Reply(
                {
                    "vendor": "prefork-sd",
                    "product": "prefork-sd",
                    "version": __version__,
                    "url": "",
                    "interfaces": sorted(INTERFACES),
                }
            )
        case "org.varlink.service.GetInterfaceDescription":
            return _describe(str(asked.parameters["interface"]))
        case "io.systemd.service.Ping":
            return Reply({})
        case _:
            return None


def _describe(interface: str) -> Reply:
    if interface not in INTERFACES:
        return Reply({"interface": interface}, f"{_SERVICE}.InterfaceNotFound")
    return Reply({"description": INTERFACES[interface]})


def _wrong_parameter(asked: Request) -> str:
    known = METHODS[asked.method]
    for name in asked.parameters:
        if name not in known:
            return name
    for name, kind in known.items():
        if type(asked.parameters.get(name)) is not kind:  # true is no number
            return name
    return ""
