"""What only several settings together can get wrong.

Each rule yields every place where it is broken: the path to the setting that is blamed, the paths
that take part, and a sentence. A rule that leans on a setting which is itself wrong says nothing:
its complaint would be about a value that nobody wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

from broker.config.alias_contradictions import aliases
from broker.config.change_contradictions import model_changes
from broker.config.contradiction import Contradiction, nearest, twice
from broker.config.explanation import KeyPath, show_path, show_value
from broker.config.model_contradictions import library, model_list
from broker.config.pool_contradictions import backends, confinements, rooms
from broker.config.schema import AgentsConfig, AgentTypeConfig, Config, QueueConfig
from broker.core.agent_policy import BATCH, CRITICAL
from broker.core.model_name import canonical, comparison_key


def contradictions(config: Config) -> Iterator[Contradiction]:
    """All of them, in the order of the sections."""
    for rule in _RULES:
        yield from rule(config)


def _at_most(
    config: Config, low: KeyPath, high: KeyPath, reason: str, *, less: bool = False
) -> Iterator[Contradiction]:
    """`low` must not exceed `high`, nor, with `less`, equal it: both are paths of two names to
    numbers. None is no number."""
    small = getattr(getattr(config, str(low[0])), str(low[1]))
    large = getattr(getattr(config, str(high[0])), str(high[1]))
    if small is not None and (small > large or (less and small == large)):
        yield Contradiction(
            path=low,
            involved=(low, high),
            problem=f"is {small}; must be {'less than' if less else 'at most'} "
            f"{'.'.join(map(str, high))} ({large}), as {reason}",
        )


def _sizes(config: Config) -> Iterator[Contradiction]:
    request: KeyPath = ("limits", "request_bytes_max")
    message: KeyPath = ("server", "message_bytes_max")
    if config.server.message_bytes_max <= config.limits.request_bytes_max:
        yield Contradiction(
            path=message,
            involved=(message, request),
            problem=f"is {config.server.message_bytes_max}; must be more than "
            "limits.request_bytes_max "
            f"({config.limits.request_bytes_max}), as else the transport and not the broker "
            "answers what is too large",
        )
    if config.limits.prompt_bytes_max >= config.limits.request_bytes_max:
        prompt: KeyPath = ("limits", "prompt_bytes_max")
        yield Contradiction(
            path=prompt,
            involved=(prompt, request),
            problem=f"is {config.limits.prompt_bytes_max}; must be less than "
            "limits.request_bytes_max "
            f"({config.limits.request_bytes_max}), as a request holds more than its text",
        )


def _counts_and_times(config: Config) -> Iterator[Contradiction]:
    yield from _at_most(
        config,
        ("limits", "queued_max"),
        ("limits", "streams_max"),
        "each request that waits has a stream",
    )
    yield from _at_most(
        config,
        ("limits", "queued_per_agent_max"),
        ("limits", "queued_max"),
        "no agent can have more in the queue than fits",
    )
    yield from _at_most(
        config,
        ("limits", "deadline_default_s"),
        ("limits", "deadline_max_s"),
        "the default must itself be allowed",
    )


def _queue(config: Config) -> Iterator[Contradiction]:
    queue, default = config.queue, QueueConfig()
    # Defaults are not blamed here: nobody wrote them, and few streams or restricted types are well
    # with them.
    if queue.room_max != default.room_max:
        yield from _at_most(
            config,
            ("queue", "room_max"),
            ("limits", "streams_max"),
            "each request that waits for a place has a stream",
        )
    if not queue.prompt_token_cost and not queue.output_token_cost:
        prompt: KeyPath = ("queue", "prompt_token_cost")
        output: KeyPath = ("queue", "output_token_cost")
        yield Contradiction(
            path=prompt,
            involved=(prompt, output),
            problem="is 0, as queue.output_token_cost is: work that costs nothing cannot be shared "
            "out fairly",
        )
    if queue.room_max and queue.room_priority_worst != default.room_priority_worst:
        best = min((each.priority_best for each in config.agents.types), default=0)
        if best > queue.room_priority_worst:
            worst: KeyPath = ("queue", "room_priority_worst")
            yield Contradiction(
                path=worst,
                involved=(worst, ("queue", "room_max"), ("agents", "types")),
                problem=f"is {queue.room_priority_worst}; must be at least {best}, the best that "
                "any type may use (priority_best), as else nobody may wait in the room",
            )


def _preemption(config: Config) -> Iterator[Contradiction]:
    yield from _at_most(
        config,
        ("preemption", "urgent_priority_worst"),
        ("preemption", "victim_priority_best"),
        "what is urgent would be set aside for its like",
        less=True,
    )


def _addresses(config: Config) -> Iterator[Contradiction]:
    http, grpc = config.server.http_address, config.server.grpc_address
    if http == grpc and not http.endswith(":0"):
        involved: tuple[KeyPath, ...] = (("server", "http_address"), ("server", "grpc_address"))
        yield Contradiction(
            path=involved[0],
            involved=involved,
            problem=f"is {http}, as server.grpc_address is: each needs a port of its own",
        )


def _agent_types(config: Config) -> Iterator[Contradiction]:
    types = config.agents.types
    yield from twice(
        ((("agents", "types", i, "name"), each.name, each.name) for i, each in enumerate(types)),
        lambda name, _: f"is {show_value(name)} a second time; names of types must differ",
    )
    names = [each.name for each in types]
    known = f"one of {', '.join(names)}" if names else "there are no types"
    default: KeyPath = ("agents", "default_type")
    if config.agents.default_type and config.agents.default_type not in names:
        yield Contradiction(
            path=default,
            involved=(default, ("agents", "types")),
            problem=f"is {show_value(config.agents.default_type)}; "
            f"{known}, or empty to refuse ids that no type matches",
        )


# What of a glob stands for other text, and what stands in its place where globs are compared: TOML
# cannot write it, so no literal part of a glob is taken for it.
_WILDCARD: Final = re.compile(r"\*|\?|\[!?\]?[^\]]*\]")
_ANY_TEXT: Final = "\ud800"
# So many globs are known as covers, so that a file of a million is still read in a second.
_COVERS_MAX: Final = 1_000


def _unreachable_types(config: Config) -> Iterator[Contradiction]:
    """Types of which every glob is covered by one of an earlier type. The default type has the ids
    that no glob fits too, so that for it only `*` is a cover."""
    by_head: dict[str, list[tuple[str, int]]] = {}  # literal text before the first wildcard -> ...
    known = 0
    types = config.agents.types
    for index, each in enumerate(types):
        by_type: dict[int, KeyPath] = {}
        for glob in ("*",) if each.name == config.agents.default_type else each.match:
            found = _first_cover(glob, by_head)
            if found is None:
                break
            by_type[found] = ("agents", "types", found)
        else:
            names = ", ".join(show_value(types[found].name) for found in by_type)
            here: KeyPath = ("agents", "types", index)
            yield Contradiction(
                path=(*here, "match"),
                involved=(here, *by_type.values()),
                problem=f"is never reached, as every id that it fits is of a type before it "
                f"({names}); put the narrower type first, or take this one out",
            )
        for glob in each.match[: max(0, _COVERS_MAX - known)]:
            by_head.setdefault(_head(glob), []).append((glob, index))
            known += 1


def _first_cover(glob: str, by_head: dict[str, list[tuple[str, int]]]) -> int | None:
    """The type of a glob that fits all that this one fits."""
    head = _head(glob)
    for end in range(len(head) + 1):
        for other, index in by_head.get(head[:end], ()):
            if _covers(other, glob):
                return index
    return None


def _head(glob: str) -> str:
    return _WILDCARD.split(glob, maxsplit=1)[0]


def _covers(one: str, other: str) -> bool:
    """Whether `one` surely fits every id that `other` fits. Of `?` and sets in `one` only equal
    ones are known to."""
    if one == other:
        return True
    if "?" in one or "[" in one:
        return False
    return fnmatchcase(_WILDCARD.sub(_ANY_TEXT, other), one)


# What a token bucket is called in its settings' names.
_BUCKETS: Final = ("requests", "tokens", "all_requests", "all_tokens")


def _rates(config: Config) -> Iterator[Contradiction]:
    agents = config.agents
    yield from _bursts(agents, ("agents",))
    # Who limits all agents together need not have written the types of the seeds anew.
    above = None if agents.types == AgentsConfig().types else agents
    for index, each in enumerate(agents.types):
        here: KeyPath = ("agents", "types", index)
        yield from _bursts(each, here)
        for unit in ("requests", "tokens"):
            for kind in ("per_minute", "burst"):
                shared = _Bound(each, here, f"all_{unit}", kind, "all of its type together")
                everybody = _Bound(above, ("agents",), unit, kind, "all agents together")
                own = _Bound(each, here, unit, kind, "")
                yield from own.at_most("agent", shared, everybody)
                yield from shared.at_most("type", everybody)


class _Bound:
    """A bucket's rate or burst where somebody wrote one and it counts."""

    def __init__(
        self,
        section: AgentsConfig | AgentTypeConfig | None,
        here: KeyPath,
        bucket: str,
        kind: str,
        holder: str,
    ) -> None:
        # A burst without a rate is no bound, and is named as such.
        is_bucket = getattr(section, f"{bucket}_per_minute", None) is not None
        self.value: float | None = getattr(section, f"{bucket}_{kind}") if is_bucket else None
        self.path = (*here, f"{bucket}_{kind}")
        self.holder = holder

    def at_most(self, who: str, *bounds: _Bound) -> Iterator[Contradiction]:
        """Blames this one where it exceeds others, by the lowest of them."""
        given = [(each.value, each) for each in bounds if each.value is not None]
        if self.value is None or not given:
            return
        limit, lowest = min(given, key=lambda pair: pair[0])
        if self.value > limit:
            yield Contradiction(
                path=self.path,
                involved=(self.path, lowest.path),
                problem=f"is {self.value:g}; must be at most {show_path(lowest.path)} ({limit:g}), "
                f"as no {who} can have more than {lowest.holder}",
            )


def _bursts(section: AgentsConfig | AgentTypeConfig, here: KeyPath) -> Iterator[Contradiction]:
    for bucket in _BUCKETS:
        rate, burst = f"{bucket}_per_minute", f"{bucket}_burst"
        given = getattr(section, burst, None)
        if given is not None and getattr(section, rate) is None:
            yield Contradiction(
                path=(*here, burst),
                involved=((*here, burst), (*here, rate)),
                problem=f"is {given:g}, and there is no {rate} that it could be a burst of",
            )


def _bulkheads(config: Config) -> Iterator[Contradiction]:
    table: KeyPath = ("bulkheads",)
    used = {CRITICAL, BATCH}
    for index, each in enumerate(config.agents.types):
        used.add(each.bulkhead or each.name)
        if each.bulkhead and each.bulkhead != each.name and each.bulkhead not in config.bulkheads:
            path: KeyPath = ("agents", "types", index, "bulkhead")
            yield Contradiction(
                path=path,
                involved=(path, table),
                problem=f"is {show_value(each.bulkhead)}, and [bulkheads] has no such name"
                + nearest(each.bulkhead, config.bulkheads),
            )
    if config.bulkheads == Config().bulkheads:
        return  # those of the seeds stay when the operator has other types
    for name in config.bulkheads:
        if name not in used:
            yield Contradiction(
                path=(*table, name),
                involved=((*table, name), ("agents", "types")),
                problem=f"is the bulkhead of nothing: it is neither {CRITICAL} nor {BATCH} nor "
                "that of a type" + nearest(name, used),
            )


def _models(config: Config) -> Iterator[Contradiction]:
    yield from twice(
        ((("models", name), name, comparison_key(name)) for name in config.models),
        lambda name, first: f"is the model that [{show_path(('models', first))}] names already",
    )
    for name, model in config.models.items():
        here: KeyPath = ("models", name)
        if canonical(name) is None:
            yield Contradiction(
                path=here, involved=(here,), problem="is no name that a model can have"
            )
        if model.num_ctx and model.num_ctx_max and model.num_ctx > model.num_ctx_max:
            involved: tuple[KeyPath, ...] = ((*here, "num_ctx"), (*here, "num_ctx_max"))
            yield Contradiction(
                path=involved[0],
                involved=involved,
                problem=f"is {model.num_ctx}; must be at most num_ctx_max ({model.num_ctx_max})",
            )


def _levels(config: Config) -> Iterator[Contradiction]:
    """The thresholds rise from level to level, each level is left below where it is entered."""
    left, risen = "a level is left below where it is entered", "levels come one after the other"
    for section, low, high, reason in (
        ("degradation", "level_1_down", "level_1_up", left),
        ("degradation", "level_2_down", "level_2_up", left),
        ("degradation", "critical_down", "critical_up", left),
        ("degradation", "level_1_up", "level_2_up", risen),
        ("degradation", "level_2_up", "critical_up", risen),
        ("monitors", "interval_ms", "stale_ms", "else no answer of a sensor is fresh"),
    ):
        yield from _at_most(config, (section, low), (section, high), reason, less=True)
    dwell: KeyPath = ("degradation", "dwell_s")
    yield from _at_most(config, dwell, ("degradation", "dwell_max_s"), "a dwell grows up to it")
    per_agent: KeyPath = ("pubsub", "subscribers_per_agent_max")
    yield from _at_most(config, per_agent, ("pubsub", "subscribers_max"), "it counts all of them")


_RULES: Final = (
    _sizes,
    _counts_and_times,
    _queue,
    _preemption,
    _addresses,
    _agent_types,
    _unreachable_types,
    _rates,
    _bulkheads,
    backends,
    _models,
    aliases,
    confinements,
    rooms,
    library,
    model_list,
    model_changes,
    _levels,
)
