"""The text that a scrape is answered with, written in a thread of its own.

With all series that there may be it takes tens of milliseconds, for which no stream may stand. What
only the event loop may read is taken in one piece, in the loop; the rest is the thread's. Python
runs one thread at a time, and one that computes holds all others up for 5 ms: so this one rests
after every few series, and the loop goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from broker.observability.prometheus import Picture, picture_metrics

# A piece is half a millisecond or so of computing.
PIECE_SAMPLES: Final = 100
REST_S: Final = 0.0002

_HEAD_LINES: Final = 2  # what a metric is, and of what type


class Exposition:
    """`look` takes the picture of a moment; the registry counts."""

    def __init__(self, registry: CollectorRegistry, look: Callable[[], Picture]) -> None:
        self._registry = registry
        self._look = look
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._rendering: asyncio.Future[bytes] | None = None

    async def text(self) -> bytes:
        """All metrics. Who asks while they are written gets the same text as who asked first."""
        rendering = self._rendering
        if rendering is None:
            loop = asyncio.get_running_loop()
            rendering = loop.run_in_executor(self._thread, self._render, self._look())
            rendering.add_done_callback(self._rendered)
            self._rendering = rendering
        # Others may wait for it when the client of this one goes away.
        return await asyncio.shield(rendering)

    def _rendered(self, rendering: asyncio.Future[bytes]) -> None:
        self._rendering = None

    def _render(self, picture: Picture) -> bytes:
        texts = []
        for each in pieces(chain(self._registry.collect(), picture_metrics(picture))):
            texts.append(each)
            time.sleep(REST_S)
        return b"".join(texts)

    def close(self) -> None:
        """The thread ends when it has written what it writes."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class _Piece:
    """Samples of one metric, in the form in which prometheus-client takes them."""

    def __init__(self, metric: Metric, begin: int) -> None:
        self._metric = Metric(metric.name, metric.documentation, metric.type)
        self._metric.samples = metric.samples[begin : begin + PIECE_SAMPLES]

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def pieces(metrics: Iterable[Metric]) -> Iterator[bytes]:
    """The text of these metrics, a few series at a time."""
    for metric in metrics:
        for begin in range(0, max(1, len(metric.samples)), PIECE_SAMPLES):
            text = generate_latest(_Piece(metric, begin))
            yield text.split(b"\n", _HEAD_LINES)[_HEAD_LINES] if begin else text
