"""`ollama-sim`: an HTTP server in a process of its own that behaves as an Ollama would.

Rules: options win over the OLLAMA_* environment, which is read as Ollama reads it; one line says
where it listens and that no model answers; SIGTERM and SIGINT close every connection at once,
without a last chunk (recorded: 80_server_terminated).

Source: reference/OLLAMA.md §4; recordings 13_env_keep_alive, 80_start, 80_server_terminated.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import uvloop
from aiohttp import web

from broker.sim.ollama_catalogue import Catalogue, default_catalogue, recorded_catalogue
from broker.sim.ollama_catalogue_file import CatalogueFileError, read_catalogue
from broker.sim.ollama_control import Control, set_fault
from broker.sim.ollama_environment import address_of, duration_ns_of, unsigned_of
from broker.sim.ollama_faults import Fault, FaultError, FaultKind, fault_of_flag
from broker.sim.ollama_fields import FOREVER_NS, parse_duration_ns
from broker.sim.ollama_gojson import GoJsonError
from broker.sim.ollama_http import SimulatedOllama
from broker.sim.ollama_machine import ServerSettings
from broker.sim.ollama_management import Management
from broker.sim.ollama_pump import Clock, Pump
from broker.sim.ollama_registry import Registry, default_registry_models

GIB: Final = 2**30
# For what is still being read or written once every answer was cut; 0 would mean without end.
SHUTDOWN_S: Final = 0.1
KEEP_ALIVE_DEFAULT_NS: Final = 300_000_000_000
_NAMED_CATALOGUES: Final = {"default": default_catalogue, "recorded": recorded_catalogue}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything one server needs to start."""

    host: str
    port: int
    speed: float
    seed: int
    catalogue: Catalogue
    settings: ServerSettings
    faults: tuple[Fault, ...]
    registry: Registry


def is_loopback(host: str) -> bool:
    """Whether a listener at this address checks the `Host` of its requests."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(run: Run) -> None:
    """Serves until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    pump = Pump(
        run.catalogue,
        run.settings,
        seed=run.seed,
        clock=Clock(run.speed),
        loop=loop,
        registry=run.registry,
    )
    for fault in run.faults:
        set_fault(pump, fault)
    server = SimulatedOllama(
        pump,
        checks_host=is_loopback(run.host),
        extra_routes=Control(pump).routes(),
        management_routes=Management(pump).routes(),
    )
    # A client that leaves cancels its handler, which closes its work in the model.
    runner = web.AppRunner(
        server.application(),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=24 * 3600,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, run.host, run.port, backlog=1024)
        await site.start()
        port = runner.addresses[0][1]
        shown = f"[{run.host}]" if ":" in run.host else run.host
        click.echo(
            f"ollama-sim listening on http://{shown}:{port} "
            "(simulated Ollama: no real model answers here)"
        )
        await stopped.wait()
        pump.terminate()
    finally:
        await runner.cleanup()


def catalogue_named(name: str, option: str = "--models") -> Catalogue:
    """`default`, `recorded` or the path of a TOML file; raises click.BadParameter."""
    built_in = _NAMED_CATALOGUES.get(name)
    if built_in is not None:
        return built_in()
    try:
        return read_catalogue(Path(name))
    except (CatalogueFileError, OSError) as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def keep_alive_ns_of(text: str | None, environment: Mapping[str, str]) -> int:
    """--keep-alive (a duration, or seconds) over OLLAMA_KEEP_ALIVE; raises click.BadParameter."""
    if text is None:
        return duration_ns_of(environment, "OLLAMA_KEEP_ALIVE", KEEP_ALIVE_DEFAULT_NS)
    try:
        length_ns = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        try:
            length_ns = parse_duration_ns(text)
        except GoJsonError as error:
            raise click.BadParameter(error.text, param_hint="--keep-alive") from None
    return FOREVER_NS if length_ns < 0 else length_ns


def registry_of(catalogue: Catalogue, named: str | None, bytes_per_s: float) -> Registry:
    """What can be pulled: usual models, those of a file, and what the server has at first."""
    more = () if named is None else tuple(catalogue_named(named, "--registry"))
    return Registry((*default_registry_models(), *more, *catalogue), bytes_per_s=bytes_per_s)


def faults_of(flags: Sequence[str], catalogue: Catalogue) -> tuple[Fault, ...]:
    """The --fault flags; raises click.BadParameter."""
    try:
        return tuple(fault_of_flag(flag, catalogue) for flag in flags)
    except FaultError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from None


def _whole(environment: Mapping[str, str], name: str, given: int | None, default: int) -> int:
    return unsigned_of(environment, name, default) if given is None else given


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", help="Address to listen on.  [default: OLLAMA_HOST, else 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port; 0 takes a free one and prints it.  [default: OLLAMA_HOST's, else 11434]",
)
@click.option(
    "--speed",
    type=click.FloatRange(0.001, 100_000),
    default=1.0,
    show_default=True,
    help="How many times faster than real time the simulated machine runs.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of texts and chances.")
@click.option(
    "--models",
    default="default",
    show_default=True,
    help="default, recorded (the models of the recordings), or a TOML file.",
)
@click.option(
    "--registry",
    "registry_models",
    metavar="FILE",
    help="TOML file of more models that can be pulled, besides a few usual ones and those it has.",
)
@click.option(
    "--pull-mb-s",
    type=click.FloatRange(0.001, 1_000_000),
    default=100.0,
    show_default=True,
    help="How fast models are pulled, in MB per second of simulated time.",
)
@click.option("--num-parallel", type=click.IntRange(0), help="Slots per model.  [default: 1]")
@click.option("--max-loaded", type=click.IntRange(0), help="Models at once; 0 is automatic.")
@click.option("--max-queue", type=click.IntRange(0), help="Requests that may wait for a load.")
@click.option("--keep-alive", help='As Ollama takes it: "5m", 300, -1.  [default: 5m]')
@click.option("--context-length", type=click.IntRange(0), help="num_ctx; 0 is by memory.")
@click.option(
    "--memory-gb",
    type=click.FloatRange(0.1, 10_000),
    default=24.0,
    show_default=True,
    help="Memory of the GPU, or of the host with --cpu, in GiB.",
)
@click.option("--gpu/--cpu", default=True, show_default=True, help="Whether there is a GPU.")
@click.option(
    "--fault",
    multiple=True,
    metavar="KIND[:PART=VALUE,...]",
    help="A fault from the start, e.g. die_mid_stream:model=llama3.2,after=5,count=1. KIND is one "
    f"of {', '.join(kind.value for kind in FaultKind)}.",
)
def main(
    host: str | None,
    port: int | None,
    speed: float,
    seed: int,
    models: str,
    registry_models: str | None,
    pull_mb_s: float,
    num_parallel: int | None,
    max_loaded: int | None,
    max_queue: int | None,
    keep_alive: str | None,
    context_length: int | None,
    memory_gb: float,
    gpu: bool,
    fault: tuple[str, ...],
) -> None:
    """A simulated Ollama server: its interface and its timing, without a model."""
    environment = os.environ
    catalogue = catalogue_named(models)
    host_default, port_default = address_of(environment)
    settings = ServerSettings(
        num_parallel=_whole(environment, "OLLAMA_NUM_PARALLEL", num_parallel, 1),
        max_loaded_models=_whole(environment, "OLLAMA_MAX_LOADED_MODELS", max_loaded, 0),
        max_queue=_whole(environment, "OLLAMA_MAX_QUEUE", max_queue, 512),
        keep_alive_ns=keep_alive_ns_of(keep_alive, environment),
        context_length=_whole(environment, "OLLAMA_CONTEXT_LENGTH", context_length, 0),
        load_timeout_ns=duration_ns_of(environment, "OLLAMA_LOAD_TIMEOUT", KEEP_ALIVE_DEFAULT_NS),
        gpu=gpu,
        memory_bytes=int(memory_gb * GIB),
    )
    run = Run(
        host=host_default if host is None else host,
        port=port_default if port is None else port,
        speed=speed,
        seed=seed,
        catalogue=catalogue,
        settings=settings,
        faults=faults_of(fault, catalogue),
        registry=registry_of(catalogue, registry_models, pull_mb_s * 1e6),
    )
    try:
        uvloop.run(serve(run))
    except OSError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
