"""Rates between two looks."""

from prefork_sd.tally import Tally


def test_the_first_look_knows_no_rate() -> None:
    tally = Tally()
    tally.look(1000, 5, 10.0)
    assert (tally.rate, tally.errors) == (0.0, 0)


def test_a_rate_is_what_came_between_two_looks() -> None:
    tally = Tally()
    tally.look(1000, 5, 10.0)
    tally.look(1500, 7, 20.0)
    assert (tally.rate, tally.errors) == (50.0, 2)
    tally.look(1500, 7, 30.0)
    assert (tally.rate, tally.errors) == (0.0, 0)
