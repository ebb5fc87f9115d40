"""python -m prefork_sd."""

import sys

from prefork_sd.cli import main

sys.exit(main())
