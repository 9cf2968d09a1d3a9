"""What `brokerctl doctor` finds about clocks: the broker's on the wall against ours."""

from __future__ import annotations

import time
from typing import Final

from broker_client import BrokerError, Client, TopicEvent
from brokerctl.figures import duration_text
from brokerctl.finding import Finding, good, odd

# Clocks further apart than this make logs and events of two hosts hard to read together.
SKEW_MAX_S: Final = 2.0


def clock_finding(client: Client) -> Finding:
    """The first event of a subscription is of this moment, and told with the broker's clock."""
    asked_s = time.time()
    try:
        with client.subscribe("level") as events:
            # It comes at once: with the state of the level, which there always is.
            told = next(iter(events), None)
    except BrokerError as error:
        return not_judged(error.message or error.code.name)
    if not isinstance(told, TopicEvent):
        return not_judged("it told of no level")
    return skew_finding(asked_s, told.at.timestamp(), time.time())


def not_judged(why: str) -> Finding:
    """Not to know is no fault, but is said."""
    return good(f"the broker's clock could not be asked, and is not judged: {why}")


def skew_finding(asked_s: float, told_s: float, heard_s: float) -> Finding:
    """It was told between two readings of ours; what lies outside them is skew."""
    skew_s = max(asked_s - told_s, told_s - heard_s, 0.0)
    if skew_s <= SKEW_MAX_S:
        return good("the broker's clock and this one agree")
    where = "behind" if told_s < asked_s else "ahead of"
    return odd(
        f"the broker's clock is {duration_text(skew_s * 1000)} {where} this one",
        "set both by NTP (`timedatectl`); deadlines are durations and do not suffer, but times in "
        "logs and events cannot be compared",
    )
