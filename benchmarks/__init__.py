"""Benchmarks and experiments of partloc. Run one as `python -m benchmarks.NAME` in the checkout."""
