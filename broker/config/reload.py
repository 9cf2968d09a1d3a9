"""A configuration read again while the broker runs: what holds at once, what only after a restart.

It is taken as a whole or not at all. A setting waits for a restart unless `LIVE` names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.config.contradictions import contradictions
from broker.config.explanation import SHOWN_LENGTH_MAX, show_path
from broker.config.load import ConfigProblems, Problem, load
from broker.config.schema import Config
from broker.config.section import Section

# Section -> its settings that may change while the broker runs; None: all of them.
# Not among them: limits.streams_max and the sizes of messages, which are built into the transport;
# placement.keep_alive_s, which loads under way have told their backends.
LIVE: Final[Mapping[str, frozenset[str] | None]] = {
    "server": frozenset({"drain_timeout_s"}),
    "limits": frozenset({"queued_max", "queued_per_agent_max", "queued_bytes_max"}),
    "queue": None,
    "agents": None,
    "bulkheads": None,
    "degradation": None,
    "alerts": None,
    "placement": frozenset({"failed_load_hold_s", "num_ctx_hold_s", "slot_grace_ms"}),
    "timeouts": None,
    "retries": None,
    "breaker": None,
    "healing": frozenset({"gap_extra_s", "gap_factor", "restart_backoff_s", "restarts_max"}),
}


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
        section: Section = getattr(wanted, name)
        if live is not None:
            kept: Section = getattr(running, name)
            section = kept.model_copy(update={each: getattr(section, each) for each in live})
        sections[name] = section
    return running.model_copy(update=sections)


def _differences(old: Config, new: Config) -> Iterator[str]:
    before, after = old.settings(), new.settings()
    for path in (*before, *(each for each in after if each not in before)):
        if before.get(path) != after.get(path):
            yield f"{path}: {_show(before.get(path))} -> {_show(after.get(path))}"


def _show(value: object) -> str:
    if value is None:
        return "unset"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_LENGTH_MAX else f"{text[:SHOWN_LENGTH_MAX]}..."
