"""prefork-sd: a pre-fork application server that is a native citizen of systemd."""

__version__ = "0.1.0"
