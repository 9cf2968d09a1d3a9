"""What operators ask for, field by field; see `validation`."""

from __future__ import annotations

from typing import Final

from broker.api.grpc.level_codec import LEVEL
from broker.api.grpc.validation import ID, ID_RULE, Problems, check_length
from broker.core.requests import PRIORITY_HIGHEST, PRIORITY_LOWEST
from broker_client.pb.broker.v1 import admin_pb2

REQUESTS_MAX: Final = 1000
INTERVAL_MS_DEFAULT: Final = 1000
_INTERVAL_MS_MIN: Final = 100
_INTERVAL_MS_MAX: Final = 3_600_000
_DRAIN_MS_MAX: Final = 3_600_000
BACKEND_LENGTH_MAX: Final = 63  # as long as a name may be in the configuration
_FACTOR_MIN: Final = 0.01
_FACTOR_MAX: Final = 100
_FOR_MS_MAX: Final = 30 * 86_400_000


def check_scope(scope: admin_pb2.Scope, problems: Problems, *, is_needed: bool) -> None:
    """Whom an operator means; one that names nobody is everybody, unless a name is needed. Whether
    there is such an agent or type is not known here."""
    who = scope.WhichOneof("who")
    if who is not None:
        good = ID.fullmatch(getattr(scope, who)) is not None
        problems.require(good, f"scope.{who}", f"must be {ID_RULE}")
    elif is_needed:
        problems.add("scope", "must name an agent_id or an agent_type")


def check_for_ms(for_ms: int, problems: Problems) -> None:
    """How long an operator's word holds."""
    rule = f"is {for_ms}; 0 (until resumed) to {_FOR_MS_MAX} (30 days)"
    problems.require(0 <= for_ms <= _FOR_MS_MAX, "for_ms", rule)


def check_boost(request: admin_pb2.BoostRequest, problems: Problems) -> None:
    """Every field of a boost, and that it changes something."""
    check_scope(request.scope, problems, is_needed=True)
    check_for_ms(request.for_ms, problems)
    factors = [each for each in ("weight_factor", "rate_factor") if request.HasField(each)]
    for name in factors:
        value = getattr(request, name)
        good = _FACTOR_MIN <= value <= _FACTOR_MAX
        problems.require(good, name, f"is {value}; {_FACTOR_MIN} to {_FACTOR_MAX}")
    best = request.priority_best
    rule = f"is {best}; {PRIORITY_HIGHEST} to {PRIORITY_LOWEST}, or 0 for the type's own"
    problems.require(
        best == 0 or PRIORITY_HIGHEST <= best <= PRIORITY_LOWEST, "priority_best", rule
    )
    if not (factors or best):
        problems.add("weight_factor", "is not set, nor rate_factor or priority_best: set one")


def check_requests_max(requests_max: int, problems: Problems) -> None:
    """How many requests a status may list."""
    rule = f"is {requests_max}; 0 to {REQUESTS_MAX}"
    problems.require(0 <= requests_max <= REQUESTS_MAX, "requests_max", rule)


def check_watch(request: admin_pb2.WatchStatusRequest, problems: Problems) -> None:
    """Every field of a watch."""
    check_requests_max(request.requests_max, problems)
    asked_ms = request.interval_ms
    good = asked_ms == 0 or _INTERVAL_MS_MIN <= asked_ms <= _INTERVAL_MS_MAX
    rule = f"is {asked_ms}; {_INTERVAL_MS_MIN} to {_INTERVAL_MS_MAX}"
    problems.require(good, "interval_ms", f"{rule}, or 0 for {INTERVAL_MS_DEFAULT}")


def check_drain(request: admin_pb2.DrainRequest, problems: Problems) -> None:
    """How long a drain may take, or which backend is drained: what runs there takes what it does.
    Whether there is such a backend is not known here."""
    timeout_ms = request.timeout_ms
    rule = f"is {timeout_ms}; 0 to {_DRAIN_MS_MAX}"
    problems.require(0 <= timeout_ms <= _DRAIN_MS_MAX, "timeout_ms", rule)
    check_length(request.backend, BACKEND_LENGTH_MAX, "backend", problems)
    if request.backend and request.HasField("timeout_ms"):
        problems.add("timeout_ms", "does not go with backend: what runs there may take its time")


def check_resume(request: admin_pb2.ResumeRequest, problems: Problems) -> None:
    """Agents, or a backend."""
    check_scope(request.scope, problems, is_needed=False)
    check_length(request.backend, BACKEND_LENGTH_MAX, "backend", problems)
    if request.backend and request.HasField("scope"):
        problems.add("backend", "does not go with scope: resume one after the other")


def check_set_level(request: admin_pb2.SetLevelRequest, problems: Problems) -> None:
    """Every field of a level set by hand; one that is left to the load has no end."""
    if request.level and request.level not in LEVEL.values():
        numbers = sorted(LEVEL.values())
        rule = f"is {request.level}; {numbers[0]} to {numbers[-1]}, or not set"
        problems.add("level", rule)
    asked_ms = request.for_ms
    rule = f"is {asked_ms}; 0 (until it is set again) to {_FOR_MS_MAX} (30 days)"
    problems.require(0 <= asked_ms <= _FOR_MS_MAX, "for_ms", rule)
    if asked_ms and not request.level:
        problems.add("for_ms", "holds only for a level, and none is set")
