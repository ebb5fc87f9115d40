"""What keeps a body: copied once, bounded in memory and in the number of its pieces."""

from io import BytesIO

import pytest

from prefork_sd.workers.bodies import PIECES, Body


def of(pieces: list[bytes], bound: int = 1 << 20) -> Body:
    body = Body(bound)
    for piece in pieces:
        body.write(piece)
    assert body.size == sum(map(len, pieces))
    return body


@pytest.mark.parametrize("bound", [0, 1, 3, 100, 1 << 20])
@pytest.mark.parametrize("count", [0, 1, 2, PIECES - 1, PIECES, PIECES + 1, PIECES + 2, 300])
def test_it_is_all_there_in_order(bound: int, count: int) -> None:
    pieces = [b"%d," % number for number in range(count)]
    body = of(pieces, bound)
    whole = body.whole()
    assert isinstance(whole, BytesIO) == (body.size <= bound)
    assert whole.read() == b"".join(pieces)
    body.close()
    whole.close()


def test_one_piece_is_not_copied() -> None:
    piece = bytes(range(256))
    assert of([piece]).whole().read() is piece


def test_views_and_buffers_are_pieces_like_others() -> None:
    for bound in (0, 100):
        body = Body(bound)
        for piece in (memoryview(b"abcd")[2:], bytearray(b"ef"), b"gh"):
            body.write(piece)
        with body.whole() as whole:
            assert whole.read() == b"cdefgh"


def test_many_small_pieces_weigh_what_their_bytes_do() -> None:
    body = of([b"xy"] * 10_000)
    assert len(body._pieces) <= PIECES
    assert body.whole().read() == b"xy" * 10_000


def test_nothing_is_kept_in_memory_past_the_bound() -> None:
    body = of([b"x" * 60] * 3, bound=100)
    assert body._pieces == []
    with body.whole() as whole:
        assert whole.read() == b"x" * 180
