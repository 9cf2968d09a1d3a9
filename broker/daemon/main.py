"""`brokerd`: reads its configuration, serves until it is told to leave, and leaves in order.

The first SIGTERM or SIGINT drains: new work is refused with a reason, what is under way may end
within the limit; a longer time that was granted before is cut to it. The second one stops. SIGHUP
reads the configuration file again.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import structlog
import uvloop

from broker.config.load import ConfigProblems, load
from broker.config.reload import plan_reload
from broker.config.schema import Config
from broker.core.errors import InvalidRequest
from broker.core.placement_rule import PlacementRule
from broker.daemon.engine_policy import engine_policy
from broker.daemon.observing import alert_policy
from broker.daemon.signals import RELOADING, Signals
from broker.daemon.wiring import (
    TASKS_SPARE,
    Parts,
    broker_version,
    build,
    nothing_to_reload,
)
from broker.observability.logs import configure_logs
from broker.runtime.clock import Clock
from broker.runtime.departure import give_back
from broker.runtime.supervisor import Supervisor
from broker.runtime.watchdog import Watchdog
from broker.services.operations import ReloadReport

_log = structlog.get_logger(__name__)

# What gRPC may take to end the calls that are left when the broker stops.
STOP_GRACE_S = 1.0

# What is left of the log is written for so long; a reader that never reads must not hold us.
LOG_GRACE_S = 1.0

# How long the first look at the backends may delay the word that the broker listens.
FIRST_ASK_S = 1.0

_LOOPBACK = ("127.", "localhost:", "[::1]:")

GC_THRESHOLD = 10_000  # allocations; Python's own 700 is passed by less than a hundred requests

EXIT_CONFIG = 2
EXIT_BROKEN = 70  # EX_SOFTWARE of sysexits.h: a bug of ours


class Daemon:
    """One life of the broker. `file` is where `config` came from, None: from nowhere. `clock` and
    `rule` stand in for the machine's own and the product's own, in benchmarks."""

    def __init__(
        self,
        config: Config,
        file: Path | None,
        clock: Clock | None = None,
        rule: PlacementRule | None = None,
    ) -> None:
        self._config = config
        self._file = file
        self._clock = clock
        self._rule = rule
        self._parts: Parts | None = None
        self._drain_asked = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._drain_timeout_ms = config.server.drain_timeout_s * 1000
        self._drain_ends_ns = 0
        self._watchdog = Watchdog(config.healing.loop_stall_ms)

    def ask_drain(self, timeout_ms: int | None = None) -> int:
        """Begins to leave; the milliseconds that work under way may take. Who asks again and names
        a limit gives a new one, which counts from then on."""
        is_first = not self._drain_asked.is_set()
        if timeout_ms is not None:
            self._drain_timeout_ms = timeout_ms
        if self._parts is not None and (is_first or timeout_ms is not None):
            driver, timeout_ns = self._parts.driver, self._drain_timeout_ms * 1_000_000
            self._drain_ends_ns = driver.now_ns() + timeout_ns
            driver.drain(timeout_ns)
        self._drain_asked.set()
        return self._drain_timeout_ms

    def _signalled(self) -> None:
        """Whoever sends a signal, a service manager above all, waits no longer than configured."""
        if self._parts is None or not self._drain_asked.is_set():
            self.ask_drain()
            return
        timeout_ms = self._config.server.drain_timeout_s * 1000
        if self._drain_ends_ns - self._parts.driver.now_ns() > timeout_ms * 1_000_000:
            self.ask_drain(timeout_ms)

    def ask_stop(self) -> None:
        """Ends at once."""
        self._stop_asked.set()

    def reload(self) -> ReloadReport:
        """Reads the file again. What can change at once does; if anything is wrong, nothing."""
        report = self._reloaded()
        if report.problems:
            _log.error("configuration not reloaded", problems=report.problems)
        else:
            _log.info(
                "configuration reloaded", changed=report.changed, needs_restart=report.needs_restart
            )
        return report

    def _reloaded(self) -> ReloadReport:
        if self._file is None:
            return nothing_to_reload()
        try:
            plan = plan_reload(self._config, self._file, os.environ)
        except ConfigProblems as wrong:
            problems = tuple(map(str, wrong.problems))
            return ReloadReport(changed=(), needs_restart=(), problems=problems)
        if self._parts is not None:
            try:
                self._parts.pooling.check(plan.config)
                self._parts.driver.reconfigure(
                    engine_policy(plan.config),
                    plan.config.degradation.default_answer,
                    plan.config.degradation.default_answers,
                )
            except InvalidRequest as wrong:
                return ReloadReport(changed=(), needs_restart=(), problems=(wrong.message,))
            self._parts.listing.apply(plan.config)
            self._parts.pooling.apply(plan.config)
            self._parts.changing.configure(plan.config)
            self._parts.alerting.configure(alert_policy(plan.config))
        self._config = plan.config
        if not self._drain_asked.is_set():
            self._drain_timeout_ms = plan.config.server.drain_timeout_s * 1000
        return ReloadReport(changed=plan.changed, needs_restart=plan.needs_restart, problems=())

    async def run(self) -> int:
        """Serves. The exit status of the process."""
        loop = asyncio.get_running_loop()
        signals = Signals(self._signalled, self.ask_stop, self.reload)
        signals.install(loop)
        try:
            async with Supervisor(self._config.limits.streams_max + TASKS_SPARE) as supervisor:
                parts = self._parts = build(
                    self._config,
                    supervisor,
                    self.ask_drain,
                    self.reload,
                    clock=self._clock,
                    rule=self._rule,
                )
                try:
                    return await self._serve(parts, supervisor)
                finally:
                    parts.bus.close()  # subscribers hear why; no drain waits for them
                    parts.lists.news.close()
                    await parts.changing.pulls.close()
                    await parts.grpc.stop(STOP_GRACE_S)
                    await parts.http.stop()
                    parts.driver.close()
                    parts.topics.close()
                    self._watchdog.stop()
                    await parts.pooling.pool.close()
                    await parts.listing.close()
                    if parts.books is not None:
                        await parts.books.close()
                    parts.observing.close()
        finally:
            signals.remove(loop)

    async def _serve(self, parts: Parts, supervisor: Supervisor) -> int:
        parts.listing.read()
        await parts.models.prepare()
        self._watchdog.start(parts.observer.loop_stalled)
        grpc_port = await parts.grpc.start()
        http_port = await parts.http.start()
        parts.learning.start()
        parts.pooling.start()
        parts.changing.pulls.start()
        parts.listing.start(supervisor)
        supervisor.start(parts.sampler.run(), "sampler")
        if parts.books is not None:
            supervisor.start(parts.books.run(), "usage")
        await _first_asked(parts)
        self._say_where(grpc_port, http_port)
        waits: dict[str, asyncio.Future[Any]] = {
            "drain": asyncio.ensure_future(self._drain_asked.wait()),
            "stop": asyncio.ensure_future(self._stop_asked.wait()),
            "broken": asyncio.ensure_future(parts.driver.wait_broken()),
        }
        try:
            await asyncio.wait(waits.values(), return_when=asyncio.FIRST_COMPLETED)
            if waits["drain"].done():
                del waits["drain"]
                await self._leave(parts, waits)
        finally:
            for each in waits.values():
                each.cancel()
        if waits["broken"].done() and not waits["broken"].cancelled():
            _log.error("a turn of the engine failed: this is a bug of the broker; it stops")
            return EXIT_BROKEN
        parts.driver.drain(0)  # what is left hears why, which a closed connection would not say
        _log.info("broker stopped")
        return 0

    async def _leave(self, parts: Parts, waits: dict[str, asyncio.Future[Any]]) -> None:
        snapshot = parts.driver.snapshot()
        _log.info(
            "broker leaves",
            running=snapshot.running,
            queued=snapshot.queued,
            timeout_ms=self._drain_timeout_ms,
        )
        await parts.grpc.leave()
        drained = asyncio.ensure_future(parts.driver.wait_drained())
        await asyncio.wait({drained, *waits.values()}, return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            drained.cancel()
            return
        parts.driver.close()  # no keep_alive is renewed from now on
        last = asyncio.ensure_future(give_back(parts.driver.snapshot(), parts.pooling.pool))
        await asyncio.wait({last, *waits.values()}, return_when=asyncio.FIRST_COMPLETED)
        last.cancel()

    def _say_where(self, grpc_port: int, http_port: int) -> None:
        grpc_host = self._config.server.grpc_address.rpartition(":")[0]
        http_host = self._config.server.http_address.rpartition(":")[0]
        for address in (self._config.server.grpc_address, self._config.server.http_address):
            if not address.startswith(_LOOPBACK):
                _log.warning(
                    "this address is open to other machines, with neither TLS nor identity: "
                    "everybody who reaches it may use it",
                    address=address,
                )
        _log.info(
            "broker listening",
            grpc=f"{grpc_host}:{grpc_port}",
            http=f"{http_host}:{http_port}",
            version=broker_version(),
            pid=os.getpid(),
        )


def settle_memory() -> None:
    """Everything made so far lives as long as the process: the collector need not look at it again
    and again. The young generation may grow to what a thousand requests leave behind: what a call
    of gRPC keeps by a cycle of its own. What is ours is let go with its request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


async def _main(config: Config, file: Path | None) -> int:
    return await Daemon(config, file).run()


async def _first_asked(parts: Parts) -> None:
    """So that who starts at the word "listening" is not refused because nobody has looked yet."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_ASK_S):
            await parts.pooling.pool.wait_asked()


def _is_taken(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML configuration; without it every default holds.",
)
@click.version_option(broker_version(), prog_name="brokerd")
def main(config_file: Path | None) -> None:
    """The broker's daemon: gRPC on 127.0.0.1:50434, health and metrics on 127.0.0.1:9434."""
    if not __debug__:
        # The compiled scheduler's and the engine's own checks are assertions.
        sys.exit("brokerd: refuses to run under python -O, which switches its checks off")
    # Until the loop listens for it, reading the file is what is about to happen anyhow.
    signal.signal(RELOADING, signal.SIG_IGN)
    try:
        config = load(config_file, os.environ)
    except ConfigProblems as problems:
        click.echo(str(problems), err=True)
        click.echo("brokerd: the configuration cannot be used; nothing was started", err=True)
        sys.exit(EXIT_CONFIG)
    settle_memory()
    log_writer = configure_logs(config.server.log_level, config.server.log_format)
    try:
        status = uvloop.run(_main(config, config_file))
    except* OSError as errors:
        first = errors.exceptions[0]
        hint = "; is another broker running?" if _is_taken(first) else ""
        sys.exit(f"brokerd: {getattr(first, 'strerror', None) or first}{hint}")
    except* RuntimeError as errors:
        sys.exit(f"brokerd: {errors.exceptions[0]}")
    else:
        sys.exit(status)
    finally:
        log_writer.close(LOG_GRACE_S)


if __name__ == "__main__":
    main()
