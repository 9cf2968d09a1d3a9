"""The calls to backends that are under way: each one supervised task, watched for silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from broker.core.effects import StartAttempt
from broker.core.errors import BrokerError
from broker.core.ports import Backend
from broker.core.requests import AttemptId
from broker.core.stimuli import AttemptEnded, Stimulus
from broker.runtime.attempts import Call, Errand
from broker.runtime.clock import Clock
from broker.runtime.supervisor import Supervisor
from broker.runtime.watch import Watch


class Calls:
    """Begins calls and closes them. The end of each is one stimulus."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        clock: Clock,
        supervisor: Supervisor,
        feed: Callable[[Stimulus], None],
    ) -> None:
        self._backends = backends
        self._clock = clock
        self._supervisor = supervisor
        self._feed = feed
        self._running: dict[AttemptId, tuple[asyncio.Task[None], Call]] = {}
        self._watch = Watch(lambda: [call for _, call in self._running.values()], clock, feed)

    def start(self, order: StartAttempt, errand: Errand) -> None:
        call = Call(order, errand, self._clock, self._feed, self._over)
        work = call.run(self._backends[order.backend])
        task = self._supervisor.start(work, f"attempt-{order.attempt}")
        self._running[order.attempt] = (task, call)
        self._watch.start()

    def close(self, attempt: AttemptId, verdict: BrokerError | None = None) -> bool:
        """Cuts a call off, for this reason if one is given. False where it is over already."""
        running = self._running.get(attempt)
        if running is None:
            return False
        task, call = running
        if verdict is not None:
            call.condemn(verdict)
        task.cancel()
        # A task that never took its first step never will: its callback is the only end.
        task.add_done_callback(lambda _: call.abandon())
        return True

    def stop(self) -> None:
        """Watches no more. Tasks end with the supervisor."""
        self._watch.stop()

    def _over(self, ended: AttemptEnded) -> None:
        del self._running[ended.attempt]
        self._feed(ended)
