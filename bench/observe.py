"""What it costs to tell of a request: its metrics, its line in the log, its events.

    python -m bench.observe --requests 6000

The observers are the daemon's own, told once that a request has started and once that it has ended.
The log is JSON and goes through its writer into a file; the processor time of its thread counts.
Somebody listens to the events of requests, and takes them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench.processes import output_of
from broker.config.schema import Config
from broker.core.content import GenerateContent, Prompt
from broker.core.level import Level
from broker.core.requests import Outcome, RequestKind
from broker.core.topics import REQUESTS
from broker.core.views import RequestReport, RequestStart
from broker.daemon.main import GC_THRESHOLD
from broker.daemon.wiring import build
from broker.observability.logs import configure_logs
from broker.runtime.supervisor import Supervisor

AGENTS = 131
TURN = 100  # requests between two turns of the loop, in which the events go out
MS = 1_000_000


async def cost_us(requests: int, core: int) -> float:
    """In us of processor time per request, measured in a process of its own."""
    arguments = ["-m", "bench.observe", "--requests", str(requests)]
    figures = json.loads(await output_of(arguments, core=core))
    return float(figures["observe_us"])


def _told(number: int) -> tuple[RequestStart, RequestReport]:
    """A request as any other: completed, with everything that can be measured."""
    key = (f"opus-{number % AGENTS}", f"{number:016x}")
    start = RequestStart(
        key=key,
        agent_type="opus",
        model="llama3.2:3b",
        backend="local",
        priority=number % 10 + 1,
        level=Level.NORMAL,
        queue_wait_ns=30 * MS + number,
        load_wait_ns=0,
    )
    report = RequestReport(
        key=key,
        agent_type="opus",
        kind=RequestKind.GENERATE,
        model="llama3.2:3b",
        backend="local",
        priority=start.priority,
        level=Level.NORMAL,
        outcome=Outcome.COMPLETED,
        reason="",
        message="",
        arrived_unix_ns=1_700_000_000_000_000_000 + number,
        queue_wait_ns=start.queue_wait_ns,
        load_wait_ns=0,
        first_token_ns=200 * MS + number,
        per_token_ns=20 * MS + number,
        total_ns=2_000 * MS + number,
        prompt_tokens=300,
        output_tokens=90,
        tries=1,
        substituted_for="",
        changes=(),
        traceparent="",
        content=_CONTENT,
        run_ns=1_970 * MS,
        gpu_share=1.0,
    )
    return start, report


_CONTENT = GenerateContent(input=Prompt(text="Say something, please."))


@contextmanager
def _logging() -> Iterator[None]:
    """Into a file, and all of it: what waits in the writer would be work not done."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        writer = configure_logs("info", "json", log)
        try:
            yield
        finally:
            if not writer.close(60.0):
                raise RuntimeError("the log was not written")


async def _measure(requests: int) -> float:
    """Seconds of processor time for all of them, making the reports not counted."""
    spent_s, heard = 0.0, 0
    async with Supervisor(10) as supervisor:
        parts = build(Config(), supervisor, lambda timeout_ms: 0)
        listener = parts.bus.subscribe((REQUESTS,))
        told = [_told(number) for number in range(requests)]
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 20)  # as the daemon has it
        with _logging():
            for at in range(0, requests, TURN):
                begun_s = time.process_time()
                for start, report in told[at : at + TURN]:
                    parts.observer.request_started(start)
                    parts.observer.request_ended(report)
                await asyncio.sleep(0)
                heard += len(listener.take().events)
                spent_s += time.process_time() - begun_s
            begun_s = time.process_time()
        spent_s += time.process_time() - begun_s
        if heard != 2 * requests:
            raise RuntimeError(f"{heard} events of {requests} requests were heard")
        listener.close()
        parts.bus.close()
        parts.topics.close()
        await parts.pooling.pool.close()
    return spent_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, required=True)
    requests = parser.parse_args().requests
    spent_s = uvloop.run(_measure(requests))
    json.dump({"observe_us": spent_s / requests * 1e6}, sys.stdout)


if __name__ == "__main__":
    main()
