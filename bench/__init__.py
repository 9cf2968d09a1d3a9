"""Benchmarks: `python -m bench NAME [--quick] [--json FILE]`. Claims are ratios within one run."""
