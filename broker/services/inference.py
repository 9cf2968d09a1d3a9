"""Generate, Embed, Cancel and GetQuota: a valid call becomes a request of the engine."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass
from sys import intern

from broker.core.content import EmbedContent, GenerateContent
from broker.core.errors import ClientTooSlow, RequestUnknown
from broker.core.requests import (
    Criticality,
    OnInterruption,
    RequestKey,
    RequestKind,
    RequestSpec,
    Substitution,
)
from broker.core.requirements import Requirements
from broker.core.time_outs import NO_TIME_OUTS, TimeOuts
from broker.core.value import value
from broker.core.views import QuotaView
from broker.runtime.driver import Driver
from broker.runtime.streams import Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePolicy:
    """When a request ends that did not say, and how long before its own deadline one ends that did:
    the broker speaks first, so that the client hears why."""

    default_ns: int = 600_000_000_000
    max_ns: int = 86_400_000_000_000
    margin_ns_max: int = 100_000_000
    margin_share: float = 0.1


@value(kw_only=True)
class Submission:
    """A call whose fields are valid. `text_bytes` of its `size_bytes` are text, images are not.
    `output_tokens_max` is 0 where it does not say. `remaining_s` is what is left of its deadline,
    if any; within `soft_ns` it would like its answer, 0: it does not say."""

    request_id: str
    agent_id: str
    model: str
    fallback_models: tuple[str, ...]
    content: GenerateContent | EmbedContent
    priority: int
    criticality: Criticality
    preemptible: bool
    fingerprint: bytes
    size_bytes: int
    text_bytes: int
    num_ctx_needed: int
    needs: frozenset[str]
    remaining_s: float | None
    output_tokens_max: int = 0
    resume_from: int = 0
    substitution: Substitution = Substitution.ANY
    accepts_default: bool = False
    prompt_type: str = ""
    prefer_loaded: bool = False
    on_interruption: OnInterruption = OnInterruption.FAIL
    time_outs: TimeOuts = NO_TIME_OUTS
    session_id: str = ""
    soft_ns: int = 0
    expected_calls: int = 0
    prefixes: tuple[int, ...] = ()
    wants: Requirements | None = None


class InferenceService:
    """See the module."""

    def __init__(self, driver: Driver, deadlines: DeadlinePolicy) -> None:
        self._driver = driver
        self._deadlines = deadlines
        # Ids for requests that bring none: unlike those of any other broker or life of this one.
        self._drawn_prefix = secrets.token_hex(8)
        self._drawn = itertools.count(1)

    def submit(self, call: Submission, *, traceparent: str = "") -> Subscription:
        """Hands the call to the engine. The caller must `leave` the subscription in the end.
        Raises the BrokerError of the gate that says no."""
        is_embed = isinstance(call.content, EmbedContent)
        request_id = call.request_id or f"{self._drawn_prefix}-{next(self._drawn)}"
        spec = RequestSpec(
            # Agents and models are few, requests many: each name is kept once.
            key=(intern(call.agent_id), request_id),
            fingerprint=call.fingerprint,
            kind=RequestKind.EMBED if is_embed else RequestKind.GENERATE,
            model=intern(call.model),
            priority=call.priority,
            criticality=call.criticality,
            deadline_ns=self._deadline_ns(call.remaining_s),
            size_bytes=call.size_bytes,
            text_bytes=call.text_bytes,
            output_tokens_max=call.output_tokens_max,
            num_ctx_needed=call.num_ctx_needed,
            needs=call.needs,
            preemptible=call.preemptible,
            fallback_models=call.fallback_models,
            prefer_loaded=call.prefer_loaded,
            substitution=call.substitution,
            accepts_default=call.accepts_default,
            prompt_type=call.prompt_type,
            on_interruption=call.on_interruption,
            time_outs=call.time_outs,
            soft_deadline_ns=self._driver.now_ns() + call.soft_ns if call.soft_ns else 0,
            session_id=call.session_id,
            expected_calls=call.expected_calls,
            prefixes=call.prefixes,
            wants=call.wants,
        )
        return self._driver.submit(
            spec, call.content, resume_from=call.resume_from, traceparent=traceparent
        )

    def leave(self, subscription: Subscription) -> None:
        """The call is over, whatever the reason."""
        self._driver.leave(subscription)

    def end_slow(self, subscription: Subscription, error: ClientTooSlow) -> None:
        """Its client takes nothing of the answer while it runs: the request ends with this."""
        self._driver.end_slow(subscription, error)

    def cancel(self, agent_id: str, request_id: str) -> str:
        """Ends a request of this agent; says where it was. RequestUnknown where there is none."""
        key: RequestKey = (agent_id, request_id)
        state = self._driver.cancel(key)
        if state is None:
            raise RequestUnknown(f"agent {agent_id!r} has no request {request_id!r} under way")
        return state

    def quota(self, agent_id: str) -> QuotaView:
        """What this agent may use, also one never seen. AgentUnknown where it would be refused."""
        return self._driver.quota(agent_id)

    def _deadline_ns(self, remaining_s: float | None) -> int:
        now_ns = self._driver.now_ns()
        if remaining_s is None:
            return now_ns + self._deadlines.default_ns
        remaining_ns = int(min(remaining_s * 1e9, self._deadlines.max_ns))
        margin_ns = min(
            self._deadlines.margin_ns_max, int(remaining_ns * self._deadlines.margin_share)
        )
        return now_ns + remaining_ns - margin_ns
