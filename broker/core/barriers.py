"""What keeps a backend from starting anything of a runner now, and when that ends by itself.

The one place that asks: who may come in, which fallback takes what waits, what is told to it, and
when a load is tried again all go by this answer, each in its own words.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from broker.core.healing import Health
from broker.core.placement import BackendState
from broker.core.state_machine import Symbol


class Bar(Symbol):
    """Those that hold for all of a server go before those of one of its runners."""

    AWAY = "away"  # it does not answer
    CLOSED = "closed"  # an operator drains it, or it is no longer in the configuration
    RESTARTING = "restarting"  # the operator's command runs
    CURED = "cured"  # the runner is being cured
    BROKEN = "broken"  # its circuit breaker is open, or waits for the outcome of a probe
    SICK = "sick"  # it is not there, and its load has failed
    WEDGED = "wedged"  # it is not there, and the server loads nothing


class Barrier(NamedTuple):
    """`wait_ns`: until it ends by itself: 0.0 where that may be at any moment, inf where it is for
    others to end it."""

    kind: Bar
    wait_ns: float


def barrier(backend: BackendState, runner: str, now_ns: int) -> Barrier | None:
    """Why this backend, which has the runner, would neither serve it nor load it now; None where it
    would."""
    is_resident = runner in backend.residents
    if not backend.takes(runner):
        return _of_server(backend) or _of_runner(backend, runner, now_ns)
    return None if is_resident else _of_load(backend, runner, now_ns)


def _of_server(backend: BackendState) -> Barrier | None:
    if not backend.up:
        return Barrier(Bar.AWAY, inf)
    if backend.is_draining or backend.is_leaving:
        return Barrier(Bar.CLOSED, inf)
    if backend.health is Health.RESTARTING:
        return Barrier(Bar.RESTARTING, 0.0)
    return None


def _of_runner(backend: BackendState, runner: str, now_ns: int) -> Barrier:
    if runner in backend.healing:  # once cured it is not broken either
        return Barrier(Bar.CURED, 0.0)
    until_ns = backend.broken_until_ns.get(runner, now_ns)
    return Barrier(Bar.BROKEN, float(max(0, until_ns - now_ns)))


def _of_load(backend: BackendState, runner: str, now_ns: int) -> Barrier | None:
    sick_ns = backend.held_until_ns.get(runner, 0) - now_ns
    shut_ns = 0 if backend.shut_until_ns is None else backend.shut_until_ns - now_ns
    if sick_ns > 0 and sick_ns >= shut_ns:
        return Barrier(Bar.SICK, float(sick_ns))
    if not backend.may_load:
        return Barrier(Bar.WEDGED, float(max(0, shut_ns)))
    if backend.is_to_prove and backend.is_switching:
        return Barrier(Bar.WEDGED, 0.0)  # the load of another that was let through
    return None
