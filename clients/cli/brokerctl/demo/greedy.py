"""The thirteenth agent: it asks for more than its share, all at once, and does not wait as told.

What its rate lets in takes its turn among the others; the rest is refused at once. That is the
broker's doing on purpose, and shown as that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from broker_client import AsyncClient, BrokerError, Done, QuotaExceeded, RetryPolicy
from brokerctl.demo.fleet import DEADLINE_S

AGENT: Final = "opus-greedy"
REQUESTS: Final = 30
TOKENS_MAX: Final = 16


class Greedy:
    """The agent at work. `tell` hears one line once it is known of each request if it was let in.

    `waits_ms` are the queue waits of what was answered; `why` says for what the rest was refused.
    """

    def __init__(self, model: str, tell: Callable[[str], None]) -> None:
        self.let_in = 0
        self.refused = 0
        self.why = ""
        self.waits_ms: list[float] = []
        self.errors: list[str] = []
        self._model = model
        self._tell = tell

    async def run(self, address: str) -> None:
        """Until every request has had its answer, its refusal or its error."""
        impatient = RetryPolicy(refusals_max=0)  # and sent without pacing
        async with (
            AsyncClient(address, agent_id=AGENT, retry=impatient, pace=False) as broker,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(REQUESTS):
                group.create_task(self._ask(broker), name=AGENT)

    async def _ask(self, broker: AsyncClient) -> None:
        stream = broker.stream(
            model=self._model,
            prompt="In a few words: why me first?",
            max_tokens=TOKENS_MAX,
            deadline_s=DEADLINE_S,
        )
        is_in = False
        try:
            async with stream:
                async for event in stream:
                    if not is_in:
                        is_in = True
                        self.let_in += 1
                        self._tell_if_known()
                    if isinstance(event, Done):
                        self.waits_ms.append(event.timings.queue_wait_ms)
        except QuotaExceeded as error:
            self.refused += 1
            self.why = error.message
            self._tell_if_known()
        except BrokerError as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _tell_if_known(self) -> None:
        if self.let_in + self.refused == REQUESTS:
            self._tell(f"{self.entry_text()} ({self.why})" if self.why else self.entry_text())

    def entry_text(self) -> str:
        """What came of its rush."""
        return (
            f"{AGENT} asked {REQUESTS} times at once: {self.let_in} let in, {self.refused} refused"
        )
