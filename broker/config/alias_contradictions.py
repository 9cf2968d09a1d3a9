"""What is wrong with aliases: in themselves, among each other, and beside the models that are
configured by name."""

from __future__ import annotations

from collections.abc import Iterator

from broker.config.aliases import AliasConfig
from broker.config.contradiction import Contradiction, twice
from broker.config.explanation import KeyPath, show_value
from broker.config.schema import Config
from broker.core.model_name import canonical, comparison_key

# What does not go with a list of models.
_REQUIREMENTS = ("capabilities", "context_min", "size_gb_max", "memory_gb_max", "prefer")


def aliases(config: Config) -> Iterator[Contradiction]:
    for name, alias in config.aliases.items():
        yield from _both(name, alias)
        yield from _names(name, alias, config)
    for name in config.models:
        if name.lower() in config.aliases:
            path: KeyPath = ("models", name)
            yield Contradiction(
                path=path,
                involved=(path, ("aliases", name.lower())),
                problem=f"is called like an alias; a model of that name is written "
                f"{show_value(f'{name}:latest')}",
            )


def _both(name: str, alias: AliasConfig) -> Iterator[Contradiction]:
    """A list says which models; what they must be is for requests to say."""
    for setting in _REQUIREMENTS if alias.models else ():
        if getattr(alias, setting):
            path: KeyPath = ("aliases", name, setting)
            yield Contradiction(
                path=path,
                involved=(path, ("aliases", name, "models")),
                problem="does not go with models: an alias is a list of models in order of "
                "preference, or what a model must be",
            )


def _names(name: str, alias: AliasConfig, config: Config) -> Iterator[Contradiction]:
    here: KeyPath = ("aliases", name, "models")
    for index, model in enumerate(alias.models):
        path: KeyPath = (*here, index)
        if canonical(model) is None:
            yield Contradiction(
                path=path,
                involved=(path,),
                problem=f"is {show_value(model)}, which is no name of a model",
            )
        elif model.lower() in config.aliases:
            yield Contradiction(
                path=path,
                involved=(path, ("aliases", model.lower())),
                problem=f"is {show_value(model)}, an alias: these name models alone; a model of "
                f"that name is written {show_value(f'{model}:latest')}",
            )
    yield from twice(
        (
            ((*here, index), model, comparison_key(model))
            for index, model in enumerate(alias.models)
        ),
        lambda model, _: f"is {show_value(model)} a second time",
    )
