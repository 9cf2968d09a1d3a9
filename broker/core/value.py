"""Values: what is made once for every request, passed on, and never changed.

A frozen dataclass pays a call of `object.__setattr__` per field, four times what plain slots cost;
a request is a dozen of such objects. To the type checker a value is frozen all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def value(cls: type[T]) -> type[T]: ...


@overload
def value(*, kw_only: bool) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True)
def value(cls: type[Any] | None = None, *, kw_only: bool = False) -> Any:
    """As `dataclass(frozen=True, slots=True)`: compared and hashed by its fields."""

    def wrap(cls: type[Any]) -> type[Any]:
        return dataclass(cls, slots=True, kw_only=kw_only, unsafe_hash=True)

    return wrap if cls is None else wrap(cls)
