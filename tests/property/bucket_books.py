"""Whose bucket paid for what: what was let in had been paid for, and what was refused had not.

The buckets here are the exact ones of the oracle. A bucket that never goes below nothing, and gets
no more than its rate and what is given back, never grants more than burst + rate * time.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from _sched.reference import BucketArray
from broker.core.agent_policy import BucketPolicy
from broker.core.errors import (
    BrokerError,
    BrokerRateLimited,
    QuotaExceeded,
    TokenQuotaExceeded,
    TypeRateLimited,
)
from tests.property.entry_books import Live
from tests.property.operator_books import OperatorBooks

# The engine counts in binary fractions of 64 bits.
TOLERANCE: Final = Fraction(1, 100_000)

OWN: Final = "own"
OF_TYPE: Final = "of its type"
OF_ALL: Final = "of all"
_REFUSED_BY: Final = {QuotaExceeded: OWN, TypeRateLimited: OF_TYPE, BrokerRateLimited: OF_ALL}

Holder = tuple[str, str]  # (whose, the name of the agent or the type)


class BucketBooks:
    """One bucket of requests and one of tokens for each holder that the policy gives one."""

    def __init__(self, operators: OperatorBooks) -> None:
        self._operators = operators
        self._array = BucketArray()
        self._requests: dict[Holder, int] = {}
        self._tokens: dict[Holder, int] = {}
        self._bursts: dict[Holder, float] = {}  # of tokens
        self._reserved: dict[int, int | None] = {}  # tokens by the number of the request
        self._known: set[str] = set()

    def meet(self, agent: str, now_ns: int) -> None:
        """The broker knows this agent from now on."""
        if agent not in self._known:
            self._known.add(agent)
            self.refit(now_ns)

    def refit(self, now_ns: int) -> None:
        """Rates and bursts are those of the policy and the boosts in force; levels are kept."""
        policy, operators = self._operators.policy.agents, self._operators
        wanted: dict[Holder, tuple[BucketPolicy | None, BucketPolicy | None, float]] = {
            (OF_ALL, ""): (policy.requests, policy.tokens, 1.0)
        }
        for each in policy.types:
            wanted[OF_TYPE, each.name] = (each.all_requests, each.all_tokens, 1.0)
        for agent in sorted(self._known):
            of = operators.type_of(agent)
            wanted[OWN, agent] = (of.requests, of.tokens, operators.rate_factor(agent))
        for buckets, at, least in ((self._requests, 0, 1.0), (self._tokens, 1, 0.0)):
            for holder in [each for each in buckets if each not in wanted]:
                self._array.remove(buckets.pop(holder))
            for holder, row in wanted.items():
                given = row[0] if at == 0 else row[1]
                self._fit(buckets, holder, given, row[2], least, now_ns)

    def _fit(
        self,
        buckets: dict[Holder, int],
        holder: Holder,
        given: BucketPolicy | None,
        factor: float,
        least: float,
        now_ns: int,
    ) -> None:
        if given is None:
            if holder in buckets:
                self._array.remove(buckets.pop(holder))
            return
        rate_per_s, burst = given.per_minute * factor / 60, max(given.capacity * factor, least)
        if buckets is self._tokens:
            self._bursts[holder] = burst
        if holder in buckets:
            self._array.configure(buckets[holder], rate_per_s, burst, now_ns)
        else:
            buckets[holder] = self._array.add(rate_per_s, burst, now_ns)

    def _holders(self, agent: str) -> dict[str, Holder]:
        return {
            OWN: (OWN, agent),
            OF_TYPE: (OF_TYPE, self._operators.type_of(agent).name),
            OF_ALL: (OF_ALL, ""),
        }

    def admit(self, live: Live, reserved: int, now_ns: int, *, is_answered: bool = False) -> None:
        """It was let in, and each bucket that applies had enough for it. The default answer takes
        no tokens."""
        counts = False
        for holder in self._holders(live.key[0]).values():
            if (handle := self._requests.get(holder)) is not None:
                self._check_has(handle, 1.0, now_ns)
                self._array.refund(handle, -1.0, now_ns)
            if (handle := self._tokens.get(holder)) is not None and not is_answered:
                counts = True
                self._check_has(handle, min(_amount(reserved), self._bursts[holder]), now_ns)
                self._array.refund(handle, -_amount(reserved), now_ns)  # it may go into debt
        self._reserved[live.number] = reserved if counts else None

    def _check_has(self, handle: int, amount: float, now_ns: int) -> None:
        level = self._array.level(handle, now_ns)
        assert level >= Fraction(amount) - TOLERANCE, "a bucket granted more than it had"

    def refuse(self, agent: str, error: BrokerError, tokens: int, now_ns: int) -> None:
        """A bucket that says no is short, and has enough when it said that it would."""
        holders = self._holders(agent)
        if type(error) in _REFUSED_BY:
            handle = self._requests[holders[_REFUSED_BY[type(error)]]]
            self._check_short(handle, 1.0, error, now_ns)
        elif isinstance(error, TokenQuotaExceeded):
            short = [
                (self._tokens[each], amount)
                for each in holders.values()
                if each in self._tokens
                and (amount := min(_amount(tokens), self._bursts[each]))
                > self._array.level(self._tokens[each], now_ns) - TOLERANCE
            ]
            assert short, "refused for tokens that it had"
            for handle, amount in short:
                self._check_short(handle, amount, error, now_ns)

    def _check_short(self, handle: int, amount: float, error: BrokerError, now_ns: int) -> None:
        assert self._array.level(handle, now_ns) < Fraction(amount) + TOLERANCE
        assert error.retry_after_ns is not None
        later = self._array.level(handle, now_ns + error.retry_after_ns)
        assert later >= Fraction(amount) - TOLERANCE, "told to come back too early"

    def give_back(self, live: Live, now_ns: int) -> None:
        """It got nothing for what it paid."""
        for holder in self._holders(live.key[0]).values():
            if (handle := self._requests.get(holder)) is not None:
                self._array.refund(handle, 1.0, now_ns)
        self.settle(live, 0, now_ns)

    def settle(self, live: Live, used: int, now_ns: int) -> None:
        """It used so many tokens: of every bucket that there is by now."""
        reserved = self._reserved.pop(live.number)
        if reserved is None:
            return  # nothing counted tokens when it came
        for holder in self._holders(live.key[0]).values():
            if (handle := self._tokens.get(holder)) is not None:
                self._array.settle(handle, _amount(reserved), float(used), now_ns)

    def check_settled(self) -> None:
        """At the end nothing is reserved."""
        assert not self._reserved

    def own_left(self, agent: str, now_ns: int) -> Fraction | None:
        """Requests that this agent's own bucket would grant; None without one."""
        handle = self._requests.get((OWN, agent))
        return None if handle is None else self._array.level(handle, now_ns)


def _amount(tokens: int) -> float:
    """What is reserved for so many tokens, as far as they are known."""
    return max(1.0, float(tokens))
