"""The benchmark: everything that is compared runs interleaved in one process; `python -m dvl_core.benchmark --help`."""
