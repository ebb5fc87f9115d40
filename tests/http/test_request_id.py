"""The id of a request: in its environ, in its records and, when asked, in its response."""

from collections.abc import Iterable
from typing import Any

import pytest

from prefork_sd.forwarded import Forwarded
from tests.http.apps import TEXT, hello, says
from tests.http.conftest import Serve
from tests.http.serving import Environ, StartResponse

NAME = "X-Request-ID"


def tell(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """An app that answers with the id it was told, or fails."""
    if environ["PATH_INFO"] == "/oops":
        raise LookupError("oops")
    start_response("200 OK", TEXT)
    return [environ["PREFORK_SD_REQUEST_ID"].encode()]


def test_it_comes_back_in_the_header_that_was_asked_for(serve: Serve) -> None:
    served = serve(tell, request_id_header=NAME)
    client = served.connect()
    answers = [client.get() for _ in range(3)]
    assert [answer.all(NAME) for answer in answers] == [[answer.text] for answer in answers]
    assert len({answer.text for answer in answers}) == 3


def test_a_request_that_failed_has_it_too(serve: Serve) -> None:
    served = serve(tell, request_id_header=NAME)
    reply = served.get("/oops")
    assert reply.status == 500
    assert reply[NAME]


def test_what_the_app_says_itself_stands(serve_sync: Serve) -> None:
    app = says([b"x"], "200 OK", (NAME.lower(), "mine"))
    assert serve_sync(app, request_id_header=NAME).get().all(NAME) == ["mine"]


def test_nobody_who_has_not_asked_gets_it(serve_sync: Serve) -> None:
    assert serve_sync(tell).get()[NAME] is None


def test_what_fails_before_the_app_costs_only_its_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(self: Forwarded, environ: dict[str, Any]) -> None:
        if environ["PATH_INFO"] == "/bad":
            raise RecursionError("too deep")

    monkeypatch.setattr(Forwarded, "apply", apply)
    served = serve(hello)
    assert served.get("/bad", "X-Forwarded-For: 192.0.2.1").status == 500
    assert served.get("/good").text == "/good"
    served.stop()
    (record,) = [line for line in served.log.rest() if line.startswith("ERROR")]
    assert "GET /bad 500" in record
    assert "RecursionError: too deep" in record
