"""What llhttp (by httptools) and h11 make of the bytes of a connection."""

from dataclasses import dataclass, field

import h11
import httptools


@dataclass
class Message:
    """One request as a peer reads it; field names are lower case."""

    method: str = ""
    target: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


@dataclass
class Reading:
    """What a peer answered, and why it stopped: "" if it wants more bytes."""

    messages: list[Message] = field(default_factory=list)
    stopped: str = ""


class _Llhttp:
    def __init__(self) -> None:
        self.reading = Reading()
        self.parser = httptools.HttpRequestParser(self)
        self.message = Message()
        self.in_head = True

    def on_message_begin(self) -> None:
        self.message, self.in_head = Message(), True

    def on_url(self, url: bytes) -> None:
        self.message.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:
            pair = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
            self.message.fields.append(pair)

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.message.method = self.parser.get_method().decode()

    def on_body(self, body: bytes) -> None:
        self.message.body += body

    def on_message_complete(self) -> None:
        self.reading.messages.append(self.message)


def llhttp(data: bytes) -> Reading:
    """Return how llhttp reads `data`."""
    peer = _Llhttp()
    try:
        peer.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        peer.reading.stopped = "upgrade"
    except httptools.HttpParserError as error:
        peer.reading.stopped = str(error)
    return peer.reading


def h11_server(data: bytes) -> Reading:
    """Return how h11 reads `data`; each request is answered, so that the next one is read."""
    reading = Reading()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=65536)
    connection.receive_data(data)
    message = Message()
    try:
        while (event := connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Request):
                fields = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers]
                message = Message(event.method.decode(), event.target.decode("latin-1"), fields)
            elif isinstance(event, h11.Data):
                message.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reading.messages.append(message)
                connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if h11.MUST_CLOSE in (connection.our_state, connection.their_state):
                    version = (connection.their_http_version or b"").decode()
                    reading.stopped = f"closes after HTTP/{version}"
                    break
                connection.start_next_cycle()
            else:
                raise AssertionError(event)
    except h11.RemoteProtocolError as error:
        reading.stopped = str(error)
    return reading
