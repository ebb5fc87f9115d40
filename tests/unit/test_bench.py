"""The benchmark's pure parts: figures, tables, what the tools print, the command line."""

import pytest
from benchmark import figures, measure, options, processes, profile, scenarios, servers, table


def outcome(*rates: float) -> figures.Outcome:
    """What a server did that had these rates."""
    names = {"cpu": 10.0, "busy": 99.0, "p50": 1.0, "p99": 2.0, "failed": 0.0}
    return figures.Outcome([{"rate": rate, **names} for rate in rates])


# ---- figures


def test_medians_are_of_what_every_round_has() -> None:
    rounds = [{"rate": 3.0, "held": 1.0}, {"rate": 1.0}, {"rate": 2.0}]
    assert figures.medians(rounds) == {"rate": 2.0}
    assert figures.medians([]) == {}


def test_spread_is_a_part_of_the_median() -> None:
    assert figures.spread([90.0, 100.0, 120.0]) == pytest.approx(0.3)
    assert figures.spread([0.0, 0.0]) == 0.0


def test_a_ratio_to_nothing_says_nothing() -> None:
    assert figures.ratio(6.0, 2.0) == 3.0
    assert figures.ratio(6.0, None) is None
    assert figures.ratio(6.0, 0.0) is None


def test_the_best_is_the_highest_or_the_lowest() -> None:
    values = {"a": 1.0, "b": 2.0}
    assert figures.best(values, high=True) == "b"
    assert figures.best(values, high=False) == "a"
    assert figures.best({}, high=True) == ""


# ---- tables


def test_a_table_has_medians_ratios_and_who_is_missing() -> None:
    outcomes = {
        "ours": outcome(900.0, 1000.0, 1100.0),
        "base": outcome(100.0),
        "rival": outcome(500.0),
        "gone": figures.Outcome(missing="not installed"),
    }
    scenario = scenarios.BY_NAME["bare"]
    text = table.table(scenario, outcomes, base="base", ours=frozenset({"ours"}))
    title, header, *rows = text.splitlines()
    assert title.startswith("bare: ")
    assert header.split()[:6] == ["req/s", "spread", "x", "base", "x", "rival"]
    assert [row.split()[:5] for row in rows[:3]] == [
        ["ours", "1,000", "20%", "10.00", "2.00"],
        ["rival", "500", "0%", "5.00", "1.00"],
        ["base", "100", "0%", "1.00", "0.20"],
    ]
    assert rows[3] == "missing: gone: not installed"


def test_where_less_is_better_the_lowest_comes_first() -> None:
    names = {"workers": 4.0, "each": 5.0, "processes": 5.0}
    outcomes = {
        name: figures.Outcome([{"pss": pss, **names}])
        for name, pss in {"a": 40.0, "b": 20.0}.items()
    }
    text = table.table(scenarios.BY_NAME["memory"], outcomes, base="a", ours=frozenset({"a"}))
    assert [row.split()[0] for row in text.splitlines()[2:]] == ["b", "a"]
    assert " x b " in text


def test_a_base_that_is_the_best_peer_is_compared_with_once() -> None:
    outcomes = {"ours": outcome(900.0), "base": outcome(100.0)}
    scenario = scenarios.BY_NAME["bare"]
    text = table.table(scenario, outcomes, base="base", ours=frozenset({"ours"}))
    assert text.splitlines()[1].split()[:5] == ["req/s", "spread", "x", "base", "CPU"]


def test_a_table_of_nobody_still_says_why() -> None:
    outcomes = {"a": figures.Outcome([{"rate": 1.0}], "ended with 1: no output")}
    text = table.table(scenarios.BY_NAME["bare"], outcomes, base="a", ours=frozenset())
    assert text.splitlines()[2:] == ["missing: a: ended with 1: no output"]


def test_columns_are_aligned() -> None:
    assert table.grid([["", "n"], ["long", "1"], ["a", "100"]]) == [
        "        n",
        "long    1",
        "a     100",
    ]


def test_every_column_is_a_figure_that_its_kind_measures() -> None:
    loaded = {"rate", "cpu", "busy", "p50", "p99", "failed"}
    for one in scenarios.SCENARIOS:
        measured = {
            scenarios.Kind.LOAD: loaded
            | ({"held"} if one.idle else set())
            | ({"ideal"} if one.threads else set()),
            scenarios.Kind.MEMORY: {"pss", "workers", "each", "processes"},
            scenarios.Kind.WAKEUPS: {"switches", "workers"},
        }[one.kind]
        assert {column.figure for column in one.columns} <= measured
        assert one.key == one.columns[0].figure


# ---- what the tools print


def test_the_line_of_the_load_generator_is_read() -> None:
    text = (
        "Running 1s test\nRESULT requests=10 usec=1000 p50=3 p99=4 status=0 broken=2\nRequests/sec"
    )
    assert measure.parse(text) == {
        "requests": 10,
        "usec": 1000,
        "p50": 3,
        "p99": 4,
        "status": 0,
        "broken": 2,
    }


def test_a_load_generator_that_failed_is_quoted() -> None:
    with pytest.raises(processes.BenchError, match="unable to connect"):
        measure.parse("unable to connect to 127.0.0.1:1\n")


def test_the_table_of_strace_is_read() -> None:
    text = """\
strace: Process 1 attached
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           6       100           sendto
 40.00    0.000400           4       100         3 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           5       200         3 total
"""
    assert profile.parse_strace(text) == {"sendto": 100, "recvfrom": 100}


def test_a_ranking_shares_the_cost() -> None:
    samples = [profile.Sample("/x/a.py", "f", 1, 3), profile.Sample("/x/a.py", "g", 9, 1)]
    lines = profile.by_function(samples, 8.0)
    assert [line.split() for line in lines[1:]] == [
        ["a.py:", "f", "6.00", "75.0%"],
        ["a.py:", "g", "2.00", "25.0%"],
    ]


# ---- the command line


def test_all_is_measured_unless_told_otherwise() -> None:
    given = options.parse([])
    assert given.only == list(scenarios.SCENARIOS)
    assert given.servers == list(servers.SERVERS)
    assert (given.rounds, given.seconds, given.json, given.profile) == (3, 3, None, False)


def test_quick_is_one_round_of_one_second_but_for_what_is_said() -> None:
    given = options.parse(["--quick", "--rounds", "2", "--only", "close", "bare"])
    assert (given.rounds, given.seconds) == (2, 1)
    assert [one.name for one in given.only] == ["bare", "close"]


def test_a_profile_is_of_one_hello_scenario() -> None:
    assert options.parse(["--profile"]).profiled is profile.USUAL
    assert options.parse(["--profile", "--only", "close"]).profiled.name == "close"


@pytest.mark.parametrize(
    "argv",
    [
        ["--only", "nothing"],
        ["--servers", "nobody"],
        ["--rounds", "0"],
        ["--seconds", "x"],
        ["--profile", "--only", "flask"],
        ["--profile", "--only", "bare", "close"],
    ],
)
def test_mistakes_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        options.parse(argv)
    assert refused.value.code == 2
    assert argv[0] in capsys.readouterr().err


# ---- servers


def test_a_server_without_threads_takes_no_part_where_they_are_needed() -> None:
    ours = servers.BY_NAME["prefork-sd"]
    assert ours.missing(scenarios.BY_NAME["bare"]) == ""
    assert ours.missing(scenarios.BY_NAME["wait"]) == "has no threads"


def test_only_those_that_can_preload_take_part_where_it_is_asked_for() -> None:
    scenario = scenarios.BY_NAME["preload"]
    assert servers.BY_NAME["waitress"].missing(scenario) in ("does not preload", "not installed")
    for name, option in (("prefork-sd", "--preload-app"), ("gunicorn-sync", "--preload")):
        server = servers.BY_NAME[name]
        assert option in server.command(server.job(scenario, 12345))
        assert option not in server.command(server.job(scenarios.BY_NAME["django"], 12345))


def test_a_server_that_is_not_there_is_missing() -> None:
    one = servers.Server("x", "no-such-distribution-anywhere", servers.prefork_sd)
    assert one.missing(scenarios.BY_NAME["bare"]) == "not installed"


def test_every_command_names_the_app_and_the_port() -> None:
    for server in servers.SERVERS:
        job = server.job(scenarios.BY_NAME["memory"], 12345)
        words = server.command(job)
        assert "plain:hello" in words
        assert any("12345" in word for word in words)
        assert job.workers == (4 if server.forks else 1)
