"""Leads through the demonstration: stage, fleet, summary, and then it stays up until Ctrl-C.

However it ends, no process of it is left: SIGINT, SIGTERM and SIGHUP end it in order, a second one
at once, and a crash takes its processes along (see `tether`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from broker_client import AsyncClient, BrokerError
from broker_client.channel import ADDRESS_DEFAULT
from brokerctl.demo.fleet import Fleet, draw_plans
from brokerctl.demo.greedy import AGENT, REQUESTS, Greedy
from brokerctl.demo.processes import ProcessFailed
from brokerctl.demo.stage import Stage, StageBuilder, StageFailed
from brokerctl.demo.summary import greedy_line, summary_view
from brokerctl.demo.view import LiveView, PlainView, View, keep_showing
from brokerctl.exit_status import EXIT_INTERRUPTED, EXIT_SAID_NO
from brokerctl.explanation import sentence_of
from brokerctl.status_tables import status_view

PORT_DEFAULT: Final = int(ADDRESS_DEFAULT.rpartition(":")[2])
STOP_GRACE_S: Final = 5.0
ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--once", is_flag=True, help="End after the summary instead of staying up.")
@click.option(
    "--requests",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Requests of each of the twelve agents.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT_DEFAULT,
    show_default=True,
    help="The broker's port; 0, or where it is taken: a free one.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws what they ask.")
@click.option(
    "--speed",
    type=click.FloatRange(0.1, 1000),
    default=1.0,
    show_default=True,
    help="At how many times the real speed a simulated Ollama runs.",
)
def demo(once: bool, requests: int, port: int, seed: int, speed: float) -> None:
    """Watch twelve agents stream through a broker of their own, and a greedy one be held back.

    It runs before the Ollama of this host, with a resident model or else the smallest, or before
    a simulated one where none answers. The exit status is 1 where a request failed.
    """
    performance = Performance(once=once, requests=requests, port=port, seed=seed, speed=speed)
    sys.exit(asyncio.run(performance.run()))


class Performance:
    """One run of the demonstration."""

    def __init__(self, *, once: bool, requests: int, port: int, seed: int, speed: float) -> None:
        self._once = once
        self._requests = requests
        self._seed = seed
        width = None if sys.stdout.isatty() else 160
        self._console = Console(width=width, highlight=False)
        self._builder = StageBuilder(port=port, speed=speed, say=self._say, shout=self._shout)
        self._is_over = False  # the summary was shown: ending now is the normal end
        self._is_closing = False  # the processes are being ended: nothing may interrupt that
        self._failed = 0

    async def run(self) -> int:
        """The exit status."""
        task = asyncio.current_task()
        assert task is not None

        def end() -> None:
            if self._is_closing:
                self._kill()
            else:
                task.cancel()

        with ending_by_signal(end, self._kill):
            try:
                return await self._play()
            except asyncio.CancelledError:
                # This is the signal's doing alone: nobody else knows this task.
                task.uncancel()
                return self._status() if self._is_over else EXIT_INTERRUPTED
            except (ProcessFailed, StageFailed) as error:
                self._complain(str(error))
                return EXIT_SAID_NO
            except BrokerError as error:
                self._complain(sentence_of(error, "the demonstration's own address"))
                return EXIT_SAID_NO
            finally:
                self._is_closing = True
                await self._builder.close(grace_s=STOP_GRACE_S)

    async def _play(self) -> int:
        stage = await self._builder.build()
        self._say(f"twelve agents ask {', '.join(stage.models)}")
        self._say(f"a thirteenth, {AGENT}, asks {REQUESTS} times at once, more than it may")
        view: View = (LiveView if self._console.is_terminal else PlainView)(self._console)
        plans = draw_plans(stage.models, requests=self._requests, seed=self._seed)
        fleet = Fleet(plans, view.watch)
        greedy = Greedy(stage.models[0], view.tell)
        async with AsyncClient(stage.address) as client:
            began_ns = time.monotonic_ns()
            with view:
                await self._show_while_running(fleet, greedy, view, stage, client)
            elapsed_ms = (time.monotonic_ns() - began_ns) / 1_000_000
            status = await client.status()
        errors = [each.error for each in fleet.outcomes if each.error] + greedy.errors
        self._failed = len(errors)
        for error in sorted(set(errors)):
            self._complain(error)
        self._console.print(summary_view(fleet.outcomes, status, elapsed_ms=elapsed_ms))
        self._say(greedy_line(greedy, fleet.outcomes))
        self._say("")
        self._say("$ brokerctl status")
        self._console.print(status_view(status, stage.address))
        self._is_over = True
        if not self._once:
            await self._stay(stage)
        return self._status()

    async def _show_while_running(
        self, fleet: Fleet, greedy: Greedy, view: View, stage: Stage, client: AsyncClient
    ) -> None:
        showing = asyncio.create_task(keep_showing(view, client, fleet.agents))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fleet.run(stage.address))
                group.create_task(greedy.run(stage.address))
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
        view.show(await client.status(), fleet.agents)

    async def _stay(self, stage: Stage) -> None:
        """Until a signal, or until one of the processes ends by itself, which it should not."""
        address = "" if stage.address == ADDRESS_DEFAULT else f" --address {stage.address}"
        self._say("")
        self._say("The broker goes on serving. Try it from another terminal:")
        self._say(f'  {command_path()} generate "Why is the sky blue?"{address}')
        self._say(f"  {command_path()} status --watch{address}")
        self._say("Ctrl-C ends it, and everything that was started here.")
        ends = {asyncio.create_task(each.wait_ended()): each for each in self._builder.processes}
        try:
            ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
        raise ends[ended.pop()].failure("a process of the demonstration ended by itself")

    def _status(self) -> int:
        return EXIT_SAID_NO if self._failed else 0

    def _kill(self) -> None:
        for each in self._builder.processes:
            each.kill()

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def _shout(self, line: str) -> None:
        frame = "=" * len(line)
        for each in (frame, line, frame):
            self._console.print(each, style="bold yellow", markup=False)

    def _complain(self, line: str) -> None:
        click.echo(f"brokerctl demo: {line}", err=True)


@contextlib.contextmanager
def ending_by_signal(end: Callable[[], None], kill: Callable[[], None]) -> Iterator[None]:
    """The first signal that asks to end calls `end`, each further one `kill`."""
    loop = asyncio.get_running_loop()
    count = 0

    def received() -> None:
        nonlocal count
        count += 1
        if count == 1:
            end()
        else:
            kill()

    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, received)
    try:
        yield
    finally:
        for number in ENDING_SIGNALS:
            loop.remove_signal_handler(number)


def command_path() -> str:
    """How to call brokerctl from here: by name where it is on the path, else by its place."""
    if shutil.which("brokerctl"):
        return "brokerctl"
    beside = Path(sys.executable).with_name("brokerctl")
    if beside.exists():
        return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
    return f"{sys.executable} -m brokerctl.main"
