"""What a service's YAML file, its units and the machine disagree about, and what to do."""

from prefork_sd.checks.all import findings
from prefork_sd.checks.finding import Finding

__all__ = ["Finding", "findings"]
