"""Token buckets on the way in: each agent's own, its type's, everybody's; requests and tokens.

A request takes from all that apply or from none. What a later gate refuses gets back what it paid.
Tokens are reserved by estimate and settled by what the backend counted; a bucket may so be in debt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from _sched.bucket import BucketArray
from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.errors import (
    BrokerRateLimited,
    QuotaExceeded,
    TokenQuotaExceeded,
    TypeRateLimited,
)
from broker.core.views import BucketView

NONE: Final = 0  # the handle of a bucket that is not there
NOT_COUNTED: Final = -1  # instead of an amount: there is no bucket of tokens
SECONDS_PER_MINUTE: Final = 60.0
CAPACITY_MIN: Final = 1.0  # a bucket that holds less than one would never let anybody in


@dataclass(slots=True)
class Purse:
    """The handles of one holder's two buckets: an agent's, a type's, or everybody's."""

    requests: int = NONE
    tokens: int = NONE


class Quotas:
    """All buckets. Amounts are requests and model tokens."""

    __slots__ = ("_all", "_buckets", "_policy", "_types")

    def __init__(self, policy: AgentsPolicy) -> None:
        self._buckets = BucketArray()
        self._policy = policy
        self._all = Purse()
        self._types: dict[str, Purse] = {}
        self._configure_shared(0)

    def configure(self, policy: AgentsPolicy, now_ns: int) -> None:
        """Other rates from now on. Agents' own buckets follow with `refit`."""
        self._policy = policy
        self._configure_shared(now_ns)

    def _configure_shared(self, now_ns: int) -> None:
        policy = self._policy
        self._fit(self._all, policy.requests, policy.tokens, 1.0, now_ns)
        kept = {each.name: each for each in policy.types}
        for name in [name for name in self._types if name not in kept]:
            self.close(self._types.pop(name))
        for name, each in kept.items():
            purse = self._types.setdefault(name, Purse())
            self._fit(purse, each.all_requests, each.all_tokens, 1.0, now_ns)

    def refit(self, purse: Purse, of: AgentTypePolicy, factor: float, now_ns: int) -> None:
        """Gives an agent the buckets of its type, its rates multiplied; levels are kept."""
        self._fit(purse, of.requests, of.tokens, factor, now_ns)

    def close(self, purse: Purse) -> None:
        """Forgets a holder's buckets."""
        for handle in (purse.requests, purse.tokens):
            if handle:
                self._buckets.remove(handle)
        purse.requests = purse.tokens = NONE

    def _fit(
        self,
        purse: Purse,
        requests: BucketPolicy | None,
        tokens: BucketPolicy | None,
        factor: float,
        now_ns: int,
    ) -> None:
        purse.requests = self._fit_one(purse.requests, requests, factor, now_ns)
        purse.tokens = self._fit_one(purse.tokens, tokens, factor, now_ns)

    def _fit_one(
        self,
        handle: int,
        policy: BucketPolicy | None,
        factor: float,
        now_ns: int,
    ) -> int:
        if policy is None:
            if handle:
                self._buckets.remove(handle)
            return NONE
        rate_per_s = policy.per_minute * factor / SECONDS_PER_MINUTE
        capacity = _capacity(policy, factor)
        if not handle:
            return self._buckets.add(rate_per_s, capacity, now_ns)
        self._buckets.configure(handle, rate_per_s, capacity, now_ns)
        return handle

    # Requests

    def take_request(self, purse: Purse, agent_type: str, now_ns: int) -> None:
        """Pays for one request. QuotaExceeded or BrokerRateLimited where one of the buckets is
        empty: then nothing is paid."""
        own, everybody = purse.requests, self._all.requests
        shared = self._types[agent_type].requests
        buckets = self._buckets
        if own and buckets.acquire(own, 1.0, now_ns):
            raise QuotaExceeded(
                f"this agent may send {self._rate_text(own)}",
                retry_after_ns=self._request_wait_ns(own, shared, everybody, now_ns),
            )
        if shared and buckets.acquire(shared, 1.0, now_ns):
            if own:
                buckets.refund(own, 1.0, now_ns)
            raise TypeRateLimited(
                f"all agents of type {agent_type!r} together may send {self._rate_text(shared)}",
                retry_after_ns=self._request_wait_ns(own, shared, everybody, now_ns),
            )
        if everybody and buckets.acquire(everybody, 1.0, now_ns):
            for each in (own, shared):
                if each:
                    buckets.refund(each, 1.0, now_ns)
            raise BrokerRateLimited(
                f"all agents together may send {self._rate_text(everybody)}",
                retry_after_ns=self._request_wait_ns(own, shared, everybody, now_ns),
            )

    def _request_wait_ns(self, own: int, shared: int, everybody: int, now_ns: int) -> int:
        """Until all of them hold a request: who came back for one would be refused by the next."""
        held = [each for each in (own, shared, everybody) if each]
        return max(self._buckets.time_until(each, 1.0, now_ns) for each in held)

    def give_back(self, purse: Purse, agent_type: str, tokens_reserved: int, now_ns: int) -> None:
        """A request that had paid got nothing for it after all."""
        self.settle(purse, agent_type, tokens_reserved, 0, now_ns)
        for each in (purse.requests, self._requests_of(agent_type), self._all.requests):
            if each:
                self._buckets.refund(each, 1.0, now_ns)

    def _requests_of(self, agent_type: str) -> int:
        """A reload may have taken the type away while the request was under way."""
        purse = self._types.get(agent_type)
        return purse.requests if purse else NONE

    # Tokens

    def counts_tokens(self, purse: Purse, agent_type: str) -> bool:
        """Is there any bucket of tokens that applies?"""
        return bool(purse.tokens or self._tokens_of(agent_type) or self._all.tokens)

    def reserve(self, purse: Purse, agent_type: str, tokens: int, now_ns: int) -> None:
        """Reserves tokens. A request larger than a burst needs the bucket full, and puts it in
        debt. TokenQuotaExceeded, and nothing is taken, where a bucket has too little."""
        buckets, taken = self._buckets, list[tuple[int, float]]()
        for handle in (purse.tokens, self._tokens_of(agent_type), self._all.tokens):
            if not handle:
                continue
            amount = self._amount(handle, tokens)
            if buckets.acquire(handle, amount, now_ns):
                for each, paid in taken:
                    buckets.refund(each, paid, now_ns)
                raise TokenQuotaExceeded(
                    f"this needs about {max(1, tokens)} tokens, of {self._tokens_text(handle)}",
                    retry_after_ns=self._token_wait_ns(purse, agent_type, tokens, now_ns),
                )
            taken.append((handle, amount))
        for each, paid in taken:
            if tokens > paid:
                buckets.settle(each, paid, float(tokens), now_ns)

    def _amount(self, handle: int, tokens: int) -> float:
        """What must be there for a reservation. In debt nothing starts, even where nothing is known
        of what it will cost."""
        return min(_reserved(tokens), self._buckets.burst_of(handle))

    def _token_wait_ns(self, purse: Purse, agent_type: str, tokens: int, now_ns: int) -> int:
        """Until all of the buckets hold what a reservation takes from them."""
        held = (purse.tokens, self._tokens_of(agent_type), self._all.tokens)
        return max(
            self._buckets.time_until(each, self._amount(each, tokens), now_ns)
            for each in held
            if each
        )

    def settle(self, purse: Purse, agent_type: str, reserved: int, used: int, now_ns: int) -> None:
        """A request is over, and used so many tokens. `reserved` NOT_COUNTED: no bucket did."""
        if reserved == NOT_COUNTED:
            return
        for handle in (purse.tokens, self._tokens_of(agent_type), self._all.tokens):
            if handle:
                self._buckets.settle(handle, _reserved(reserved), float(used), now_ns)

    def _tokens_of(self, agent_type: str) -> int:
        purse = self._types.get(agent_type)
        return purse.tokens if purse else NONE

    # Views

    def views(self, purse: Purse, agent_type: str, now_ns: int) -> tuple[BucketView, ...]:
        """Every bucket that this agent's requests pay into."""
        shared = self._types.get(agent_type, Purse())
        named = (
            ("requests", purse.requests),
            ("type_requests", shared.requests),
            ("all_requests", self._all.requests),
            ("tokens", purse.tokens),
            ("type_tokens", shared.tokens),
            ("all_tokens", self._all.tokens),
        )
        return tuple(self._view(name, handle, now_ns) for name, handle in named if handle)

    def fresh_views(
        self, of: AgentTypePolicy, factor: float, now_ns: int
    ) -> tuple[BucketView, ...]:
        """The same for an agent of this type that was never seen, its rates multiplied."""
        purse = Purse()
        self.refit(purse, of, factor, now_ns)
        views = self.views(purse, of.name, now_ns)
        self.close(purse)
        return views

    def requests_left(self, purse: Purse, now_ns: int) -> float | None:
        return self._buckets.level(purse.requests, now_ns) if purse.requests else None

    def tokens_left(self, purse: Purse, now_ns: int) -> float | None:
        return self._buckets.level(purse.tokens, now_ns) if purse.tokens else None

    def _view(self, name: str, handle: int, now_ns: int) -> BucketView:
        buckets = self._buckets
        return BucketView(
            name=name,
            per_minute=buckets.rate_of(handle) * SECONDS_PER_MINUTE,
            burst=buckets.burst_of(handle),
            left=buckets.level(handle, now_ns),
            next_ns=max(0, buckets.time_until(handle, 1.0, now_ns)),
        )

    def _rate_text(self, handle: int) -> str:
        per_minute = self._buckets.rate_of(handle) * SECONDS_PER_MINUTE
        return f"{per_minute:g} requests a minute, {self._buckets.burst_of(handle):g} at once"

    def _tokens_text(self, handle: int) -> str:
        per_minute = self._buckets.rate_of(handle) * SECONDS_PER_MINUTE
        return f"{per_minute:g} a minute, {self._buckets.burst_of(handle):g} at once"


def _reserved(tokens: int) -> float:
    """What a reservation takes: whatever the burst is, which may be another at the end."""
    return max(1.0, float(tokens))


def _capacity(policy: BucketPolicy, factor: float) -> float:
    return max(policy.capacity * factor, CAPACITY_MIN)
