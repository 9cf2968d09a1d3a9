"""Operators' levers: what reaches the driver, and what is wrong before that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from broker.core.errors import InvalidRequest, RequestUnknown
from broker.core.requests import RequestKey
from broker.core.stimuli import (
    BlockAsked,
    BoostAsked,
    CancelCause,
    PauseAsked,
    ResumeAsked,
    Scope,
)
from broker.runtime.driver import Driver
from broker.services.operations import Boost, OperationsService, ReloadReport

OPUS = Scope(agent_type="opus")
MINUTE_NS = 60_000_000_000
NOW_NS = 5 * MINUTE_NS
REPORT = ReloadReport(changed=("a: 1 -> 2",), needs_restart=(), problems=())


@dataclass(frozen=True, slots=True)
class Named:
    """Stands in for a view: only what the service reads of one."""

    agent_id: str = ""
    key: RequestKey = ("", "")
    ended_ns: int = 0


@dataclass(slots=True)
class FakeDriver:
    """A driver that knows some requests, and when they ended."""

    ended_ns: dict[RequestKey, int] = field(default_factory=dict)
    changes: list[Any] = field(default_factory=list)
    cancelled: list[tuple[RequestKey, CancelCause]] = field(default_factory=list)
    explained: list[RequestKey] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def now_ns(self) -> int:
        return NOW_NS

    def agent_types(self) -> tuple[str, ...]:
        return ("opus", "sonnet", "system")

    def adjust(self, change: Any) -> int:
        self.changes.append(change)
        return 7

    def agents(self) -> list[Named]:
        return [Named(agent_id=each) for each in self.ids]

    def requests_called(self, request_id: str) -> list[RequestKey]:
        return [key for key in self.ended_ns if key[1] == request_id]

    def requests_under_way(self, request_id: str) -> list[RequestKey]:
        return [key for key in self.requests_called(request_id) if not self.ended_ns[key]]

    def explain(self, agent_id: str, request_id: str) -> Named:
        key = (agent_id, request_id)
        self.explained.append(key)
        return Named(key=key, ended_ns=self.ended_ns[key])

    def cancel(self, key: RequestKey, cause: CancelCause) -> str | None:
        if self.ended_ns.get(key, 1):
            return None
        self.cancelled.append((key, cause))
        return "queued"


def service(driver: FakeDriver) -> OperationsService:
    return OperationsService(cast("Driver", driver), lambda: REPORT)


def problem(error: pytest.ExceptionInfo[InvalidRequest]) -> tuple[str, str]:
    (found,) = error.value.problems
    return found.field, found.problem


def test_each_lever_is_one_stimulus_with_its_end() -> None:
    driver = FakeDriver()
    one = service(driver)
    boost = Boost(weight_factor=2.0, rate_factor=0.5, priority_best=3)
    assert one.boost(OPUS, boost, MINUTE_NS) == 7
    assert one.block(OPUS, None, cancels_waiting=True) == 7
    assert one.pause(Scope(), MINUTE_NS) == 7
    assert one.resume(Scope(agent_id="opus-1")) == 7
    assert driver.changes == [
        BoostAsked(
            scope=OPUS,
            weight_factor=2.0,
            rate_factor=0.5,
            priority_best=3,
            until_ns=NOW_NS + MINUTE_NS,
        ),
        BlockAsked(scope=OPUS, cancels_waiting=True, until_ns=None),
        PauseAsked(scope=Scope(), until_ns=NOW_NS + MINUTE_NS),
        ResumeAsked(Scope(agent_id="opus-1")),
    ]


def test_a_type_that_is_none_is_named_with_the_nearest_and_changes_nothing() -> None:
    driver = FakeDriver()
    one = service(driver)
    wrong = Scope(agent_type="opsu")
    levers: tuple[Callable[[], int], ...] = (
        lambda: one.boost(wrong, Boost(), None),
        lambda: one.block(wrong, None, cancels_waiting=False),
        lambda: one.pause(wrong, None),
        lambda: one.resume(wrong),
    )
    for pull in levers:
        with pytest.raises(InvalidRequest) as refusal:
            pull()
        named, words = problem(refusal)
        assert named == "scope.agent_type"
        assert words.startswith("'opsu' is no type of agents; nearest: opus, ")
    assert driver.changes == []


def test_a_request_is_found_by_its_id_alone_where_one_agent_has_it() -> None:
    driver = FakeDriver(ended_ns={("a", "mine"): 0, ("b", "other"): 0})
    assert service(driver).explain("", "mine").key == ("a", "mine")
    assert service(driver).cancel("", "mine") == ("a", "queued")
    assert driver.cancelled == [(("a", "mine"), CancelCause.BY_OPERATOR)]


def test_several_agents_with_one_id_are_named() -> None:
    driver = FakeDriver(ended_ns={(agent_id, "same"): 0 for agent_id in "gbdface"})
    for call in (service(driver).explain, service(driver).cancel):
        with pytest.raises(InvalidRequest) as refusal:
            call("", "same")
        named, words = problem(refusal)
        assert named == "agent_id"
        assert words.endswith("have a request 'same': a, b, c, d, e and 2 more")
    assert driver.cancelled == []
    assert service(driver).explain("d", "same").key == ("d", "same")


def test_of_several_with_one_id_the_one_under_way_is_cancelled() -> None:
    driver = FakeDriver(ended_ns={("a", "same"): 9, ("b", "same"): 0})
    assert service(driver).cancel("", "same") == ("b", "queued")
    assert driver.explained == []  # a story costs a look at the whole queue
    with pytest.raises(InvalidRequest):
        service(driver).explain("", "same")


def test_what_is_not_there_is_said_so() -> None:
    driver = FakeDriver(ended_ns={("a", "over"): 9})
    with pytest.raises(RequestUnknown, match="no request 'gone' is remembered"):
        service(driver).explain("", "gone")
    with pytest.raises(RequestUnknown, match="no request 'over' is under way"):
        service(driver).cancel("", "over")
    with pytest.raises(RequestUnknown, match="'a' has no request 'over' under way"):
        service(driver).cancel("a", "over")


def test_pages_of_agents_go_on_after_an_id_that_is_gone() -> None:
    one = service(FakeDriver(ids=["a", "c", "e"]))
    pages = {after: one.agents_page(after, 2) for after in ("", "a", "b", "c", "e", "z")}
    named = {
        after: ([each.agent_id for each in agents], token)
        for after, (agents, token) in pages.items()
    }
    assert named == {
        "": (["a", "c"], "c"),
        "a": (["c", "e"], ""),
        "b": (["c", "e"], ""),
        "c": (["e"], ""),
        "e": ([], ""),
        "z": ([], ""),
    }


def test_a_reload_is_the_daemons_own() -> None:
    assert service(FakeDriver()).reload() is REPORT
