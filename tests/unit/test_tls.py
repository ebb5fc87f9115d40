"""Certificates and keys: what is taken, from where, and how a broken one is named."""

import os
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefork_sd import tls
from prefork_sd.building import build
from prefork_sd.config import Config
from prefork_sd.errors import ConfigError
from prefork_sd.release import left_behind
from prefork_sd.units import MISSING
from prefork_sd.workers.tlsconnection import name_of
from tests.certificates import Pair, make

BIND = "127.0.0.1:8443"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return make(folder, "server")


@pytest.fixture(scope="module")
def other(folder: Path) -> Pair:
    return make(folder, "other")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tls.FOLDER, raising=False)


def configured(**settings: object) -> Config:
    return build({"app": "a:b", "tls_bind": BIND, **settings})


def made(**settings: object) -> ssl.SSLContext:
    warnings: list[str] = []
    context = tls.context(configured(**settings), warnings.append)
    assert context is not None
    assert warnings == []
    return context


def refused(**settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        made(**settings)
    (problem,) = caught.value.problems
    return str(problem)


# ---- settings


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"tls_bind": BIND, "tls_key": "/k"}, "tls_bind: needs `tls_certificate` too"),
        ({"tls_bind": BIND, "tls_certificate": "/c"}, "tls_bind: needs `tls_key` too"),
        ({"tls_certificate": "/c"}, "tls_certificate: needs `tls_bind` too"),
        ({"tls_key": "/k"}, "tls_key: needs `tls_bind` too"),
        ({"tls_client_ca": "/k"}, "tls_client_ca: needs `tls_bind` too"),
        ({"tls_client_auth": "optional"}, "tls_client_auth: needs `tls_client_ca` too"),
        (
            {"tls_client_auth": "maybe"},
            'tls_client_auth: must be one of required, optional, not "maybe"',
        ),
        (
            {"tls_bind": BIND, "bind": BIND, "tls_certificate": "/c", "tls_key": "/k"},
            f"tls_bind: must not name {BIND}, which is in `bind`",
        ),
        (
            {"tls_bind": BIND, "tls_certificate": "c.pem", "tls_key": "/k"},
            "tls_certificate: must be an absolute path like "
            '"/etc/ssl/certs/shop.pem" or "credential:tls_certificate", not "c.pem"',
        ),
        (
            {"tls_bind": BIND, "tls_certificate": "/c", "tls_key": "credential:../k"},
            "tls_key: must be an absolute path",
        ),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({"app": "a:b", **values})
    assert any(str(one).startswith(problem) for one in caught.value.problems), caught.value


def test_without_tls_there_is_no_context() -> None:
    assert tls.context(Config(), pytest.fail) is None


@pytest.mark.parametrize(
    ("old", "new", "command"),
    [
        ({}, {"bind": "8000"}, "systemctl restart shop.socket"),
        ({}, {"tls_bind": BIND}, "systemctl stop shop.socket && systemctl restart shop"),
        ({"bind": "80"}, {"bind": "80", "tls_bind": BIND}, "systemctl restart shop.socket"),
        ({"tls_bind": BIND}, {"tls_bind": "443"}, "systemctl restart shop-tls.socket"),
        (
            {"bind": "80", "tls_bind": BIND},
            {"bind": "80"},
            "systemctl stop shop-tls.socket && systemctl restart shop.socket",
        ),
    ],
)
def test_a_reload_opens_no_sockets_and_says_what_does(
    old: dict[str, object], new: dict[str, object], command: str
) -> None:
    files = {"tls_certificate": "/c", "tls_key": "/k"}

    def config(values: dict[str, object]) -> Config:
        return build({"app": "a:b", **values, **(files if "tls_bind" in values else {})})

    (sentence,) = left_behind(config(old), config(new), "shop")
    assert sentence.endswith(f"this does: systemctl daemon-reload && {command}")


# ---- what is taken


def test_the_defaults_are_modern(pair: Pair) -> None:
    context = made(**pair.settings())
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.options & ssl.OP_NO_TICKET
    assert context.verify_mode is ssl.CERT_NONE


def test_client_certificates(pair: Pair, other: Pair) -> None:
    ca = {"tls_client_ca": str(other.certificate)}
    assert made(**pair.settings(), **ca).verify_mode is ssl.CERT_REQUIRED
    optional = made(**pair.settings(), **ca, tls_client_auth="optional")
    assert optional.verify_mode is ssl.CERT_OPTIONAL
    assert optional.cert_store_stats()["x509"] == 1


@pytest.mark.parametrize("more", ["# Größe\n", "\n\n"])
def test_text_around_a_certificate_is_no_harm(pair: Pair, tmp_path: Path, more: str) -> None:
    path = tmp_path / "c.pem"
    path.write_text(more + pair.certificate.read_text() + more)
    made(tls_certificate=str(path), tls_key=str(pair.key))


# ---- what is refused


def absent(path: Path, _: Pair) -> None:
    path.unlink(missing_ok=True)


def not_pem(path: Path, _: Pair) -> None:
    path.write_bytes(b"\x30\x82 something else")


def folder_instead(path: Path, _: Pair) -> None:
    path.mkdir()


def pipe_instead(path: Path, _: Pair) -> None:
    os.mkfifo(path)


def too_large(path: Path, _: Pair) -> None:
    path.write_bytes(b"x" * (tls.MOST_BYTES + 1))


def damaged_certificate(path: Path, pair: Pair) -> None:
    path.write_text(re.sub("MII?", "AAA", pair.certificate.read_text()))


def damaged_key(path: Path, pair: Pair) -> None:
    path.write_text(pair.key.read_text().replace("MI", "AA"))


def anothers(path: Path, pair: Pair) -> None:
    path.write_text(make(path.parent, "another").key.read_text())


@pytest.mark.parametrize(
    ("setting", "spoil", "text"),
    [
        ("tls_certificate", absent, "cannot be read: No such file or directory"),
        ("tls_certificate", not_pem, "has no certificate in the PEM format"),
        ("tls_certificate", folder_instead, "cannot be read: Is a directory"),
        ("tls_certificate", pipe_instead, "cannot be read: not a regular file"),
        ("tls_certificate", too_large, "has more than 1048576 bytes"),
        ("tls_certificate", damaged_certificate, "is damaged or of a kind that is not known: "),
        ("tls_key", absent, "cannot be read: No such file or directory"),
        ("tls_key", not_pem, "has no private key in the PEM format"),
        ("tls_key", damaged_key, "is damaged or of a kind that is not known: "),
        ("tls_key", anothers, "does not belong to the certificate in "),
        ("tls_client_ca", absent, "cannot be read: No such file or directory"),
        ("tls_client_ca", not_pem, "has no certificate in the PEM format"),
        ("tls_client_ca", damaged_certificate, "is damaged: "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    pair: Pair, tmp_path: Path, setting: str, spoil: Callable[[Path, Pair], None], text: str
) -> None:
    path = tmp_path / "file"
    spoil(path, pair)
    said = refused(**{**pair.settings(), setting: str(path)})
    assert said.startswith(f"{setting}: {path} {text}")
    assert "\n" not in said


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    pair = make(tmp_path, "locked", "-passout", "pass:secret")
    said = refused(**pair.settings())
    assert said == f"tls_key: {pair.key} has a passphrase, which nobody is there to type"


# ---- systemd's copies


def test_credentials(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tls.FOLDER, str(pair.key.parent))
    made(tls_certificate="credential:server.pem", tls_key="credential:server.key")
    said = refused(tls_certificate="credential:no.pem", tls_key="credential:server.key")
    assert said.startswith(f"tls_certificate: {pair.key.parent}/no.pem cannot be read")


def test_credentials_that_systemd_did_not_give(pair: Pair) -> None:
    said = refused(tls_certificate=str(pair.certificate), tls_key="credential:k")
    assert said == (
        "tls_key: systemd gave no credentials ($CREDENTIALS_DIRECTORY is not set), so there is no k"
    )


@pytest.fixture
def copies(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pair as LoadCredential= of the unit copies it, beside a key that we may not read."""
    (tmp_path / "tls_certificate").write_bytes(pair.certificate.read_bytes())
    (tmp_path / "tls_key").write_bytes(pair.key.read_bytes())
    (tmp_path / "tls_client_ca").write_bytes(pair.certificate.read_bytes())
    monkeypatch.setenv(tls.FOLDER, str(tmp_path))
    return tmp_path


def forbid(monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    """The tests may run as root, to whom nothing is forbidden."""
    monkeypatch.setattr(tls, "_denied", lambda path: str(path) in paths)


@pytest.mark.usefixtures("copies")
def test_what_may_be_read_is_read_itself(other: Pair) -> None:
    made(**other.settings())  # the copies do not belong to it


@pytest.mark.usefixtures("copies")
def test_copies_of_what_may_not_be_read(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, "/secret/key", "/secret/ca")
    made(tls_certificate=str(pair.certificate), tls_key="/secret/key", tls_client_ca="/secret/ca")


@pytest.mark.usefixtures("copies")
def test_copies_stay_together_until_a_restart(other: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, str(other.key))
    warnings: list[str] = []
    assert tls.context(configured(**other.settings()), warnings.append)
    (warning,) = warnings
    assert f"{other.certificate} is newer than the copy that is served" in warning
    assert "a restart takes both" in warning


def test_without_a_copy_the_file_itself_is_blamed(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tls.FOLDER, str(tmp_path))
    forbid(monkeypatch, str(tmp_path / "key"))
    said = refused(tls_certificate=str(pair.certificate), tls_key=str(tmp_path / "key"))
    assert said.startswith(f"tls_key: {tmp_path}/key cannot be read")


def test_systemd_tells_of_a_missing_file(
    pair: Pair, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copies / "tls_key").write_text(MISSING)
    forbid(monkeypatch, "/secret/key")
    said = refused(tls_certificate=str(pair.certificate), tls_key="/secret/key")
    assert said == "tls_key: there is no /secret/key"


# ---- its time


@pytest.mark.parametrize(
    ("days", "sentences"),
    [(0, []), (29, []), (31, ["has expired, on "]), (-1, ["is not valid before "])],
)
def test_a_certificate_whose_time_is_over(pair: Pair, days: int, sentences: list[str]) -> None:
    now = pair.certificate.stat().st_mtime + days * 86400 + 5
    said = list(tls._wrong_time(pair.certificate, now))
    assert [one[: len(sentence)] for one, sentence in zip(said, sentences, strict=True)] == (
        sentences
    )


def test_times_have_two_forms() -> None:
    assert tls._seconds(b"491231235959") == datetime(2049, 12, 31, 23, 59, 59, 0, UTC).timestamp()
    assert tls._seconds(b"20500101000000") == datetime(2050, 1, 1, 0, 0, 0, 0, UTC).timestamp()


# ---- names


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ((), ""),
        (((("countryName", "DE"),), (("commonName", "Ada"),)), "CN=Ada,C=DE"),
        (((("commonName", "a"), ("userId", "b")),), "CN=a+UID=b"),
        (((("commonName", ' #a,b+"c"\\<d>; '),),), 'CN=\\ #a\\,b\\+\\"c\\"\\\\\\<d\\>\\;\\ '),
        (((("commonName", "a\0b"),),), "CN=a\\00b"),
        (((("emailAddress", "a@b"),),), "emailAddress=a@b"),
    ],
)
def test_names(subject: object, text: str) -> None:
    assert name_of(subject) == text


def test_a_name_beyond_latin_1_is_utf_8() -> None:
    assert name_of(((("commonName", "Łódź"),),)).encode("latin-1").decode() == "CN=Łódź"
