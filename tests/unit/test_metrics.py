"""OpenMetrics text as Prometheus' own parser reads it."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from prefork_sd import metrics
from prefork_sd.metrics import Family


def test_the_parser_of_prometheus_reads_it_all() -> None:
    families = [
        Family("build", "info", "what runs", [("_info", {"service": 'a"b\\c\nd'}, 1)]),
        metrics.gauge("workers_wanted", "wanted", 3),
        metrics.gauges("workers", "by state", "state", {"ready": 2, "booting": 1}),
        metrics.counter("http_response_bytes", "bytes", 2**60, "bytes"),
        metrics.counters("reloads", "by outcome", "outcome", {"done": 1, "failed": 0}),
        metrics.histogram("wait_seconds", "waits", (0.1, 1.0), (2, 1, 4), 9.5, "seconds"),
    ]
    text = metrics.text(families)
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
