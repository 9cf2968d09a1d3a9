"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# The same examples each time: a failure of the suite is one of the change under test, not of chance
# or of a busy machine. HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=2_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
