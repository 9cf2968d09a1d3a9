"""A model as it is known here: what backends, the library and the cache say of one name, as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from broker.core.model_name import canonical
from broker.core.ports import ModelFacts

NOWHERE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """One name with its tag (`llama3:8b`; a server of another dialect may have none), and the one
    without (`llama3`) as `base`.

    `runners` names the backends that have it, each with the runner that answers for it there; none
    of a model that could only be downloaded. `facts` are those of the first backend. Numbers are 0
    and texts empty where nobody tells. `is_dynamic`: merely found, and not named in the
    configuration.
    """

    name: str
    base: str
    downloaded: bool
    size_bytes: int = 0
    size_str: str = ""
    context_window: int = 0
    modified_at: str = ""
    capabilities: frozenset[str] = frozenset()
    digest: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    description: str = ""
    facts: ModelFacts | None = None
    runners: Mapping[str, str] = field(default_factory=lambda: NOWHERE)
    is_guard: bool = False
    is_dynamic: bool = True

    # What the name is compared by; it is as short as it can be already.
    key: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.name.lower())


def base_of(name: str) -> str:
    """The name without its tag, as short as it can be written."""
    return untagged(canonical(name) or name)


def untagged(full: str) -> str:
    """The same of a name that is as short as it can be, or of the key of one."""
    return full.rpartition(":")[0] or full
