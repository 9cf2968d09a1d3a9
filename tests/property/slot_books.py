"""Who holds a slot and until when, and which slots something was set aside for."""

from __future__ import annotations

from broker.core.requests import PRIORITY_LOWEST, AttemptId
from tests.property.operator_books import OperatorBooks
from tests.property.order_books import OrderBooks
from tests.property.server_books import Call


class SlotBooks:
    """`calls` has those under way."""

    def __init__(self, operators: OperatorBooks, order: OrderBooks) -> None:
        self.calls: dict[AttemptId, Call] = {}
        self._graces: list[tuple[int, Call]] = []  # slots that come free at a time
        self._handed: list[tuple[str, str]] = []  # that urgent work has in this turn
        self._operators = operators
        self._order = order

    def begin_turn(self) -> None:
        self._handed = []

    def holding(self) -> list[Call]:
        """Also those whose call has ended, and whose slot is not free yet."""
        return [*self.calls.values(), *(call for _, call in self._graces)]

    def held(self, backend: str, runner: str) -> int:
        return sum(each.backend == backend and each.runner == runner for each in self.holding())

    def release(self, call: Call) -> None:
        """Its slot is free. What something was set aside for has it."""
        self._order.release(call.live.compartment)
        if call.is_for_urgent:
            self._handed.append((call.backend, call.runner))

    def release_at(self, at_ns: int, call: Call) -> None:
        self._graces.append((at_ns, call))

    def release_due(self, now_ns: int) -> None:
        over = [call for until_ns, call in self._graces if until_ns <= now_ns]
        self._graces = [each for each in self._graces if each[0] > now_ns]
        for call in over:
            self.release(call)

    def best_of(self, backend: str, runner: str, priority: int) -> int:
        """A start of this priority: down to which one might another have had the slot?"""
        urgent_worst, place = self._operators.policy.preemption.urgent_worst, (backend, runner)
        if place not in self._handed or priority > urgent_worst:
            return PRIORITY_LOWEST
        self._handed.remove(place)
        return urgent_worst
