"""Publish and Subscribe: who may, and what of; the bus carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.core.errors import AgentBlocked, AgentSubscribersFull, TopicReserved
from broker.core.events import Bus, Payload, Published, Subscription
from broker.core.publish_quota import PublishPolicy, PublishQuotas
from broker.core.topics import system_topic
from broker.runtime.driver import Driver

# When a place may be free again is not known: subscribers stay for as long as they like.
_PLACE_RETRY_NS = 5_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PubSubPolicy:
    """What the operator decides about those who publish and listen."""

    publishing: PublishPolicy
    subscribers_per_agent_max: int = 100


class PubSubService:
    """See the module. `look` is called before somebody is told the present state: it may be looked
    at anew."""

    def __init__(
        self, driver: Driver, bus: Bus, policy: PubSubPolicy, look: Callable[[], None]
    ) -> None:
        self._driver = driver
        self._bus = bus
        self._policy = policy
        self._look = look
        self._quotas = PublishQuotas(policy.publishing)
        self._listening: dict[str, int] = {}  # subscriptions by agent

    def publish(self, agent_id: str, topic: str, payload: Payload) -> Published:
        """Tells the subscribers of a free topic. AgentUnknown, AgentBlocked, TopicReserved,
        PublishRateLimited."""
        if self._driver.quota(agent_id).is_blocked:
            raise AgentBlocked("an operator has blocked this agent: it may not publish")
        reserved = system_topic(topic)
        if reserved is not None:
            name = topic if topic == reserved else f"{topic} ({reserved})"
            raise TopicReserved(f"the broker alone writes {name}")
        self._quotas.take(agent_id, self._driver.now_ns())
        return self._bus.publish(topic, payload, publisher=agent_id)

    def subscribe(self, agent_id: str, patterns: tuple[str, ...]) -> Subscription:
        """Events from now on; must be left with `leave`. AgentUnknown, SubscribersFull,
        AgentSubscribersFull, Draining. Who is blocked may listen: it hears when it no longer is."""
        self._driver.quota(agent_id)
        count = self._listening.get(agent_id, 0)
        if count >= self._policy.subscribers_per_agent_max:
            raise AgentSubscribersFull(
                f"{count} subscribers of this agent listen already",
                retry_after_ns=_PLACE_RETRY_NS,
            )
        self._look()
        subscription = self._bus.subscribe(patterns)
        self._listening[agent_id] = count + 1
        return subscription

    def leave(self, agent_id: str, subscription: Subscription) -> None:
        """The subscriber is gone; its place is free. Once for each."""
        subscription.close()
        count = self._listening.pop(agent_id)
        if count > 1:
            self._listening[agent_id] = count - 1
