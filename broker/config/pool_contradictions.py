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
