"""`python -m dvl_core.training`: make the bundled model."""

from .bundled import main

main()
