"""What is wrong between the settings of what is changed of models."""

from __future__ import annotations

from collections.abc import Iterator

from broker.config.contradiction import Contradiction, nearest
from broker.config.explanation import KeyPath, show_value
from broker.config.schema import Config

TYPE_MARK = "type:"


def model_changes(config: Config) -> Iterator[Contradiction]:
    """Types that are named are there, and the first wait is no longer than the last."""
    types = {each.name for each in config.agents.types}
    for setting in ("pull", "delete", "load", "unload"):
        for index, each in enumerate(getattr(config.model_access, setting)):
            name = each.removeprefix(TYPE_MARK)
            if not each.startswith(TYPE_MARK) or name in types:
                continue
            path: KeyPath = ("model_access", setting, index)
            yield Contradiction(
                path=path,
                involved=(path, ("agents", "types")),
                problem=f"is {show_value(each)}; there is no such type{nearest(name, types)}",
            )
    first: KeyPath = ("pulls", "retry_s")
    last: KeyPath = ("pulls", "retry_max_s")
    if config.pulls.retry_s > config.pulls.retry_max_s:
        yield Contradiction(
            path=first,
            involved=(first, last),
            problem=f"is {config.pulls.retry_s:g}; must be at most pulls.retry_max_s "
            f"({config.pulls.retry_max_s:g}), as waits grow up to it",
        )
