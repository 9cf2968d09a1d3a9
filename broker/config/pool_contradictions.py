"""What is wrong between backends, and between models and the backends that they are confined to."""

from __future__ import annotations

from collections.abc import Iterator

from broker.config.contradiction import Contradiction, nearest, twice
from broker.config.explanation import KeyPath, show_value
from broker.config.schema import Config


def backends(config: Config) -> Iterator[Contradiction]:
    those = config.backends
    yield from twice(
        ((("backends", i, "name"), each.name, each.name) for i, each in enumerate(those)),
        lambda name, _: f"is {show_value(name)} a second time; names of backends must differ",
    )
    yield from twice(
        (
            (("backends", i, "url"), each.url, each.url.strip().strip("\"'").rstrip("/").lower())
            for i, each in enumerate(those)
        ),
        lambda url, _: (
            f"is {url} a second time; two queues before one server would not know "
            "of each other's work"
        ),
    )


def rooms(config: Config) -> Iterator[Contradiction]:
    """Room for one more is only there where the server holds it and its bytes are known."""
    for i, each in enumerate(config.backends):
        path: KeyPath = ("backends", i, "loaded_max")
        if each.loaded_max is None or each.loaded_max == each.resident_max:
            continue
        if each.loaded_max < each.resident_max:
            yield Contradiction(
                path=path,
                involved=(path, ("backends", i, "resident_max")),
                problem=f"is {each.loaded_max}; must be at least resident_max "
                f"({each.resident_max}), as else the server evicts models by itself",
            )
        elif each.memory_gb is None:
            yield Contradiction(
                path=path,
                involved=(path, ("backends", i, "memory_gb")),
                problem="does nothing without memory_gb, which says whether one more model fits",
            )


def confinements(config: Config) -> Iterator[Contradiction]:
    """A model that is confined to a tag that no backend has may run nowhere."""
    known = {tag for each in config.backends for tag in each.tags}
    for name, model in config.models.items():
        path: KeyPath = ("models", name, "backend_tags")
        for tag in model.backend_tags:
            if tag not in known:
                yield Contradiction(
                    path=path,
                    involved=(path, ("backends",)),
                    problem=f"no backend has tag {show_value(tag)}" + nearest(tag, known),
                )
