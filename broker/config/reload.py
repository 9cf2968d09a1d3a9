"""A configuration read again while the broker runs: what holds at once, what only after a restart.

It is taken as a whole or not at all. A setting waits for a restart unless `LIVE` names it. Backends
are told apart by their names: new ones are added, and those that are gone leave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from broker.config.contradictions import contradictions
from broker.config.explanation import SHOWN_LENGTH_MAX, show_path
from broker.config.load import ConfigProblems, Problem, load
from broker.config.schema import Config
from broker.config.section import Section
from broker.config.serving import BackendConfig

# Section -> its settings that may change while the broker runs; None: all of them.
# `backends` is a list of sections: these are the settings of one that stays. Where it is and how
# one speaks to it is who it is: another url is another backend, with another name.
# Not among them: limits.streams_max and the sizes of messages, which are built into the transport;
# placement.keep_alive_s, which loads under way have told their backends.
LIVE: Final[Mapping[str, frozenset[str] | None]] = {
    "server": frozenset({"drain_timeout_s"}),
    "limits": frozenset({"queued_max", "queued_per_agent_max", "queued_bytes_max"}),
    "queue": None,
    "preemption": None,
    "agents": None,
    "bulkheads": None,
    "degradation": None,
    "alerts": None,
    "backends": frozenset(
        {
            "catalogue_interval_s",
            "exclusive",
            "loaded_max",
            "local",
            "memory_gb",
            "poll_interval_ms",
            "resident_max",
            "restart_command",
            "retry_interval_ms",
            "slots",
            "tags",
            "weight",
        }
    ),
    "aliases": None,
    "pulls": frozenset(
        {
            "concurrent_max",
            "disk_reserve_gb",
            "hours",
            "pulls_max",
            "retry_max_s",
            "retry_s",
            "stall_timeout_s",
            "stop_when_unheard",
            "tries_max",
            "verify_timeout_s",
        }
    ),
    "model_access": None,
    "model_list": frozenset(
        {
            "busy_percent_max",
            "expired_h",
            "fresh_h",
            "metered",
            "retry_max_s",
            "retry_s",
            "watch_interval_ms",
        }
    ),
    "preload": None,
    "placement": frozenset(
        {
            "drain_timeout_s",
            "failed_load_hold_s",
            "memory_wait_ms",
            "num_ctx_hold_s",
            "slot_grace_ms",
        }
    ),
    "timeouts": None,
    "retries": None,
    "breaker": None,
    "healing": frozenset(
        {
            "gap_extra_s",
            "gap_factor",
            "mute_s",
            "restart_away_s",
            "restart_backoff_s",
            "restarts_max",
        }
    ),
}


_BACKENDS: Final = "backends"
_OF_BACKEND: Final = re.compile(r"backends\[(\d+)\]\.(.+)")

_S = TypeVar("_S", bound=Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """A file that may be applied. `config` is what holds then: the file's live settings, and the
    rest as before. The others are lines for people ("limits.queued_max: 1000 -> 2000")."""

    config: Config
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def plan_reload(running: Config, file: Path, env: Mapping[str, str]) -> Reload:
    """What `file` and `env`, read as at the start, change in `running`. ConfigProblems, with all
    of them, where the file cannot be used or what would hold contradicts itself."""
    wanted = load(file, env)
    config = _with_live(running, wanted)
    problems = [
        Problem(
            source=str(file),
            path=show_path(each.path),
            text=f"{each.problem}. This is so until a restart, which other changes in the file "
            "need",
        )
        for each in contradictions(config)
    ]
    if problems:
        raise ConfigProblems(problems)
    return Reload(
        config=config,
        changed=tuple(_differences(running, config)),
        needs_restart=tuple(_differences(config, wanted)),
    )


def _with_live(running: Config, wanted: Config) -> Config:
    """`running` with the live settings of `wanted`. Both are checked, each by itself."""
    sections: dict[str, object] = {}
    for name, live in LIVE.items():
        if name == _BACKENDS:
            sections[name] = tuple(_live_backends(running, wanted))
        elif live is None:
            sections[name] = getattr(wanted, name)
        else:
            sections[name] = _mixed(getattr(running, name), getattr(wanted, name), live)
    return running.model_copy(update=sections)


def _mixed(kept: _S, wanted: _S, live: frozenset[str]) -> _S:
    return kept.model_copy(update={each: getattr(wanted, each) for each in live})


def _live_backends(running: Config, wanted: Config) -> Iterator[BackendConfig]:
    """Those of `wanted`, in its order; what is not live of those that stay is as before."""
    before = {each.name: each for each in running.backends}
    live = LIVE[_BACKENDS] or frozenset[str]()
    for each in wanted.backends:
        yield _mixed(before[each.name], each, live) if each.name in before else each


def _differences(old: Config, new: Config) -> Iterator[str]:
    was, will_be = _names(old), _names(new)
    stay = [each for each in was if each in will_be]
    before, after = _settings(old, stay), _settings(new, stay)
    for path in (*before, *(each for each in after if each not in before)):
        if before.get(path) != after.get(path):
            yield f"{path}: {_show(before.get(path))} -> {_show(after.get(path))}"
    for name in (*was, *will_be):
        if name not in stay:
            yield f"{_BACKENDS}.{name}: {'removed' if name in was else 'added'}"
    if stay != [each for each in will_be if each in was]:
        yield f"{_BACKENDS}: {_show(was)} -> {_show(will_be)}"


def _names(config: Config) -> list[str]:
    return [each.name for each in config.backends]


def _settings(config: Config, names: Collection[str]) -> dict[str, object]:
    """Every setting by its path; those of backends by their names, and only of these."""
    found = dict[str, object]()
    for path, value in config.settings().items():
        of_backend = _OF_BACKEND.match(path)
        if of_backend is None:
            found[path] = value
            continue
        name = config.backends[int(of_backend[1])].name
        if name in names:
            found[f"{_BACKENDS}.{name}.{of_backend[2]}"] = value
    return found


def _show(value: object) -> str:
    if value is None:
        return "unset"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_LENGTH_MAX else f"{text[:SHOWN_LENGTH_MAX]}..."
