"""Time-outs as people type them: "first-token=5s", for each phase once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from broker_client import Timeouts
from brokerctl.duration import Duration

PHASES: Final = ("queue", "load", "first-token", "token-gap", "total")


class PhaseLimit(click.ParamType[tuple[str, float]]):
    """Converts to a phase and its seconds."""

    name = "phase=duration"

    def convert(
        self,
        value: str | tuple[str, float],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, float]:
        """The pair; fails with a sentence where it is none."""
        if isinstance(value, tuple):  # click converts a default twice
            return value
        phase, is_pair, duration = value.partition("=")
        if not is_pair or phase not in PHASES:
            self.fail(
                f"{value!r} is no limit of a phase; say PHASE=DURATION, as first-token=5s, with "
                f"a PHASE of {', '.join(PHASES)}",
                param,
                ctx,
            )
        return phase, Duration().convert(duration, param, ctx)


def timeouts_of(limits: Sequence[tuple[str, float]]) -> Timeouts | None:
    """All of them as the client takes them; click's usage error where one is said twice."""
    if not limits:
        return None
    said = {f"{phase.replace('-', '_')}_s": seconds for phase, seconds in limits}
    if len(said) < len(limits):
        raise click.UsageError("--timeout takes each phase once")
    return Timeouts(**said)
