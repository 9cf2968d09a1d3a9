"""Benchmarks: `python -m bench NAME [--quick] [--json FILE]`. Claims are ratios within one run."""

import os

# Processes are started while channels are open; they execute a program and inherit nothing. gRPC
# reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
