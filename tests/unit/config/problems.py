"""What is wrong with a configuration, as people read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.load import ConfigProblems, load

NO_ENVIRONMENT: dict[str, str] = {}


def problems_of(file: Path | None, env: dict[str, str] = NO_ENVIRONMENT) -> list[str]:
    """What is wrong, without the name of the file."""
    with pytest.raises(ConfigProblems) as raised:
        load(file, env)
    return [str(each).removeprefix(f"{file}: ") for each in raised.value.problems]
