"""The benchmark: prefork-sd, as in this checkout, beside its peers, interleaved in one run."""
