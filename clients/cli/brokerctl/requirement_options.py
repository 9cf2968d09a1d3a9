"""The options that say what a model must be, shared by the commands that have one chosen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import click

from broker_client import Requirements
from brokerctl.models_wanted import ABILITIES, Size

PREFERENCES: Final = ("fast", "small", "large")


def requiring(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options; the command gets them as `requirements`, None where none is given."""

    @click.option(
        "--need",
        "capabilities",
        multiple=True,
        type=click.Choice(ABILITIES),
        help="What the model must be able to do; may be given again.",
    )
    @click.option("--context", type=click.IntRange(1), help="Tokens of context that it must allow.")
    @click.option("--max-size", type=Size(), metavar="SIZE", help="Its size on disk at most.")
    @click.option("--max-memory", type=Size(), metavar="SIZE", help="The same while loaded.")
    @click.option(
        "--prefer",
        type=click.Choice(PREFERENCES),
        help="Which of those that fit.  [default: fast, the soonest answer]",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        capabilities: tuple[str, ...],
        context: int | None,
        max_size: int | None,
        max_memory: int | None,
        prefer: Any,
        **kwargs: Any,
    ) -> None:
        is_given = bool(capabilities or context or max_size or max_memory or prefer)
        requirements = Requirements(
            capabilities=capabilities,
            context_min=context or 0,
            size_bytes_max=max_size or 0,
            memory_bytes_max=max_memory or 0,
            prefer=prefer,
        )
        command(*args, requirements=requirements if is_given else None, **kwargs)

    return wrapped
