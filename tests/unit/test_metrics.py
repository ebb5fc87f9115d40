"""OpenMetrics text as Prometheus' own parser reads it."""

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from prefork_sd import metrics
from prefork_sd.metrics import Family

FAMILIES = [
    Family("build", "info", "what runs", [("_info", {"service": 'a"b\\c\nd'}, 1)]),
    metrics.gauge("workers_wanted", "wanted", 3),
    metrics.gauges("workers", "by state", "state", {"ready": 2, "booting": 1}),
    metrics.counter("http_response_bytes", "bytes", 2**60, "bytes"),
    metrics.counters("reloads", "by outcome", "outcome", {"done": 1, "failed": 0}),
    metrics.histogram("wait_seconds", "waits", (0.1, 1.0), (2, 1, 4), 9.5, "seconds"),
]

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)


@pytest.mark.parametrize("accept", ["", "*/*", PROMETHEUS])
def test_most_clients_get_openmetrics(accept: str) -> None:
    assert metrics.exposition(FAMILIES, accept) == (metrics.CONTENT_TYPE, metrics.text(FAMILIES))


def test_who_wants_plain_text_gets_the_same_values_in_the_older_format() -> None:
    kind, text = metrics.exposition(FAMILIES, "text/plain")
    assert kind.startswith("text/plain; version=0.0.4")
    old = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    new = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text(FAMILIES))
        for sample in family.samples
    }
    assert old == new
    kinds = {family.name: family.type for family in parser.text_string_to_metric_families(text)}
    assert kinds["prefork_sd_build_info"] == "gauge"
    assert kinds["prefork_sd_reloads"] == "counter"  # the parser takes _total off


def test_the_parser_of_prometheus_reads_it_all() -> None:
    text = metrics.text(FAMILIES)
    assert text.endswith("# EOF\n")
    read = {family.name: family for family in text_string_to_metric_families(text)}
    assert read["prefork_sd_build"].samples[0].labels == {"service": 'a"b\\c\nd'}
    assert read["prefork_sd_http_response_bytes"].samples[0].value == 2**60
    buckets = {
        sample.labels["le"]: sample.value
        for sample in read["prefork_sd_wait_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert buckets == {"0.1": 2, "1.0": 3, "+Inf": 7}
    sums = {sample.name: sample.value for sample in read["prefork_sd_wait_seconds"].samples}
    assert sums["prefork_sd_wait_seconds_sum"] == 9.5
    assert sums["prefork_sd_wait_seconds_count"] == 7
