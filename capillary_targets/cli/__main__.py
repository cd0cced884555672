"""`python -m capillary_targets.cli`: as the console script, with its signals."""

import sys

from capillary_targets_cli import main

sys.exit(main())
