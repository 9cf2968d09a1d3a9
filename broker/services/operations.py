"""The levers of whoever runs the box: whom to favour, hold back or stop, and why one waits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from broker.core.errors import FieldProblem, InvalidRequest, RequestUnknown
from broker.core.model_name import nearest
from broker.core.requests import RequestKey
from broker.core.stimuli import (
    BackendDrainAsked,
    BlockAsked,
    BoostAsked,
    CancelCause,
    PauseAsked,
    ResumeAsked,
    Scope,
)
from broker.core.views import AgentView, Explanation
from broker.runtime.driver import Driver

# Of agents that use the same request_id so many are named; more would not fit into an answer.
AGENTS_NAMED_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadReport:
    """What reading the configuration again came to; lines for people.

    `changed`: what holds now ("limits.queued_max: 1000 -> 2000"). `needs_restart`: settings that
    differ in the file but count only after a restart. `problems`: why nothing was changed; empty if
    it was applied.
    """

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Boost:
    """How agents are to count: see `BoostAsked`."""

    weight_factor: float = 1.0
    rate_factor: float = 1.0
    priority_best: int = 0


class OperationsService:
    """See the module. `lasts_ns` None means until resumed; each change of agents returns how many
    are remembered that it concerns, and raises AgentNotFound or InvalidRequest where the scope
    names nobody."""

    def __init__(self, driver: Driver, reload: Callable[[], ReloadReport]) -> None:
        self._driver = driver
        self._reload = reload

    def explain(self, agent_id: str, request_id: str) -> Explanation:
        """The story of a request, under way or lately ended. Without an agent_id the request of
        this id, if it is one alone. RequestUnknown, InvalidRequest."""
        owner = agent_id or _owner(
            request_id, self._driver.requests_called(request_id), "remembered"
        )
        return self._driver.explain(owner, request_id)

    def cancel(self, agent_id: str, request_id: str) -> tuple[str, str]:
        """(whose it was, its state before) of the request that is told to end. Without an agent_id
        as in `explain`, among those under way. RequestUnknown, InvalidRequest."""
        owner = agent_id or _owner(
            request_id, self._driver.requests_under_way(request_id), "under way"
        )
        state = self._driver.cancel((owner, request_id), CancelCause.BY_OPERATOR)
        if state is None:
            raise RequestUnknown(f"agent {owner!r} has no request {request_id!r} under way")
        return owner, state

    def agents_page(self, after: str, size: int) -> tuple[list[AgentView], str]:
        """Up to `size` agents whose ids come after `after`, and the id to go on from, or "" where
        these were the last."""
        agents = self._driver.agents()
        first = bisect_right(agents, after, key=lambda each: each.agent_id)
        chosen = agents[first : first + size]
        has_more = len(agents) > first + size
        return chosen, chosen[-1].agent_id if has_more else ""

    def boost(self, scope: Scope, boost: Boost, lasts_ns: int | None) -> int:
        """Has these agents count for more, or for less."""
        self._check(scope)
        return self._driver.adjust(
            BoostAsked(
                scope=scope,
                weight_factor=boost.weight_factor,
                rate_factor=boost.rate_factor,
                priority_best=boost.priority_best,
                until_ns=self._until(lasts_ns),
            )
        )

    def block(self, scope: Scope, lasts_ns: int | None, *, cancels_waiting: bool) -> int:
        """Refuses new requests of these agents."""
        self._check(scope)
        return self._driver.adjust(
            BlockAsked(scope=scope, cancels_waiting=cancels_waiting, until_ns=self._until(lasts_ns))
        )

    def pause(self, scope: Scope, lasts_ns: int | None) -> int:
        """Starts nothing of these agents; an empty scope is everybody."""
        self._check(scope)
        return self._driver.adjust(PauseAsked(scope=scope, until_ns=self._until(lasts_ns)))

    def resume(self, scope: Scope) -> int:
        """Ends what was asked for with this very scope."""
        self._check(scope)
        return self._driver.adjust(ResumeAsked(scope))

    def drain_backend(self, name: str) -> tuple[int, int]:
        """Starts nothing more on this backend; (requests that wait for what no other backend has,
        requests that run there). BackendNotFound."""
        self._driver.check_backend(name)
        self._driver.feed(BackendDrainAsked(name, True))
        return self._driver.left_on(name)

    def resume_backend(self, name: str) -> None:
        """Gives this backend work again. BackendNotFound."""
        self._driver.check_backend(name)
        self._driver.feed(BackendDrainAsked(name, False))

    def reload(self) -> ReloadReport:
        """Reads the configuration again; it holds as a whole or not at all."""
        return self._reload()

    def _until(self, lasts_ns: int | None) -> int | None:
        return None if lasts_ns is None else self._driver.now_ns() + lasts_ns

    def _check(self, scope: Scope) -> None:
        """Agents are the engine's to know; a type is one of the configuration's or a mistake."""
        types = self._driver.agent_types()
        if scope.agent_type and scope.agent_type not in types:
            known = ", ".join(nearest(scope.agent_type, types))
            problem = f"{scope.agent_type!r} is no type of agents; nearest: {known or 'none'}"
            raise InvalidRequest((FieldProblem(field="scope.agent_type", problem=problem),))


def _owner(request_id: str, called: list[RequestKey], how: str) -> str:
    """Whose request of this id is meant; InvalidRequest or RequestUnknown unless there is one.
    `how` those that were looked through are known."""
    owners = sorted(key[0] for key in called)
    if not owners:
        raise RequestUnknown(f"no request {request_id!r} is {how}")
    if len(owners) > 1:
        more = len(owners) - AGENTS_NAMED_MAX
        names = ", ".join(owners[:AGENTS_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
        problem = f"is needed, for several agents have a request {request_id!r}: {names}"
        raise InvalidRequest((FieldProblem(field="agent_id", problem=problem),))
    return owners[0]
