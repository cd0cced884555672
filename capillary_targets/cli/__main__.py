"""`python -m capillary_targets.cli`."""

import sys

from .app import main

sys.exit(main())
