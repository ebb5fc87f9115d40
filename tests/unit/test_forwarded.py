"""A trusted proxy is believed, a stranger is not, and nonsense changes nothing."""

import time
from typing import Any

import pytest

from prefork_sd.forwarded import HEADERS, Forwarded, Trust, address_of

ALL = tuple(HEADERS)


def told(remote: str, headers: tuple[str, ...] = ALL, **fields: str) -> dict[str, Any]:
    environ: dict[str, Any] = {
        "REMOTE_ADDR": remote,
        "REMOTE_PORT": "1",
        "wsgi.url_scheme": "http",
        "HTTP_HOST": "inside",
        "SCRIPT_NAME": "",
        **fields,
    }
    Forwarded(Trust(["127.0.0.1", "10.0.0.0/8", "unix"]), headers).apply(environ)
    return environ


def test_a_stranger_is_not_believed() -> None:
    environ = told("192.0.2.9", HTTP_X_FORWARDED_FOR="1.2.3.4", HTTP_X_FORWARDED_PROTO="https")
    assert environ["REMOTE_ADDR"] == "192.0.2.9"
    assert environ["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize("proxy", ["127.0.0.1", "10.1.2.3", "", "::ffff:127.0.0.1"])
def test_a_trusted_proxy_speaks_for_its_client(proxy: str) -> None:
    environ = told(
        proxy,
        HTTP_X_FORWARDED_FOR="192.0.2.7",
        HTTP_X_FORWARDED_PROTO="https",
        HTTP_X_FORWARDED_HOST="shop.example:8443",
        HTTP_X_FORWARDED_PREFIX="/shop/",
    )
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTP_HOST"] == "shop.example:8443"
    assert environ["SCRIPT_NAME"] == "/shop"


def test_only_what_is_named_counts() -> None:
    environ = told(
        "127.0.0.1", ("x-forwarded-for",), HTTP_X_FORWARDED_HOST="evil", HTTP_FORWARDED="host=evil"
    )
    assert environ["HTTP_HOST"] == "inside"


def test_what_a_client_wrote_itself_is_behind_the_first_stranger() -> None:
    environ = told("127.0.0.1", HTTP_X_FORWARDED_FOR="6.6.6.6, 192.0.2.7, 10.0.0.2")
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    environ = told("127.0.0.1", HTTP_X_FORWARDED_FOR="10.0.0.1, 10.0.0.2")
    assert environ["REMOTE_ADDR"] == "10.0.0.1"
    environ = told("127.0.0.1", HTTP_X_FORWARDED_PROTO="https, http")
    assert environ["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("HTTP_X_FORWARDED_FOR", "unknown"),
        ("HTTP_X_FORWARDED_FOR", "<script>"),
        ("HTTP_X_FORWARDED_PROTO", "gopher"),
        ("HTTP_X_FORWARDED_HOST", "a b"),
        ("HTTP_X_FORWARDED_HOST", "evil/path"),
        ("HTTP_X_FORWARDED_PREFIX", "shop"),
        ("HTTP_X_FORWARDED_PREFIX", "//evil"),
        ("HTTP_FORWARDED", 'for="_hidden";host="a b"'),
        ("HTTP_FORWARDED", "garbage"),
    ],
)
def test_nonsense_changes_nothing(field: str, value: str) -> None:
    assert told("127.0.0.1", ALL, **{field: value}) == told("127.0.0.1") | {field: value}


def test_a_proxy_that_got_it_without_tls_says_so_behind_tls() -> None:
    for scheme, rest in (("http", {}), ("https", {"HTTPS": "on"})):
        environ = told("", ALL, HTTPS="on", HTTP_X_FORWARDED_PROTO=scheme)
        assert environ["wsgi.url_scheme"] == scheme
        assert {key: environ[key] for key in environ.keys() & {"HTTPS"}} == rest


def test_rfc_7239() -> None:
    environ = told(
        "127.0.0.1",
        HTTP_FORWARDED='for=6.6.6.6;host=evil, For="[2001:db8::7]:4711";proto=https;'
        'host="shop.example", for=10.0.0.2;proto=http',
    )
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("2001:db8::7", "4711")
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTP_HOST"] == "shop.example"


@pytest.mark.parametrize("junk", ['for="', 'for="\\"', '"', '"""', "a b=c;;", '=;"=', "\\"])
def test_what_a_stranger_wrote_does_not_hide_what_the_proxy_says(junk: str) -> None:
    environ = told("127.0.0.1", HTTP_FORWARDED=f'{junk}, for="192.0.2.7:80";proto=https')
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.7", "80")
    assert environ["wsgi.url_scheme"] == "https"


@pytest.mark.parametrize("piece", [" ", "a", '"', '\\"', 'a="', "for=1;", ",", ";", "a=", '""'])
def test_no_value_takes_long_to_read(piece: str) -> None:
    for value in (piece * 16384, f'"{piece * 16384}', f"for={piece * 16384}"):
        begun = time.process_time()
        told("127.0.0.1", HTTP_FORWARDED=value, HTTP_X_FORWARDED_FOR=value)
        assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ("192.0.2.1", ("192.0.2.1", "")),
        ("192.0.2.1:80", ("192.0.2.1", "80")),
        ("[2001:db8::1]:80", ("2001:db8::1", "80")),
        ("2001:db8::1", ("2001:db8::1", "")),
        ("_secret", None),
        ("", None),
    ],
)
def test_addresses(node: str, address: tuple[str, str] | None) -> None:
    assert address_of(node) == address


def test_everybody_and_nobody() -> None:
    assert Trust(["*"])("192.0.2.1")
    assert Trust(["*"])("")
    assert not Trust([])("127.0.0.1")
    assert not Trust(["127.0.0.1"])("")
    assert not Trust(["127.0.0.1"])("not an address")
