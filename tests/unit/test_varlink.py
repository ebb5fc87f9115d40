"""Calls and replies as bytes, without a socket."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_sd import __version__, varlink
from prefork_sd.varlink import MalformedError, Reply, Request, answer

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON), st.integers(0, 50))
def test_what_is_encoded_is_taken_whole_wherever_it_was_cut(
    message: dict[str, object], cut: int
) -> None:
    data = varlink.encode(message)
    buffer = bytearray(data[:cut])
    if cut < len(data):
        assert varlink.take(buffer) is None
        buffer += data[cut:]
    assert varlink.take(buffer + b"rest") == message


def test_messages_are_taken_one_by_one() -> None:
    buffer = bytearray(b'{"a":1}\0{"b":2}\0{"c"')
    assert [varlink.take(buffer) for _ in range(3)] == [{"a": 1}, {"b": 2}, None]
    assert buffer == b'{"c"'


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"{\0",
        b"[1]\0",
        b'"text"\0',
        b"\xff\xfe\0",
        b"[" * 60000 + b"\0",
        b"9" * 60000 + b"\0",
        b'{"a":"' + b"x" * varlink.MOST_BYTES + b'"}\0',
        b"x" * (varlink.MOST_BYTES + 1),
    ],
)
def test_malformed_messages(data: bytes) -> None:
    with pytest.raises(MalformedError):
        varlink.take(bytearray(data))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"method": 5},
        {"method": "a.B", "parameters": []},
        {"method": "a.B", "more": 1},
        {"method": "a.B", "oneway": "yes"},
    ],
)
def test_malformed_calls(message: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        varlink.request(message)


def test_a_call() -> None:
    message = {"method": "a.B", "parameters": {"x": 1}, "more": True, "upgrade": False}
    assert varlink.request(message) == Request("a.B", {"x": 1}, more=True)
    assert varlink.request({"method": "a.B", "parameters": None, "oneway": True}) == Request(
        "a.B", {}, oneway=True
    )


@pytest.mark.parametrize(
    "reply", [Reply({"a": [1]}), Reply({}, error="a.B"), Reply({"a": None}, continues=True)]
)
def test_replies_survive_the_wire(reply: Reply) -> None:
    message = varlink.take(bytearray(reply.encode()))
    assert message is not None
    assert varlink.reply(message) == reply


@pytest.mark.parametrize("message", [{"parameters": 1}, {"error": 1}])
def test_malformed_replies(message: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        varlink.reply(message)


def test_text_that_utf_8_cannot_carry() -> None:
    assert varlink.encode({"path": "\udcff\0"}) == b'{"path": "?\\u0000"}\0'


def test_introspection() -> None:
    info = answer(Request("org.varlink.service.GetInfo", {}))
    assert info is not None
    assert info.parameters["version"] == __version__
    interfaces = ["io.prefork.sd", "io.systemd.service", "org.varlink.service"]
    assert info.parameters["interfaces"] == interfaces
    for name in interfaces:
        described = answer(
            Request("org.varlink.service.GetInterfaceDescription", {"interface": name})
        )
        assert described is not None
        assert f"interface {name}\n" in str(described.parameters["description"])


def test_every_method_that_is_described_is_known_and_the_other_way_round() -> None:
    described = {
        f"{interface}.{method}": set(re.findall(r"(\w+):", parameters))
        for interface, text in varlink.INTERFACES.items()
        for method, parameters in re.findall(r"^method (\w+)\((.*?)\)", text, re.M)
    }
    assert described == {name: set(known) for name, known in varlink.METHODS.items()}


@pytest.mark.parametrize(
    ("method", "parameters", "error", "detail"),
    [
        ("no.such.Thing", {}, "InterfaceNotFound", {"interface": "no.such"}),
        ("", {}, "InterfaceNotFound", {"interface": ""}),
        ("io.prefork.sd.Fly", {}, "MethodNotFound", {"method": "io.prefork.sd.Fly"}),
        ("io.prefork.sd.Scale", {}, "InvalidParameter", {"parameter": "workers"}),
        ("io.prefork.sd.Scale", {"workers": "3"}, "InvalidParameter", {"parameter": "workers"}),
        ("io.prefork.sd.Scale", {"workers": True}, "InvalidParameter", {"parameter": "workers"}),
        ("io.prefork.sd.Reload", {"now": 1}, "InvalidParameter", {"parameter": "now"}),
        (
            "org.varlink.service.GetInterfaceDescription",
            {"interface": "no.such"},
            "InterfaceNotFound",
            {"interface": "no.such"},
        ),
    ],
)
def test_what_is_wrong_with_a_call(
    method: str, parameters: dict[str, object], error: str, detail: dict[str, object]
) -> None:
    assert answer(Request(method, parameters)) == Reply(detail, f"org.varlink.service.{error}")


def test_what_the_service_answers_itself() -> None:
    assert answer(Request("io.prefork.sd.Scale", {"workers": 3})) is None
    assert answer(Request("io.systemd.service.SetLogLevel", {"level": 7})) is None
    assert answer(Request("io.systemd.service.Ping", {})) == Reply({})


def test_the_wire_is_plain_json() -> None:
    data = Reply({"reason": "x"}, error="a.B").encode()
    assert json.loads(data.removesuffix(b"\0")) == {"error": "a.B", "parameters": {"reason": "x"}}
