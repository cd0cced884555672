"""`python -m capillary_targets.cli`."""

import sys

from . import main

sys.exit(main())
