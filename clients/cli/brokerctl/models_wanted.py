"""The options that say which models are meant, shared by the commands that list them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final

import click

from broker_client import Wanted

ORDERS: Final = ("name", "size", "use")
# What a model may be asked to be able to do.
ABILITIES: Final = ("completion", "embedding", "tools", "thinking", "vision", "insert", "audio")
SEARCH_LENGTH_MAX: Final = 128

_SIZE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([kmgt])b?", re.IGNORECASE | re.ASCII)
_SCALE: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Size(click.ParamType[int]):
    """Converts "5.2GB" to bytes, in the decimal units that models are told in. "8b" is a number of
    parameters, and no size."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes; fails with a sentence where it is no size."""
        if isinstance(value, int):  # click converts a default twice
            return value
        written = _SIZE.fullmatch(value.strip())
        size_bytes = round(float(written[1]) * _SCALE[written[2].lower()]) if written else 0
        if not 0 < size_bytes < 2**63:
            self.fail(f"{value!r} is no size; say 5.2GB, 800MB or 1TB", param, ctx)
        return size_bytes


def wanting(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options; the command gets them as `wanted`."""

    @click.option("--search", default="", help="Words of its name, family or description.")
    @click.option("--all", "is_all", is_flag=True, help="Those that could be downloaded, too.")
    @click.option("--downloadable", is_flag=True, help="Only those that could be downloaded.")
    @click.option(
        "--can",
        "capabilities",
        multiple=True,
        type=click.Choice(ABILITIES),
        help="What it must be able to do; may be given again.",
    )
    @click.option("--fits", is_flag=True, help="Only what fits into the memory of a backend.")
    @click.option("--resident", is_flag=True, help="Only what is in memory now.")
    @click.option("--max-size", type=Size(), metavar="SIZE", help="On disk at most, as 5.2GB.")
    @click.option("--max-memory", type=Size(), metavar="SIZE", help="While loaded at most.")
    @click.option("--context", type=click.IntRange(1), help="Tokens of context at least.")
    @click.option("--no-guards", is_flag=True, help="Not those that judge texts.")
    @click.option("--sort", "order", type=click.Choice(ORDERS), default="name", show_default=True)
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        search: str,
        is_all: bool,
        downloadable: bool,
        capabilities: tuple[str, ...],
        fits: bool,
        resident: bool,
        max_size: int | None,
        max_memory: int | None,
        context: int | None,
        no_guards: bool,
        order: str,
        **kwargs: Any,
    ) -> None:
        if is_all and downloadable:
            raise click.UsageError("--all has --downloadable in it: give one of them")
        if len(search) > SEARCH_LENGTH_MAX:
            raise click.UsageError(f"--search takes at most {SEARCH_LENGTH_MAX} characters")
        wanted = Wanted(
            search=search,
            availability="all" if is_all else "downloadable" if downloadable else "downloaded",
            capabilities=capabilities,
            fits=fits,
            resident=resident,
            size_bytes_max=max_size or 0,
            memory_bytes_max=max_memory or 0,
            context_min=context or 0,
            exclude_guards=no_guards,
            order=order,
        )
        command(*args, wanted=wanted, **kwargs)

    return wrapped


def is_narrowed(wanted: Wanted) -> bool:
    """Is less meant than all that is downloaded?"""
    others = (value for name, value in wanted.items() if name not in ("availability", "order"))
    return wanted.get("availability") == "downloadable" or any(others)
