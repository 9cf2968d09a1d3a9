"""`openai-sim`: an HTTP server in a process of its own that behaves as vLLM or llama-server would.

Rules: one line says where it listens and that no model answers; SIGTERM and SIGINT close every
connection at once.
"""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Final

import click
import uvloop
from aiohttp import web

from broker.sim.openai_control import OpenAiControl
from broker.sim.openai_faults import FaultError, FaultKind, fault_of_flag
from broker.sim.openai_flavour import DEFAULT_MODELS, Flavour, SimModel
from broker.sim.openai_http import OpenAiSettings, SimulatedOpenAi

PORT_DEFAULT: Final = 8000
# For what is still being read or written once every answer was cut; 0 would mean without end.
SHUTDOWN_S: Final = 0.1
_MODEL: Final = re.compile(r"(?P<id>[^@]+)(@(?P<num_ctx>[1-9][0-9]{0,7}))?")
_NUM_CTX_DEFAULT: Final = 8_192


async def serve(settings: OpenAiSettings, host: str, port: int, faults: tuple[str, ...]) -> None:
    """Serves until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = SimulatedOpenAi(settings)
    for flag in faults:
        server.faults.add(fault_of_flag(flag))
    # A client that leaves cancels its handler, which gives the slot back.
    runner = web.AppRunner(
        server.application(OpenAiControl(server).routes()),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        click.echo(
            f"openai-sim listening on http://{shown}:{bound} "
            f"(simulated {settings.flavour.value}: no real model answers here)"
        )
        await stopped.wait()
    finally:
        await runner.cleanup()


def models_of(names: tuple[str, ...]) -> tuple[SimModel, ...]:
    """The --model flags, NAME or NAME@CONTEXT; raises click.BadParameter."""
    if not names:
        return DEFAULT_MODELS
    models = []
    for name in names:
        parts = _MODEL.fullmatch(name)
        if parts is None:
            raise click.BadParameter(f"{name!r}: must be NAME or NAME@CONTEXT")
        num_ctx = int(parts["num_ctx"] or _NUM_CTX_DEFAULT)
        models.append(SimModel(id=parts["id"], num_ctx=num_ctx, calls_tools=True))
    return tuple(models)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT_DEFAULT,
    show_default=True,
    help="Port; 0 takes a free one and prints it.",
)
@click.option(
    "--flavour",
    type=click.Choice([each.value for each in Flavour]),
    default=Flavour.VLLM.value,
    show_default=True,
    help="Whose ways it has.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0.001, 100_000),
    default=1.0,
    show_default=True,
    help="How many times faster than real time the simulated machine runs.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of texts.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME[@CONTEXT]",
    help="A model that it has; may be repeated.  [default: two that speak, one that embeds]",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 10_000),
    default=8,
    show_default=True,
    help="Requests that run at once, over all models.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(0),
    default=1_000,
    show_default=True,
    help="Requests that may wait for a slot.",
)
@click.option("--api-key", default="", help="The key that it wants.  [default: none]")
@click.option(
    "--fault",
    multiple=True,
    metavar="KIND[:PART=VALUE,...]",
    help="A fault from the start, e.g. cut:after=5,count=1. KIND is one of "
    f"{', '.join(kind.value for kind in FaultKind)}.",
)
def main(
    host: str,
    port: int,
    flavour: str,
    speed: float,
    seed: int,
    models: tuple[str, ...],
    slots: int,
    max_queue: int,
    api_key: str,
    fault: tuple[str, ...],
) -> None:
    """A simulated vLLM or llama-server: its interface and its timing, without a model."""
    settings = OpenAiSettings(
        flavour=Flavour(flavour),
        models=models_of(models),
        slots=slots,
        queue_max=max_queue,
        speed=speed,
        seed=seed,
        api_key=api_key,
    )
    try:
        uvloop.run(serve(settings, host, port, fault))
    except FaultError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from None
    except OSError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
