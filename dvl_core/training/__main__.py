"""`python -m dvl_core.training`: make the bundled model."""

import sys

from .bundled import main

sys.exit(main())
