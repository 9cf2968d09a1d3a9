"""How well it is known which models there are, and what was loaded ahead of requests."""

from __future__ import annotations

from dataclasses import dataclass

from broker_client.pb.broker.v1 import admin_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelListStatus:
    """The list of models: how many are on disks and how many could be, and how old that is.

    `freshness` is "fresh", "stale", "expired" or "empty"; of a broker older than this it is empty.
    `age_ms` is of the last whole refresh, None where none is known; `problem` says what went wrong
    at the last one. `next_ms` until the next one, None where none is planned; `bytes_per_s` is the
    measured speed of the connection to the library, 0 where it was not measured; `file` keeps the
    list over a restart, "" where nothing does.
    """

    downloaded: int
    downloadable: int
    freshness: str
    age_ms: int | None
    refreshing: bool
    problem: str
    next_ms: int | None
    bytes_per_s: float
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreloadStatus:
    """Models that were loaded before anybody asked for them, since start: how many, how many of
    them a request found, and how many left without. `held_because` says why nothing is loaded so at
    the moment, "" where something may be. Of 100 loads that requests would have waited for,
    `hit_percent` were there before; None: none yet."""

    enabled: bool
    held_because: str
    made: int
    used: int
    wasted: int
    hit_percent: float | None


def model_list_status_of(message: admin_pb2.ModelListStatus) -> ModelListStatus:
    """The wire's words of the list, typed."""
    return ModelListStatus(
        downloaded=message.downloaded,
        downloadable=message.downloadable,
        freshness=message.freshness,
        age_ms=message.age_ms if message.HasField("age_ms") else None,
        refreshing=message.refreshing,
        problem=message.problem,
        next_ms=message.next_ms if message.HasField("next_ms") else None,
        bytes_per_s=message.bytes_per_s,
        file=message.file,
    )


def preload_status_of(message: admin_pb2.PreloadStatus) -> PreloadStatus:
    """The wire's words of what was loaded ahead, typed."""
    return PreloadStatus(
        enabled=message.enabled,
        held_because=message.held_because,
        made=message.made,
        used=message.used,
        wasted=message.wasted,
        hit_percent=message.hit_percent if message.HasField("hit_percent") else None,
    )
